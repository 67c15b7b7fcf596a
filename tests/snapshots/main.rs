//! `.snapshots` in every directory, and random operations, snapshots and deaths of the worker compared bit for bit with
//! what the workspace was: real mounts, on ext4, xfs and btrfs. `tests/README.md` says how to run many sequences.

#[cfg(test)]
mod actor;
#[cfg(test)]
mod as_it_was;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod model;
#[cfg(test)]
mod names;
#[cfg(test)]
mod picture;
#[cfg(test)]
mod read_only;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod under_load;
