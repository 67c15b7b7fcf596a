//! Undo, restore and snapshots, asked for by a line in `.wsguard/request`.
//!
//! The driver does not wait: a thread of its own carries the line out and answers at the desk when it is done, or, if it
//! takes long, that it has begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use wsguard_api::{RestoreJob, RestoreState};

use super::registry::Registry;
use super::request_desk::UserRequest;
use crate::mounting::Mounted;
use crate::restore::{Answer, Line};

/// A restore that takes longer is answered before it has ended.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);
/// Failures that are named in an answer.
const MOST_FAILURES: usize = 5;

/// Carries a line out and answers it.
pub(super) fn carry_out(registry: &Arc<Registry>, request: &UserRequest, line: Line) {
    let (registry, serial, uid) = (Arc::clone(registry), request.serial(), request.uid());
    let workspace = request.workspace().to_owned();
    let answer = {
        let (registry, workspace) = (Arc::clone(&registry), workspace.clone());
        move |answer| registry.requests().answer(&workspace, serial, answer)
    };
    let refuse = answer.clone();
    let work = move || {
        let result = match registry.mounted(&workspace) {
            Some(mounted) => run(&mounted, &line, uid),
            None => Err((Errno::AGAIN, "the workspace is not mounted".to_owned())),
        };
        answer(result);
    };
    if let Err(error) = std::thread::Builder::new().name("request".to_owned()).spawn(work) {
        refuse(Err((Errno::AGAIN, format!("nobody can do it now: {error}"))));
    }
}

fn run(mounted: &Mounted, line: &Line, uid: u32) -> Result<String, (Errno, String)> {
    let ground = mounted.ground().map_err(|reason| (Errno::OPNOTSUPP, reason))?;
    let failed = |error: crate::restore::RestoreError| {
        let error = error.to_api();
        let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        (Errno::INVAL, format!("{}{hint}", error.message))
    };
    match line.run(mounted.restores(), &ground, uid).map_err(failed)? {
        Answer::Snapshot(number) => Ok(format!("snapshot {number} is taken; see .snapshots\n")),
        Answer::Begun(job) => {
            let begun = Instant::now();
            let mut job = *job;
            while !is_over(job.state) && begun.elapsed() < PATIENCE {
                std::thread::sleep(STEP);
                job = mounted.restores().job(&ground, job.id).map_err(failed)?;
            }
            Ok(told(&job))
        }
    }
}

fn is_over(state: RestoreState) -> bool {
    !matches!(state, RestoreState::Planning | RestoreState::Running)
}

/// Says how a restore ended.
fn told(job: &RestoreJob) -> String {
    let counts = &job.counts;
    let done = format!("{} files and {} directories", counts.files, counts.directories);
    let mut text = match job.state {
        RestoreState::Planning | RestoreState::Running => {
            format!("restore {} goes on: {} of {} are done\n", job.id, job.done, job.total)
        }
        RestoreState::Done => format!("restore {} is done: {done} are back\n", job.id),
        RestoreState::Partial => {
            format!("restore {} is done in part: {done} are back, {} are not\n", job.id, counts.failed)
        }
        RestoreState::Failed | RestoreState::Cancelled | RestoreState::Interrupted => {
            format!(
                "restore {} broke off: {}\n",
                job.id,
                job.error.as_deref().unwrap_or("no reason is known")
            )
        }
    };
    for note in job.failures.iter().take(MOST_FAILURES).chain(&job.notes) {
        text.push_str(&format!("  {}: {}\n", note.path, note.reason));
    }
    text
}
