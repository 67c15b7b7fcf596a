//! Places at which a worker kills itself, so that tests can see what its successor makes of it.
//!
//! Compiled in with debug assertions or the feature `fail-points` only; otherwise every function here is empty. Even
//! then nothing happens unless the environment variable `WSGUARD_FAIL_POINTS` named a file when the worker started.
//! Each line of that file is an operation and a stage (`mkdir effect`): the first thread that comes to the place which
//! the first line names removes the line and ends the process with SIGKILL. The next line waits for the next worker.
//! A worker that reads the variable says so in its log.
//!
//! A place does not know its operation; each thread remembers what it works on.

/// How far a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The journal knows that it was begun.
    Begun,
    /// What a successor has to know for it is noted, and nothing is changed.
    Prepared,
    /// The files below are changed, and nothing of it is noted.
    Effect,
    /// The kernel's reference to the node is counted.
    Counted,
    /// The inode is registered for passthrough, and the table does not say so.
    Registered,
    /// The number of the open is noted, and nothing is open under it.
    Numbered,
    /// The file is open under its number.
    Entered,
    /// Nothing is open under the number any more.
    Taken,
    /// What happened is noted.
    Noted,
    /// The number is free.
    Recycled,
    /// The inode is not registered for passthrough any more, and the table says it is.
    Unregistered,
    /// All is done, but the journal does not say so.
    Done,
    /// The journal holds the result.
    Finished,
    /// The answer is out.
    Answered,
}

#[cfg(not(any(debug_assertions, feature = "fail-points")))]
mod place {
    use super::Stage;

    /// Nothing.
    #[inline(always)]
    pub(crate) fn begin(_operation: &'static str) {}

    /// Nothing.
    #[inline(always)]
    pub(crate) fn reach(_stage: Stage) {}
}

#[cfg(any(debug_assertions, feature = "fail-points"))]
mod place {
    use std::cell::Cell;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;

    use super::Stage;

    const VARIABLE: &str = "WSGUARD_FAIL_POINTS";

    thread_local! {
        static OPERATION: Cell<&'static str> = const { Cell::new("") };
    }

    impl Stage {
        fn name(self) -> &'static str {
            match self {
                Self::Begun => "begun",
                Self::Prepared => "prepared",
                Self::Effect => "effect",
                Self::Counted => "counted",
                Self::Registered => "registered",
                Self::Numbered => "numbered",
                Self::Entered => "entered",
                Self::Taken => "taken",
                Self::Noted => "noted",
                Self::Recycled => "recycled",
                Self::Unregistered => "unregistered",
                Self::Done => "done",
                Self::Finished => "finished",
                Self::Answered => "answered",
            }
        }
    }

    fn file() -> Option<&'static Path> {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| {
            let file = std::env::var_os(VARIABLE).map(PathBuf::from)?;
            tracing::warn!(path = %file.display(), "this worker kills itself where a test tells it to");
            Some(file)
        });
        file.as_deref()
    }

    /// Remembers what this thread works on.
    pub(crate) fn begin(operation: &'static str) {
        OPERATION.set(operation);
    }

    /// Ends the process if this is the place.
    pub(crate) fn reach(stage: Stage) {
        let Some(file) = file() else { return };
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        if first.split_once(' ') != Some((OPERATION.get(), stage.name())) {
            return;
        }
        // In one step, so that the successor reads all of it or nothing.
        let next = file.with_extension("next");
        if let Err(error) = std::fs::write(&next, rest).and_then(|()| std::fs::rename(&next, file)) {
            tracing::error!(error = %error, "fail point cannot be taken off the list");
            return;
        }
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        tracing::debug!(?killed, "worker kills itself");
        loop {
            std::thread::park();
        }
    }
}

pub(crate) use place::{begin, reach};
