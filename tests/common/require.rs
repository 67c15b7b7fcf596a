use std::{
    io::Write,
    path::{Path, PathBuf},
};

use crate::{docker, target_dir};

/// Something that a test needs and that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facility {
    /// The effective user is root.
    Root,
    /// `/dev/fuse` can be opened, by root.
    Fuse,
    /// A container engine answers, or can be started.
    Docker,
    /// A Debian image can be built: a container engine and debootstrap.
    Debian,
    /// xfs can be made and mounted on a loop device.
    Xfs,
    /// btrfs can be made and mounted on a loop device.
    Btrfs,
    /// ext4 can be made and mounted on a loop device.
    Ext4,
    /// The environment variable `WSGUARD_LONG` is set to 1.
    Long,
    /// One of the external suites; see [`require_tool`].
    Suites,
}

impl Facility {
    /// Returns the name that `WSGUARD_REQUIRE` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Fuse => "fuse",
            Self::Docker => "docker",
            Self::Debian => "debian",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ext4 => "ext4",
            Self::Long => "long",
            Self::Suites => "suites",
        }
    }

    /// Returns the facility of that name.
    ///
    /// Panics for a name that does not exist, which is a mistake in the test.
    pub fn named(name: &str) -> Self {
        const ALL: [Facility; 9] = [
            Facility::Root,
            Facility::Fuse,
            Facility::Docker,
            Facility::Debian,
            Facility::Xfs,
            Facility::Btrfs,
            Facility::Ext4,
            Facility::Long,
            Facility::Suites,
        ];
        let found = ALL.into_iter().find(|facility| facility.name() == name);
        found.unwrap_or_else(|| panic!("there is no facility named {name:?}"))
    }

    /// Tells whether the test may go on; says why not on standard error.
    ///
    /// Panics if it is missing and `WSGUARD_REQUIRE`, a list separated by commas, names it.
    pub fn check(self) -> bool {
        let Some(reason) = self.missing() else { return true };
        skip(self, &reason);
        false
    }

    /// Returns why it cannot be used, or nothing if it can.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!is_root()).then(|| "it needs root".to_owned()),
            Self::Fuse => Self::Root.missing().or_else(fuse_missing),
            Self::Docker => docker::missing(),
            Self::Debian => docker::missing().or_else(|| program_missing("debootstrap")),
            Self::Xfs => filesystem_missing("xfs"),
            Self::Btrfs => filesystem_missing("btrfs"),
            Self::Ext4 => filesystem_missing("ext4"),
            Self::Long => {
                let is_set = std::env::var_os("WSGUARD_LONG").is_some_and(|value| value == "1");
                (!is_set).then(|| "it takes minutes: set WSGUARD_LONG=1 to run it".to_owned())
            }
            Self::Suites => None,
        }
    }
}

/// Ends the test here, with a note on standard error, unless every named facility is there.
///
/// Names: `root`, `fuse`, `docker`, `debian`, `xfs`, `btrfs`, `ext4`, `long`. A missing facility that the
/// environment variable `WSGUARD_REQUIRE` names (a list separated by commas) fails the test instead.
#[macro_export]
macro_rules! require {
    ($($facility:ident),+ $(,)?) => {
        $(
            if !$crate::Facility::named(stringify!($facility)).check() {
                return;
            }
        )+
    };
}

/// Returns the path of an external test program, from `TARGET/tools/bin` or `PATH`.
///
/// If there is none it says so on standard error, or panics if `WSGUARD_REQUIRE` names `suites`.
pub fn require_tool(name: &str) -> Option<PathBuf> {
    let installed = target_dir().join("tools/bin").join(name);
    let found = if installed.is_file() { Some(installed) } else { find_program(name) };
    if found.is_none() {
        skip(Facility::Suites, &format!("`{name}` is not installed"));
    }
    found
}

/// Returns where a program lies in `PATH`, or in the directories for root's programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

pub(crate) fn program_missing(name: &str) -> Option<String> {
    find_program(name).is_none().then(|| format!("`{name}` is not installed"))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says something on standard error at once; the test runner's capture would hide it until a failure.
pub(crate) fn note(text: &str) {
    // Nobody can be told that standard error is closed.
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn skip(facility: Facility, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let required = std::env::var("WSGUARD_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name.trim() == facility.name());
    assert!(!is_required, "{test} cannot run: {reason}, and WSGUARD_REQUIRE={required} forbids to skip it");
    note(&format!("SKIPPED: {test}: {reason}"));
}

fn fuse_missing() -> Option<String> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    opened.err().map(|error| format!("/dev/fuse cannot be opened: {error}"))
}

fn filesystem_missing(kind: &str) -> Option<String> {
    if !is_root() {
        return Some("it needs root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".to_owned());
    }
    program_missing(&format!("mkfs.{kind}"))
}
