//! torch zip archives: `torch.save`, TorchScript and exported programs.
//!
//! A valid zip proves little here: the writer finishes the directory also when saving fails midway. So every tensor
//! that the pickle refers to must have its bytes in the archive.

use std::collections::BTreeMap;

use super::Format;
use super::zip::Zip;
use crate::evidence::Evidence;
use crate::pickle::{self, Heap, Id, Node, Walk};
use crate::report::Findings;
use crate::window::{Check, Flaw, Window};

/// Storages of one archive by key: bytes that are needed.
pub(super) type Storages = BTreeMap<String, u64>;

pub(super) fn probe(window: Window<'_>, zip: &Zip<'_>, format: Format, out: &mut Findings) -> Check<()> {
    out.expected = Some(window.size());
    out.note(Evidence::ZipDirectory { entries: zip.entries.len() as u64 });
    if format == Format::TorchExport {
        return Ok(());
    }
    let missing = |name: &str| Flaw::torn(Evidence::EntryMissing { name: name.to_owned() });
    let root = zip.root_of("data.pkl").ok_or_else(|| missing("data.pkl"))?;
    if zip.find(&format!("{root}version")).is_none() && zip.find(&format!("{root}.data/version")).is_none() {
        return Err(missing("version"));
    }
    let mut storages = Storages::new();
    let pickles: &[(&str, &str)] = match format {
        Format::TorchScript => &[("data.pkl", "data"), ("constants.pkl", "constants")],
        _ => &[("data.pkl", "data")],
    };
    for (name, folder) in pickles {
        let entry = zip.find(&format!("{root}{name}")).ok_or_else(|| missing(name))?;
        let payload = zip.payload(entry)?;
        if entry.method != 0 {
            return Err(Flaw::unsure(Evidence::Unsupported { what: format!("{name:?} is compressed") }));
        }
        let mut cursor = payload.cursor(0);
        let walk = pickle::walk(&mut cursor, window.limits())?;
        if cursor.left() > 0 {
            return Err(Flaw::broken(format!("{} bytes follow the pickle {name:?}", cursor.left())));
        }
        out.note(Evidence::PickleEnds { objects: walk.heap.len() as u64 });
        let needed = storages_of(&walk.heap);
        check_storages(zip, &format!("{root}{folder}/"), &needed)?;
        storages.extend(needed.into_iter().map(|(key, bytes)| (format!("{folder}/{key}"), bytes)));
        if *name == "data.pkl" {
            let read = |key: &str, size| {
                let entry = zip.find(&format!("{root}data/{key}"))?;
                zip.payload(entry).ok()?.read(0, size).ok()
            };
            super::torch_facts::collect(&walk, &read, out);
        }
    }
    let bytes = storages.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    out.note(Evidence::StoragesPresent { count: storages.len() as u64, bytes });
    Ok(())
}

fn check_storages(zip: &Zip<'_>, folder: &str, needed: &Storages) -> Check<()> {
    for (key, &expected) in needed {
        let Some(entry) = zip.find(&format!("{folder}{key}")) else {
            return Err(Flaw::torn(Evidence::StorageMissing { key: key.clone() }));
        };
        if entry.size < expected {
            return Err(Flaw::torn(Evidence::StorageShort { key: key.clone(), size: entry.size, expected }));
        }
    }
    Ok(())
}

/// All storages that a pickle refers to: `("storage", class, key, location, elements)`.
pub(super) fn storages_of(heap: &Heap) -> Storages {
    let mut found = Storages::new();
    for node in heap.nodes() {
        let Node::Persistent(id) = node else { continue };
        if let Some((key, bytes)) = storage_reference(heap, *id) {
            let known = found.entry(key.to_owned()).or_default();
            *known = bytes.max(*known);
        }
    }
    found
}

/// Key and size in bytes; a class that is not known needs its bytes to be there, however many.
pub(super) fn storage_reference(heap: &Heap, id: Id) -> Option<(&str, u64)> {
    let [tag, class, key, _location, elements, ..] = heap.list(id)? else { return None };
    if heap.text(*tag)? != "storage" {
        return None;
    }
    let class = heap.text(*class).unwrap_or_default();
    let width = element_width(class.rsplit('.').next().unwrap_or_default()).unwrap_or(0);
    Some((heap.text(*key)?, heap.count(*elements)?.saturating_mul(width)))
}

pub(super) fn element_width(class: &str) -> Option<u64> {
    Some(match class {
        "ComplexDoubleStorage" => 16,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "ByteStorage" | "CharStorage" | "BoolStorage" | "UntypedStorage" | "QInt8Storage"
        | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => 1,
        _ => return None,
    })
}

/// The old format: five pickles and then each storage with its length before it.
pub(super) fn probe_legacy(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(0);
    let limits = window.limits();
    for what in ["magic number", "protocol", "system"] {
        pickle::walk(&mut cursor, limits).map_err(|flaw| in_part(flaw, what))?;
    }
    let object = pickle::walk(&mut cursor, limits)?;
    let keys = pickle::walk(&mut cursor, limits)?;
    let needed = legacy_storages(&object.heap);
    let Some(order) = keys.heap.list(keys.root) else {
        return Err(Flaw::broken("there is no list of storages"));
    };
    out.note(Evidence::PickleEnds { objects: object.heap.len() as u64 });
    let mut bytes = 0_u64;
    for key in order {
        let key = keys.heap.text(*key).unwrap_or_default();
        let Some(width) = needed.get(key) else {
            return Err(Flaw::unsure(Evidence::Unsupported {
                what: format!("storage {key:?} of unknown type"),
            }));
        };
        let elements = cursor.u64()?;
        let size = elements.checked_mul(*width).ok_or_else(|| Flaw::broken("a storage size overflows"))?;
        cursor.skip(size)?;
        bytes = bytes.saturating_add(size);
    }
    let expected = cursor.at();
    out.expected = Some(expected);
    if cursor.left() > 0 {
        return Err(Flaw::broken(format!("{} bytes follow the last storage", cursor.left())));
    }
    out.note(Evidence::StoragesPresent { count: order.len() as u64, bytes });
    super::torch_facts::collect(&object, &|_, _| None, out);
    Ok(())
}

fn in_part(flaw: Flaw, part: &str) -> Flaw {
    match flaw.evidence {
        Evidence::Malformed { what } => Flaw::broken(format!("{part}: {what}")),
        evidence => Flaw { evidence, ..flaw },
    }
}

/// Width of the elements of each storage.
fn legacy_storages(heap: &Heap) -> Storages {
    let mut found = Storages::new();
    for node in heap.nodes() {
        let Node::Persistent(id) = node else { continue };
        let Some([_, class, key, ..]) = heap.list(*id) else { continue };
        let class = heap.text(*class).unwrap_or_default();
        let width = element_width(class.rsplit('.').next().unwrap_or_default());
        if let (Some(key), Some(width)) = (heap.text(*key), width) {
            found.insert(key.to_owned(), width);
        }
    }
    found
}

/// A flag among the attributes of the object in a torch zip.
pub(crate) fn flag_of_object(window: Window<'_>, name: &str) -> Option<bool> {
    with_object(window, |Walk { heap, root }| {
        let state = heap.state_of(heap.get(*root))?;
        match heap.get(heap.lookup(state, name)?) {
            Node::Bool(value) => Some(*value),
            _ => None,
        }
    })
}

/// Follows the pickle of a torch zip and looks at what it describes.
fn with_object<T>(window: Window<'_>, look: impl FnOnce(&Walk) -> Option<T>) -> Option<T> {
    let zip = Zip::read(window).ok()?;
    let root = zip.root_of("data.pkl")?;
    let payload = zip.payload(zip.find(&format!("{root}data.pkl"))?).ok()?;
    look(&pickle::walk(&mut payload.cursor(0), window.limits()).ok()?)
}

/// A whole number under a key of the dict in a torch zip.
pub(crate) fn count_of_object(window: Window<'_>, key: &str) -> Option<u64> {
    with_object(window, |walk| walk.heap.count(walk.heap.lookup(walk.root, key)?))
}

/// Whether a file of DeepSpeed's model states holds the optimizer as well.
pub(crate) fn has_optimizer(window: Window<'_>) -> Option<bool> {
    with_object(window, |walk| {
        let optimizer = walk.heap.lookup(walk.root, "optimizer")?;
        Some(!walk.heap.pairs(optimizer).is_empty())
    })
}
