//! What a program may expect of a file inside the mount, compared with the plain filesystem below.
//!
//! Each check takes a [`ground::Ground`]: the directory as programs see it and an unguarded view of the same files. The
//! matrix runs it on a plain directory first (variant `native`), which proves the check itself, then through the guard
//! on ext4, xfs and btrfs. What differs from POSIX on purpose is written in `fs/doc/SEMANTICS.md`; every paragraph there
//! names a test, and `document` keeps the names honest.

#[cfg(test)]
mod access_lists;
#[cfg(test)]
mod appends;
#[cfg(test)]
mod attributes;
#[cfg(test)]
mod child;
#[cfg(test)]
mod databases;
#[cfg(test)]
mod deviations;
#[cfg(test)]
mod directories;
#[cfg(test)]
mod document;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod links;
#[cfg(test)]
mod mappings;
#[cfg(test)]
mod model;
#[cfg(test)]
mod open_modes;
#[cfg(test)]
mod overtaken;
#[cfg(test)]
mod ownership;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod renames;
#[cfg(test)]
mod special_files;
#[cfg(test)]
mod squash;
#[cfg(test)]
mod sys;
#[cfg(test)]
mod transfers;
#[cfg(test)]
mod xattrs;
