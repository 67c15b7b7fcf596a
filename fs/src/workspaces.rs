//! All workspaces: which are registered, which are guarded, and the one thread that changes that.
//!
//! [`Registry`] is what everybody may look at, under a lock that is held for moments only. [`Driver`] is the only
//! writer: it owns the catalog and runs one job at a time on its own thread, so a slow mount delays other jobs
//! but no `status`. Requests reach it as [`Job`]s through [`Jobs`].

mod busy;
mod counts;
mod discovery;
mod driver;
mod forecasts;
mod growth;
mod history_board;
mod history_keeper;
mod jobs;
mod kernel_tier;
mod notices;
mod pages;
mod past_requests;
mod quota;
mod quota_board;
mod quota_keeper;
mod rebinding;
mod recent;
mod registry;
mod request_desk;
mod requests;
mod samples;
mod start;
mod unmounting;

pub(crate) use driver::Driver;
pub(crate) use history_board::shown_time;
pub(crate) use history_keeper::make_durable;
pub(crate) use jobs::{AfterUnmount, Job, Jobs, Reply, stopping_error};
pub(crate) use notices::past_notices;
pub(crate) use registry::{Guard, Place, Registry, Viewer};
pub(crate) use samples::{Sample, compare};
