//! Several names of a directory at a moment, in one reading.

use super::as_of::Then;
use super::{CatalogError, Past};
use crate::snapshot::record::{Attributes, Named};
use crate::snapshot::sequence::Sequence;
use crate::sys::handle::FileHandle;

/// A name that is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    /// What it stood for is known: only the attributes of that are asked for.
    Known(Named),
    /// It is this, and stands for this inode now, if for any.
    Now(&'a [u8], Option<FileHandle>),
}

/// What history says of a name, and of what it stood for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChildThen {
    /// What it stood for.
    pub(crate) name: Then<Option<Named>>,
    /// The attributes of that; `None`: as now.
    pub(crate) attributes: Option<Attributes>,
}

impl Past {
    /// Returns what each name of a directory stood for at a moment, with its attributes, in the order of `asked`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn children_at(
        &self,
        parent: &FileHandle,
        asked: &[Asked<'_>],
        moment: Sequence,
    ) -> Result<Vec<ChildThen>, CatalogError> {
        let child = |asked: &Asked<'_>| {
            let (name, inode) = match *asked {
                Asked::Known(named) => (Then::Was(Some(named)), Some(named.inode)),
                Asked::Now(name, now) => match self.name_at(parent, name, moment)? {
                    Then::Was(before) => (Then::Was(before), before.map(|named| named.inode)),
                    Then::AsNow => (Then::AsNow, now),
                },
            };
            let attributes = inode.map(|inode| self.attributes_at(&inode, moment)).transpose()?.flatten();
            Ok(ChildThen { name, attributes })
        };
        self.consistent(|| asked.iter().map(child).collect())
    }
}
