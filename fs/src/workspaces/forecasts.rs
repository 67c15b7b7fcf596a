//! Whether the next checkpoint fits, told when one is begun and not when it is torn.
//!
//! Every tick of the driver looks at what is open for writing, which the recorder knows anyway: nothing is added to the
//! requests. What a checkpoint takes is what the usage index said of the newest one while none was being written, since
//! one that is half written would look small.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use wsguard_api::EventKind;

use super::driver::Driver;
use super::pages::{size, span};
use crate::tracker::Activity;
use crate::usage;

/// After a notice, how long until the next one about the same workspace.
const QUIET: Duration = Duration::from_secs(3_600);

/// What is remembered of one workspace.
#[derive(Debug, Default)]
struct Note {
    /// No checkpoint has been written since.
    rests_since: Option<Timestamp>,
    /// What the newest complete one takes.
    needed: Option<u64>,
    /// The one that was looked at last.
    judged: Option<PathBuf>,
    told: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ForecastNotes(BTreeMap<String, Note>);

impl Driver {
    /// Tells owners of checkpoints that have been begun and will probably not fit.
    pub(super) fn tell_forecasts(&mut self) {
        let projects = self.registry.projects();
        self.forecasts.0.retain(|id, _| projects.iter().any(|project| project.id == *id));
        let activities = self.recorder.activity();
        for project in projects.iter().filter(|project| project.is_mounted) {
            let note = self.forecasts.0.entry(project.id.clone()).or_default();
            let activity = activities.iter().find(|activity| activity.workspace == project.id);
            let Some((path, written)) = activity.and_then(open_checkpoint) else {
                if note.rests_since.is_none() {
                    note.rests_since = Some(Timestamp::now());
                    // Has the index asked soon.
                    self.registry.growth().look(&project.id);
                }
                let report = self.registry.growth().latest(&project.id);
                let made = report.as_ref().and_then(|report| report.generated_at.parse().ok());
                if let (Some(report), true) = (report, made > note.rests_since) {
                    note.needed = report.forecast.checkpoint_bytes;
                }
                continue;
            };
            note.rests_since = None;
            let (Some(needed), true) = (note.needed, note.judged.as_ref() != Some(&path)) else { continue };
            let Some(left) = self.registry.available_bytes(&project.id) else { continue };
            note.judged = Some(path.clone());
            let missing = needed.saturating_sub(written);
            if missing <= left || note.told.is_some_and(|at| at.elapsed() < QUIET) {
                continue;
            }
            note.told = Some(Instant::now());
            let report = self.registry.growth().latest(&project.id);
            let seconds = report.and_then(|report| report.forecast.seconds_to_full);
            let message = message(&project.name, &path, needed, missing, left, seconds);
            self.tell_project(project, EventKind::QuotaForecast, Timestamp::now(), &message);
        }
    }
}

/// Returns the largest checkpoint that is open for writing, and what has been written of all of them.
fn open_checkpoint(activity: &Activity) -> Option<(PathBuf, u64)> {
    let is_checkpoint = |path: &Path| path.file_name().is_some_and(usage::is_checkpoint_name);
    let open = || {
        activity
            .open_files
            .iter()
            .filter_map(|file| Some((file.path.as_ref()?, file.bytes)))
            .filter(|(path, _)| is_checkpoint(path))
    };
    let (path, _) = open().max_by_key(|(_, bytes)| *bytes)?;
    Some((path.clone(), open().map(|(_, bytes)| bytes).sum()))
}

fn message(name: &str, path: &Path, needed: u64, missing: u64, left: u64, seconds: Option<u64>) -> String {
    let path = path.display();
    let mut text = format!(
        "project {name}: the checkpoint {path} will probably not fit: the last one took {}, {} more are needed and {} are left",
        size(needed),
        size(missing),
        size(left)
    );
    if let Some(seconds) = seconds {
        text.push_str(&format!("; full in {} at this pace", span(seconds)));
    }
    text.push_str(". See: wsguard usage, wsguard clean --dry-run");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::OpenFile;

    fn open(path: Option<&str>, bytes: u64) -> OpenFile {
        OpenFile {
            path: path.map(PathBuf::from),
            uid: 1,
            pid: 1,
            process: None,
            bytes,
            bytes_per_second: 0.0,
            open_for: Duration::ZERO,
        }
    }

    #[test]
    fn open_checkpoints_are_told_by_their_names_and_counted_together() {
        let activity = |open_files: Vec<OpenFile>| Activity {
            workspace: "w1".into(),
            writers: Vec::new(),
            open_file_count: open_files.len() as u64,
            open_files,
        };
        let files = vec![
            open(None, 99),
            open(Some("train.log"), 98),
            open(Some("run/a.pt"), 3),
            open(Some("run/b.safetensors.tmp"), 4),
        ];
        assert_eq!(open_checkpoint(&activity(files)), Some(("run/b.safetensors.tmp".into(), 7)));
        assert_eq!(open_checkpoint(&activity(vec![open(Some("notes.txt"), 9)])), None);
    }

    #[test]
    fn message_has_the_numbers() {
        let text = message("bert", Path::new("run/a.pt"), 3 << 30, 2 << 30, 1 << 30, Some(2_520));
        assert!(text.contains("run/a.pt will probably not fit: the last one took 3 GiB"), "{text}");
        assert!(text.contains("2 GiB more are needed and 1 GiB are left; full in 42 min"), "{text}");
    }
}
