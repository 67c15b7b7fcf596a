//! Who sent a request, and the two facts about them that the request does not carry.

use rustix::io::Errno;

/// The process behind a request, as the kernel names it in the initial namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Filesystem uid.
    pub(crate) uid: u32,
    /// Filesystem gid.
    pub(crate) gid: u32,
    /// Thread id; 0 when the process lives in a pid namespace that the daemon cannot see.
    pub(crate) pid: u32,
}

/// CAP_FSETID in a `CapEff` line of /proc/pid/status.
const CAP_FSETID_BIT: u64 = 1 << 4;

impl Caller {
    /// Whether the caller may keep the setgid bit of a file whose group is `gid`
    /// (`in_group_or_capable` in fs/attr.c).
    ///
    /// Reads /proc, so it is asked only where the answer changes the result. A process that cannot be read
    /// gets the safe answer, no.
    pub(crate) fn may_keep_setgid(self, gid: u32) -> bool {
        self.gid == gid
            || self
                .status()
                .is_ok_and(|status| status.is_in_group(gid) || (self.uid == 0 && status.has_fsetid()))
    }

    /// Whether the caller holds CAP_FSETID, which keeps setuid and setgid bits over a truncation.
    ///
    /// Reads /proc as above; every uid but 0 is taken for an ordinary user.
    pub(crate) fn has_fsetid(self) -> bool {
        self.uid == 0 && self.status().is_ok_and(|status| status.has_fsetid())
    }

    fn status(self) -> Result<Status, Errno> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Status::parse(&text))
    }
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Status {
    groups: Vec<u32>,
    effective_capabilities: u64,
}

impl Status {
    fn parse(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Self {
            groups: field("Groups:")
                .unwrap_or_default()
                .split_ascii_whitespace()
                .filter_map(|group| group.parse().ok())
                .collect(),
            effective_capabilities: field("CapEff:")
                .and_then(|bits| u64::from_str_radix(bits, 16).ok())
                .unwrap_or(0),
        }
    }

    fn is_in_group(&self, gid: u32) -> bool {
        self.groups.contains(&gid)
    }

    fn has_fsetid(&self) -> bool {
        self.effective_capabilities & CAP_FSETID_BIT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_fsetid_are_read_from_the_status() {
        let status = Status::parse("Name:\tx\nGroups:\t4 24 1000 \nCapEff:\t0000000000000000\n");
        assert!(status.is_in_group(24) && !status.is_in_group(25));
        assert!(!status.has_fsetid());
        assert!(Status::parse("CapEff:\t0000000000000010\n").has_fsetid());
        assert_eq!(Status::parse("garbage"), Status::default());
    }
}
