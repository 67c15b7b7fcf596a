//! The power goes at random moments under random operations: what had been reported durable is there afterwards, bit for
//! bit. `tests/README.md` says how to run many cuts.

#[cfg(test)]
#[path = "../snapshots/actor.rs"]
mod actor;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod machine;
#[cfg(test)]
#[path = "../snapshots/picture.rs"]
mod picture;
