//! The part below the options of every command's help: examples and exit codes.

use crate::error::ExitStatus;

/// One example: what to type and what it is for.
pub(crate) type Example = (&'static str, &'static str);

/// Returns the examples and the exit codes that a command can end with, as help text.
pub(crate) fn sections(examples: &[Example], statuses: &[ExitStatus]) -> String {
    let mut text = String::from("EXAMPLES:\n");
    for (command, purpose) in examples {
        text.push_str(&format!("  # {purpose}\n  {command}\n"));
    }
    text.push_str("\nEXIT CODES:\n");
    for status in statuses {
        text.push_str(&format!("  {:>3}  {}\n", status.code(), status.meaning()));
    }
    text.truncate(text.trim_end().len());
    text
}
