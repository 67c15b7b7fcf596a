//! What becomes of one entry: pure, for the plan that is shown and for what is done alike.

use wsguard_api::RestoreConflict;

/// How alike what stands at a name is to what is restored there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sameness {
    /// Content and attributes are the same.
    Same,
    /// The content is.
    SameContent,
    /// Something of it differs.
    Different,
}

/// What stands at a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// Anything else.
    File {
        /// How alike it is.
        sameness: Sameness,
        /// When it was modified, nanoseconds since 1970.
        modified_ns: i64,
    },
}

/// What is restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Former {
    /// Whether it is a directory.
    pub(super) is_dir: bool,
    /// When it was modified, nanoseconds since 1970.
    pub(super) modified_ns: i64,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// It gets its name, which is free.
    Place,
    /// It gets a name of its own beside what stands there.
    Beside,
    /// It replaces the file that stands there.
    Replace,
    /// The directory that stands there is gone through.
    Merge {
        /// It also gets its former attributes.
        sets_attributes: bool,
    },
    /// Only the attributes are set.
    Attributes,
    /// Nothing is to be done.
    Unchanged,
    /// What stands there stays.
    Leave(&'static str),
    /// It cannot be restored like this.
    Refuse(&'static str),
    /// What stands there is removed, a directory with everything below it.
    RemoveTree,
    /// What stands there is removed, a directory only if it is empty.
    RemoveOne,
}

/// Decides.
pub(super) fn decide(conflict: RestoreConflict, former: Former, standing: Standing) -> Decision {
    use RestoreConflict::{Exact, IfNewer, KeepBoth, OnlyMissing, Overwrite};
    match (standing, former.is_dir) {
        (Standing::Nothing, _) => Decision::Place,
        (Standing::Directory, true) => Decision::Merge { sets_attributes: conflict == Exact },
        (Standing::Directory, false) => match conflict {
            KeepBoth => Decision::Beside,
            OnlyMissing | IfNewer => Decision::Leave("a directory exists there"),
            Overwrite | Exact => Decision::Refuse("a directory exists there; remove it, or use --keep-both"),
        },
        (Standing::File { .. }, true) => match conflict {
            KeepBoth => Decision::Beside,
            OnlyMissing | IfNewer => Decision::Leave("a file exists there"),
            Overwrite | Exact => Decision::Replace,
        },
        (Standing::File { sameness: Sameness::Same, .. }, false) => Decision::Unchanged,
        (Standing::File { sameness: Sameness::SameContent, .. }, false) => match conflict {
            Overwrite | Exact => Decision::Attributes,
            KeepBoth | OnlyMissing | IfNewer => Decision::Unchanged,
        },
        (Standing::File { sameness: Sameness::Different, modified_ns }, false) => match conflict {
            KeepBoth => Decision::Beside,
            Overwrite | Exact => Decision::Replace,
            OnlyMissing => Decision::Leave("it exists"),
            IfNewer if former.modified_ns > modified_ns => Decision::Replace,
            IfNewer => Decision::Leave("what exists was modified later"),
        },
    }
}

#[cfg(test)]
mod tests {
    use RestoreConflict::{Exact, IfNewer, KeepBoth, OnlyMissing, Overwrite};

    use super::*;

    const FILE: Former = Former { is_dir: false, modified_ns: 100 };
    const DIRECTORY: Former = Former { is_dir: true, modified_ns: 100 };
    const MODES: [RestoreConflict; 5] = [KeepBoth, Overwrite, OnlyMissing, IfNewer, Exact];

    fn standing(sameness: Sameness, modified_ns: i64) -> Standing {
        Standing::File { sameness, modified_ns }
    }

    #[test]
    fn what_is_missing_comes_back_and_what_is_the_same_stays_in_every_mode() {
        for mode in MODES {
            assert_eq!(decide(mode, FILE, Standing::Nothing), Decision::Place);
            assert_eq!(decide(mode, FILE, standing(Sameness::Same, 7)), Decision::Unchanged);
        }
    }

    #[test]
    fn a_file_that_differs_is_replaced_only_where_that_was_asked_for() {
        let outcome = |mode, modified_ns| decide(mode, FILE, standing(Sameness::Different, modified_ns));
        assert_eq!(outcome(KeepBoth, 50), Decision::Beside);
        assert_eq!(outcome(Overwrite, 200), Decision::Replace);
        assert_eq!(outcome(Exact, 200), Decision::Replace);
        assert!(matches!(outcome(OnlyMissing, 50), Decision::Leave(_)));
        assert_eq!(outcome(IfNewer, 99), Decision::Replace);
        assert!(matches!(outcome(IfNewer, 100), Decision::Leave(_)));
    }

    #[test]
    fn no_directory_is_ever_removed_for_a_file() {
        for mode in MODES {
            let outcome = decide(mode, FILE, Standing::Directory);
            let is_safe = matches!(outcome, Decision::Beside | Decision::Leave(_) | Decision::Refuse(_));
            assert!(is_safe, "{mode:?}: {outcome:?}");
        }
        assert_eq!(
            decide(KeepBoth, DIRECTORY, Standing::Directory),
            Decision::Merge { sets_attributes: false }
        );
        assert_eq!(decide(Exact, DIRECTORY, Standing::Directory), Decision::Merge { sets_attributes: true });
    }
}
