//! What the guard knows about the writing of a file, beyond what its bytes say.

/// Which bytes of a file were written since it was created or truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Written {
    /// Nobody watched, or too scattered to keep.
    #[default]
    Unknown,
    /// Every byte up to the size.
    Full,
    /// At least one byte is missing, the first at this offset.
    Holes(u64),
}

/// Evidence from outside the file. The default knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Which bytes were written.
    pub written: Written,
    /// How many handles are open for writing, as far as known.
    pub open_writers: u32,
    /// Whether the last write was followed by an fsync.
    pub fsynced: Option<bool>,
}
