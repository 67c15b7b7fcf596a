//! Which mounts of a namespace are to be replaced: a pure function of its table and the dead superblocks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Superblock;
use crate::mounting::mountinfo::{MountEntry, MountTable};

/// What mountinfo appends to a root or a mount point that was removed.
const DELETED: &str = "//deleted";

/// A mount of a dead superblock that somebody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadMount {
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) superblock: Superblock,
    /// Which directory or file of the workspace it shows; `/` for all of it.
    pub(super) root: PathBuf,
    pub(super) mount_point: PathBuf,
    pub(super) access: Access,
    /// What is mounted directly on it, in the order of mounting.
    pub(super) children: Vec<Child>,
}

/// What a mount forbids beyond nosuid and nodev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read_only: bool,
    pub(super) no_exec: bool,
}

/// A mount on a dead one: it has to move to the successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) id: u64,
    pub(super) mount_point: PathBuf,
}

impl DeadMount {
    /// Returns whether the directory that it shows was removed.
    pub(super) fn is_deleted(&self) -> bool {
        self.root.as_os_str().as_encoded_bytes().ends_with(DELETED.as_bytes())
    }
}

/// Returns every wsguard mount of a superblock in `former`, seen or not.
pub(super) fn mounts<'a>(
    table: &'a MountTable,
    former: &'a BTreeSet<Superblock>,
) -> impl Iterator<Item = (&'a MountEntry, Superblock)> {
    let known = |entry: &MountEntry| Superblock::of(entry).filter(|superblock| former.contains(superblock));
    table.entries().iter().filter_map(move |entry| Some((entry, known(entry)?)))
}

/// Returns the mounts to replace, outer ones first. One that another mount at the same place covers is left alone:
/// nobody sees it.
pub(super) fn dead_mounts(table: &MountTable, former: &BTreeSet<Superblock>) -> Vec<DeadMount> {
    let mut found: Vec<DeadMount> = mounts(table, former)
        .filter_map(|(entry, superblock)| visible_mount(table, entry, superblock))
        .collect();
    found.sort_by_key(|dead| dead.mount_point.components().count());
    found
}

fn visible_mount(table: &MountTable, entry: &MountEntry, superblock: Superblock) -> Option<DeadMount> {
    let on_it = || table.entries().iter().filter(|other| other.parent == entry.id && other.id != entry.id);
    if on_it().any(|other| other.mount_point == entry.mount_point) {
        return None;
    }
    let children = on_it().map(|child| Child { id: child.id, mount_point: child.mount_point.clone() });
    Some(DeadMount {
        id: entry.id,
        parent: entry.parent,
        superblock,
        root: entry.root.clone(),
        mount_point: entry.mount_point.clone(),
        access: Access { read_only: entry.has_option("ro"), no_exec: entry.has_option("noexec") },
        children: children.collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock(minor: u32) -> Superblock {
        Superblock::named(&format!("0:{minor}"), "p").unwrap()
    }

    fn chosen(table: &str, minors: &[u32]) -> Vec<u64> {
        let former = minors.iter().copied().map(superblock).collect();
        dead_mounts(&MountTable::parse(table.as_bytes()), &former).iter().map(|dead| dead.id).collect()
    }

    const CONTAINER: &str = "\
        50 40 0:60 / / rw - overlay overlay rw\n\
        51 50 0:45 / /workspace rw,nosuid,nodev - fuse.wsguard wsguard:p rw\n\
        52 50 0:45 /sub /x ro,nosuid,nodev,noexec - fuse.wsguard wsguard:p rw\n\
        53 50 0:46 / /other rw - fuse.wsguard wsguard:q rw\n\
        54 51 0:47 / /workspace/data rw - tmpfs tmpfs rw\n";

    #[test]
    fn mounts_of_dead_superblocks_are_chosen_with_their_access_and_children() {
        let found = dead_mounts(&MountTable::parse(CONTAINER.as_bytes()), &[superblock(45)].into());
        let [whole, part] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((whole.id, whole.access), (51, Access { read_only: false, no_exec: false }));
        assert_eq!(whole.children, [Child { id: 54, mount_point: "/workspace/data".into() }]);
        assert_eq!((part.id, part.access), (52, Access { read_only: true, no_exec: true }));
        assert_eq!(part.root, std::path::Path::new("/sub"));
    }

    #[test]
    fn another_filesystem_with_a_dead_number_is_left_alone() {
        assert_eq!(chosen(CONTAINER, &[47, 60]), [] as [u64; 0]);
    }

    #[test]
    fn another_workspace_that_got_a_dead_number_is_left_alone() {
        assert_eq!(chosen(CONTAINER, &[46]), [] as [u64; 0]);
    }

    #[test]
    fn covered_mount_is_left_alone() {
        let covered = "51 50 0:45 / /w rw - fuse.wsguard wsguard:p rw\n52 51 0:9 / /w rw - tmpfs tmpfs rw\n";
        assert_eq!(chosen(covered, &[45]), [] as [u64; 0]);
    }

    #[test]
    fn outer_mount_comes_first() {
        let nested = "52 51 0:45 /s /w/s rw - fuse.wsguard wsguard:p rw\n51 50 0:45 / /w rw - fuse.wsguard wsguard:p rw\n";
        assert_eq!(chosen(nested, &[45]), [51, 52]);
    }

    #[test]
    fn removed_directory_is_recognised() {
        let removed = "52 50 0:45 /s//deleted /w rw - fuse.wsguard wsguard:p rw\n";
        let found = dead_mounts(&MountTable::parse(removed.as_bytes()), &[superblock(45)].into());
        assert!(found[0].is_deleted());
    }

    fn line() -> impl Strategy<Value = (u64, u64, u32, usize, bool)> {
        (1_u64..40, 1_u64..40, 0_u32..6, 0_usize..5, any::<bool>())
    }

    proptest! {
        /// Whatever a table holds: only visible mounts of our kind with a number that is known as dead.
        #[test]
        fn nothing_but_visible_dead_mounts_of_ours_is_chosen(
            lines in prop::collection::vec(line(), 0..30),
            minors in prop::collection::btree_set(0_u32..6, 0..4),
        ) {
            let places = ["/", "/workspace", "/workspace/data", "/x", "/a\\040b"];
            let text: String = lines.iter().map(|(id, parent, minor, place, is_ours)| {
                let kind = if *is_ours { "fuse.wsguard wsguard:p" } else { "fuse.other wsguard:p" };
                format!("{id} {parent} 0:{minor} / {} rw - {kind} rw\n", places[*place])
            }).collect();
            let table = MountTable::parse(text.as_bytes());
            let former: BTreeSet<Superblock> = minors.iter().copied().map(superblock).collect();
            let found = dead_mounts(&table, &former);
            for dead in &found {
                prop_assert!(former.contains(&dead.superblock));
                prop_assert!(table.entries().iter().any(|entry| entry.id == dead.id
                    && Superblock::of(entry).as_ref() == Some(&dead.superblock) && entry.mount_point == dead.mount_point));
            }
            let expected = table.entries().iter().filter(|entry| Superblock::of(entry).is_some_and(|known| former.contains(&known))
                && !table.entries().iter().any(|other| other.parent == entry.id && other.id != entry.id
                    && other.mount_point == entry.mount_point));
            prop_assert_eq!(found.len(), expected.count());
        }
    }
}
