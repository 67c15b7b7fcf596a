//! The daemon's settings: one file, read once into a type that cannot be wrong.
//!
//! Precedence, strongest first: command-line flag, environment, file, default. The command line resolves the
//! first two into [`DaemonOptions`]; this module adds the file and the defaults.
//! Every error names the file, the line, the key and, for a misspelt key, the nearest valid one.

mod delivery;

use std::net::SocketAddr;
mod retention;
mod snapshots;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use wsguard_api::{DEFAULT_CONFIG_FILE, DEFAULT_RUNTIME_DIR, DEFAULT_STATE_DIR};

use delivery::{DELIVERY_KEYS, DeliveryTable, METRICS_KEYS, MetricsTable};
pub use delivery::{DeliverySettings, MailRelay, MailSettings, WebhookSettings};
pub use retention::{PolicyError, RetentionPolicy};
use snapshots::SnapshotsTable;
pub use snapshots::{Budget, SnapshotSettings};

/// Overrides `[log] level`; read nowhere else.
pub const LOG_ENV: &str = "WSGUARD_LOG";

/// Overrides `[snapshots] store`; read nowhere else.
pub const STORE_ENV: &str = "WSGUARD_STORE_DIR";

/// Directories that are watched for foreign edits, per workspace, before attributes fall back to a short
/// lifetime. An inotify watch costs the kernel about 1 KiB.
const DEFAULT_WATCH_DIRECTORIES: usize = 16_384;

/// Most FUSE threads that help one mount by default: more than this, wake-ups cost more than they bring.
const DEFAULT_MOST_THREADS: usize = 4;

/// Fewest FUSE threads of a mount: with one, a slow fsync would stop everything else.
const FEWEST_THREADS: usize = 2;

/// Most FUSE threads that can be asked for.
const MOST_THREADS: usize = 64;

/// Who may set quotas besides root.
const DEFAULT_ADMIN_GROUP: &str = "wsguard-admin";
/// How large the history of one workspace may get by default: some millions of changes.
const DEFAULT_HISTORY_MEBIBYTES: u64 = 256;

/// How large it may be allowed to get.
const HISTORY_MEBIBYTES: RangeInclusive<u64> = 1..=65_536;

/// How old records of changes get by default.
const DEFAULT_HISTORY_DAYS: u64 = 90;

/// How old they may be allowed to get.
const HISTORY_DAYS: RangeInclusive<u64> = 1..=3_650;

/// How long a worker may give no sign of life by default.
const DEFAULT_WATCHDOG: Duration = Duration::from_secs(5);

/// What can be asked for: signs of life come every second.
const WATCHDOG_SECONDS: RangeInclusive<u64> = 2..=3_600;

/// How long a worker of another program may take to take over by default; callers wait as long.
const DEFAULT_UPGRADE_LIMIT: Duration = Duration::from_secs(5);

/// What can be asked for.
const UPGRADE_SECONDS: RangeInclusive<u64> = 1..=300;

/// Every table and key of the file, for the check that names the nearest valid key.
const KEYS: &[(&str, &[&str])] = &[
    ("daemon", &["state-dir", "runtime-dir", "watchdog-seconds", "upgrade-seconds"]),
    ("workspaces", &["roots"]),
    ("mount", &["threads"]),
    ("watch", &["max-directories"]),
    ("quota", &["enabled", "admin-group", "min-free-mebibytes"]),
    ("history", &["enabled", "max-mebibytes", "max-days"]),
    ("delivery", DELIVERY_KEYS),
    ("metrics", METRICS_KEYS),
    (
        "snapshots",
        &[
            "enabled",
            "store",
            "auto-seconds",
            "budget-percent",
            "budget-mebibytes",
            "keep-free-percent",
            "zone",
            "strict",
            "retention",
        ],
    ),
    ("log", &["level", "format"]),
];

/// What the command line and the environment say; `None` leaves it to the config file and the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonOptions {
    /// Where the catalog is.
    pub state_dir: Option<PathBuf>,
    /// Where the socket and the mounts are.
    pub runtime_dir: Option<PathBuf>,
    /// The config file.
    pub config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file was named but cannot be read.
    #[error("cannot read the config file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML or a value has the wrong type.
    #[error("{path}, line {line}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A table or key that does not exist.
    #[error("{path}, line {line}: unknown key {key:?}, did you mean {nearest:?}?", path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// As it stands in the file, with its table.
        key: String,
        /// The valid key that is most like it.
        nearest: String,
    },
    /// A value outside its range.
    #[error("{origin}: {key} = {value}: {reason}")]
    Value {
        /// The file and line, or the flag or variable.
        origin: String,
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        reason: String,
    },
}

/// The settings of one daemon, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the catalog is; absolute.
    pub state_dir: PathBuf,
    /// Where the socket and the mounts are; absolute.
    pub runtime_dir: PathBuf,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Absolute glob patterns; every directory that matches is guarded as it appears. No `**`.
    pub roots: Vec<String>,
    /// How long a worker may give no sign of life before it is replaced; `None`: for ever.
    pub watchdog: Option<Duration>,
    /// How long a worker of another program may take until it has taken over; then the old one is started again.
    pub upgrade_limit: Duration,
    /// FUSE threads of each mount, 2 to 64.
    pub threads: usize,
    /// Directories watched per workspace.
    pub watch_directories: usize,
    /// Whether what workspaces use is counted and limited; else nothing is refused. For measuring and for emergencies.
    pub counts_quota: bool,
    /// Members of this group of the operating system, by name or number, may set quotas, as root may.
    pub admin_group: String,
    /// Bytes that writers must leave free of a filesystem that workspaces lie on; `None` for 2 % of it, or 5 GiB if
    /// that is more and not more than 5 %.
    pub min_free: Option<u64>,
    /// Whether changes are recorded. For measuring and for emergencies.
    pub keeps_history: bool,
    /// Most bytes of the history of one workspace.
    pub history_bytes: u64,
    /// How old the records in it get.
    pub history_age: Duration,
    /// What is kept of the past.
    pub snapshots: SnapshotSettings,
    /// How notices reach people.
    pub delivery: DeliverySettings,
    /// Where metrics are served beside the control socket, to whoever reaches it.
    pub metrics_listen: Option<SocketAddr>,
    /// A filter as `tracing` understands it, such as `info` or `wsguard_fs=debug`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    daemon: DaemonTable,
    workspaces: WorkspacesTable,
    mount: MountTable,
    watch: WatchTable,
    quota: QuotaTable,
    history: HistoryTable,
    snapshots: SnapshotsTable,
    delivery: DeliveryTable,
    metrics: MetricsTable,
    log: LogTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct DaemonTable {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    watchdog_seconds: Option<u64>,
    upgrade_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct WorkspacesTable {
    roots: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct MountTable {
    threads: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct WatchTable {
    max_directories: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct QuotaTable {
    enabled: Option<bool>,
    admin_group: Option<String>,
    min_free_mebibytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct HistoryTable {
    enabled: Option<bool>,
    max_mebibytes: Option<u64>,
    max_days: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct LogTable {
    level: Option<String>,
    format: LogFormat,
}

impl Config {
    /// Reads the file that `options` names, or the default one if it exists, and fills in what is missing.
    ///
    /// # Errors
    /// Names the file, line and key, and what would be right.
    pub fn load(options: &DaemonOptions) -> Result<Self, ConfigError> {
        let (text, file) = read(options.config.as_deref())?;
        let path = file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG_FILE));
        let parsed = parse(&path, &text)?;
        let level = std::env::var(LOG_ENV).ok().filter(|level| !level.is_empty());
        resolve(options, parsed, file, level, &Lines { path: &path, text: &text })
    }
}

/// Returns the text and where it came from; no text if only the default file was wanted and is absent.
fn read(named: Option<&Path>) -> Result<(String, Option<PathBuf>), ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((text, Some(path.to_path_buf()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            Ok((String::new(), None))
        }
        Err(source) => Err(ConfigError::Read { path: path.to_path_buf(), source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let lines = Lines { path, text };
    let table = DeTable::parse(text).map_err(|error| lines.syntax(&error))?;
    check_keys(table.get_ref(), &lines)?;
    toml::from_str(text).map_err(|error| lines.syntax(&error))
}

/// Finds the first key that does not exist. Serde would find it too, but names no neighbour and only the
/// innermost key.
fn check_keys(table: &DeTable<'_>, lines: &Lines<'_>) -> Result<(), ConfigError> {
    for (name, value) in table {
        let table_name: &str = name.get_ref();
        let Some((_, keys)) = KEYS.iter().find(|(known, _)| *known == table_name) else {
            let nearest = nearest(table_name, KEYS.iter().map(|(known, _)| *known));
            return Err(lines.unknown(name.span().start, table_name.to_owned(), nearest));
        };
        let DeValue::Table(inner) = value.get_ref() else { continue };
        for key in inner.keys() {
            let key_name: &str = key.get_ref();
            if !keys.contains(&key_name) {
                let nearest = format!("{table_name}.{}", nearest(key_name, keys.iter().copied()));
                return Err(lines.unknown(key.span().start, format!("{table_name}.{key_name}"), nearest));
            }
        }
    }
    Ok(())
}

fn resolve(
    options: &DaemonOptions,
    file: File,
    path: Option<PathBuf>,
    env_level: Option<String>,
    lines: &Lines<'_>,
) -> Result<Config, ConfigError> {
    let state = options.state_dir.clone().or(file.daemon.state_dir);
    let runtime = options.runtime_dir.clone().or(file.daemon.runtime_dir);
    Ok(Config {
        state_dir: absolute("state-dir", state.unwrap_or_else(|| DEFAULT_STATE_DIR.into()), lines)?,
        runtime_dir: absolute("runtime-dir", runtime.unwrap_or_else(|| DEFAULT_RUNTIME_DIR.into()), lines)?,
        file: path,
        roots: checked_roots(file.workspaces.roots, lines)?,
        watchdog: checked_watchdog(file.daemon.watchdog_seconds, lines)?,
        upgrade_limit: checked_upgrade_limit(file.daemon.upgrade_seconds, lines)?,
        threads: checked_threads(file.mount.threads, lines)?,
        watch_directories: file.watch.max_directories.unwrap_or(DEFAULT_WATCH_DIRECTORIES),
        counts_quota: file.quota.enabled.unwrap_or(true),
        admin_group: file.quota.admin_group.unwrap_or_else(|| DEFAULT_ADMIN_GROUP.to_owned()),
        min_free: file.quota.min_free_mebibytes.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
        keeps_history: file.history.enabled.unwrap_or(true),
        history_bytes: within(
            "max-mebibytes",
            file.history.max_mebibytes,
            DEFAULT_HISTORY_MEBIBYTES,
            HISTORY_MEBIBYTES,
            lines,
        )? << 20,
        history_age: Duration::from_secs(
            within("max-days", file.history.max_days, DEFAULT_HISTORY_DAYS, HISTORY_DAYS, lines)? * 86_400,
        ),
        snapshots: snapshots::resolve(file.snapshots, lines)?,
        delivery: file.delivery.resolve(lines)?,
        metrics_listen: file.metrics.resolve(lines)?,
        log_level: checked_level(env_level, file.log.level, lines)?,
        log_format: file.log.format,
    })
}

fn absolute(key: &'static str, path: PathBuf, lines: &Lines<'_>) -> Result<PathBuf, ConfigError> {
    let clean = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if path.is_absolute() && clean && path.to_str().is_some() {
        return Ok(path.components().collect());
    }
    let value = path.display().to_string();
    Err(lines.value(key, value, "give an absolute path without .. and in utf-8".to_owned()))
}

fn checked_roots(roots: Vec<String>, lines: &Lines<'_>) -> Result<Vec<String>, ConfigError> {
    for root in &roots {
        if let Err(error) = glob::Pattern::new(root) {
            return Err(lines.value("roots", root.clone(), format!("not a pattern: {error}")));
        }
        if !root.starts_with('/') || root.contains("**") || root.split('/').any(|part| part == "..") {
            let reason = "give an absolute pattern without ** and .., such as /home/*/workspace/*".to_owned();
            return Err(lines.value("roots", root.clone(), reason));
        }
    }
    Ok(roots)
}

fn checked_watchdog(seconds: Option<u64>, lines: &Lines<'_>) -> Result<Option<Duration>, ConfigError> {
    match seconds {
        None => Ok(Some(DEFAULT_WATCHDOG)),
        Some(0) => Ok(None),
        Some(seconds) if WATCHDOG_SECONDS.contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        Some(seconds) => {
            let (least, most) = (WATCHDOG_SECONDS.start(), WATCHDOG_SECONDS.end());
            let reason = format!("give 0 (never) or {least} to {most}");
            Err(lines.value("watchdog-seconds", seconds.to_string(), reason))
        }
    }
}

fn checked_upgrade_limit(seconds: Option<u64>, lines: &Lines<'_>) -> Result<Duration, ConfigError> {
    match seconds {
        None => Ok(DEFAULT_UPGRADE_LIMIT),
        Some(seconds) if UPGRADE_SECONDS.contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => {
            let reason = format!("give {} to {}", UPGRADE_SECONDS.start(), UPGRADE_SECONDS.end());
            Err(lines.value("upgrade-seconds", seconds.to_string(), reason))
        }
    }
}

fn checked_threads(threads: Option<usize>, lines: &Lines<'_>) -> Result<usize, ConfigError> {
    let Some(threads) = threads else {
        return Ok(granted_cpus().clamp(FEWEST_THREADS, DEFAULT_MOST_THREADS));
    };
    if (FEWEST_THREADS..=MOST_THREADS).contains(&threads) {
        return Ok(threads);
    }
    let reason = format!("give {FEWEST_THREADS} to {MOST_THREADS}");
    Err(lines.value("threads", threads.to_string(), reason))
}

/// Returns a number that has to be in a range, or the default.
fn within(
    key: &'static str,
    value: Option<u64>,
    default: u64,
    range: RangeInclusive<u64>,
    lines: &Lines<'_>,
) -> Result<u64, ConfigError> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) => {
            let reason = format!("give {} to {}", range.start(), range.end());
            Err(lines.value(key, value.to_string(), reason))
        }
    }
}

/// Returns on how many CPUs this process may run.
fn granted_cpus() -> usize {
    // The affinity of a running process can always be read; the fallback only has to be safe.
    rustix::thread::sched_getaffinity(None)
        .ok()
        .and_then(|cpus| usize::try_from(cpus.count()).ok())
        .unwrap_or(FEWEST_THREADS)
}

fn checked_level(
    env: Option<String>,
    file: Option<String>,
    lines: &Lines<'_>,
) -> Result<String, ConfigError> {
    let from_env = env.is_some();
    let level = env.or(file).unwrap_or_else(|| "info".to_owned());
    match tracing_subscriber::EnvFilter::try_new(&level) {
        Ok(_) => Ok(level),
        Err(_) if from_env => Err(ConfigError::Value {
            origin: "environment".to_owned(),
            key: LOG_ENV,
            value: level,
            reason: "give error, warn, info, debug, trace or target=level pairs".to_owned(),
        }),
        Err(_) => {
            let reason = "give error, warn, info, debug, trace or target=level pairs".to_owned();
            Err(lines.value("level", level, reason))
        }
    }
}

/// Turns byte offsets and keys into lines of the file.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let line = error.span().map_or(1, |span| self.line_at(span.start));
        let message = error.message().replace('\n', " ");
        ConfigError::Syntax { path: self.path.to_path_buf(), line, message }
    }

    fn unknown(&self, offset: usize, key: String, nearest: String) -> ConfigError {
        let line = self.line_at(offset);
        ConfigError::UnknownKey { path: self.path.to_path_buf(), line, key, nearest }
    }

    /// The key's line in the file; a value that came from a flag or the environment has none.
    fn value(&self, key: &'static str, value: String, reason: String) -> ConfigError {
        let line = self.text.lines().position(|line| {
            line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        });
        let origin = match line {
            Some(line) => format!("{}, line {}", self.path.display(), line + 1),
            None => "command line or environment".to_owned(),
        };
        ConfigError::Value { origin, key, value, reason }
    }
}

/// Returns the candidate with the smallest edit distance to `word`.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    candidates.min_by_key(|candidate| edit_distance(word, candidate)).unwrap_or_default().to_owned()
}

/// The Levenshtein distance, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        load_with(text, &DaemonOptions::default(), None)
    }

    fn load_with(text: &str, options: &DaemonOptions, level: Option<&str>) -> Result<Config, ConfigError> {
        let path = Path::new("/etc/c.toml");
        let lines = Lines { path, text };
        resolve(options, parse(path, text)?, Some(path.into()), level.map(str::to_owned), &lines)
    }

    #[test]
    fn empty_file_gives_the_defaults() {
        let config = load("").unwrap();
        assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!(config.runtime_dir, Path::new(DEFAULT_RUNTIME_DIR));
        assert_eq!(config.watch_directories, 16_384);
        assert_eq!(config.watchdog, Some(Duration::from_secs(5)));
        assert!((2..=4).contains(&config.threads));
        assert_eq!(config.log_level, "info");
        assert!(config.roots.is_empty());
    }

    #[test]
    fn snapshots_have_defaults_and_ranges() {
        let snapshots = load("").unwrap().snapshots;
        assert_eq!((snapshots.auto_interval, snapshots.keep_free_percent), (Duration::from_secs(60), 10));
        assert_eq!(snapshots.budget.bytes(1 << 40), (1 << 40) / 100 * 20);
        assert_eq!(snapshots.budget.bytes(1 << 30), 5 << 30, "5 GiB at least");
        let text = "[snapshots]\nauto-seconds = 5\nbudget-mebibytes = 7\nzone = \"UTC\"\n\
                    [snapshots.retention]\ndaily = 3\n";
        let snapshots = load(text).unwrap().snapshots;
        assert_eq!(
            (snapshots.auto_interval, snapshots.budget),
            (Duration::from_secs(5), Budget::Bytes(7 << 20))
        );
        assert_eq!((snapshots.retention.daily, snapshots.retention.hourly), (3, 24));
        for wrong in [
            "auto-seconds = 0",
            "budget-percent = 81",
            "budget-percent = 5\nbudget-mebibytes = 5",
            "keep-free-percent = 0",
            "zone = \"Nowhere/Land\"",
            "[snapshots.retention]\ndaily = 200000",
            "[snapshots.retention]\ndayly = 2",
        ] {
            load(&format!("[snapshots]\n{wrong}\n")).expect_err(wrong);
        }
    }

    #[test]
    fn every_key_is_read() {
        let config = load(
            "[daemon]\nstate-dir = \"/s\"\nruntime-dir = \"/r/\"\nwatchdog-seconds = 0\nupgrade-seconds = 9\n[workspaces]\nroots = [\"/home/*/workspace/*\"]\n\
             [mount]\nthreads = 3\n[watch]\nmax-directories = 7\n\
             [quota]\nenabled = false\n[history]\nenabled = false\n[log]\nlevel = \"debug\"\nformat = \"json\"\n",
        )
        .unwrap();
        assert_eq!(config.state_dir, Path::new("/s"));
        assert_eq!(config.runtime_dir, Path::new("/r"));
        assert_eq!(config.roots, ["/home/*/workspace/*"]);
        assert_eq!((config.watchdog, config.upgrade_limit), (None, Duration::from_secs(9)));
        assert_eq!((config.threads, config.watch_directories), (3, 7));
        assert_eq!((config.counts_quota, config.keeps_history), (false, false));
        assert_eq!((config.log_level.as_str(), config.log_format), ("debug", LogFormat::Json));
    }

    #[test]
    fn flag_beats_file_and_environment_beats_file() {
        let options = DaemonOptions { state_dir: Some("/flag".into()), ..DaemonOptions::default() };
        let text = "[daemon]\nstate-dir = \"/file\"\n[log]\nlevel = \"debug\"\n";
        let config = load_with(text, &options, Some("warn")).unwrap();
        assert_eq!(config.state_dir, Path::new("/flag"));
        assert_eq!(config.log_level, "warn");
    }

    #[test]
    fn misspelt_key_names_line_and_neighbour() {
        let error = load("[mount]\n\ntreads = 3\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "/etc/c.toml, line 3: unknown key \"mount.treads\", did you mean \"mount.threads\"?"
        );
        let error = load("[workspace]\nroots = []\n").unwrap_err().to_string();
        assert_eq!(error, "/etc/c.toml, line 1: unknown key \"workspace\", did you mean \"workspaces\"?");
    }

    #[test]
    fn wrong_type_names_the_line() {
        let error = load("[daemon]\n[mount]\nthreads = \"two\"\n").unwrap_err().to_string();
        assert!(error.starts_with("/etc/c.toml, line 3: invalid type"), "{error}");
        let error = load("[daemon]\nx = = 3\n").unwrap_err().to_string();
        assert!(error.starts_with("/etc/c.toml, line 2: "), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let error = load("[mount]\nthreads = 1\n").unwrap_err().to_string();
        assert_eq!(error, "/etc/c.toml, line 2: threads = 1: give 2 to 64");
        let error = load("[daemon]\nwatchdog-seconds = 1\n").unwrap_err().to_string();
        assert_eq!(error, "/etc/c.toml, line 2: watchdog-seconds = 1: give 0 (never) or 2 to 3600");
        let error = load("[daemon]\nupgrade-seconds = 0\n").unwrap_err().to_string();
        assert_eq!(error, "/etc/c.toml, line 2: upgrade-seconds = 0: give 1 to 300");
        for root in ["workspace/*", "/home/**/x", "/home/../x", "/home/[x"] {
            let error = load(&format!("[workspaces]\nroots = [\"{root}\"]\n")).unwrap_err().to_string();
            assert!(error.starts_with("/etc/c.toml, line 2: roots = "), "{error}");
        }
        let options = DaemonOptions { runtime_dir: Some("relative".into()), ..DaemonOptions::default() };
        let error = load_with("", &options, None).unwrap_err().to_string();
        assert!(error.starts_with("command line or environment: runtime-dir = relative"), "{error}");
    }

    #[test]
    fn channels_are_off_but_for_the_login_file_and_say_what_they_lack() {
        let config = load("").unwrap();
        assert!(config.delivery.login && !config.delivery.terminals);
        assert_eq!(
            (config.delivery.mail, config.delivery.webhook, config.metrics_listen),
            (None, None, None)
        );
        let delivery = load(
            "[delivery]\nterminals = true\nmail-relay = \"sendmail\"\nmail-from = \"w@x.org\"\n\
             mail-to = \"{user}@x.org\"\nwebhook-url = \"https://h.x.org/w\"\nper-hour = 3\n",
        )
        .unwrap()
        .delivery;
        assert_eq!(delivery.mail.unwrap().relay, MailRelay::Sendmail("/usr/sbin/sendmail".into()));
        assert_eq!((delivery.per_hour, delivery.webhook.unwrap().timeout), (3, Duration::from_secs(5)));
        for (text, expected) in [
            ("mail-relay = \"x\"", "mail-relay = x: give smtp://"),
            ("mail-relay = \"smtp://r\"", "mail-from = : give the address"),
            ("webhook-url = \"ftp://x\"", "webhook-url = ftp://x: give a url"),
            ("per-hour = 0", "per-hour = 0: give 1 to 1000"),
            (
                "mail-relay = \"smtp://r\"\nmail-from = \"a@b\"\nmail-user = \"u\"",
                "mail-user = u: give mail-password-file",
            ),
        ] {
            let error = load(&format!("[delivery]\n{text}\n")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = load("[metrics]\nlisten = \"9464\"\n").unwrap_err().to_string();
        assert!(error.contains("listen = 9464: give an address and a port"), "{error}");
        let error = load("[delivery]\nlogins = true\n").unwrap_err().to_string();
        assert!(error.contains("did you mean \"delivery.login\"?"), "{error}");
    }

    #[test]
    fn named_file_that_is_missing_is_an_error() {
        let options =
            DaemonOptions { config: Some("/nonexistent/c.toml".into()), ..DaemonOptions::default() };
        let error = Config::load(&options).unwrap_err().to_string();
        assert_eq!(error, "cannot read the config file /nonexistent/c.toml");
    }
}
