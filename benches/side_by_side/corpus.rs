//! Deterministic content: the same bytes, names and sizes in every run and for every variant.

/// A pseudo-random sequence (SplitMix64) that is the same on every machine.
pub(crate) struct Sequence(u64);

impl Sequence {
    /// Starts the sequence of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next value below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A file of a tree, relative to its root.
pub(crate) struct TreeFile {
    /// Below the root, with `/`.
    pub(crate) path: String,
    offset: usize,
    len: usize,
}

/// A tree of small files and the text they are cut from.
pub(crate) struct Tree {
    /// Parents before children.
    pub(crate) directories: Vec<String>,
    /// In the order in which an archive would hold them.
    pub(crate) files: Vec<TreeFile>,
    text: Vec<u8>,
}

/// The text is cut at a random offset for each file, so that no two files are equal.
const TEXT_BYTES: usize = 4 << 20;
const FILES_IN_DIRECTORY: usize = 14;

impl Tree {
    /// A source tree of `count` files: mostly small, some large, 6.5 KB on average as in kernel headers.
    pub(crate) fn source(count: usize) -> Self {
        Self::new("src", count, 0x5eed, |sequence| match sequence.below(100) {
            0..=59 => 200 + sequence.below(3_800),
            60..=94 => 4_000 + sequence.below(12_000),
            _ => 16_000 + sequence.below(48_000),
        })
    }

    /// The modules that an `import` of a scientific package reads, 12 KB on average.
    pub(crate) fn modules(count: usize) -> Self {
        Self::new("pkg", count, 0x0123, |sequence| 500 + sequence.below(23_000))
    }

    fn new(stem: &str, count: usize, seed: u64, size: impl Fn(&mut Sequence) -> u64) -> Self {
        let mut sequence = Sequence::new(seed);
        let mut directories = Vec::new();
        let mut files = Vec::with_capacity(count);
        for index in 0..count {
            let leaf = index / FILES_IN_DIRECTORY;
            let (top, middle) = (leaf / 64, leaf / 8);
            let directory = format!("{stem}{top}/part{middle}/unit{leaf}");
            if index % FILES_IN_DIRECTORY == 0 {
                for parent in [format!("{stem}{top}"), format!("{stem}{top}/part{middle}"), directory.clone()]
                {
                    if !directories.contains(&parent) {
                        directories.push(parent);
                    }
                }
            }
            let len = usize::try_from(size(&mut sequence)).unwrap_or(TEXT_BYTES / 2);
            let offset = usize::try_from(sequence.below((TEXT_BYTES - len) as u64)).unwrap_or(0);
            files.push(TreeFile { path: format!("{directory}/file_{index:05}.txt"), offset, len });
        }
        Self { directories, files, text: text(seed) }
    }

    /// Returns the content of one of this tree's files.
    pub(crate) fn content(&self, file: &TreeFile) -> &[u8] {
        &self.text[file.offset..file.offset + file.len]
    }
}

/// Words in random order: compresses like source code, which matters to `git add`.
fn text(seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "static", "struct", "return", "inode", "->next", "(void *)", "unsigned", "if (", ") {\n", "};\n\n",
        "\t", "0x", "lock", "extent", ", ", ";\n",
    ];
    let mut sequence = Sequence::new(seed ^ 0xabcd);
    let mut text = Vec::with_capacity(TEXT_BYTES + 16);
    while text.len() < TEXT_BYTES {
        match sequence.below(20) {
            index @ 0..=15 => text.extend_from_slice(WORDS[index as usize].as_bytes()),
            _ => text.extend_from_slice(format!("_{:x}", sequence.below(1 << 24)).as_bytes()),
        }
    }
    text.truncate(TEXT_BYTES);
    text
}
