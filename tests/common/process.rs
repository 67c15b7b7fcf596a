use std::{fs, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

/// Returns the pids of the processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|candidate| stat_field(*candidate, 1).is_some_and(|parent| parent == pid.to_string()))
        .collect()
}

/// Tells whether the process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// Returns the process's arguments joined by spaces; empty if it is gone.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// Sends a signal to one process; a process that is gone already is not an error.
pub fn kill(pid: u32, signal: Signal) {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    match kill_process(process, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => panic!("cannot send {signal:?} to process {pid}: {error}"),
    }
}

/// Returns how many file descriptors the process has open.
pub fn open_fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Returns the process's resident memory in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kibibytes * 1024
}

/// A process held by a descriptor, so that its number cannot come to mean another one.
pub(crate) struct Process {
    descriptor: OwnedFd,
}

impl Process {
    /// Takes hold of a process; `None` if it is gone.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Some(Self { descriptor }),
            Err(Errno::SRCH) => None,
            Err(error) => panic!("cannot watch process {pid:?}: {error}"),
        }
    }

    /// Sends SIGKILL; a process that has ended already is not an error.
    pub(crate) fn kill(&self) {
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("cannot kill a process: {error}"),
        }
    }

    /// Waits until all its threads have ended (it may still be a zombie) and tells whether they did in time.
    pub(crate) fn wait_for_exit(&self, timeout: Duration) -> bool {
        let limit = Timespec::try_from(timeout).expect("a timeout fits into a timespec");
        let mut watched = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut watched, Some(&limit)).is_ok_and(|ready| ready > 0)
    }
}

/// Waits until the process has exited (it may still be a zombie) and tells whether it did in time.
pub(crate) fn wait_for_exit(pid: u32, timeout: Duration) -> bool {
    Process::open(pid).is_none_or(|process| process.wait_for_exit(timeout))
}

/// Returns field `index` of `/proc/PID/stat`, counted after the command name (0 = state, 1 = parent).
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and parentheses; the last one ends it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

/// Returns the thread ids of the process with their names and states (proc_pid_stat(5)).
pub fn threads(pid: u32) -> Vec<(u32, String, String)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            Some((id, name.trim_end().to_owned(), rest.split_whitespace().next()?.to_owned()))
        })
        .collect()
}

/// Threads of other processes that stand still; they go on, or end if they were killed, when this is dropped.
pub struct StoppedThreads {
    release: Option<std::sync::mpsc::Sender<()>>,
    tracer: Option<std::thread::JoinHandle<()>>,
}

impl StoppedThreads {
    /// Stops these threads, and no other threads of their processes.
    pub fn stop(threads: Vec<u32>) -> Self {
        let (release, released) = std::sync::mpsc::channel();
        let (tell, told) = std::sync::mpsc::channel();
        // What a thread has stopped is released when it ends.
        let tracer = std::thread::spawn(move || {
            for thread in threads {
                let id = i32::try_from(thread).expect("a thread id is positive");
                if let Err(error) = crate::sys::stop_thread(id) {
                    panic!("cannot stop thread {thread}: {error}");
                }
            }
            tell.send(()).expect("whoever stops waits for it");
            // Nothing is ever sent: it ends when the sender is dropped.
            released.recv().ok();
        });
        told.recv().expect("the threads can be stopped");
        Self { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for StoppedThreads {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            // It cannot have panicked without having printed why.
            drop(tracer.join());
        }
    }
}
