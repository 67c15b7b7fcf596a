//! The `wsguard` command line.
//!
//! A command is parsed ([`args`]), its surroundings are resolved once ([`settings`]), and it runs to an
//! [`error::ExitStatus`]. Client commands know the daemon only through the wire types of `wsguard-api`
//! ([`client`]); only `wsguard daemon` enters `wsguard-fs`. Everything is synchronous and on one thread; a
//! command that must look at something that may hang does so on a thread of its own with a time limit.
//!
//! Output has two sides ([`output`]): data goes to stdout, talk to stderr. Names that users chose are shown
//! with their control characters escaped, because a directory name must not be able to write to a terminal.

pub mod args;
mod browse;
pub mod client;
pub mod commands;
pub mod env_vars;
pub mod error;
mod help;
pub mod launch;
pub mod links;
pub mod output;
pub mod policy_file;
pub mod quantity;
pub mod settings;
pub mod target;
#[cfg(test)]
mod test_server;
mod users;
mod when;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use wsguard_api::ErrorCode;

use crate::args::Cli;
use crate::error::{CliError, ExitStatus};
use crate::output::{Format, Printer, Verbosity};
use crate::settings::Settings;

/// Parses the command line, runs it and returns the process's exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = links::expand(arguments.into_iter().collect());
    let status = match Cli::try_parse_from(&arguments) {
        Ok(cli) => run_parsed(&cli, arguments.first().map(OsString::as_os_str)),
        Err(error) => refuse(&error, &arguments),
    };
    ExitCode::from(status.code())
}

fn run_parsed(cli: &Cli, program: Option<&OsStr>) -> ExitStatus {
    let format = if cli.global.json { Format::Json } else { Format::Text };
    let verbosity = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, true) => Verbosity::Verbose,
        (false, false) => Verbosity::Normal,
    };
    let mut printer = Printer::new(format, verbosity, cli.global.color);
    let outcome = Settings::resolve(&cli.global, program)
        .and_then(|settings| commands::run(&cli.command, &settings, &mut printer))
        .and_then(|status| printer.finish().map(|()| status));
    outcome.unwrap_or_else(|error| {
        printer.error(&error);
        error.exit_status()
    })
}

/// Tells why the command line was not understood, or prints the help or version that it asked for.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitStatus {
    let status = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitStatus::Success,
        _ => ExitStatus::Usage,
    };
    // Help that nobody reads to the end is no failure; a closed stderr leaves nobody to tell.
    error.print().ok();
    let wants_json = arguments.iter().take_while(|argument| *argument != "--").any(|a| a == "--json");
    if status == ExitStatus::Usage && wants_json {
        let mut printer = Printer::new(Format::Json, Verbosity::Normal, clap::ColorChoice::Never);
        printer.error_object(&usage_error(error));
    }
    status
}

/// Turns clap's text into message and hint: its first paragraph, and where the help is.
fn usage_error(error: &clap::Error) -> CliError {
    let text = error.to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let message = first.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    CliError::new(ErrorCode::InvalidRequest, message).with_hint("see `wsguard --help`")
}
