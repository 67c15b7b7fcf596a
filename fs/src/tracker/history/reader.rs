//! Asking a history. Reads the file by itself and waits for nobody, so that a question does not delay the recorder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, params_from_iter};

use super::{Gap, HistoryError, NamedPlace, schema};
use crate::tracker::process::Process;
use crate::tracker::record::Operation;

/// Renames that a file's history is followed back through.
const MOST_RENAMES: usize = 16;

/// Gaps that are told at most, the newest ones.
const MOST_GAPS: usize = 20;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// Only what concerns this path or lies below it; relative to the workspace, empty for all of it.
    pub(crate) path: PathBuf,
    /// Only what these did.
    pub(crate) by: Option<By>,
    /// Only from this moment on, microseconds since 1970.
    pub(crate) since_us: Option<i64>,
    /// Only deletions, and files that a rename replaced.
    pub(crate) deletions_only: bool,
    /// Records at most, the newest ones.
    pub(crate) limit: usize,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A process.
    Pid(u32),
    /// A user.
    Uid(u32),
    /// A container, by the beginning of its id.
    Container(String),
}

/// One record of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    id: i64,
    /// Microseconds since 1970.
    pub(crate) at_us: i64,
    /// What happened.
    pub(crate) operation: Operation,
    /// To which inode.
    pub(crate) node: u64,
    /// Under which name, relative to the workspace; `None` if that could not be found out.
    pub(crate) path: Option<PathBuf>,
    /// The new name.
    pub(crate) to_path: Option<PathBuf>,
    /// Where what was written begins.
    pub(crate) start: u64,
    /// Where it ends; the new size of a truncation.
    pub(crate) end: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Change of the charge, bytes.
    pub(crate) delta_bytes: i64,
    /// The caller's filesystem uid.
    pub(crate) uid: u32,
    /// The caller; with an empty command if it is not known.
    pub(crate) process: Process,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    /// When records are missing, oldest first.
    pub(crate) gaps: Vec<Gap>,
    /// Records up to this moment were removed because of their age or number.
    pub(crate) pruned_us: Option<i64>,
}

/// Asks the history in `file`. A workspace in which nothing has happened yet has none; that is an empty answer.
///
/// # Errors
/// The file is damaged, of a newer version or cannot be read.
pub(crate) fn ask(file: &Path, question: &Question) -> Result<Answer, HistoryError> {
    if !file.exists() {
        return Ok(Answer::default());
    }
    let failed = |action| move |source| HistoryError::Database { path: file.to_path_buf(), action, source };
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| connection.busy_timeout(super::BUSY_TIMEOUT).map(|()| connection))
        .map_err(failed("open a connection"))?;
    if schema::version(&connection, file)? == 0 {
        // Being made at this moment.
        return Ok(Answer::default());
    }
    answer(&connection, question).map_err(failed("look something up"))
}

fn answer(connection: &Connection, question: &Question) -> rusqlite::Result<Answer> {
    // One moment for all of it.
    let transaction = connection.unchecked_transaction()?;
    let mut entries = matching(&transaction, question)?;
    if let Some(place) = split(&question.path) {
        follow_back(&transaction, question, place, &mut entries)?;
    }
    entries.sort_unstable_by_key(|entry| entry.id);
    entries.dedup_by_key(|entry| entry.id);
    let surplus = entries.len().saturating_sub(question.limit);
    entries.drain(..surplus);
    let pruned_us =
        transaction.query_row("SELECT pruned_us FROM standing", [], |row| row.get(0)).optional()?.flatten();
    Ok(Answer { entries, gaps: gaps(&transaction, question.since_us)?, pruned_us })
}

/// Conditions and their values.
#[derive(Default)]
struct Filter {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Filter {
    fn add(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.conditions.push(condition.to_owned());
        self.values.extend(values);
    }

    fn of(question: &Question) -> Self {
        let mut filter = Self::default();
        if let Some(since) = question.since_us {
            filter.add("r.at_us >= ?", [Value::Integer(since)]);
        }
        if question.deletions_only {
            let codes: Vec<String> = Operation::ALL
                .into_iter()
                .filter(|operation| operation.is_deletion())
                .map(|operation| operation.code().to_string())
                .collect();
            filter.add(&format!("r.operation IN ({})", codes.join(", ")), []);
        }
        match &question.by {
            Some(By::Pid(pid)) => filter.add("p.pid = ?", [Value::Integer((*pid).into())]),
            Some(By::Uid(uid)) => filter.add("p.uid = ?", [Value::Integer((*uid).into())]),
            Some(By::Container(id)) => filter.add(
                "substr(p.container, 1, ?) = ?",
                [Value::Integer(id.len().cast_signed() as i64), Value::Text(id.clone())],
            ),
            None => {}
        }
        filter
    }

    /// Records that name exactly this place, before or after.
    fn add_place(&mut self, place: &NamedPlace) {
        let pair = || [Value::Blob(place.directory.clone()), Value::Blob(place.name.clone())];
        self.add(
            "(r.directory = (SELECT id FROM directory WHERE path = ?) AND r.name = ?
              OR r.to_directory = (SELECT id FROM directory WHERE path = ?) AND r.to_name = ?)",
            pair().into_iter().chain(pair()),
        );
    }

    /// Records that name the place or something below it.
    fn add_tree(&mut self, place: &NamedPlace, path: &Path) {
        let path = path.as_os_str().as_bytes();
        let below = |last: u8| Value::Blob([path, &[last]].concat());
        // `0` follows `/` in ASCII.
        let tree = || [Value::Blob(path.to_vec()), below(b'/'), below(b'0')];
        let pair = || [Value::Blob(place.directory.clone()), Value::Blob(place.name.clone())];
        const BELOW: &str = "(SELECT id FROM directory WHERE path = ? OR path > ? AND path < ?)";
        self.add(
            &format!(
                "(r.directory = (SELECT id FROM directory WHERE path = ?) AND r.name = ?
                  OR r.to_directory = (SELECT id FROM directory WHERE path = ?) AND r.to_name = ?
                  OR r.directory IN {BELOW} OR r.to_directory IN {BELOW})"
            ),
            pair().into_iter().chain(pair()).chain(tree()).chain(tree()),
        );
    }
}

fn matching(connection: &Connection, question: &Question) -> rusqlite::Result<Vec<Entry>> {
    let mut filter = Filter::of(question);
    if let Some(place) = split(&question.path) {
        filter.add_tree(&place, &question.path);
    }
    select(connection, filter, question.limit)
}

/// Adds what happened to a file under names that it had before it got this one, such as that of the temporary file
/// which was written and then renamed.
fn follow_back(
    connection: &Connection,
    question: &Question,
    place: NamedPlace,
    entries: &mut Vec<Entry>,
) -> rusqlite::Result<()> {
    let mut arrivals = arrivals(connection, &place, i64::MAX)?;
    for _ in 0..MOST_RENAMES {
        let Some(rename) = arrivals.pop() else { return Ok(()) };
        let Some(from) = rename.path.as_deref().and_then(split) else { continue };
        let mut filter = Filter::of(question);
        filter.add_place(&from);
        let born = birth(connection, &from, rename.id)?;
        filter.add("r.id BETWEEN ? AND ?", [Value::Integer(born), Value::Integer(rename.id)]);
        entries.extend(select(connection, filter, question.limit)?);
        let earlier = self::arrivals(connection, &from, rename.id)?;
        arrivals.extend(earlier.into_iter().filter(|arrival| arrival.id >= born));
    }
    Ok(())
}

/// Returns the renames to a place, oldest first.
fn arrivals(connection: &Connection, place: &NamedPlace, before: i64) -> rusqlite::Result<Vec<Entry>> {
    let mut filter = Filter::default();
    filter.add(
        "r.to_directory = (SELECT id FROM directory WHERE path = ?) AND r.to_name = ? AND r.id < ?",
        [Value::Blob(place.directory.clone()), Value::Blob(place.name.clone()), Value::Integer(before)],
    );
    let mut arrivals = select(connection, filter, MOST_RENAMES)?;
    arrivals.reverse();
    Ok(arrivals)
}

/// Returns the first record of the inode that had this name when it was renamed away by record `rename`: the last
/// one before it that brought something there.
fn birth(connection: &Connection, place: &NamedPlace, rename: i64) -> rusqlite::Result<i64> {
    let mut filter = Filter::default();
    filter.add_place(place);
    filter.add("r.id < ?", [Value::Integer(rename)]);
    let creating = [
        Operation::Create,
        Operation::MakeDirectory,
        Operation::MakeSymlink,
        Operation::MakeNode,
        Operation::Link,
    ];
    let creating = creating.map(|operation| operation.code().to_string()).join(", ");
    let (directory, name) = (Value::Blob(place.directory.clone()), Value::Blob(place.name.clone()));
    filter.add(
        &format!(
            "(r.operation IN ({creating})
              OR r.to_directory = (SELECT id FROM directory WHERE path = ?) AND r.to_name = ?)"
        ),
        [directory, name],
    );
    Ok(select(connection, filter, 1)?.first().map_or(0, |entry| entry.id))
}

/// Returns the newest records that match, newest first.
fn select(connection: &Connection, filter: Filter, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let Filter { conditions, mut values } = filter;
    let conditions = if conditions.is_empty() { "1".to_owned() } else { conditions.join(" AND ") };
    let sql = format!(
        "SELECT r.id, r.at_us, r.operation, r.node, d.path, r.name, t.path, r.to_name, r.start, r.end, r.bytes,
                r.delta_bytes, p.uid, p.pid, p.started, p.command, p.command_line, p.container
         FROM record r
         JOIN process p ON p.id = r.process
         LEFT JOIN directory d ON d.id = r.directory
         LEFT JOIN directory t ON t.id = r.to_directory
         WHERE {conditions} ORDER BY r.id DESC LIMIT ?"
    );
    values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    let mut statement = connection.prepare(&sql)?;
    let entries = statement.query_map(params_from_iter(values), entry)?;
    // A record of an operation that this version does not know would be of a newer format.
    entries.filter_map(Result::transpose).collect()
}

fn entry(row: &SqlRow<'_>) -> rusqlite::Result<Option<Entry>> {
    let Some(operation) = Operation::from_code(row.get(2)?) else { return Ok(None) };
    let unsigned = |index| row.get::<_, i64>(index).map(|number| u64::try_from(number).unwrap_or(0));
    let container: String = row.get(17)?;
    Ok(Some(Entry {
        id: row.get(0)?,
        at_us: row.get(1)?,
        operation,
        node: row.get::<_, i64>(3)?.cast_unsigned(),
        path: joined(row.get(4)?, row.get(5)?),
        to_path: joined(row.get(6)?, row.get(7)?),
        start: unsigned(8)?,
        end: unsigned(9)?,
        bytes: unsigned(10)?,
        delta_bytes: row.get(11)?,
        uid: row.get(12)?,
        process: Process {
            pid: row.get(13)?,
            started: unsigned(14)?,
            command: row.get(15)?,
            command_line: row.get(16)?,
            container: (!container.is_empty()).then_some(container),
        },
    }))
}

fn gaps(connection: &Connection, since_us: Option<i64>) -> rusqlite::Result<Vec<Gap>> {
    let mut statement = connection.prepare(
        "SELECT from_us, to_us, records, reason FROM gap WHERE to_us >= ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let gap = |row: &SqlRow<'_>| {
        let records: Option<i64> = row.get(2)?;
        Ok(Gap {
            from_us: row.get(0)?,
            to_us: row.get(1)?,
            records: records.map(|records| u64::try_from(records).unwrap_or(0)),
            reason: row.get(3)?,
        })
    };
    let limit = MOST_GAPS.cast_signed() as i64;
    let mut gaps: Vec<Gap> =
        statement.query_map([since_us.unwrap_or(i64::MIN), limit], gap)?.collect::<rusqlite::Result<_>>()?;
    gaps.reverse();
    Ok(gaps)
}

/// Divides a path as it is stored; the root has no name.
fn split(path: &Path) -> Option<NamedPlace> {
    let name = path.file_name()?.as_bytes().to_vec();
    let directory = path.parent().map_or_else(Vec::new, |parent| parent.as_os_str().as_bytes().to_vec());
    Some(NamedPlace { directory, name })
}

fn joined(directory: Option<Vec<u8>>, name: Option<Vec<u8>>) -> Option<PathBuf> {
    Some(Path::new(OsStr::from_bytes(&directory?)).join(OsStr::from_bytes(&name?)))
}
