//! What changed within one debounce window, each name once.
//!
//! Pure: no clock of its own, no I/O. A window opens with the first change and is due [`WINDOW`] later,
//! however many follow, so that a file that is written without pause is reported again and again, and a
//! change is never held back longer than that.
//!
//! The delay is not only thrift. A lookup that read the directory just before a foreign change may reach the
//! kernel's cache just after it; an invalidation sent at once could overtake that reply and the stale answer
//! would stay for the whole time to live.

use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::directories::DirectoryId;

/// From the first change to its report.
pub(super) const WINDOW: Duration = Duration::from_millis(150);

/// Distinct names in one window; more means that nothing is to be trusted.
pub(super) const MAX_NAMES: usize = 65_536;

/// One kind of change of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The entry appeared or was replaced.
    Appeared,
    /// The entry is gone, and with it the interest in its content.
    Vanished,
    /// Content or attributes of what the name stands for.
    Content,
}

/// What became of one name in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The entry appeared, vanished or was replaced.
    pub(super) entry: bool,
    /// Content or attributes changed.
    pub(super) content: bool,
}

/// The batch is full; no change was recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BatchFull;

/// The changes of the current window.
#[derive(Default)]
pub(super) struct Batch {
    directories: FxHashMap<DirectoryId, FxHashMap<OsString, Changes>>,
    names: usize,
    opened: Option<Instant>,
}

impl Batch {
    /// Adds a change; a name that is already there costs two hash lookups and no allocation.
    ///
    /// # Errors
    /// [`BatchFull`] if the name would be one too many: the caller must fall back to distrusting everything.
    pub(super) fn note(
        &mut self,
        directory: DirectoryId,
        name: &OsStr,
        change: Change,
        now: Instant,
    ) -> Result<(), BatchFull> {
        let names = self.directories.entry(directory).or_default();
        if let Some(changes) = names.get_mut(name) {
            changes.add(change);
            return Ok(());
        }
        if self.names >= MAX_NAMES {
            return Err(BatchFull);
        }
        let mut changes = Changes::default();
        changes.add(change);
        names.insert(name.to_owned(), changes);
        self.names += 1;
        self.opened.get_or_insert(now);
        Ok(())
    }

    /// Drops the pending content change of a name that we removed ourselves.
    pub(super) fn forget_content(&mut self, directory: DirectoryId, name: &OsStr) {
        if let Some(changes) = self.directories.get_mut(&directory).and_then(|names| names.get_mut(name)) {
            changes.content = false;
        }
    }

    /// Returns when the window ends, if one is open.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + WINDOW)
    }

    /// Returns the changes and closes the window if it has ended.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
    ) -> Option<FxHashMap<DirectoryId, FxHashMap<OsString, Changes>>> {
        if self.due_at()? > now {
            return None;
        }
        Some(std::mem::take(self).directories)
    }
}

impl Changes {
    fn add(&mut self, change: Change) {
        match change {
            Change::Appeared => self.entry = true,
            Change::Vanished => *self = Changes { entry: true, content: false },
            Change::Content => self.content = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ROOT: DirectoryId = DirectoryId::ROOT;

    fn flatten(
        directories: FxHashMap<DirectoryId, FxHashMap<OsString, Changes>>,
    ) -> BTreeMap<(DirectoryId, OsString), Changes> {
        directories
            .into_iter()
            .flat_map(|(directory, names)| {
                names.into_iter().map(move |(name, changes)| ((directory, name), changes))
            })
            .collect()
    }

    #[test]
    fn duplicates_are_reported_once() {
        let (mut batch, now) = (Batch::default(), Instant::now());
        for _ in 0..1000 {
            batch.note(ROOT, OsStr::new("a"), Change::Content, now).unwrap();
        }
        let changes = flatten(batch.take_due(now + WINDOW).unwrap());
        assert_eq!(
            changes.into_iter().collect::<Vec<_>>(),
            [((ROOT, OsString::from("a")), Changes { entry: false, content: true })]
        );
    }

    #[test]
    fn window_is_not_prolonged_by_later_changes() {
        let (mut batch, now) = (Batch::default(), Instant::now());
        batch.note(ROOT, OsStr::new("a"), Change::Content, now).unwrap();
        batch.note(ROOT, OsStr::new("b"), Change::Content, now + WINDOW / 2).unwrap();
        assert!(batch.take_due(now + WINDOW - Duration::from_millis(1)).is_none());
        assert_eq!(flatten(batch.take_due(now + WINDOW).unwrap()).len(), 2);
        assert_eq!(batch.due_at(), None);
    }

    #[test]
    fn vanished_name_is_not_asked_for_its_attributes() {
        let (mut batch, now) = (Batch::default(), Instant::now());
        batch.note(ROOT, OsStr::new("a"), Change::Content, now).unwrap();
        batch.note(ROOT, OsStr::new("a"), Change::Vanished, now).unwrap();
        let changes = flatten(batch.take_due(now + WINDOW).unwrap());
        assert_eq!(changes[&(ROOT, OsString::from("a"))], Changes { entry: true, content: false });
    }

    #[test]
    fn too_many_names_are_an_error_and_known_ones_still_fit() {
        let (mut batch, now) = (Batch::default(), Instant::now());
        for index in 0..MAX_NAMES {
            batch.note(ROOT, OsStr::new(&index.to_string()), Change::Content, now).unwrap();
        }
        assert_eq!(batch.note(ROOT, OsStr::new("one more"), Change::Content, now), Err(BatchFull));
        assert_eq!(batch.note(ROOT, OsStr::new("0"), Change::Appeared, now), Ok(()));
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![Just(Change::Appeared), Just(Change::Vanished), Just(Change::Content)]
    }

    proptest! {
        /// Reported are exactly the names that changed, an entry if any change was one, and content if it
        /// changed after the name last vanished.
        #[test]
        fn batch_is_the_fold_of_its_changes(
            steps in prop::collection::vec((0..3u32, 0..4u8, change()), 1..60)
        ) {
            let (mut batch, now) = (Batch::default(), Instant::now());
            let mut model: BTreeMap<(DirectoryId, OsString), Vec<Change>> = BTreeMap::new();
            for (directory, name, change) in steps {
                let (directory, name) = (DirectoryId::from_index(directory), OsString::from(name.to_string()));
                batch.note(directory, &name, change, now).unwrap();
                model.entry((directory, name)).or_default().push(change);
            }
            let expected: BTreeMap<_, _> = model
                .into_iter()
                .map(|(key, changes)| {
                    let last = changes.iter().rposition(|change| *change == Change::Vanished).map_or(0, |at| at + 1);
                    let folded = Changes {
                        entry: changes.iter().any(|change| *change != Change::Content),
                        content: changes[last..].contains(&Change::Content),
                    };
                    (key, folded)
                })
                .collect();
            prop_assert_eq!(flatten(batch.take_due(now + WINDOW).unwrap()), expected);
        }
    }
}
