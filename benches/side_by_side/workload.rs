//! The workloads: each function does the work of one row once and returns its number.

pub(crate) mod bulk;
pub(crate) mod fio;
pub(crate) mod git;
pub(crate) mod latency;
pub(crate) mod sqlite;
pub(crate) mod tree;
