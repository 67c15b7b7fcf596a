//! What is to be restored, as of one moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::moment::MomentKey;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    of: Option<MomentKey>,
    paths: BTreeSet<PathBuf>,
}

impl Marks {
    /// Marks a path, or takes its mark away. Marks of another moment are dropped; returns how many.
    pub(crate) fn toggle(&mut self, moment: &MomentKey, path: PathBuf) -> usize {
        let dropped = if self.of.as_ref() == Some(moment) { 0 } else { self.paths.len() };
        if self.of.as_ref() != Some(moment) {
            self.clear();
            self.of = Some(moment.clone());
        }
        if !self.paths.remove(&path) {
            self.paths.insert(path);
        }
        dropped
    }

    /// Whether a path is marked as of a moment.
    pub(crate) fn contains(&self, moment: &MomentKey, path: &Path) -> bool {
        self.of.as_ref() == Some(moment) && self.paths.contains(path)
    }

    /// Returns the moment and the paths, if there are any.
    pub(crate) fn all(&self) -> Option<(&MomentKey, Vec<PathBuf>)> {
        let of = self.of.as_ref().filter(|_| !self.paths.is_empty())?;
        Some((of, self.paths.iter().cloned().collect()))
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.paths.len()
    }

    /// Takes all of them away.
    pub(crate) fn clear(&mut self) {
        self.of = None;
        self.paths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_belong_to_one_moment() {
        let (one, other) = (MomentKey::Snapshot(1), MomentKey::Snapshot(2));
        let mut marks = Marks::default();
        assert_eq!(marks.toggle(&one, "/a".into()), 0);
        assert_eq!(marks.toggle(&one, "/b".into()), 0);
        assert!(marks.contains(&one, Path::new("/a")) && !marks.contains(&other, Path::new("/a")));
        assert_eq!(marks.toggle(&one, "/a".into()), 0);
        assert_eq!(marks.all(), Some((&one, vec![PathBuf::from("/b")])));
        assert_eq!(marks.toggle(&other, "/c".into()), 1, "the other moment's mark is dropped");
        assert_eq!(marks.all(), Some((&other, vec![PathBuf::from("/c")])));
    }
}
