//! The usage index: what is where in a workspace, without a walk.
//!
//! Every name of a workspace is a row of `<state>/usage/<workspace id>.sqlite`, and every directory knows the totals
//! of its whole tree. A walk in the background fills it when a workspace is mounted and once a day; between walks it
//! follows the records of what changed: they say where to look, and what is true comes from the tree itself
//! ([`updater`]). So the index lags by a second or two and heals by itself; nothing that is enforced depends on it.
//!
//! Two threads for all workspaces of a worker, both at low priority: `usage` looks at what changed, `usage-walk`
//! walks. Answers open the file for themselves on the thread that asks, and see one moment ([`query`]).
//!
//! What it does not know: files that are deleted but open, and edits below the mount until the next walk or
//! [`UsageFeed::lost`].

mod clean;
mod dirty;
mod feed;
mod filler;
mod fingerprint;
mod forecast;
mod index;
mod kind;
mod query;
mod rules;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod totals;
mod updater;
mod walker;

pub(crate) use clean::{CleanSubject, plan};
pub(crate) use kind::is_checkpoint_name;
pub(crate) use query::{Subject, UsageQuery, growth, report};
pub(crate) use service::UsageService;
pub(crate) use store::UsageError;
