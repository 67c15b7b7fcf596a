//! What the threads of a worker wait for, as `/proc` tells its keeper.
//!
//! A thread in state D (proc_pid_stat(5)) cannot be killed until what it waits for has happened. Nearly always that
//! is a disk. But a worker also tells the kernel to drop what it has cached, and the kernel then waits for locks
//! that callers of the mount hold until their requests are answered: by this worker, or, when it hangs or is dead,
//! by its successor only. Such a thread is *notifying*. It comes back from that call only to end, touches no file
//! and reads no request, so a successor need not wait for it, and must not.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// What every session's descriptor is called.
const FUSE_DEVICE: &str = "/dev/fuse";

/// The threads of one process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Threads {
    /// One waits uninterruptibly for something other than the mounts of the process.
    pub(super) waits_below: bool,
    /// The main thread has ended, and of the others only some that notify are left.
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

/// Whether the main thread of a process that nobody has waited for has ended.
///
/// # Errors
/// As reading `/proc`.
pub(super) fn has_ended(pid: u32) -> std::io::Result<bool> {
    Ok(standing(Path::new(&format!("/proc/{pid}")))? == Standing::Ended)
}

fn standing(task: &Path) -> std::io::Result<Standing> {
    let Some(stat) = read_if_there(&task.join("stat"))? else { return Ok(Standing::Ended) };
    // The command name may hold anything; the last parenthesis ends it.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    Ok(match state {
        Some('Z' | 'X') => Standing::Ended,
        Some('D') if is_notifying(task)? => Standing::Notifying,
        Some('D') => Standing::WaitsBelow,
        _ => Standing::Other,
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
        child.kill().unwrap();
        while !has_ended(child.id()).unwrap() {
            std::thread::yield_now();
        }
        assert!(Threads::of(child.id()).unwrap().is_left_behind, "a zombie does nothing any more");
        child.wait().unwrap();
        assert!(Threads::of(child.id()).is_err());
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
