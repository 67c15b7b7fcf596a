//! Names of the uids that tables show.

use std::collections::HashMap;

/// The accounts in `/etc/passwd`; a uid that is only in a directory service is shown as its number.
#[derive(Clone, Debug, Default)]
pub struct Users {
    names: HashMap<u32, String>,
}

impl Users {
    /// Reads this machine's accounts.
    pub fn of_this_machine() -> Self {
        // Names are a courtesy: without the file every owner is shown by number.
        std::fs::read("/etc/passwd")
            .map(|text| Self::parse(&String::from_utf8_lossy(&text)))
            .unwrap_or_default()
    }

    /// Reads accounts in the format of passwd(5); the first name of a uid wins, as in getpwuid(3).
    pub fn parse(text: &str) -> Self {
        let mut names = HashMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(_), Some(uid)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if let Ok(uid) = uid.parse::<u32>() {
                names.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self { names }
    }

    /// Returns the uid of a user named by name or number, as this machine knows users: by its files, then by its
    /// directory service. A number is a user only if somebody has it.
    pub fn uid(&self, name: &str) -> Option<u32> {
        if let Ok(uid) = name.parse::<u32>() {
            return (self.names.contains_key(&uid) || uzers::get_user_by_uid(uid).is_some()).then_some(uid);
        }
        // Of several uids with one name the first in the file would win; files with two are broken.
        let listed = self.names.iter().filter(|(_, known)| *known == name).map(|(uid, _)| *uid).min();
        listed.or_else(|| uzers::get_user_by_name(name).map(|user| user.uid()))
    }

    /// Returns the names of the accounts that are known without asking a directory service.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(String::as_str)
    }

    /// Returns the name, or the number where there is none.
    pub fn name(&self, uid: u32) -> String {
        self.names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Returns name and number: `alice (1000)`, or `uid 1000` where there is no name.
    pub fn full(&self, uid: u32) -> String {
        match self.names.get(&uid) {
            Some(name) => format!("{name} ({uid})"),
            None => format!("uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_passwd_and_fall_back_to_numbers() {
        let users = Users::parse("root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:\n");
        assert_eq!(users.full(1000), "alice (1000)");
        assert_eq!(users.name(0), "root");
        assert_eq!((users.uid("alice"), users.uid("bob")), (Some(1000), None));
        assert_eq!(users.full(7), "uid 7");
    }

    #[test]
    fn users_are_found_by_name_and_by_the_numbers_that_somebody_has() {
        let users = Users::parse("alice:x:1000:1000::/home/alice:\n");
        assert_eq!(users.uid("alice"), Some(1000));
        assert_eq!(users.uid("1000"), Some(1000));
        assert_eq!(users.uid("root"), Some(0));
        assert_eq!(users.uid("no-such-user"), None);
        assert_eq!(users.uid("4294967294"), None);
        assert_eq!(users.uid("-1"), None);
    }
}
