use std::io::{self, IsTerminal, Write};

use anstream::AutoStream;
use clap::ColorChoice;
use jiff::Timestamp;
use owo_colors::OwoColorize;
use serde::Serialize;
use wsguard_api::ErrorCode;

use crate::error::CliError;
use crate::output::text::printable;
use crate::users::Users;

/// Text for people or one object for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tables, sentences, colour.
    Text,
    /// One versioned JSON object on stdout.
    Json,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Ids and what is wrong.
    Quiet,
    /// What was done.
    Normal,
    /// And how.
    Verbose,
}

/// What a rendering depends on besides its data, so that it can be tested without a terminal.
#[derive(Clone, Debug)]
pub struct View {
    /// Columns of the terminal; `None` in pipes and files, where nothing is wrapped.
    pub width: Option<u16>,
    /// The moment that "3 min ago" counts from.
    pub now: Timestamp,
    /// Names of the uids that are shown.
    pub users: Users,
    /// How much is shown.
    pub verbosity: Verbosity,
}

/// The one way to stdout and stderr.
///
/// A reader that closes stdout early (`wsguard ls | head -1`) has what it wanted: the rest is dropped, and the
/// command ends as it would have. Any other error on stdout is the command's error, because data is missing.
#[derive(Debug)]
pub struct Printer {
    stdout: AutoStream<io::Stdout>,
    stderr: AutoStream<io::Stderr>,
    format: Format,
    verbosity: Verbosity,
    is_closed: bool,
}

impl Printer {
    /// Opens both streams; `Auto` colours terminals only and honours NO_COLOR and CLICOLOR_FORCE.
    pub fn new(format: Format, verbosity: Verbosity, color: ColorChoice) -> Self {
        let choice = match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        Self {
            stdout: AutoStream::new(io::stdout(), choice),
            stderr: AutoStream::new(io::stderr(), choice),
            format,
            verbosity,
            is_closed: false,
        }
    }

    /// Returns what kind of output was asked for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns whether stdout gets colour.
    pub fn is_coloured(&self) -> bool {
        self.stdout.current_choice() != anstream::ColorChoice::Never
    }

    /// Returns how much output was asked for.
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Returns the surroundings of this moment for a rendering.
    pub fn view(&self) -> View {
        View {
            width: terminal_width(),
            now: Timestamp::now(),
            users: Users::of_this_machine(),
            verbosity: self.verbosity,
        }
    }

    /// Writes text to stdout, as it is.
    ///
    /// # Errors
    /// Fails if stdout takes no more, for another reason than that its reader is gone.
    pub fn data(&mut self, text: &str) -> Result<(), CliError> {
        self.write_stdout(|stdout| stdout.write_all(text.as_bytes()))
    }

    /// Writes one object to stdout.
    ///
    /// # Errors
    /// As [`Self::data`], and if the value has no JSON form.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|source| {
            CliError::new(ErrorCode::Internal, "cannot write the answer as JSON").because(source.to_string())
        })?;
        self.data(&format!("{text}\n"))
    }

    /// Says something about what is going on; not with `--quiet`.
    pub fn note(&mut self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.say(text);
        }
    }

    /// Says what went wrong with one of many; with `--quiet` too.
    pub fn complaint(&mut self, text: &str) {
        self.say(&format!("{} {}", "error:".red().bold(), printable(text)));
    }

    /// Says something that only `--verbose` wants to know.
    pub fn detail(&mut self, text: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.say(text);
        }
    }

    /// Tells what failed, why and what to do next; with `--json` also as an object on stdout.
    pub fn error(&mut self, error: &CliError) {
        self.say(&format!("{} {}", "error:".red().bold(), printable(&error.to_string())));
        for cause in error.causes() {
            self.say(&format!("  {} {}", "because:".dimmed(), printable(cause)));
        }
        if let Some(hint) = error.hint() {
            self.say(&format!("\n{} {}", "hint:".cyan().bold(), printable(hint)));
        }
        if self.format == Format::Json {
            self.error_object(error);
        }
    }

    /// Writes the object of an error to stdout.
    pub fn error_object(&mut self, error: &CliError) {
        let outcome = self.json(&error.report()).and_then(|()| self.finish());
        if let Err(second) = outcome {
            self.say(&format!("error: {second}"));
        }
    }

    /// Flushes stdout.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn finish(&mut self) -> Result<(), CliError> {
        self.write_stdout(|stdout| stdout.flush())
    }

    fn write_stdout(
        &mut self,
        write: impl FnOnce(&mut AutoStream<io::Stdout>) -> io::Result<()>,
    ) -> Result<(), CliError> {
        if self.is_closed {
            return Ok(());
        }
        match write(&mut self.stdout) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            Err(error) => Err(CliError::new(ErrorCode::Internal, "cannot write to standard output")
                .because(error.to_string())),
        }
    }

    fn say(&mut self, text: &str) {
        // A closed stderr leaves nobody to tell; the exit code still says how it ended.
        writeln!(self.stderr, "{text}").ok();
    }
}

fn terminal_width() -> Option<u16> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}
