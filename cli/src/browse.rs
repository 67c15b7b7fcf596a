//! The terminal browser of a workspace's history: the time line, a directory at a moment, what a file was and how it
//! differs from now, and what is to be restored.
//!
//! Three parts that know little of each other: the *state* ([`state`]) is pure and takes one event after the other; the
//! *screen* ([`screen`]) draws it; the *source* ([`source`]) asks the daemon on a thread of its own, so that no key waits for
//! a disk. Names and contents come from whoever writes in the workspace, a container for instance: nothing of them reaches
//! the terminal but printable characters ([`text`]).

mod content;
mod folder;
mod marks;
mod moment;
mod panes;
mod question;
#[cfg(test)]
mod samples;
mod screen;
mod source;
mod state;
mod terminal;
mod text;

pub(crate) use state::State;
pub(crate) use terminal::{Ending, run};
