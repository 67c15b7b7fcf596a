//! Who is behind a pid: attributed while a request of theirs is under way, because most processes of a build are gone
//! a moment later.
//!
//! A request names a thread. What it belongs to is read from `/proc` at its first change of a name and its first
//! opening for writing, before the reply, while the thread still waits; from then on it is in a cache. That the
//! number still stands for the same thread is checked against its start time, at most once a second: a number that
//! comes back within a second would be taken for the one before.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::processes;

/// Locks that the cache is divided by.
const SHARDS: usize = 16;

/// How long a thread is taken for the same one without a look.
const TRUSTED: Duration = Duration::from_secs(1);

/// Threads of one shard from which on those that were not seen lately are forgotten.
const MANY: usize = 256;

/// How long at least a thread is remembered after its last request; longer than records wait.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Longest command line that is kept, bytes.
const LONGEST_COMMAND_LINE: usize = 256;

/// One process, told apart from others with the same pid by when it started. A process that runs another program
/// (execve(2)) becomes another one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    /// In the daemon's pid namespace.
    pub(crate) pid: u32,
    /// Clock ticks from the start of the machine to that of the process.
    pub(crate) started: u64,
    /// Command name.
    pub(crate) command: String,
    /// Arguments with spaces between them, shortened; empty if the process has none.
    pub(crate) command_line: String,
    /// Id of its container.
    pub(crate) container: Option<String>,
}

struct Seen {
    process: Arc<Process>,
    thread_started: u64,
    checked: Instant,
}

/// The processes that were seen lately. One a worker.
pub(crate) struct Processes([Mutex<FxHashMap<u32, Seen>>; SHARDS]);

impl Processes {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// Returns the process of a thread that waits for an answer. Cheap but for the first time and once a second.
    pub(crate) fn of_thread(&self, thread: u32) -> Option<Arc<Process>> {
        if thread == 0 {
            return None;
        }
        let now = Instant::now();
        let known = {
            let shard = self.shard(thread).lock();
            match shard.get(&thread) {
                Some(seen) if now.duration_since(seen.checked) < TRUSTED => {
                    return Some(Arc::clone(&seen.process));
                }
                Some(seen) => Some((seen.thread_started, Arc::clone(&seen.process))),
                None => None,
            }
        };
        // Outside the lock: /proc can be slow.
        let directory = processes::directory(thread);
        // One that is gone already (killed, or an inherited descriptor was closed for it) is who it was.
        let Some(stat) = ThreadStat::read(&directory) else { return known.map(|(_, process)| process) };
        let same = known.filter(|(started, process)| {
            *started == stat.started && process.command == stat.command_of(process)
        });
        let process = match same {
            Some((_, process)) => process,
            None => Arc::new(Process::of_thread(&directory, &stat)?),
        };
        let mut shard = self.shard(thread).lock();
        if shard.len() >= MANY {
            shard.retain(|_, seen| now.duration_since(seen.checked) < REMEMBERED);
        }
        shard.insert(
            thread,
            Seen { process: Arc::clone(&process), thread_started: stat.started, checked: now },
        );
        Some(process)
    }

    fn shard(&self, thread: u32) -> &Mutex<FxHashMap<u32, Seen>> {
        &self.0[thread as usize % SHARDS]
    }
}

impl Process {
    /// Returns what the process has become by running another program since; `None` if it is the same or gone.
    ///
    /// Shells open a file for a command before they become that command.
    pub(crate) fn successor(&self) -> Option<Self> {
        let directory = processes::directory(self.pid);
        let stat = ThreadStat::read(&directory).filter(|stat| stat.started == self.started)?;
        if stat.command == self.command {
            return None;
        }
        Self::of_thread(&directory, &stat).filter(|successor| successor.started == self.started)
    }

    fn of_thread(thread: &Path, stat: &ThreadStat) -> Option<Self> {
        let status = std::fs::read_to_string(thread.join("status")).ok()?;
        let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
        let directory = processes::directory(pid);
        let (command, started) = match ThreadStat::read(&directory) {
            Some(leader) => (leader.command, leader.started),
            // Its main thread has ended and been reaped.
            None => (stat.command.clone(), stat.started),
        };
        let command_line = std::fs::read(thread.join("cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            started,
            command,
            command_line: command_line_text(&command_line),
            container: processes::container_id(thread),
        })
    }
}

/// What `stat` of proc(5) tells.
#[derive(Debug, PartialEq, Eq)]
struct ThreadStat {
    thread: u32,
    command: String,
    started: u64,
}

impl ThreadStat {
    fn read(directory: &Path) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(directory.join("stat")).ok()?))
    }

    /// The command name may hold anything; the last parenthesis ends it.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.rsplit_once(") ")?;
        let (thread, command) = head.split_once(" (")?;
        // `starttime` is the 22nd field, the state the third.
        let started = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { thread: thread.parse().ok()?, command: command.to_owned(), started })
    }

    /// Returns the command name to compare with a process's: threads other than the first may have names of their
    /// own, which say nothing of the program.
    fn command_of<'a>(&'a self, process: &'a Process) -> &'a str {
        if self.thread == process.pid { &self.command } else { &process.command }
    }
}

/// Makes the NUL-separated arguments one line.
fn command_line_text(arguments: &[u8]) -> String {
    let arguments = arguments.get(..LONGEST_COMMAND_LINE).unwrap_or(arguments);
    let text = String::from_utf8_lossy(arguments);
    text.trim_end_matches('\0').replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_thread() -> u32 {
        rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
    }

    #[test]
    fn thread_is_attributed_to_its_process() {
        let processes = Processes::new();
        let process = processes.of_thread(own_thread()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(process.started > 0);
        assert!(process.command_line.contains("wsguard"), "{process:?}");
    }

    #[test]
    fn process_that_ended_is_still_known() {
        let processes = Processes::new();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // Until the child has become `sleep`: its name is there before its arguments are.
        let arguments = format!("/proc/{}/cmdline", child.id());
        while std::fs::read(&arguments).unwrap() != b"sleep\x0060\0" {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let process = processes.of_thread(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(processes.of_thread(child.id()).unwrap(), process);
        assert_eq!((process.command.as_str(), process.command_line.as_str()), ("sleep", "sleep 60"));
    }

    #[test]
    fn nobody_is_no_process() {
        let processes = Processes::new();
        assert_eq!(processes.of_thread(0), None);
    }

    #[test]
    fn process_that_runs_another_program_becomes_another_one() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let shell = Processes::new().of_thread(child.id()).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let successor = loop {
            assert!(Instant::now() < deadline);
            // The shell's own start is not waited for: what it was before may differ as well.
            match shell.successor() {
                Some(successor) if successor.command == "sleep" => break successor,
                _ => std::thread::yield_now(),
            }
        };
        assert_eq!((successor.pid, successor.started), (shell.pid, shell.started));
        assert_eq!(successor.successor(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn command_name_with_parentheses_does_not_shift_the_fields() {
        let fields = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let stat = ThreadStat::parse(&format!("77 (a) b ( c) {fields}")).unwrap();
        assert_eq!(stat, ThreadStat { thread: 77, command: "a) b ( c".to_owned(), started: 22 });
        assert_eq!(ThreadStat::parse("77 (x"), None);
    }

    #[test]
    fn command_line_is_one_short_line() {
        assert_eq!(command_line_text(b"python\0train.py\0--x=1\0"), "python train.py --x=1");
        assert!(command_line_text(&vec![b'a'; 10_000]).len() <= LONGEST_COMMAND_LINE);
        assert_eq!(command_line_text(b""), "");
    }
}
