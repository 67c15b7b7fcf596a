//! What DS01 calls storage: the keys `storage_workspace` of its `resource-limits.yaml`, its `*.members` files and its
//! `user-overrides.yaml`.
//!
//! A size there becomes a soft limit, with the hard one 10 % above it and an inode for each 100 KiB, as DS01 planned
//! them. An override inherits from the user's group, which DS01's documents say and its program does not do.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use wsguard_api::ErrorCode;

use super::{Count, DefaultTable, GroupTable, LimitTable, PolicyFile};
use crate::error::CliError;
use crate::quantity;

/// An inode for each so many bytes.
const BYTES_AN_INODE: u64 = 100 << 10;

/// The texts that are imported.
#[derive(Clone, Copy, Debug)]
pub struct Ds01Sources<'a> {
    /// `resource-limits.yaml` and its path.
    pub limits: (&'a str, &'a Path),
    /// `user-overrides.yaml` and its path.
    pub overrides: Option<(&'a str, &'a Path)>,
    /// Each `<group>.members`: the group and the text.
    pub members: &'a [(String, String)],
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ds01Import {
    /// The policy.
    pub file: PolicyFile,
    /// What was left out and why, one line each.
    pub notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Limits {
    #[serde(default)]
    defaults: Storage,
    #[serde(default)]
    default_group: Option<String>,
    #[serde(default)]
    groups: BTreeMap<String, Group>,
    #[serde(default)]
    user_overrides: Option<BTreeMap<String, Option<Storage>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Group {
    members: Option<Vec<String>>,
    #[serde(flatten)]
    storage: Storage,
}

/// Keys that say nothing of storage are other programs' business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Storage {
    #[serde(deserialize_with = "said")]
    storage_workspace: Option<Option<Size>>,
    #[serde(deserialize_with = "said")]
    storage_data: Option<Option<Size>>,
    #[serde(deserialize_with = "said")]
    storage_tmp: Option<Option<Size>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a size such as 100G, or null for unlimited")]
enum Size {
    Bytes(u64),
    Text(String),
}

/// Tells `null`, which is unlimited, from a key that is not there.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Size>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Turns DS01's files into a policy.
///
/// # Errors
/// Names the file and what is wrong in it.
pub fn import(sources: Ds01Sources<'_>) -> Result<Ds01Import, CliError> {
    let (text, path) = sources.limits;
    let limits: Limits = parse(text, path)?;
    let mut overrides = limits.user_overrides.unwrap_or_default();
    if let Some((text, path)) = sources.overrides {
        // A file of comments only is no mapping.
        let parsed: Option<BTreeMap<String, Option<Storage>>> = parse(text, path)?;
        overrides.extend(parsed.unwrap_or_default());
    }
    let mut notes = Vec::new();
    let mut file = PolicyFile::default();
    let mut own: BTreeMap<String, Option<LimitTable>> = BTreeMap::new();
    for (name, group) in limits.groups {
        let place = format!("groups.{name}");
        own.insert(name.clone(), table(&group.storage, &place, path, &mut notes)?);
        let listed = sources.members.iter().filter(|(of, _)| *of == name);
        let mut members = group.members.unwrap_or_default();
        members.extend(listed.flat_map(|(_, text)| member_names(text)));
        members.sort();
        members.dedup();
        file.group.insert(name, GroupTable { members, ..GroupTable::default() });
    }
    for (name, _) in sources.members.iter().filter(|(name, _)| !own.contains_key(name)) {
        notes.push(format!("{name}.members is left out: no group {name} in {}", path.display()));
    }
    let defaults = table(&limits.defaults, "defaults", path, &mut notes)?;
    // Whoever is in no group is treated as a member of the default one.
    let of_default_group = limits.default_group.and_then(|name| own.get(&name).cloned()).flatten();
    let everybody = of_default_group.clone().or_else(|| defaults.clone());
    for (name, table) in own {
        // What a group does not say comes from `defaults`, not from the default group.
        let inherited = if of_default_group.is_some() { defaults.clone() } else { None };
        if let Some(group) = file.group.get_mut(&name) {
            group.each_user = table.or(inherited);
        }
    }
    file.default = everybody.map(|each_user| DefaultTable { each_user: Some(each_user), each_project: None });
    for (name, storage) in overrides {
        let storage = storage.unwrap_or_default();
        if let Some(table) = table(&storage, &format!("the override of {name}"), path, &mut notes)? {
            file.user.insert(name, table);
        }
    }
    Ok(Ds01Import { file, notes })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, path: &Path) -> Result<T, CliError> {
    serde_saphyr::from_str(text).map_err(|source| {
        CliError::new(ErrorCode::InvalidRequest, format!("{} is not what DS01 has there", path.display()))
            .because(source.to_string().lines().next().unwrap_or_default().to_owned())
            .with_hint("give DS01's resource-limits.yaml, and its user-overrides.yaml with --overrides")
    })
}

fn table(
    storage: &Storage,
    place: &str,
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<Option<LimitTable>, CliError> {
    for (key, value) in [("storage_data", &storage.storage_data), ("storage_tmp", &storage.storage_tmp)] {
        if value.is_some() {
            notes.push(format!("{key} of {place} is left out: it is not about workspaces"));
        }
    }
    let Some(size) = &storage.storage_workspace else { return Ok(None) };
    let bytes = match size {
        None => {
            let hard = Some("unlimited".to_owned());
            return Ok(Some(LimitTable { hard, ..LimitTable::default() }));
        }
        Some(Size::Bytes(bytes)) => *bytes,
        Some(Size::Text(text)) => quantity::size(text).map_err(|reason| {
            let message = format!("storage_workspace of {place} in {} is wrong", path.display());
            CliError::new(ErrorCode::InvalidRequest, message)
                .because(reason)
                .with_hint("give a size such as 100G, or null for unlimited")
        })?,
    };
    let inodes = bytes / BYTES_AN_INODE;
    Ok(Some(LimitTable {
        soft: Some(quantity::size_text(bytes)),
        // In whole MiB, so that people can read it.
        hard: Some(quantity::size_text((a_tenth_more(bytes) >> 20 << 20).max(bytes))),
        inodes_soft: Some(Count::Number(inodes)),
        inodes: Some(Count::Number(a_tenth_more(inodes))),
        ..LimitTable::default()
    }))
}

fn a_tenth_more(number: u64) -> u64 {
    number.saturating_add(number / 10)
}

/// One name a line; `#` begins a comment.
fn member_names(text: &str) -> impl Iterator<Item = String> {
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources<'a>(limits: &'a str, members: &'a [(String, String)]) -> Ds01Sources<'a> {
        Ds01Sources { limits: (limits, Path::new("/l.yaml")), overrides: None, members }
    }

    fn hard(table: Option<&LimitTable>) -> Option<&str> {
        table.and_then(|table| table.hard.as_deref())
    }

    const LIMITS: &str = "
defaults:
  max_cpus: 32
  memory: 32g
  storage_workspace: 100G
  storage_tmp: 50G
default_group: student
groups:
  student:
    members: [carol]
    storage_workspace: 500G
    aggregate: {cpu_quota: \"9600%\", tasks_max: 12288}
  researcher:
    max_runtime: 48h
  admin:
    storage_workspace: null
user_overrides:
  thesis: {storage_workspace: 1T, reason: thesis}
  other: {max_cpus: 4}
policies: {high_demand_threshold: 0.8}
";

    #[test]
    fn storage_keys_become_limits_and_nothing_else_does() {
        let members = [("student".to_owned(), "# digits\nalice\n\nbob # left\n".to_owned())];
        let Ds01Import { file, notes } = import(sources(LIMITS, &members)).unwrap();
        let each = |group: &str| file.group[group].each_user.as_ref();
        assert_eq!(hard(each("student")), Some("550G"));
        assert_eq!(file.group["student"].members, ["alice", "bob", "carol"]);
        assert_eq!(hard(each("researcher")), Some("110G"));
        assert_eq!(hard(each("admin")), Some("unlimited"));
        let default = file.default.as_ref().and_then(|default| default.each_user.as_ref());
        assert_eq!(hard(default), Some("550G"));
        assert_eq!(default.unwrap().soft.as_deref(), Some("500G"));
        assert_eq!(default.unwrap().inodes_soft, Some(Count::Number(5_242_880)));
        assert_eq!(file.user.keys().collect::<Vec<_>>(), ["thesis"]);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("storage_tmp"), "{notes:?}");
    }

    #[test]
    fn an_overrides_file_is_read_too() {
        let text = "# nothing\nj.doe@domain:\n  storage_workspace: 2T\nx: ~\n";
        let overrides = Some((text, Path::new("/o.yaml")));
        let import = import(Ds01Sources { overrides, ..sources("groups: {}\n", &[]) }).unwrap();
        assert_eq!(hard(import.file.user.get("j.doe@domain")), Some("2306867M"));
        assert_eq!(import.file.user.len(), 1);
    }

    #[test]
    fn a_wrong_size_and_a_wrong_file_are_refused() {
        let wrong_size = import(sources("defaults: {storage_workspace: 1.2MBB}\n", &[])).unwrap_err();
        assert!(wrong_size.to_string().contains("defaults"), "{wrong_size}");
        assert!(import(sources("groups: [a, b]\n", &[])).is_err());
        assert!(import(sources("groups: {a: {storage_workspace: [1]}}\n", &[])).is_err());
    }

    #[test]
    fn members_of_a_group_that_is_not_there_are_told() {
        let members = [("ghosts".to_owned(), "a\n".to_owned())];
        let import = import(sources("groups: {}\n", &members)).unwrap();
        assert!(import.notes[0].contains("ghosts.members"), "{:?}", import.notes);
    }
}
