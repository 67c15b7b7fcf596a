//! The directory that is shown: what it holds, what of it passes the filter, and where the cursor is.

use std::path::PathBuf;

use wsguard_api::{PastChange, PastEntry, PastKind, PastListing};

use super::text::shown_name;

/// An entry with its name as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What the daemon says.
    pub(crate) entry: PastEntry,
    /// The name, harmless.
    pub(crate) name: String,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    rows: Vec<Row>,
    visible: Vec<usize>,
    filter: String,
    cursor: usize,
    /// It was there at the moment that is shown.
    pub(crate) existed: bool,
    /// So many more are not listed.
    pub(crate) left_out: u64,
}

impl Folder {
    /// Shows a listing; the cursor goes to `name` if it is there.
    pub(crate) fn new(listing: PastListing, filter: &str, name: Option<&[u8]>) -> Self {
        let rows: Vec<Row> =
            listing.entries.into_iter().map(|entry| Row { name: shown_name(&entry.name.0), entry }).collect();
        let mut folder =
            Self { rows, existed: listing.existed, left_out: listing.left_out, ..Self::default() };
        folder.set_filter(filter);
        if let Some(name) = name {
            folder.go_to(name);
        }
        folder
    }

    /// Returns how many entries pass the filter.
    pub(crate) fn len(&self) -> usize {
        self.visible.len()
    }

    /// Returns how many there are.
    pub(crate) fn total(&self) -> usize {
        self.rows.len()
    }

    /// Returns the entry at a place among those that pass the filter.
    pub(crate) fn row(&self, place: usize) -> Option<&Row> {
        self.visible.get(place).and_then(|index| self.rows.get(*index))
    }

    /// Returns where the cursor is; less than [`Self::len`] unless that is 0.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Returns the entry under the cursor.
    pub(crate) fn selected(&self) -> Option<&Row> {
        self.row(self.cursor)
    }

    /// Moves the cursor.
    pub(crate) fn move_by(&mut self, steps: isize) {
        self.cursor = moved(self.cursor, steps, self.visible.len());
    }

    /// Shows only names that contain `filter`, whatever their case.
    pub(crate) fn set_filter(&mut self, filter: &str) {
        let before = self.selected().map(|row| row.entry.name.0.clone());
        self.filter = filter.to_lowercase();
        let passes = |row: &Row| self.filter.is_empty() || row.name.to_lowercase().contains(&self.filter);
        self.visible =
            (0..self.rows.len()).filter(|index| self.rows.get(*index).is_some_and(passes)).collect();
        self.cursor = self.cursor.min(self.visible.len().saturating_sub(1));
        if let Some(name) = before {
            self.go_to(&name);
        }
    }

    fn go_to(&mut self, name: &[u8]) {
        let place = (0..self.visible.len())
            .find(|place| self.row(*place).is_some_and(|row| row.entry.name.0 == name));
        if let Some(place) = place {
            self.cursor = place;
        }
    }
}

/// Returns a cursor after so many steps, within `length`.
pub(crate) fn moved(cursor: usize, steps: isize, length: usize) -> usize {
    cursor.saturating_add_signed(steps).min(length.saturating_sub(1))
}

/// Returns the character for what became of an entry.
pub(crate) fn change_mark(change: PastChange) -> char {
    match change {
        PastChange::Same => ' ',
        PastChange::Changed => 'M',
        PastChange::Attributes => 'a',
        PastChange::Deleted => 'D',
        PastChange::New => 'N',
    }
}

/// Returns what became of an entry, as words.
pub(crate) fn change_words(change: PastChange) -> &'static str {
    match change {
        PastChange::Same => "as it is now",
        PastChange::Changed => "changed since then",
        PastChange::Attributes => "mode or owner changed since then",
        PastChange::Deleted => "deleted since then",
        PastChange::New => "new since then",
    }
}

/// Returns the character after a name that tells what it is.
pub(crate) fn kind_mark(kind: PastKind) -> &'static str {
    match kind {
        PastKind::File => "",
        PastKind::Directory => "/",
        PastKind::Symlink => "@",
        PastKind::Other => "=",
    }
}

/// Returns the path of an entry of a directory.
pub(crate) fn path_of(dir: &std::path::Path, row: &Row) -> PathBuf {
    dir.join(row.entry.name.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browse::samples;

    #[test]
    fn a_filter_keeps_the_cursor_on_its_entry() {
        let mut folder = Folder::new(samples::listing(), "", Some(b"notes.md"));
        assert_eq!(folder.selected().unwrap().name, "notes.md");
        folder.set_filter("NOTES");
        assert_eq!((folder.len(), folder.cursor()), (1, 0));
        folder.set_filter("no such");
        assert!(folder.selected().is_none());
        folder.move_by(3);
        assert_eq!(folder.cursor(), 0);
    }
}
