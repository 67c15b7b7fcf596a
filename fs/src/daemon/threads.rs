//! What the threads of a worker wait for, as `/proc` tells its keeper.
//!
//! A thread in state D (proc_pid_stat(5)) cannot be killed until what it waits for has happened. Nearly always that
//! is a disk. But a worker also tells the kernel to drop what it has cached, and the kernel then waits for locks
//! that callers of the mount hold until their requests are answered: by this worker, or, when it hangs or is dead,
//! by its successor only. Such a thread is *notifying*. It comes back from that call only to end, touches no file
//! and reads no request, so a successor need not wait for it, and must not.
//!
//! Nor need it wait for a thread that is *exiting*: that one runs nothing of the program any more, but the last one of
//! a process closes all its descriptors before the process counts as ended, and an inotify instance takes the kernel
//! up to ten milliseconds each.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What every session's descriptor is called.
const FUSE_DEVICE: &str = "/dev/fuse";

/// `PF_EXITING` of include/linux/sched.h, in the field `flags` of proc_pid_stat(5).
const EXITING: u64 = 4;

/// `PIDFD_THREAD` of pidfd_open(2): a single thread (Linux 6.9).
const ONE_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());

/// The threads of one process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Threads {
    /// One waits uninterruptibly for something other than the mounts of the process.
    pub(super) waits_below: bool,
    /// The main thread has ended, and the others have as well or notify: none will run the program again.
    pub(super) is_left_behind: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ended,
    Notifying,
    WaitsBelow,
    Other,
}

impl Threads {
    /// Looks at all threads of the process.
    ///
    /// # Errors
    /// As reading `/proc`; threads that end meanwhile are none.
    pub(super) fn of(pid: u32) -> std::io::Result<Self> {
        let mut threads = Self { waits_below: false, is_left_behind: has_ended(pid)? };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            match standing(&task?.path())? {
                Standing::Ended | Standing::Notifying => {}
                Standing::WaitsBelow => threads = Self { waits_below: true, is_left_behind: false },
                Standing::Other => threads.is_left_behind = false,
            }
        }
        Ok(threads)
    }
}

/// Whether the main thread of a process that nobody has waited for has ended or is about to.
///
/// # Errors
/// As reading `/proc`.
pub(super) fn has_ended(pid: u32) -> std::io::Result<bool> {
    Ok(standing(Path::new(&format!("/proc/{pid}")))? == Standing::Ended)
}

/// Returns what ends the process, if its main thread has ended or is about to.
///
/// # Errors
/// As reading `/proc`.
pub(super) fn exit_status(pid: u32) -> std::io::Result<Option<ExitStatus>> {
    let Some(stat) = read_if_there(Path::new(&format!("/proc/{pid}/stat")))? else { return Ok(None) };
    Ok(Stat::parse(&stat).filter(Stat::has_ended).and_then(|stat| stat.exit_code).map(ExitStatus::from_raw))
}

/// Returns a descriptor that becomes readable when a thread beside the main one has ended: when a process is killed,
/// that is long before it counts as ended. `None` if there is no such thread, or before Linux 6.9.
///
/// # Errors
/// As reading `/proc`.
pub(super) fn companion(pid: u32) -> std::io::Result<Option<OwnedFd>> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let id: Option<i32> = task?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id| u32::try_from(*id) != Ok(pid)).and_then(Pid::from_raw) else {
            continue;
        };
        return Ok(pidfd_open(id, ONE_THREAD).ok());
    }
    Ok(None)
}

/// What is needed of proc_pid_stat(5).
struct Stat {
    state: char,
    flags: u64,
    exit_code: Option<i32>,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The command name may hold anything; the last parenthesis ends it. The state is field 3.
        let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let flags = fields.nth(5)?.parse().ok()?;
        // The last one, field 52; hidden from those who may not see it.
        let exit_code = fields.nth(42).and_then(|code| code.parse().ok());
        Some(Self { state, flags, exit_code })
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') || self.flags & EXITING != 0
    }
}

fn standing(task: &Path) -> std::io::Result<Standing> {
    let Some(stat) = read_if_there(&task.join("stat"))? else { return Ok(Standing::Ended) };
    Ok(match Stat::parse(&stat) {
        Some(stat) if stat.has_ended() => Standing::Ended,
        Some(Stat { state: 'D', .. }) if is_notifying(task)? => Standing::Notifying,
        Some(Stat { state: 'D', .. }) => Standing::WaitsBelow,
        Some(_) | None => Standing::Other,
    })
}

/// Whether the thread writes to a FUSE device. Answers are written there as well, and wait for nothing.
fn is_notifying(task: &Path) -> std::io::Result<bool> {
    let Some(call) = read_if_there(&task.join("syscall"))? else { return Ok(false) };
    let Some(descriptor) = written_descriptor(&call) else { return Ok(false) };
    match fs::read_link(task.join("fd").join(descriptor.to_string())) {
        Ok(target) => Ok(target == Path::new(FUSE_DEVICE)),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Understands `syscall` of proc(5): the number, then the arguments in hexadecimal.
fn written_descriptor(call: &str) -> Option<u32> {
    let mut words = call.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    if ![libc::SYS_write, libc::SYS_writev].contains(&number) {
        return None;
    }
    u32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
}

fn read_if_there(path: &Path) -> std::io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// ESRCH: the thread ended between open and read.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn process_that_sleeps_waits_for_nothing_and_one_that_is_gone_is_an_error() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        // Its program is read from disk first.
        while Threads::of(child.id()).unwrap().waits_below && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(Threads::of(child.id()).unwrap(), Threads::default());
        assert!(exit_status(child.id()).unwrap().is_none());
        assert!(companion(child.id()).unwrap().is_none(), "it has one thread");
        child.kill().unwrap();
        while !has_ended(child.id()).unwrap() {
            std::thread::yield_now();
        }
        assert!(Threads::of(child.id()).unwrap().is_left_behind, "a zombie does nothing any more");
        let status = exit_status(child.id()).unwrap().unwrap();
        assert_eq!(status.signal(), Some(9), "{status}");
        child.wait().unwrap();
        assert!(Threads::of(child.id()).is_err());
    }

    #[test]
    fn companion_is_another_thread_than_the_main_one() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || released.recv().unwrap_err());
        let found = companion(std::process::id()).unwrap();
        drop(release);
        thread.join().unwrap();
        // Before Linux 6.9 there is none.
        let Some(found) = found else { return };
        let info =
            fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&found)));
        let pid = format!("Pid:\t{}\n", std::process::id());
        assert!(!info.unwrap().contains(&pid));
    }

    #[test]
    fn thread_that_exits_has_ended_whatever_its_state() {
        let stat = |state: char, flags: u64| {
            let rest = ["7"; 42].join(" ");
            Stat::parse(&format!("12 (a) b) {state} 1 1 1 0 -1 {flags} {rest} 9\n")).unwrap()
        };
        assert!(stat('R', 4_194_560 | EXITING).has_ended() && stat('Z', 0).has_ended());
        assert!(!stat('R', 4_194_560).has_ended() && !stat('D', 0).has_ended());
        assert_eq!(stat('R', 0).exit_code, Some(9));
        assert!(Stat::parse("12 (a) R").is_none());
    }

    #[test]
    fn descriptor_of_a_write_is_found() {
        let line = |number: i64| format!("{number} 0x1f 0x7ffc 0x28 0x0 0x0 0x0 0x7ffd 0x7f\n");
        assert_eq!(written_descriptor(&line(libc::SYS_write)), Some(31));
        assert_eq!(written_descriptor(&line(libc::SYS_writev)), Some(31));
        assert_eq!(written_descriptor(&line(libc::SYS_pwrite64)), None);
        assert_eq!(written_descriptor("running\n"), None);
    }
}
