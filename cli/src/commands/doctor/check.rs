use serde::Serialize;
use wsguard_api::SCHEMA_VERSION;

use crate::output::{Cell, Column, Table, Tone, Verbosity, View, count, printable};

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing to do.
    Info,
    /// Degraded: it works, with less speed or protection.
    Warning,
    /// It does not work; the exit code says so.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name: `host.kernel`, `workspace.data-path`, …
    pub id: &'static str,
    /// What it is about, if there are several: a workspace's name, a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it is.
    pub level: Level,
    /// What was found, with the numbers.
    pub finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn new(id: &'static str, level: Level, finding: impl Into<String>) -> Self {
        Self { id, subject: None, level, finding: finding.into(), advice: None }
    }

    /// Makes a check that found all well.
    pub fn ok(id: &'static str, finding: impl Into<String>) -> Self {
        Self::new(id, Level::Ok, finding)
    }

    /// Makes a check that found something worth knowing.
    pub fn info(id: &'static str, finding: impl Into<String>) -> Self {
        Self::new(id, Level::Info, finding)
    }

    /// Makes a check that found something degraded.
    pub fn warning(id: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(id, Level::Warning, finding) }
    }

    /// Makes a check that found something broken.
    pub fn problem(id: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(id, Level::Problem, finding) }
    }

    /// Says what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

/// Everything that was looked at, as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    schema: u32,
    generated_at: String,
    problems: usize,
    warnings: usize,
    checks: Vec<Check>,
}

impl DoctorReport {
    /// Counts what was found.
    pub fn new(checks: Vec<Check>, generated_at: String) -> Self {
        let number = |level: Level| checks.iter().filter(|check| check.level == level).count();
        Self {
            schema: SCHEMA_VERSION,
            generated_at,
            problems: number(Level::Problem),
            warnings: number(Level::Warning),
            checks,
        }
    }

    /// Returns how many things do not work.
    pub fn problems(&self) -> usize {
        self.problems
    }

    /// Returns the table, what to do about each entry, and the sum.
    pub fn render(&self, view: &View) -> String {
        let is_shown = |check: &&Check| match check.level {
            Level::Ok | Level::Info => view.verbosity != Verbosity::Quiet,
            Level::Warning | Level::Problem => true,
        };
        let shown: Vec<&Check> = self.checks.iter().filter(is_shown).collect();
        if shown.is_empty() {
            return String::new();
        }
        let mut table =
            Table::new([Column::Fixed("RESULT"), Column::Fixed("CHECK"), Column::Wrapping("FINDING")]);
        for check in &shown {
            let finding = match &check.subject {
                Some(subject) => format!("{subject}: {}", check.finding),
                None => check.finding.clone(),
            };
            table.row([level_cell(check.level), Cell::new(check.id), Cell::new(finding)]);
        }
        let mut text = table.render(view.width);
        for check in shown {
            if let Some(advice) = &check.advice {
                let subject =
                    check.subject.as_ref().map_or_else(String::new, |subject| format!(" ({subject})"));
                text.push_str(&format!("\n{}{}:\n  {}\n", check.id, printable(&subject), printable(advice)));
            }
        }
        text.push_str(&format!(
            "\n{}, {}\n",
            count(self.problems as u64, "problem"),
            count(self.warnings as u64, "warning")
        ));
        text
    }
}

fn level_cell(level: Level) -> Cell {
    match level {
        Level::Ok => Cell::toned("ok", Tone::Good),
        Level::Info => Cell::toned("info", Tone::Faint),
        Level::Warning => Cell::toned("warning", Tone::Warning),
        Level::Problem => Cell::toned("problem", Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    fn report() -> DoctorReport {
        let checks = vec![
            Check::ok("host.kernel", "6.18"),
            Check::problem("host.fuse-device", "/dev/fuse is missing", "run `modprobe fuse`"),
            Check::warning("workspace.data-path", "cached", "update the kernel").about("bert"),
        ];
        DoctorReport::new(checks, "2030-01-01T12:00:00Z".into())
    }

    #[test]
    fn advice_follows_the_table_and_the_sum_ends_it() {
        let text = plain(&report().render(&view(Some(80))));
        assert!(text.contains("warning  workspace.data-path  bert: cached\n"), "{text}");
        assert!(text.contains("\nhost.fuse-device:\n  run `modprobe fuse`\n"), "{text}");
        assert!(text.contains("\nworkspace.data-path (bert):\n  update the kernel\n"), "{text}");
        assert!(text.ends_with("\n1 problem, 1 warning\n"), "{text}");
    }

    #[test]
    fn quiet_report_leaves_out_what_is_well() {
        let quiet = View { verbosity: Verbosity::Quiet, ..view(None) };
        assert!(!report().render(&quiet).contains("host.kernel"));
    }
}
