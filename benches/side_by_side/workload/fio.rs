//! fio's own measurement of the same things, from the job files in `benches/fio`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    measure::{Measurement, Unit},
    site::Site,
};

/// One job file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    name: &'static str,
    text: &'static str,
    side: &'static str,
    unit: Unit,
}

macro_rules! job {
    ($name:literal, $side:literal, $unit:expr) => {
        Job {
            name: $name,
            text: include_str!(concat!("../../fio/", $name, ".fio")),
            side: $side,
            unit: $unit,
        }
    };
}

/// Sequential reads of 1 MiB.
pub(crate) const SEQREAD: Job = job!("seqread", "read", Unit::MegabytesPerSecond);
/// Random reads of 4 KiB.
pub(crate) const RANDREAD: Job = job!("randread4k", "read", Unit::Microseconds);
/// Sequential reads through a mapping.
pub(crate) const MMAPREAD: Job = job!("mmapread", "read", Unit::MegabytesPerSecond);
/// Sequential writes of 1 MiB and fsync.
pub(crate) const SEQWRITE: Job = job!("seqwrite", "write", Unit::MegabytesPerSecond);
/// Random writes of 4 KiB.
pub(crate) const WRITE4K: Job = job!("write4k", "write", Unit::Microseconds);
/// Appends of 100 bytes.
pub(crate) const APPEND: Job = job!("append100", "write", Unit::Microseconds);

/// Returns whether fio is installed.
pub(crate) fn is_installed() -> bool {
    crate::variant::find_program("fio").is_some()
}

impl Job {
    /// Runs the job once in the site's root.
    pub(crate) fn run(self, site: &Site) -> Result<Measurement> {
        // Beside the fixtures, never inside a mount: fio must not read its orders through what it measures.
        let file = tempfile::Builder::new().suffix(".fio").tempfile()?;
        std::fs::write(file.path(), self.text)?;
        let output = Command::new("fio")
            .arg("--output-format=json")
            .arg(file.path())
            .env("DIR", &site.root)
            .env("SIZE", site.scale().bulk_bytes.to_string())
            .env("RUNTIME", format!("{}ms", site.scale().budget.as_millis()))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .output()
            .context("cannot run fio")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!(
                "fio {} ended with {}: {}",
                self.name,
                output.status,
                reason.lines().next().unwrap_or("no message")
            );
        }
        self.parse(&output.stdout)
            .with_context(|| format!("cannot understand the answer of fio {}", self.name))
    }

    fn parse(self, answer: &[u8]) -> Result<Measurement> {
        // Messages may precede the JSON document.
        let start = answer.iter().position(|&byte| byte == b'{').context("it holds no JSON")?;
        let answer: Value = serde_json::from_slice(&answer[start..])?;
        let side = answer.pointer(&format!("/jobs/0/{}", self.side)).context("it has no job")?;
        let number = |pointer: &str| {
            side.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer}"))
        };
        Ok(match self.unit {
            Unit::MegabytesPerSecond => Measurement { value: number("/bw_bytes")? / 1e6, p99: None },
            Unit::Microseconds => Measurement {
                value: number("/clat_ns/percentile/50.000000")? / 1e3,
                p99: Some(number("/clat_ns/percentile/99.000000")? / 1e3),
            },
            Unit::Milliseconds => bail!("no job is measured in milliseconds"),
        })
    }
}
