//! `.snapshots` in every directory: real mounts, on ext4, xfs and btrfs. Each test is named as a claim.

#[cfg(test)]
mod as_it_was;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod names;
#[cfg(test)]
mod read_only;
#[cfg(test)]
mod under_load;

#[cfg(test)]
mod tree;
