//! HDF5: the superblock tells whether the file was closed and how long it is. Also Keras' zip, which holds one.

use super::numpy::exact;
use super::zip::Zip;
use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window, le};

pub(super) const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// A user block before the superblock is a power of two; larger ones are not looked for.
const PLACES: &[u64] = &[0, 512, 1024, 2048, 4096, 8192];

/// Where the superblock is.
pub(super) fn find(window: &Window<'_>) -> Option<u64> {
    PLACES.iter().copied().find(|&place| window.read(place, 8).is_ok_and(|bytes| bytes == MAGIC))
}

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    // Space for data sets is reserved before it is written, and may stay so.
    out.may_have_holes = true;
    let place = find(&window).ok_or_else(|| Flaw::broken("there is no HDF5 superblock"))?;
    let block = window.read_some(place, 96)?;
    let cut = || Flaw::torn(Evidence::EndsEarly { size: window.size(), expected: place + 96 });
    let version = block.get(8).copied().ok_or_else(cut)?;
    let (flags, width_at, end_at) = match version {
        0 => (le(&block, 20, 4), 13, 24),
        1 => (le(&block, 20, 4), 13, 28),
        2 | 3 => (le(&block, 11, 1), 9, 12),
        _ => return Err(Flaw::unsure(Evidence::Unsupported { what: format!("HDF5 superblock {version}") })),
    };
    let width = usize::from(*block.get(width_at).ok_or_else(cut)?);
    if !matches!(width, 2 | 4 | 8) {
        return Err(Flaw::broken(format!("HDF5 offsets of {width} bytes")));
    }
    // Base address, free space or extension, end of file: in this order in every version.
    let base = le(&block, end_at, width).ok_or_else(cut)?;
    let end = le(&block, end_at + 2 * width, width).ok_or_else(cut)?;
    let flags = flags.ok_or_else(cut)?;
    if base != place && base != 0 {
        return Err(Flaw::unsure(Evidence::Unsupported { what: format!("HDF5 base address {base}") }));
    }
    if flags & 1 != 0 {
        out.expected = Some(end);
        return Err(Flaw::torn(Evidence::OpenFlag));
    }
    // Libraries differ in whether the end counts from the base; with a user block either may be meant.
    let expected = if window.size() == end { end } else { end.saturating_add(base) };
    exact(window.size(), expected, 1, out)
}

/// `.keras`: metadata, configuration and weights in a zip.
pub(super) fn probe_keras(window: Window<'_>, zip: &Zip<'_>, out: &mut Findings) -> Check<()> {
    out.expected = Some(window.size());
    out.note(Evidence::ZipDirectory { entries: zip.entries.len() as u64 });
    let missing = |name: &str| Flaw::torn(Evidence::EntryMissing { name: name.to_owned() });
    for name in ["metadata.json", "config.json"] {
        let entry = zip.find(name).ok_or_else(|| missing(name))?;
        let json: serde_json::Value = serde_json::from_slice(&zip.content(entry, 4 << 20)?)
            .map_err(|error| Flaw::broken(format!("{name:?}: {error}")))?;
        if let Some(version) = json.get("keras_version").and_then(|version| version.as_str()) {
            out.facts.producer = Some(format!("keras {version}"));
        }
    }
    if zip.find("model.weights.npz").is_some() {
        return Ok(());
    }
    let weights = zip.find("model.weights.h5").ok_or_else(|| missing("model.weights.h5"))?;
    let payload = zip.payload(weights)?;
    if weights.method == 0 {
        let mut inner = Findings::default();
        probe(payload, &mut inner)?;
        out.evidence.extend(inner.evidence);
    }
    Ok(())
}
