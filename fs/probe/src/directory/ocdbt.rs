//! The manifest of a store of tensorstore's OCDBT, which Orbax writes.

use super::folder::Folder;
use super::inspect::{Inspector, Unit};
use crate::evidence::Evidence;
use crate::verdict::State;
use crate::window::le;

const NAME: &str = "manifest.ocdbt";
const MAGIC: &[u8] = &[0x0c, 0xdb, 0x3a, 0x2a];

/// The manifest tells its own length. What it refers to is compressed and not followed.
pub(super) fn check_manifest(unit: &mut Unit, inspector: &Inspector<'_>, folder: &Folder) {
    let head =
        inspector.with_window(folder, NAME, |window| Some((window.read_some(0, 12).ok()?, window.size())));
    let Some((head, size)) = head else {
        return unit
            .fault(State::Unknown, Evidence::Unreadable { error: format!("{NAME:?} cannot be read") });
    };
    let expected = le(&head, 4, 8).filter(|_| head.starts_with(MAGIC));
    match expected {
        Some(expected) if expected == size => {}
        Some(expected) => unit.fault(State::Torn, Evidence::FileShort { name: NAME.into(), size, expected }),
        None => unit.fault(State::Torn, Evidence::Malformed { what: format!("{NAME:?} has no header") }),
    }
}
