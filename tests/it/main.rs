//! Integration tests: the real binary, real mounts, real containers. One file for each feature, each test named
//! as a claim. `tests/README.md` says how to run the long ones.

#[cfg(test)]
mod accounting;
mod bad_input;
#[cfg(test)]
mod browse;
#[cfg(test)]
mod busy;
#[cfg(test)]
mod changed_outside;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod coherence;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod many;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod plain_files;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod rebind;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod roots;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod squash;
#[cfg(test)]
mod starting;
#[cfg(test)]
mod suites;
#[cfg(test)]
mod tracking;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod virtual_dir;
#[cfg(test)]
mod watchdog;
#[cfg(test)]
mod workloads;
