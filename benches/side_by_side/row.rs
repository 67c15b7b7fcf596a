//! The rows of the report: what is prepared, what is timed, what is cleaned up, and what is to be reached.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    machine::Caches,
    measure::{Measurement, Unit},
    site::Site,
    workload::{bulk, fio, git, latency, sqlite, tree},
};

/// What a row is to reach (DESIGN §10; where that is silent, reference/fuse.md §5).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    /// At least this fraction of native speed.
    Ratio(f64),
    /// At most this median, microseconds.
    Micros(f64),
    /// At most this median above native's, microseconds.
    MicrosAboveNative(f64),
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(f, "≥ {ratio:.2}"),
            Self::Micros(micros) => write!(f, "≤ {micros} µs"),
            Self::MicrosAboveNative(micros) => write!(f, "≤ native + {micros} µs"),
        }
    }
}

/// The heading that a row stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Section {
    /// Large reads.
    Reads,
    /// Large writes.
    Writes,
    /// Small reads and writes on an open file.
    SmallIo,
    /// Operations on small files.
    SmallFiles,
    /// Trees and programs.
    Trees,
    /// fio's opinion on the first three.
    Fio,
}

impl Section {
    /// The heading's text.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Reads => "Large reads",
            Self::Writes => "Large writes",
            Self::SmallIo => "Small reads and writes on an open file",
            Self::SmallFiles => "Operations on small files",
            Self::Trees => "Trees and programs",
            Self::Fio => "Cross-check with fio",
        }
    }
}

/// Where application and daemon run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Where the scheduler puts them.
    AnyCpu,
    /// Both on the same processor.
    OneCpu,
}

/// How often a slow peer repeats a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// In every round.
    Always,
    /// In this many rounds, once the peer took longer than [`SLOW_MILLIS`] for such a row.
    WhenSlow(usize),
}

/// A peer that takes longer than this for one row repeats such rows less often.
pub(crate) const SLOW_MILLIS: f64 = 4_000.0;

type Step = fn(&Site) -> Result<()>;
type Timed = Box<dyn Fn(&Site) -> Result<Measurement>>;

/// One line of the report.
pub(crate) struct Row {
    /// For `--only` and the JSON.
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    /// Its heading.
    pub(crate) section: Section,
    /// Of its number.
    pub(crate) unit: Unit,
    /// What it is to reach, if anything is said about it.
    pub(crate) goal: Option<Goal>,
    /// What is dropped before it.
    pub(crate) caches: Caches,
    /// Where it runs.
    pub(crate) placement: Placement,
    /// How often a slow peer runs it.
    pub(crate) repeats: Repeats,
    /// Untimed, before the caches are dropped.
    pub(crate) prepare: Step,
    /// The work itself.
    pub(crate) timed: Timed,
    /// Untimed, after it.
    pub(crate) finish: Step,
}

impl Row {
    fn new(
        section: Section,
        name: &str,
        title: &str,
        unit: Unit,
        prepare: Step,
        timed: impl Fn(&Site) -> Result<Measurement> + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            section,
            unit,
            goal: None,
            caches: Caches::Keep,
            placement: Placement::AnyCpu,
            repeats: Repeats::Always,
            prepare,
            timed: Box::new(timed),
            finish: nothing,
        }
    }

    fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    fn caches(mut self, caches: Caches) -> Self {
        self.caches = caches;
        self
    }

    fn finish(mut self, finish: Step) -> Self {
        self.finish = finish;
        self
    }

    fn repeats_when_slow(mut self, rounds: usize) -> Self {
        self.repeats = Repeats::WhenSlow(rounds);
        self
    }

    fn one_cpu(mut self) -> Self {
        self.name.push_str("-one-cpu");
        self.title.push_str(", one CPU");
        self.placement = Placement::OneCpu;
        self
    }
}

fn nothing(_: &Site) -> Result<()> {
    Ok(())
}

/// Returns every row, in the order in which a round runs them: a tree is unpacked before it is walked.
pub(crate) fn catalog() -> Vec<Row> {
    let mut rows = reads();
    rows.extend(writes());
    rows.extend(small_io());
    rows.extend(small_files());
    rows.extend(trees());
    rows.extend(fio_jobs());
    rows
}

fn reads() -> Vec<Row> {
    use Unit::{MegabytesPerSecond as Throughput, Microseconds};
    let row = |name, title, unit, prepare: Step, timed: fn(&Site) -> Result<Measurement>| {
        Row::new(Section::Reads, name, title, unit, prepare, timed).goal(Goal::Ratio(0.97))
    };
    vec![
        row("seq-read-warm", "sequential read 1M, warm", Throughput, bulk::warm_bulk, bulk::read_three_times),
        row("seq-read-cold", "sequential read 1M, cold", Throughput, Site::ensure_bulk, bulk::read_once)
            .caches(Caches::DropAll),
        row("rand-read-warm", "random read 4K, warm", Microseconds, bulk::warm_bulk, latency::read_random),
        row("rand-read-cold", "random read 4K, cold", Microseconds, Site::ensure_bulk, latency::read_random)
            .caches(Caches::DropAll),
        row("mmap-read-warm", "mmap read, warm", Throughput, bulk::warm_bulk, bulk::read_mapped),
        row("mmap-read-cold", "mmap read, cold", Throughput, Site::ensure_bulk, bulk::read_mapped)
            .caches(Caches::DropAll),
    ]
}

fn writes() -> Vec<Row> {
    let row = |name, title, timed: fn(&Site) -> Result<Measurement>| {
        Row::new(Section::Writes, name, title, Unit::MegabytesPerSecond, nothing, timed)
    };
    let remove_written: Step = |site| site.remove_file(bulk::WRITTEN);
    let remove_checkpoint: Step = |site| site.remove_file(bulk::CHECKPOINT);
    vec![
        row("seq-write", "sequential write 1M, page cache", bulk::write_cached)
            .goal(Goal::Ratio(0.50))
            .finish(remove_written),
        row("seq-write-fsync", "sequential write 1M + fsync", bulk::write_synced).finish(remove_written),
        row("torch-save", "torch.save 256M, page cache", bulk::save_cached)
            .goal(Goal::Ratio(0.50))
            .finish(remove_checkpoint),
        row("torch-save-fsync", "torch.save 256M + fsync", bulk::save_synced)
            .goal(Goal::Ratio(0.75))
            .finish(remove_checkpoint),
    ]
}

/// Makes a latency row twice: where the scheduler puts it, and on one processor, for which the goal is stated.
fn both_placements(row: impl Fn() -> Row, goal: Option<Goal>) -> [Row; 2] {
    let mut pinned = row().one_cpu();
    pinned.goal = goal;
    [row(), pinned]
}

fn small_io() -> Vec<Row> {
    let row = |name, title, prepare: Step, timed: fn(&Site) -> Result<Measurement>| {
        Row::new(Section::SmallIo, name, title, Unit::Microseconds, prepare, timed)
    };
    [
        both_placements(
            || {
                row("append", "append 100 B", nothing, latency::append)
                    .finish(|site| site.remove_file(latency::LOG))
            },
            Some(Goal::Micros(6.0)),
        ),
        both_placements(
            || {
                row("write-4k-seq", "write 4K, sequential", nothing, latency::write_sequential)
                    .finish(|site| site.remove_file(latency::SEQUENTIAL))
            },
            Some(Goal::Micros(7.0)),
        ),
        both_placements(
            || row("write-4k-rand", "write 4K, random", Site::ensure_blocks, latency::write_random),
            Some(Goal::Micros(7.0)),
        ),
        both_placements(
            || row("read-4k-rdwr", "read 4K on an O_RDWR fd", bulk::warm_bulk, latency::read_random_rdwr),
            Some(Goal::Micros(6.0)),
        ),
        both_placements(
            || row("sqlite-wal", "sqlite WAL insert", sqlite::remove, sqlite::insert).finish(sqlite::remove),
            None,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn small_files() -> Vec<Row> {
    let row = |name, title, prepare: Step, timed: fn(&Site) -> Result<Measurement>| {
        Row::new(Section::SmallFiles, name, title, Unit::Microseconds, prepare, timed)
    };
    let remove_created: Step = |site| site.remove_tree(latency::CREATED);
    let mut rows = vec![
        row("stat-warm", "stat, warm", latency::warm_small, latency::stat).goal(Goal::Ratio(0.80)),
        row("stat-negative", "stat of a missing name, warm", latency::warm_missing, latency::stat_negative)
            .goal(Goal::Ratio(0.70)),
    ];
    let pairs = [
        both_placements(
            || {
                row("stat-cold", "stat, cold", Site::ensure_small_files, latency::stat_each)
                    .caches(Caches::DropMetadata)
            },
            None,
        ),
        both_placements(
            || {
                row(
                    "open-read-close",
                    "open + read 1K + close",
                    latency::warm_small_data,
                    latency::open_read_close,
                )
            },
            Some(Goal::Micros(16.0)),
        ),
        both_placements(
            || {
                row(
                    "create-write-close",
                    "create + write 1K + close",
                    latency::empty_created,
                    latency::create,
                )
                .finish(remove_created)
            },
            Some(Goal::MicrosAboveNative(30.0)),
        ),
        both_placements(
            || row("unlink", "unlink", latency::fill_created, latency::unlink).finish(remove_created),
            None,
        ),
    ];
    rows.extend(pairs.into_iter().flatten());
    rows
}

fn trees() -> Vec<Row> {
    let row = |name, title, prepare: Step, timed: fn(&Site) -> Result<Measurement>| {
        Row::new(Section::Trees, name, title, Unit::Milliseconds, prepare, timed)
    };
    let mut rows = vec![
        row("untar", "untar 10k files", |site| site.remove_tree(Site::TREE), tree::untar)
            .goal(Goal::Ratio(0.35))
            .repeats_when_slow(2),
        row("find-cold", "find, cold", Site::ensure_tree, tree::find)
            .caches(Caches::DropAll)
            .goal(Goal::Ratio(0.35)),
        row("find-warm", "find, warm", tree::walked, tree::find).goal(Goal::Ratio(0.50)),
        row("tar-read", "tar of the tree to a pipe", tree::walked, tree::tar_read),
    ];
    if git::is_installed() {
        rows.extend([
            row("git-add", "git init + add 10k files", git::without_repository, git::init_and_add)
                .goal(Goal::Ratio(0.35))
                .repeats_when_slow(2),
            row("git-status-warm", "git status, warm", git::committed, git::status).goal(Goal::Ratio(0.90)),
            row("git-status-cold", "git status, cold", git::committed, git::status).caches(Caches::DropAll),
        ]);
    }
    rows.extend([
        row("import-warm", "import of 1,500 modules, warm", tree::warm_modules, tree::import),
        row("import-cold", "import of 1,500 modules, cold", Site::ensure_modules, tree::import)
            .caches(Caches::DropAll),
        row("rm-rf", "rm -rf of the tree", Site::ensure_tree, tree::remove)
            // One round less than unpacking, so that a slow peer keeps its tree for the remaining rounds.
            .repeats_when_slow(1),
    ]);
    rows
}

fn fio_jobs() -> Vec<Row> {
    if !fio::is_installed() {
        return Vec::new();
    }
    let row = |name, title, unit, prepare: Step, job: fio::Job| {
        Row::new(Section::Fio, name, title, unit, prepare, move |site: &Site| job.run(site))
    };
    use Unit::{MegabytesPerSecond as Throughput, Microseconds};
    vec![
        row("fio-seqread", "fio sequential read 1M", Throughput, bulk::warm_bulk, fio::SEQREAD),
        row("fio-randread", "fio random read 4K", Microseconds, bulk::warm_bulk, fio::RANDREAD),
        row("fio-mmapread", "fio mmap read", Throughput, bulk::warm_bulk, fio::MMAPREAD),
        row("fio-seqwrite", "fio sequential write 1M + fsync", Throughput, nothing, fio::SEQWRITE),
        row("fio-write4k", "fio write 4K, random", Microseconds, nothing, fio::WRITE4K),
        row("fio-append", "fio append 100 B", Microseconds, nothing, fio::APPEND),
    ]
}
