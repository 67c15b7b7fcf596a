//! What a TARGET means, and how targets are shown.

use std::path::Path;

use wsguard_api::{ErrorCode, PolicyTarget, QuotaReport, QuotaRow, ScopeRef};

use crate::client::Client;
use crate::error::CliError;
use crate::policy_file::Names;
use crate::target;
use crate::users::Users;

/// The group that everybody is in who is in no other.
pub(super) const DEFAULT_GROUP: &str = "default";

/// How similar a name must be to be suggested, from 0 to 1.
const SUGGESTION_THRESHOLD: f64 = 0.7;

/// Everything that a name can be looked up in.
pub(super) struct Directory<'a> {
    pub(super) client: &'a Client,
    pub(super) report: QuotaReport,
    pub(super) users: Users,
}

/// Whether a template's limits are for users or for their workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Each {
    User,
    Project,
}

impl<'a> Directory<'a> {
    pub(super) fn read(client: &'a Client) -> Result<Self, CliError> {
        Ok(Self { client, report: client.quota_report()?, users: Users::of_this_machine() })
    }

    /// Returns what is meant.
    pub(super) fn target(&self, text: &str, each: Each) -> Result<PolicyTarget, CliError> {
        let template = |group: &str| match each {
            Each::User => PolicyTarget::EachUser { group: group.to_owned() },
            Each::Project => PolicyTarget::EachProject { group: group.to_owned() },
        };
        if text == DEFAULT_GROUP {
            return Ok(template(DEFAULT_GROUP));
        }
        if let Some(group) = text.strip_prefix("template:") {
            return Ok(template(group));
        }
        if each == Each::Project {
            return Err(CliError::new(ErrorCode::InvalidRequest, format!("{text:?} is no template"))
                .with_hint("--each-project goes with `default` and template:GROUP"));
        }
        let target = match text.split_once(':') {
            Some(("user", name)) => PolicyTarget::User { uid: self.user(name)? },
            Some(("project", name)) => PolicyTarget::Project { id: self.named_project(name)? },
            Some(("group", name)) => PolicyTarget::Group { name: name.to_owned() },
            Some(("pool", dir)) => PolicyTarget::Pool { path: target::directory(Path::new(dir))? },
            _ if is_path(text) => PolicyTarget::Project { id: self.project_at(Path::new(text))? },
            _ => self.plain(text)?,
        };
        Ok(target)
    }

    /// As [`Self::target`], for what is used and not only configured.
    pub(super) fn scope(&self, text: &str) -> Result<ScopeRef, CliError> {
        match self.target(text, Each::User)? {
            PolicyTarget::Pool { path } => Ok(ScopeRef::Pool { path }),
            PolicyTarget::Group { name } => Ok(ScopeRef::Group { name }),
            PolicyTarget::User { uid } => Ok(ScopeRef::User { uid }),
            PolicyTarget::Project { id } => Ok(ScopeRef::Project { id }),
            PolicyTarget::EachUser { .. } | PolicyTarget::EachProject { .. } => Err(CliError::new(
                ErrorCode::InvalidRequest,
                format!("{text} is a template and uses nothing"),
            )
            .with_hint("name a user, a workspace, group:NAME or pool:DIR")),
        }
    }

    /// Returns the uid of a user that this machine knows or that owns a workspace.
    pub(super) fn user(&self, name: &str) -> Result<u32, CliError> {
        self.find_user(name).ok_or_else(|| {
            let error = CliError::new(ErrorCode::NotFound, format!("no user is named \"{name}\""));
            error.with_hint(self.suggestion(name, self.users.names(), "see `getent passwd`"))
        })
    }

    /// Returns the id of a workspace, named by name, id or directory.
    pub(super) fn workspace(&self, name: &str) -> Result<String, CliError> {
        self.named_project(name.strip_prefix("project:").unwrap_or(name))
    }

    fn find_user(&self, name: &str) -> Option<u32> {
        let owns = |uid: &u32| self.report.items.iter().any(|row| row.owner_uid == Some(*uid));
        self.users.uid(name).or_else(|| name.parse().ok().filter(owns))
    }

    fn named_project(&self, name: &str) -> Result<String, CliError> {
        let ids = self.project_ids(name);
        match ids.as_slice() {
            [id] => Ok(id.clone()),
            [] if is_path(name) => self.project_at(Path::new(name)),
            [] => {
                let error = CliError::new(ErrorCode::NotFound, format!("no workspace is named \"{name}\""));
                Err(error.with_hint(self.suggestion(name, self.project_names(), "see `wsguard ls`")))
            }
            several => Err(CliError::new(
                ErrorCode::InvalidRequest,
                format!("{} workspaces are named \"{name}\"", several.len()),
            )
            .with_hint(format!("name it by its id: project:{}", several.join(" or project:")))),
        }
    }

    fn project_ids(&self, name: &str) -> Vec<String> {
        let id_of = |row: &QuotaRow| match &row.scope {
            ScopeRef::Project { id } if id == name || row.name.as_deref() == Some(name) => Some(id.clone()),
            _ => None,
        };
        self.report.items.iter().filter_map(id_of).collect()
    }

    fn project_names(&self) -> impl Iterator<Item = &str> {
        self.report.items.iter().filter_map(|row| row.name.as_deref())
    }

    fn project_at(&self, path: &Path) -> Result<String, CliError> {
        let path = target::directory_or_beside(path)?;
        let explained = self.client.quota_explain(&path.to_string_lossy())?;
        let project = explained.scopes.into_iter().find_map(|scope| match scope.row.scope {
            ScopeRef::Project { id } => Some(id),
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
        });
        project.ok_or_else(|| {
            CliError::new(ErrorCode::Internal, "the daemon names no workspace for the path")
                .with_hint("daemon and command may be of different versions: restart the daemon")
        })
    }

    /// A word without a prefix: a user or a workspace, but not both.
    fn plain(&self, text: &str) -> Result<PolicyTarget, CliError> {
        let user = self.find_user(text);
        let projects = self.project_ids(text);
        match (user, projects.is_empty()) {
            (Some(uid), true) => Ok(PolicyTarget::User { uid }),
            (None, false) => Ok(PolicyTarget::Project { id: self.named_project(text)? }),
            (Some(_), false) => Err(CliError::new(
                ErrorCode::InvalidRequest,
                format!("\"{text}\" is the name of a user and of a workspace"),
            )
            .with_hint(format!("write user:{text} or project:{text}"))),
            (None, true) => {
                let error = CliError::new(
                    ErrorCode::NotFound,
                    format!("no user and no workspace is named \"{text}\""),
                );
                let names = self.users.names().chain(self.project_names());
                Err(error.with_hint(self.suggestion(text, names, "see `wsguard quota report`")))
            }
        }
    }

    fn suggestion<'b>(&self, wanted: &str, names: impl Iterator<Item = &'b str>, otherwise: &str) -> String {
        let similar = names
            .map(|name| (strsim::jaro_winkler(wanted, name), name))
            .filter(|(similarity, _)| *similarity >= SUGGESTION_THRESHOLD);
        match similar.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, name)) => format!("did you mean \"{name}\"? {otherwise}"),
            None => otherwise.to_owned(),
        }
    }

    /// Returns a subject of the audit with names for numbers.
    pub(super) fn shown(&self, subject: &str) -> String {
        match subject.split_once(':') {
            Some(("user", uid)) => uid
                .parse()
                .map_or_else(|_| subject.to_owned(), |uid| format!("user:{}", self.users.name(uid))),
            Some(("project", id)) => {
                let wanted = ScopeRef::Project { id: id.to_owned() };
                let row = self.report.items.iter().find(|row| row.scope == wanted);
                row.and_then(|row| row.name.as_ref())
                    .map_or_else(|| subject.to_owned(), |name| format!("project:{name}"))
            }
            _ => template_text(subject),
        }
    }
}

impl Names for Directory<'_> {
    fn uid(&self, name: &str) -> Option<u32> {
        self.find_user(name)
    }

    fn project(&self, name: &str) -> Option<String> {
        self.named_project(name).ok()
    }
}

/// The daemon writes `GROUP/each-user`; people type `template:GROUP`.
fn template_text(subject: &str) -> String {
    let template = |group: &str| {
        if group == DEFAULT_GROUP { group.to_owned() } else { format!("template:{group}") }
    };
    match subject.rsplit_once('/') {
        Some((group, "each-user")) if !group.contains([':', '/']) => template(group),
        Some((group, "each-project")) if !group.contains([':', '/']) => {
            format!("{} --each-project", template(group))
        }
        _ => subject.to_owned(),
    }
}

/// Returns a level of the policy as people write it.
pub(super) fn target_text(target: &PolicyTarget, users: &Users, name: Option<&str>) -> String {
    match target {
        PolicyTarget::Pool { path } => format!("pool:{}", path.display()),
        PolicyTarget::Group { name } => format!("group:{name}"),
        PolicyTarget::User { uid } => format!("user:{}", users.name(*uid)),
        PolicyTarget::Project { id } => format!("project:{}", name.unwrap_or(id)),
        PolicyTarget::EachUser { group } => template_text(&format!("{group}/each-user")),
        PolicyTarget::EachProject { group } => template_text(&format!("{group}/each-project")),
    }
}

/// Returns a scope as people write it.
pub(super) fn scope_text(scope: &ScopeRef, users: &Users, name: Option<&str>) -> String {
    match scope {
        ScopeRef::Pool { path } => format!("pool:{}", path.display()),
        ScopeRef::Group { name } => format!("group:{name}"),
        ScopeRef::User { uid } => format!("user:{}", users.name(*uid)),
        ScopeRef::Project { id } => format!("project:{}", name.unwrap_or(id)),
    }
}

fn is_path(text: &str) -> bool {
    text.contains('/') || matches!(text, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_shown_as_they_are_typed() {
        assert_eq!(template_text("students/each-user"), "template:students");
        assert_eq!(template_text("default/each-project"), "default --each-project");
        assert_eq!(template_text("pool:/data/each-user"), "pool:/data/each-user");
        assert_eq!(template_text("group:x"), "group:x");
    }
}
