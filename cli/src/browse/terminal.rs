//! The terminal: keys in, screens out, and everything as it was before when it is over, however it ends.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};
use wsguard_api::ErrorCode;

use super::question::Question;
use super::screen::{self, Surroundings};
use super::source;
use super::state::{Event, State};
use crate::client::Client;
use crate::error::CliError;

/// How often it is drawn at least: "3 min ago" goes on.
const TICK: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The user was done.
    Quit,
    /// A signal told it to.
    Stopped,
}

/// Shows the browser until it is over; also returns what it was then.
///
/// # Errors
/// If the terminal cannot be used.
pub(crate) fn run(
    client: Client,
    (mut state, first): (State, Vec<Question>),
    is_coloured: bool,
) -> Result<(State, Ending), CliError> {
    let (events, incoming) = mpsc::channel();
    let (questions, asked) = mpsc::channel();
    watch_signals(events.clone())?;
    let answers = events.clone();
    spawn("questions", move || source::answer(&client, &asked, &answers))?;
    // Sets a panic hook that gives the terminal back first.
    let mut terminal = ratatui::try_init().map_err(|error| unusable(&error))?;
    let shown = spawn("keys", move || read_keys(&events))
        .and_then(|()| show(&mut terminal, &mut state, first, &questions, &incoming, is_coloured));
    let restored = ratatui::try_restore().map_err(|error| unusable(&error));
    shown?;
    restored?;
    let ending = if state.was_stopped { Ending::Stopped } else { Ending::Quit };
    Ok((state, ending))
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    state: &mut State,
    first: Vec<Question>,
    questions: &Sender<Question>,
    incoming: &Receiver<Event>,
    is_coloured: bool,
) -> Result<(), CliError> {
    let gone = |_| CliError::new(ErrorCode::Internal, "the thread that asks the daemon has ended");
    let size = terminal.size().map_err(|error| unusable(&error))?;
    let mut asked = state.update(Event::Resize(size.width, size.height));
    asked.extend(first);
    let zone = TimeZone::system();
    loop {
        for question in asked.drain(..) {
            questions.send(question).map_err(gone)?;
        }
        if state.is_over {
            return Ok(());
        }
        let surroundings = Surroundings { now: Timestamp::now(), zone: zone.clone(), is_coloured };
        terminal.draw(|frame| screen::draw(frame, state, &surroundings)).map_err(|error| unusable(&error))?;
        match incoming.recv_timeout(TICK) {
            Ok(event) => asked.extend(state.update(event)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(gone(mpsc::SendError(Question::Cancel(0)))),
        }
        // All that is there already, before it is drawn again.
        for event in incoming.try_iter().take(1_000) {
            asked.extend(state.update(event));
        }
    }
}

fn read_keys(events: &Sender<Event>) {
    loop {
        let event = match event::read() {
            Ok(event::Event::Key(key)) => Event::Key(key),
            Ok(event::Event::Resize(width, height)) => Event::Resize(width, height),
            Ok(_) => continue,
            // The terminal is gone.
            Err(_) => Event::Stop,
        };
        let is_last = matches!(event, Event::Stop);
        if events.send(event).is_err() || is_last {
            return;
        }
    }
}

/// Ends the browser on SIGINT, SIGTERM and SIGHUP.
fn watch_signals(events: Sender<Event>) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::io("cannot wait for signals", &error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let context = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    drop(context);
    spawn("signals", move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if events.send(Event::Stop).is_err() {
                    return;
                }
            }
        });
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), CliError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| CliError::io("cannot start a thread", &error))
}

fn unusable(error: &std::io::Error) -> CliError {
    CliError::new(ErrorCode::Internal, "cannot use the terminal").because(error.to_string())
}
