use std::collections::BTreeSet;

use proptest::prelude::*;

use super::model::{Choice, ROOT, Thrift, World, choices, number};
use super::*;
use crate::snapshot::sequence::{Epoch, Sequence};

fn folded(world: &World) -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::create(dir.path()).unwrap();
    catalog.apply(world.log()).unwrap();
    (dir, catalog)
}

/// All rows of all tables that say something about the past.
fn dump(catalog: &Catalog) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["entry", "name", "attributes", "xattrs", "content", "life", "mapped", "outside", "snapshot"]
    {
        let mut statement = catalog.past.connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> =
                (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap())).collect();
            found.push(format!("{table}: {}", values.join(", ")));
        }
    }
    found
}

fn sweep_all(catalog: &mut Catalog, world: &mut World, kept: &Kept, limit: usize) -> u64 {
    let mut sweep = Sweep::default();
    let mut bytes = 0;
    loop {
        let step = catalog.sweep(&mut sweep, kept, limit).unwrap();
        bytes += step.bytes;
        if step.is_finished {
            break;
        }
    }
    loop {
        let condemned = catalog.past().condemned(3).unwrap();
        if condemned.is_empty() {
            return bytes;
        }
        world.dispose(&condemned);
        catalog.disposed(&condemned).unwrap();
    }
}

/// Chooses moments of `from` by the bits of `which`.
fn some(from: &[Sequence], which: u64) -> Vec<Sequence> {
    from.iter().enumerate().filter(|(place, _)| which >> (place % 64) & 1 == 1).map(|(_, at)| *at).collect()
}

fn stored_by_rows(catalog: &Catalog) -> u64 {
    let sql =
        "SELECT ifnull((SELECT sum(bytes) FROM content), 0) + ifnull((SELECT sum(bytes) FROM condemned), 0)";
    let sum: i64 = catalog.past.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    sum.cast_unsigned()
}

fn check_counts(catalog: &Catalog) -> Result<(), TestCaseError> {
    let sql = "SELECT count(*) FROM entry WHERE rows != (
        (SELECT count(*) FROM name WHERE name.at = entry.at)
        + (SELECT count(*) FROM attributes WHERE attributes.at = entry.at)
        + (SELECT count(*) FROM xattrs WHERE xattrs.at = entry.at)
        + (SELECT count(*) FROM content WHERE content.at = entry.at))";
    let wrong: i64 = catalog.past.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    prop_assert_eq!(wrong, 0, "entries count their rows");
    prop_assert_eq!(stored_by_rows(catalog), catalog.past().stored_bytes().unwrap());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_moment_is_as_it_was(choices in choices()) {
        let world = World::run(Thrift::None, &choices);
        let (_dir, catalog) = folded(&world);
        for (moment, tree) in &world.states {
            prop_assert_eq!(&world.tree_at(catalog.past(), *moment), tree, "at {:?}", moment);
        }
        check_counts(&catalog)?;
    }

    #[test]
    fn every_end_of_an_epoch_is_as_it_was_where_each_byte_is_preserved_once(choices in choices()) {
        let world = World::run(Thrift::Epoch, &choices);
        let (_dir, catalog) = folded(&world);
        for (moment, tree) in &world.states {
            prop_assert_eq!(&world.tree_at(catalog.past(), *moment), tree, "at {:?}", moment);
        }
    }

    #[test]
    fn kept_moments_are_as_they_were_after_sweeps(
        choices in choices(), first in any::<u64>(), second in any::<u64>(), window in 0_usize..8, limit in 1_usize..20,
        thrift in prop_oneof![Just(Thrift::None), Just(Thrift::Epoch)],
    ) {
        let mut world = World::run(thrift, &choices);
        let (_dir, mut catalog) = folded(&world);
        // The second sweep keeps less than the first.
        for (which, window) in [(first, 0), (first & second, window)] {
            let ends = world.ends.clone();
            let start = ends.get(window).copied().unwrap_or(Epoch(90).end());
            let kept = Kept::new(some(&ends, which), start);
            sweep_all(&mut catalog, &mut world, &kept, limit);
            for (moment, tree) in world.states.iter().filter(|(moment, _)| kept.contains(**moment)) {
                prop_assert_eq!(&world.tree_at(catalog.past(), *moment), tree, "at {:?}", moment);
            }
            check_counts(&catalog)?;
        }
    }

    #[test]
    fn nothing_is_left_when_nothing_is_kept(choices in choices(), limit in 1_usize..20, held in any::<u64>()) {
        let mut world = World::run(Thrift::None, &choices);
        let (_dir, mut catalog) = folded(&world);
        let last = *world.ends.last().unwrap();
        // What a first sweep leaves must not be in the way of the second.
        let kept = Kept::new(some(&world.ends, held), last);
        sweep_all(&mut catalog, &mut world, &kept, limit);
        sweep_all(&mut catalog, &mut world, &Kept::new([], last), limit);
        let rows: Vec<String> =
            dump(&catalog).into_iter().filter(|row| !row.starts_with("snapshot")).collect();
        prop_assert_eq!(rows, Vec::<String>::new());
        prop_assert_eq!(world.dispose(&[]), 0, "objects are left");
        prop_assert_eq!(catalog.past().stored_bytes().unwrap(), 0);
    }

    #[test]
    fn a_file_that_came_and_went_is_kept_by_no_earlier_snapshot(choices in choices()) {
        let mut world = World::run(Thrift::None, &choices);
        let (_dir, mut catalog) = folded(&world);
        let last = *world.ends.last().unwrap();
        // The workspace was empty then, so all that it needs to know is which names were not there.
        sweep_all(&mut catalog, &mut world, &Kept::new([Sequence::ZERO], last), 100);
        let living: BTreeSet<String> =
            world.states[&last].values().map(|seen| format!("{seen:?}")).collect();
        let objects = catalog.past().objects_after(None, 1000).unwrap();
        for row in objects {
            let is_alive = catalog.past().life_of(&row.inode).unwrap().is_none();
            prop_assert!(is_alive, "{:?} is kept; alive are {:?}", row, living);
        }
    }

    #[test]
    fn applying_again_changes_nothing(choices in choices(), cut in any::<prop::sample::Index>()) {
        let world = World::run(Thrift::None, &choices);
        let (dir, mut catalog) = folded(&world);
        let expected = dump(&catalog);
        let again = catalog.apply(world.log()).unwrap();
        prop_assert_eq!((again.entries, again.rows), (0, 0));
        prop_assert_eq!(&dump(&catalog), &expected);
        drop(catalog);
        Catalog::set_aside(dir.path(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        // In two parts, the second beginning too early.
        let mut rebuilt = Catalog::create(dir.path()).unwrap();
        let cut = cut.index(world.entries.len());
        rebuilt.apply(world.log().take(cut)).unwrap();
        rebuilt.apply(world.log().skip(cut / 2)).unwrap();
        prop_assert_eq!(dump(&rebuilt), expected);
    }

    #[test]
    fn what_deleting_a_snapshot_frees_is_what_was_said(
        choices in choices(), all in any::<u64>(), deleted in any::<u64>(), window in 0_usize..12,
    ) {
        let mut world = World::run(Thrift::Epoch, &choices);
        let (_dir, mut catalog) = folded(&world);
        let last = *world.ends.last().unwrap();
        let start = world.ends.get(window).copied().unwrap_or(last);
        let moments = some(&world.ends, all);
        let kept = Kept::new(moments.clone(), start);
        let garbage = catalog.past().space(&kept).unwrap().garbage;
        prop_assert_eq!(sweep_all(&mut catalog, &mut world, &kept, 1000), garbage);

        let space = catalog.past().space(&kept).unwrap();
        prop_assert_eq!(space.garbage, 0);
        prop_assert_eq!(space.total, stored_by_rows(&catalog));
        for snapshot in &space.snapshots {
            prop_assert_eq!(catalog.past().frees(&[snapshot.moment], &kept).unwrap(), snapshot.unique);
        }
        let deleted = some(&moments, deleted);
        let frees = catalog.past().frees(&deleted, &kept).unwrap();
        let rest = moments.into_iter().filter(|moment| !deleted.contains(moment));
        prop_assert_eq!(sweep_all(&mut catalog, &mut world, &Kept::new(rest, start), 1000), frees);
    }

    #[test]
    fn difference_names_what_differs(choices in choices(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let world = World::run(Thrift::None, &choices);
        let (_dir, catalog) = folded(&world);
        let moments: Vec<Sequence> = world.states.keys().copied().collect();
        let (a, b) = (moments[a.index(moments.len())], moments[b.index(moments.len())]);
        let (earlier, later) = (a.min(b), a.max(b));
        let found = catalog.past().difference(earlier, later, None).unwrap();
        let names = |moment| world.names_at(moment);
        let changed: BTreeSet<(u64, Vec<u8>)> = names(earlier)
            .symmetric_difference(&names(later))
            .map(|(parent, name, _)| (*parent, name.clone()))
            .collect();
        let differs = |name: &&super::difference::NameDifference| match &name.later {
            Then::Was(later) => *later != name.earlier,
            Then::AsNow => world.named_now(&name.parent, &name.name) != name.earlier,
        };
        let place = |name: &super::difference::NameDifference| (number(&name.parent), name.name.clone());
        let listed: BTreeSet<(u64, Vec<u8>)> = found.names.iter().filter(differs).map(place).collect();
        // A directory may have been put back or taken away with what is in it, of which nothing is noted then.
        let directories = |moment| -> BTreeSet<u64> {
            names(moment).into_iter().map(|(_, _, inode)| inode).chain([ROOT]).collect()
        };
        let is_in_both = |place: &&(u64, Vec<u8>)| {
            directories(earlier).contains(&place.0) && directories(later).contains(&place.0)
        };
        prop_assert_eq!(
            listed.iter().filter(is_in_both).collect::<Vec<_>>(),
            changed.iter().filter(is_in_both).collect::<Vec<_>>()
        );
        // Whatever is different in a file that both show was noted.
        let noted: BTreeSet<u64> = found.inodes.iter().map(|inode| number(&inode.inode)).collect();
        for (path, seen) in &world.states[&earlier] {
            if let Some(now) = world.states[&later].get(path).filter(|now| *now != seen) {
                let is_other = listed.iter().any(|(_, name)| path.ends_with(name));
                prop_assert!(is_other || noted.contains(&now.inode), "{:?} became {:?}", seen, now);
            }
        }
    }
}

/// A sequence that once went wrong belongs here.
#[test]
fn choices_that_were_found_to_matter() {
    let put_back_and_deleted: Vec<Choice> =
        vec![(0, 0, 0, 3), (11, 0, 0, 0), (4, 0, 1, 0), (12, 0, 1, 0), (11, 0, 0, 0), (4, 0, 1, 0)];
    let mut world = World::run(Thrift::None, &put_back_and_deleted);
    let (_dir, mut catalog) = folded(&world);
    let kept = Kept::new(world.ends.clone(), *world.ends.last().unwrap());
    sweep_all(&mut catalog, &mut world, &kept, 10);
    for end in &world.ends {
        assert_eq!(world.tree_at(catalog.past(), *end), world.states[end]);
    }
}
