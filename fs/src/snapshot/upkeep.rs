//! What keeps the history of a workspace within its bounds.
//!
//! Parts: `retain` (which snapshots go, how far the trash reaches back), `evict` (what goes when there is too little
//! space), `collect` (what nobody needs any more leaves the disk), `hashing` (every object gets a hash, and is compared
//! with it), `scan` (objects that nobody speaks of), `lost` (objects that a catalog which was made again speaks of in vain).
//!
//! All of it runs beside the data path, in steps: a step holds the catalog for some milliseconds. The order that no
//! crash can turn into a wrong answer: what is not kept any more is noted, then rows are condemned, then this is on
//! disk, then objects are removed, then the rows go.

mod collect;
mod evict;
mod hashing;
mod lost;
mod retain;
mod scan;

pub(crate) use collect::{Pace, collect};
pub(crate) use evict::{Evicted, evict};
pub(super) use hashing::hash_range;
pub(crate) use hashing::{DamageKind, hash_some, verify};
pub(crate) use lost::mark_lost;
pub(crate) use retain::{Bounds, plan_now, retain, trash_due};
pub(crate) use scan::scan;
