//! Snapshots, compared bit for bit with what the workspace was: random operations, snapshots and deaths of the worker on
//! real mounts. `tests/README.md` says how to run many sequences.

#[cfg(test)]
mod model;
#[cfg(test)]
mod picture;
#[cfg(test)]
mod random;
