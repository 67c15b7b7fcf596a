//! The names of DS01's programs: a link to this program with such a name does what that program did.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Each name and the command that stands for it.
pub const LINKS: [(&str, &[&str]); 2] =
    [("quota-check", &["quota", "get"]), ("check-limits", &["quota", "get"])];

/// Puts the command that the program's name stands for in front of the other arguments.
pub fn expand(arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let Some((_, command)) = LINKS.iter().find(|(link, _)| name == Some(OsStr::new(link))) else {
        return arguments;
    };
    let mut rest = arguments.into_iter();
    let program = rest.next();
    program.into_iter().chain(command.iter().map(OsString::from)).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(arguments: &[&str]) -> Vec<OsString> {
        expand(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_link_stands_for_its_command_and_keeps_its_arguments() {
        let path = "/usr/local/bin/quota-check";
        assert_eq!(expanded(&[path, "alice", "--json"]), [path, "quota", "get", "alice", "--json"]);
        assert_eq!(expanded(&["check-limits"]), ["check-limits", "quota", "get"]);
        assert_eq!(expanded(&["wsguard", "quota-check"]), ["wsguard", "quota-check"]);
        assert!(expanded(&[]).is_empty());
    }
}
