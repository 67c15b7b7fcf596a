//! The quota policy as a file: TOML with sizes and names as people write them.
//!
//! ```toml
//! [default]
//! each-user = { hard = "100G", soft = "90G", inodes = "1M" }
//!
//! [group.students]
//! members = ["alice", "bob"]
//! each-user = { hard = "500G", grace = "14d" }
//! each-project = { hard = "200G" }
//! total = { hard = "10T" }
//!
//! [user.carol]
//! hard = "1T"
//!
//! [project.bert]
//! hard = "300G"
//!
//! [pool."/data"]
//! hard = "20T"
//! ```

mod ds01;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wsguard_api::{
    Bound, Bounds, ErrorCode, GroupMembers, LimitSpec, PolicyDocument, PolicyRecord, PolicyTarget,
    QuotaErrno, QuotaMode,
};

use crate::error::CliError;
use crate::quantity;

pub use ds01::{Ds01Import, Ds01Sources, import};

const DEFAULT_GROUP: &str = "default";

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PolicyFile {
    /// For everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultTable>,
    /// By name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub group: BTreeMap<String, GroupTable>,
    /// By name or uid.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, LimitTable>,
    /// By name or id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub project: BTreeMap<String, LimitTable>,
    /// By a directory on it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pool: BTreeMap<PathBuf, LimitTable>,
}

/// What everybody gets who gets nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DefaultTable {
    /// Each user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each_user: Option<LimitTable>,
    /// Each workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each_project: Option<LimitTable>,
}

/// A group: who is in it and what they get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct GroupTable {
    /// By name or uid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// All members together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<LimitTable>,
    /// Each member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each_user: Option<LimitTable>,
    /// Each workspace of each member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each_project: Option<LimitTable>,
}

/// Limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LimitTable {
    /// Bytes: a size or `unlimited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<String>,
    /// Inodes: a number or `unlimited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inodes: Option<Count>,
    /// Inodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inodes_soft: Option<Count>,
    /// A time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    /// Enforced or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<QuotaMode>,
    /// What a writer gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<QuotaErrno>,
    /// A size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<String>,
}

/// A number of inodes: `100000` or `"1M"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number such as 100000, or text such as \"1M\" or \"unlimited\"")]
pub enum Count {
    /// As it is.
    Number(u64),
    /// To be read.
    Text(String),
}

/// Names and what the daemon calls them.
pub trait Names {
    /// Returns the uid of a user, named by name or number.
    fn uid(&self, name: &str) -> Option<u32>;
    /// Returns the id of a workspace, named by name or id.
    fn project(&self, name: &str) -> Option<String>;
}

impl PolicyFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names the line and what is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CliError> {
        toml::from_str(text).map_err(|source| {
            let line = source
                .span()
                .map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            CliError::new(
                ErrorCode::InvalidRequest,
                format!("the policy {} is wrong in line {line}", path.display()),
            )
            .because(source.message().replace('\n', " "))
            .with_hint("see `wsguard quota apply --help` for what a file looks like")
        })
    }

    /// Returns the text of a file.
    ///
    /// # Errors
    /// Fails if a value has no form in TOML, such as a path that is not UTF-8.
    pub fn text(&self) -> Result<String, CliError> {
        toml::to_string_pretty(self).map_err(|source| {
            CliError::new(ErrorCode::Internal, "cannot write the policy as TOML").because(source.to_string())
        })
    }

    /// Takes out users that `names` does not know, and returns them.
    pub fn remove_unknown_users(&mut self, names: &dyn Names) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut keep = |name: &String| {
            let is_known = names.uid(name).is_some();
            if !is_known {
                unknown.push(name.clone());
            }
            is_known
        };
        for group in self.group.values_mut() {
            group.members.retain(&mut keep);
        }
        self.user.retain(|name, _| keep(name));
        unknown.sort();
        unknown.dedup();
        unknown
    }

    /// Turns names and sizes into what the daemon understands.
    ///
    /// # Errors
    /// Names the table and what is wrong in it.
    pub fn document(&self, names: &dyn Names) -> Result<PolicyDocument, CliError> {
        let mut document = PolicyDocument::default();
        let mut push =
            |place: String, target: PolicyTarget, table: &Option<LimitTable>| -> Result<(), CliError> {
                let Some(table) = table else { return Ok(()) };
                let spec = table.spec(&place)?;
                document.records.push(PolicyRecord { target, spec });
                Ok(())
            };
        let everybody = || DEFAULT_GROUP.to_owned();
        if let Some(default) = &self.default {
            push(
                "default.each-user".into(),
                PolicyTarget::EachUser { group: everybody() },
                &default.each_user,
            )?;
            let target = PolicyTarget::EachProject { group: everybody() };
            push("default.each-project".into(), target, &default.each_project)?;
        }
        for (name, table) in &self.group {
            let place = |part: &str| format!("group.{name}.{part}");
            push(place("total"), PolicyTarget::Group { name: name.clone() }, &table.total)?;
            push(place("each-user"), PolicyTarget::EachUser { group: name.clone() }, &table.each_user)?;
            push(
                place("each-project"),
                PolicyTarget::EachProject { group: name.clone() },
                &table.each_project,
            )?;
        }
        for (name, table) in &self.user {
            let uid = names.uid(name).ok_or_else(|| unknown_user(name, &format!("user.{name}")))?;
            push(format!("user.{name}"), PolicyTarget::User { uid }, &Some(table.clone()))?;
        }
        for (name, table) in &self.project {
            let id = names.project(name).ok_or_else(|| {
                CliError::new(ErrorCode::NotFound, format!("no workspace is named {name:?} (project.{name})"))
                    .with_hint("see `wsguard ls`; a workspace can be named by its id too")
            })?;
            push(format!("project.{name}"), PolicyTarget::Project { id }, &Some(table.clone()))?;
        }
        for (path, table) in &self.pool {
            let target = PolicyTarget::Pool { path: path.clone() };
            push(format!("pool.{}", path.display()), target, &Some(table.clone()))?;
        }
        for (name, table) in self.group.iter().filter(|(_, table)| !table.members.is_empty()) {
            let place = format!("group.{name}.members");
            let uid = |member: &String| names.uid(member).ok_or_else(|| unknown_user(member, &place));
            let uids = table.members.iter().map(uid).collect::<Result<Vec<u32>, CliError>>()?;
            document.members.push(GroupMembers { group: name.clone(), uids });
        }
        Ok(document)
    }
}

fn unknown_user(name: &str, place: &str) -> CliError {
    CliError::new(ErrorCode::NotFound, format!("no user is named {name:?} ({place})"))
        .with_hint("correct the name, or leave such users out with --skip-unknown-users")
}

impl LimitTable {
    /// Reads the values; `place` is the table's name in the file.
    fn spec(&self, place: &str) -> Result<LimitSpec, CliError> {
        let read =
            |key: &str, result: Result<u64, String>| result.map_err(|reason| wrong(place, key, reason));
        let size = |key: &str, text: &Option<String>| {
            let bound = text.as_deref().map(quantity::size_bound).transpose();
            bound.map_err(|reason| wrong(place, key, reason))
        };
        let count = |key: &str, count: &Option<Count>| match count {
            None => Ok(None),
            Some(Count::Number(number)) => Ok(Some(Bound::At(*number))),
            Some(Count::Text(text)) => {
                quantity::count_bound(text).map(Some).map_err(|reason| wrong(place, key, reason))
            }
        };
        let bounds = |key: &str, soft: Option<Bound>, hard: Option<Bound>| match (soft, hard) {
            (None, None) => Ok(None),
            (soft, Some(hard)) => Ok(Some(Bounds { soft: soft.unwrap_or(Bound::Unlimited), hard })),
            (Some(_), None) => Err(wrong(
                place,
                key,
                "a soft limit needs the hard one beside it, or \"unlimited\" for it".into(),
            )),
        };
        Ok(LimitSpec {
            bytes: bounds("soft", size("soft", &self.soft)?, size("hard", &self.hard)?)?,
            inodes: bounds(
                "inodes-soft",
                count("inodes-soft", &self.inodes_soft)?,
                count("inodes", &self.inodes)?,
            )?,
            grace_seconds: self
                .grace
                .as_deref()
                .map(|text| read("grace", quantity::seconds(text)))
                .transpose()?,
            mode: self.mode,
            errno: self.errno,
            headroom_bytes: self
                .headroom
                .as_deref()
                .map(|text| read("headroom", quantity::size(text)))
                .transpose()?,
        })
    }
}

fn wrong(place: &str, key: &str, reason: String) -> CliError {
    CliError::new(ErrorCode::InvalidRequest, format!("{key} of [{place}] is wrong"))
        .because(reason)
        .with_hint("see `wsguard quota apply --help` for what a file looks like")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) struct Known;

    impl Names for Known {
        fn uid(&self, name: &str) -> Option<u32> {
            match name {
                "alice" => Some(1000),
                "bob" => Some(1001),
                number => number.parse().ok().filter(|uid| *uid < 2000),
            }
        }

        fn project(&self, name: &str) -> Option<String> {
            (name == "bert").then(|| "w1".to_owned())
        }
    }

    fn document(text: &str) -> Result<PolicyDocument, CliError> {
        PolicyFile::parse(text, Path::new("/p.toml"))?.document(&Known)
    }

    #[test]
    fn every_table_becomes_a_record() {
        let text = "
            [default]
            each-user = { hard = \"100G\", soft = \"90G\", inodes = \"1M\" }
            each-project = { mode = \"track\" }
            [group.students]
            members = [\"alice\", \"1001\"]
            total = { hard = \"10T\" }
            each-user = { hard = \"unlimited\", grace = \"14d\" }
            [user.bob]
            hard = \"1T\"
            errno = \"enospc\"
            headroom = \"0\"
            [project.bert]
            inodes = 5
            [pool.\"/data\"]
            hard = \"20T\"
        ";
        let document = document(text).unwrap();
        assert_eq!(document.records.len(), 7);
        let spec = |wanted: PolicyTarget| {
            document.records.iter().find(|record| record.target == wanted).map(|record| record.spec.clone())
        };
        let default = spec(PolicyTarget::EachUser { group: "default".into() }).unwrap();
        assert_eq!(default.bytes, Some(Bounds { soft: Bound::At(90 << 30), hard: Bound::At(100 << 30) }));
        assert_eq!(default.inodes, Some(Bounds { soft: Bound::Unlimited, hard: Bound::At(1_000_000) }));
        let each = spec(PolicyTarget::EachUser { group: "students".into() }).unwrap();
        assert_eq!((each.bytes.unwrap().hard, each.grace_seconds), (Bound::Unlimited, Some(1_209_600)));
        assert!(spec(PolicyTarget::Project { id: "w1".into() }).is_some());
        assert!(spec(PolicyTarget::Pool { path: "/data".into() }).is_some());
        assert_eq!(document.members, [GroupMembers { group: "students".into(), uids: vec![1000, 1001] }]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let cases = [
            ("[user.alice]\nhard = \"10\"", "hard of [user.alice]", ErrorCode::InvalidRequest),
            ("[user.alice]\nsoft = \"10G\"", "soft of [user.alice]", ErrorCode::InvalidRequest),
            ("[user.alice]\n\nhrad = \"10G\"", "line 3", ErrorCode::InvalidRequest),
            ("[user.nobody-here]\nhard = \"10G\"", "nobody-here", ErrorCode::NotFound),
            ("[group.x]\nmembers = [\"ghost\"]", "group.x.members", ErrorCode::NotFound),
            ("[project.gpt]\nhard = \"10G\"", "project.gpt", ErrorCode::NotFound),
        ];
        for (text, says, code) in cases {
            let error = document(text).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert_eq!(error.code(), code, "{text}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn unknown_users_can_be_left_out() {
        let text = "[group.x]\nmembers = [\"ghost\", \"alice\"]\n[user.spook]\nhard = \"1G\"\n";
        let mut file = PolicyFile::parse(text, Path::new("p")).unwrap();
        assert_eq!(file.remove_unknown_users(&Known), ["ghost", "spook"]);
        assert_eq!(file.document(&Known).unwrap().members[0].uids, [1000]);
    }

    #[test]
    fn a_written_file_is_read_as_the_same() {
        let text = "[default]\neach-user = { hard = \"100G\" }\n[group.x]\nmembers = [\"alice\"]\n[user.1000]\ninodes = 7\n";
        let file = PolicyFile::parse(text, Path::new("p")).unwrap();
        assert_eq!(PolicyFile::parse(&file.text().unwrap(), Path::new("p")).unwrap(), file);
    }
}
