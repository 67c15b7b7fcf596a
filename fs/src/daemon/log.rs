//! Log lines on standard error. Messages are constant, facts are fields.

use std::io::Write;

use tracing_subscriber::EnvFilter;

use super::last_words;
use crate::config::{Config, LogFormat};

/// Standard error, and a worker's last words.
struct Destination;

impl Write for Destination {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        last_words::append(line);
        std::io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Starts logging as `config` says; later calls in the same process change nothing.
pub(super) fn init(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_writer(|| Destination).with_env_filter(filter);
    let started = match config.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        // Only in a process that logs already, such as a test binary.
        tracing::debug!(%error, "logging was started before");
    }
}
