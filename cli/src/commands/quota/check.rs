//! `wsguard quota check`: do the counters say what the files come to?

use std::time::Duration;

use clap::Args;
use wsguard_api::{CheckReport, CheckRequest, ErrorCode, ScopeRef};

use super::STATUSES;
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, bytes, printable};
use crate::settings::Settings;

/// Count a workspace again and compare with what is charged
///
/// Every file is looked at, while work in the workspace goes on. The numbers have to agree to the byte; if they do not,
/// --repair corrects what is charged. (The daemon counts by itself at each mount, after a crash, and after edits that
/// went past it.)
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota check .", "The workspace you are in"),
        ("sudo wsguard quota check bert --repair", "Correct what is charged"),
    ],
    &STATUSES,
))]
pub struct CheckArgs {
    /// A workspace by name, or a directory in one
    #[arg(value_name = "WORKSPACE", default_value = ".")]
    pub workspace: String,
    /// Correct what is charged if it is wrong
    #[arg(long)]
    pub repair: bool,
    /// Give up after this long; the daemon goes on counting
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Has it counted.
///
/// # Errors
/// Fails if the workspace is not mounted or its files cannot be read. A difference that was only found is
/// [`ExitStatus::Verification`].
pub(super) fn run(
    args: &CheckArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?.with_limit(Duration::from_secs(args.timeout));
    let wanted = Directory::read(&client)?.scope(&args.workspace)?;
    let ScopeRef::Project { id: workspace } = wanted else {
        let message = format!("{} is not a workspace", printable(&args.workspace));
        return Err(CliError::new(ErrorCode::InvalidRequest, message)
            .with_hint("only a workspace can be counted: name one, or a directory in one"));
    };
    let report = client.quota_check(&CheckRequest { workspace, repair: args.repair })?;
    match printer.format() {
        Format::Json => printer.json(&report)?,
        Format::Text => printer.data(&text(&report))?,
    }
    let is_wrong = (report.drift_bytes, report.drift_inodes) != (0, 0) && !report.repaired;
    Ok(if is_wrong { ExitStatus::Verification } else { ExitStatus::Success })
}

fn text(report: &CheckReport) -> String {
    let name = printable(&report.name);
    let counted = format!("{} in {} inodes", bytes(report.counted.bytes), report.counted.inodes);
    if (report.drift_bytes, report.drift_inodes) == (0, 0) {
        return format!("{name}: {counted}, as charged\n");
    }
    let sign = |number: i64| if number < 0 { "less" } else { "more" };
    let wrong = format!(
        "{name}: {counted}, {} bytes {} and {} inodes {} than charged\n",
        report.drift_bytes.unsigned_abs(),
        sign(report.drift_bytes),
        report.drift_inodes.unsigned_abs(),
        sign(report.drift_inodes),
    );
    let hint = if report.repaired { "corrected\n" } else { "--repair corrects what is charged\n" };
    wrong + hint
}

#[cfg(test)]
mod tests {
    use wsguard_api::Usage;

    use super::*;

    fn report(drift_bytes: i64, repaired: bool) -> CheckReport {
        CheckReport {
            schema: 1,
            id: "w1".to_owned(),
            name: "bert".to_owned(),
            counted: Usage { bytes: 8192, inodes: 3 },
            drift_bytes,
            drift_inodes: 0,
            repaired,
        }
    }

    #[test]
    fn agreement_and_difference_are_told_apart() {
        assert_eq!(text(&report(0, false)), "bert: 8.0 KiB in 3 inodes, as charged\n");
        assert!(text(&report(-4096, false)).contains("4096 bytes less and 0 inodes more than charged\n--repair"));
        assert!(text(&report(4096, true)).ends_with("corrected\n"));
    }
}
