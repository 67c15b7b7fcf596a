//! The thread that asks the daemon, so that the screen never waits for it. Questions that the user has left behind are
//! not asked.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use wsguard_api::{
    ErrorCode, PastChange, PastKind, PastPiece, PastRequest, RestoreJob, RestoreState, RestoreWhen,
};

use super::content::{self, Content, MOST_BYTES, MOST_NAMES};
use super::moment::MomentKey;
use super::question::{Answer, LookAt, Mode, Question};
use super::state::Event;
use crate::client::Client;
use crate::error::CliError;

/// The pause between two looks at a running restore.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers questions until nobody asks or listens any more.
pub(crate) fn answer(client: &Client, questions: &Receiver<Question>, answers: &Sender<Event>) {
    let mut waiting: Vec<Question> = Vec::new();
    let mut running: Option<(PathBuf, u64)> = None;
    loop {
        if waiting.is_empty() {
            let next = match &running {
                None => questions.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => questions.recv_timeout(PAUSE),
            };
            match next {
                Ok(question) => waiting.push(question),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        waiting.extend(questions.try_iter());
        drop_superseded(&mut waiting);
        let answer = if waiting.is_empty() {
            let Some((path, id)) = &running else { continue };
            job(client.restore_job(path, *id), path.clone(), &mut running)
        } else {
            match waiting.remove(0) {
                Question::TimeLine(path) => Answer::TimeLine(
                    client
                        .snapshots(&path)
                        .and_then(|snapshots| Ok(Box::new((snapshots, client.undo_list(&path)?))))
                        .map_err(|error| one_line(&error)),
                ),
                Question::List(of) => {
                    let request = PastRequest { path: of.dir.clone(), when: of.moment.when(), limit: 0 };
                    let listing = client.past_list(&request).map(Box::new).map_err(|error| one_line(&error));
                    Answer::Listing(of, listing)
                }
                Question::Look(at) => {
                    let content =
                        look(client, &at).unwrap_or_else(|error| Content::nothing(one_line(&error)));
                    Answer::Content(at, content)
                }
                Question::Plan(ticket, request) => Answer::Plan(
                    ticket,
                    client.restore_plan(&request).map(Box::new).map_err(|error| one_line(&error)),
                ),
                Question::Start(request) => {
                    let path = request.paths.first().cloned().unwrap_or_default();
                    job(client.restore_start(&request), path, &mut running)
                }
                Question::Cancel(id) => {
                    let Some((path, _)) = running.clone() else { continue };
                    job(client.restore_action(&path, id, "cancel"), path, &mut running)
                }
            }
        };
        if answers.send(Event::Answer(answer)).is_err() {
            return;
        }
    }
}

/// Of several questions of a kind only the last one matters, except for what changes something.
fn drop_superseded(waiting: &mut Vec<Question>) {
    let kind = |question: &Question| match question {
        Question::TimeLine(_) => Some(0),
        Question::List(_) => Some(1),
        Question::Look(_) => Some(2),
        Question::Plan(..) => Some(3),
        Question::Start(_) | Question::Cancel(_) => None,
    };
    let kinds: Vec<Option<u8>> = waiting.iter().map(kind).collect();
    let mut place = 0;
    waiting.retain(|_| {
        let own = kinds.get(place).copied().flatten();
        place += 1;
        own.is_none() || !kinds.iter().skip(place).any(|later| *later == own)
    });
}

/// Notes whether the restore has to be looked at again.
fn job(result: Result<RestoreJob, CliError>, path: PathBuf, running: &mut Option<(PathBuf, u64)>) -> Answer {
    *running = result.as_ref().ok().and_then(|job| {
        matches!(job.state, RestoreState::Planning | RestoreState::Running).then_some((path, job.id))
    });
    Answer::Job(result.map(Box::new).map_err(|error| one_line(&error)))
}

fn look(client: &Client, at: &LookAt) -> Result<Content, CliError> {
    let when = if at.change == PastChange::New { None } else { at.moment.when() };
    match (at.kind, at.mode) {
        (PastKind::Directory, Mode::Preview) => {
            let request = PastRequest { path: at.path.clone(), when: at.moment.when(), limit: MOST_NAMES };
            Ok(content::directory(&client.past_list(&request)?))
        }
        (PastKind::Directory, Mode::Difference) => match &at.moment {
            MomentKey::Snapshot(id) => {
                let report = client.snapshot_difference(&at.path, &id.to_string(), None)?;
                Ok(content::directory_comparison(&report))
            }
            MomentKey::Now => Ok(Content::nothing("this is how it is now")),
            MomentKey::BeforeBurst(_) => {
                Ok(Content::nothing("directories are compared with snapshots only; choose a file"))
            }
        },
        (_, Mode::Preview) => Ok(content::preview(&read(client, &at.path, when)?)),
        (_, Mode::Difference) => {
            let then = match at.change {
                PastChange::New => None,
                _ => there(read(client, &at.path, when))?,
            };
            let now = there(read(client, &at.path, None))?;
            Ok(content::comparison(then.as_ref(), now.as_ref()))
        }
    }
}

fn read(client: &Client, path: &Path, when: Option<RestoreWhen>) -> Result<PastPiece, CliError> {
    client.past_read(&PastRequest { path: path.to_path_buf(), when, limit: MOST_BYTES })
}

fn there(piece: Result<PastPiece, CliError>) -> Result<Option<PastPiece>, CliError> {
    match piece {
        Ok(piece) => Ok(Some(piece)),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns an error with its reasons and what to do.
fn one_line(error: &CliError) -> String {
    let mut text = error.to_string();
    for cause in error.causes() {
        text.push_str(&format!(": {cause}"));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!(" ({hint})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use wsguard_api::RestoreRequest;

    use super::*;

    #[test]
    fn only_the_last_question_of_a_kind_is_asked_and_every_change_is_made() {
        let plan = |ticket| Question::Plan(ticket, RestoreRequest::default());
        let start = || Question::Start(RestoreRequest::default());
        let mut waiting = vec![
            Question::TimeLine("/a".into()),
            plan(1),
            start(),
            Question::TimeLine("/b".into()),
            plan(2),
            Question::Cancel(1),
            start(),
        ];
        drop_superseded(&mut waiting);
        assert_eq!(
            waiting,
            [start(), Question::TimeLine("/b".into()), plan(2), Question::Cancel(1), start()]
        );
    }
}
