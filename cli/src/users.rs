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

    /// Returns the name, or the number where there is none.
    pub fn name(&self, uid: u32) -> String {
        self.names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Returns the uid of a name.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.names.iter().find(|(_, known)| *known == name).map(|(uid, _)| *uid)
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
}
