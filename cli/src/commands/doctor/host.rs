//! What this machine and this process offer a daemon.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::client::Client;
use crate::commands::doctor::check::Check;
use crate::env_vars;

/// Passthrough for the daemon's reads came with it.
const PASSTHROUGH_KERNEL: (u32, u32) = (6, 9);

/// mount_setattr(2) and FUSE_HANDLE_KILLPRIV_V2 came with it; without them nothing can be mounted safely.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// The daemon keeps at most 2,048 files open for itself, and one for each file that users have open.
const FD_LIMIT: u64 = 8_192;

/// One watch for each directory of a workspace.
const WATCH_LIMIT: u64 = 65_536;

/// How long dockerd may take to answer.
const DOCKER_LIMIT: Duration = Duration::from_secs(2);
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// A capability's name, its bit (capability.h) and what it is needed for.
type Capability = (&'static str, u32, &'static str);

const CAPABILITIES: [Capability; 6] = [
    ("CAP_SYS_ADMIN", 21, "mounts and passthrough"),
    ("CAP_DAC_READ_SEARCH", 2, "opening files by handle"),
    ("CAP_SETUID", 7, "acting as the user who asks"),
    ("CAP_SETGID", 6, "acting as the group that asks"),
    ("CAP_CHOWN", 0, "giving new files to their owner"),
    ("CAP_FOWNER", 3, "changing modes and times on behalf of owners"),
];

/// Looks at everything that needs no daemon; `daemon_pid` is the process whose privileges count, if one runs.
pub(super) fn checks(daemon_pid: Option<u32>) -> Vec<Check> {
    let mut checks = vec![
        kernel(&rustix::system::uname().release().to_string_lossy()),
        fuse_device(),
        fuse_filesystem(&fs::read_to_string("/proc/filesystems")),
        capabilities(daemon_pid),
        descriptor_limit(daemon_pid),
        watches(&number_in("/proc/sys/fs/inotify/max_user_watches")),
    ];
    checks.extend(request_timeouts());
    checks.push(docker());
    checks
}

fn kernel(release: &str) -> Check {
    const ID: &str = "host.kernel";
    let (wanted, oldest) = (PASSTHROUGH_KERNEL, OLDEST_KERNEL);
    match version_of(release) {
        None => Check::warning(
            ID,
            format!("cannot read a version in \"{release}\""),
            format!("make sure that the kernel is {}.{} or later", wanted.0, wanted.1),
        ),
        Some(version) if version >= wanted => Check::ok(ID, format!("{release} has passthrough")),
        Some(version) if version >= oldest => Check::warning(
            ID,
            format!("{release} is older than {}.{}: reads go through the daemon", wanted.0, wanted.1),
            format!("boot a kernel {}.{} or later for reads at native speed", wanted.0, wanted.1),
        ),
        Some(_) => Check::problem(
            ID,
            format!("{release} is older than {}.{}", oldest.0, oldest.1),
            format!("boot a kernel {}.{} or later, better {}.{}", oldest.0, oldest.1, wanted.0, wanted.1),
        ),
    }
}

/// Returns major and minor of `6.18.44-fc`, `6.9-rc1`, …
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn fuse_device() -> Check {
    const ID: &str = "host.fuse-device";
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok(ID, "/dev/fuse can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {
            Check::info(ID, "/dev/fuse exists; only root can tell whether it opens")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::problem(
            ID,
            "/dev/fuse does not exist",
            "run `modprobe fuse`; in a container start it with `--device /dev/fuse`",
        ),
        Err(error) => Check::problem(
            ID,
            format!("/dev/fuse cannot be opened: {error}"),
            "run `modprobe fuse`; in a container allow the device (`--device /dev/fuse`)",
        ),
    }
}

fn fuse_filesystem(filesystems: &io::Result<String>) -> Check {
    const ID: &str = "host.fuse-filesystem";
    match filesystems {
        Ok(table) if table.lines().any(|line| line.split_whitespace().eq(["nodev", "fuse"])) => {
            Check::ok(ID, "the kernel has FUSE")
        }
        Ok(_) => Check::problem(
            ID,
            "FUSE is not in /proc/filesystems",
            "run `modprobe fuse`, or boot a kernel with CONFIG_FUSE_FS",
        ),
        Err(error) => Check::warning(
            ID,
            format!("cannot read /proc/filesystems: {error}"),
            "mount /proc where wsguard runs",
        ),
    }
}

fn capabilities(daemon_pid: Option<u32>) -> Check {
    const ID: &str = "host.capabilities";
    let (path, whose) = match daemon_pid {
        Some(pid) => (format!("/proc/{pid}/status"), "the daemon"),
        None if is_root() => ("/proc/self/status".to_owned(), "root here"),
        None => return Check::info(ID, "no daemon runs, and only root can tell what one would be allowed"),
    };
    match fs::read_to_string(&path).ok().as_deref().and_then(effective_capabilities) {
        Some(effective) => capability_check(effective, whose),
        None => Check::warning(
            ID,
            format!("cannot read the capabilities in {path}"),
            "run `sudo wsguard doctor` in the daemon's pid namespace",
        ),
    }
}

fn capability_check(effective: u64, whose: &str) -> Check {
    const ID: &str = "host.capabilities";
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(_, bit, _)| effective & (1 << bit) == 0)
        .map(|(name, _, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> =
            CAPABILITIES.iter().map(|(name, ..)| name.trim_start_matches("CAP_")).collect();
        return Check::ok(ID, format!("{whose} has {}", names.join(", ")));
    }
    Check::problem(
        ID,
        format!("{whose} lacks {}", missing.join(", ")),
        "start the daemon as root on the host, or with these capabilities",
    )
}

/// Returns the effective set out of proc_pid_status(5).
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn descriptor_limit(daemon_pid: Option<u32>) -> Check {
    const ID: &str = "host.descriptors";
    let (whose, limit) = match daemon_pid {
        Some(pid) => {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits"));
            ("the daemon", limits.ok().as_deref().and_then(hard_descriptor_limit))
        }
        None => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
            ("a daemon started here", Some(limit.unwrap_or(u64::MAX)))
        }
    };
    match limit {
        Some(limit) if limit >= FD_LIMIT => {
            let shown = if limit == u64::MAX { "any number of".to_owned() } else { limit.to_string() };
            Check::ok(ID, format!("{whose} may open {shown} files"))
        }
        Some(limit) => Check::problem(
            ID,
            format!("{whose} may open {limit} files, fewer than {FD_LIMIT}"),
            format!("raise the hard limit: `ulimit -Hn {FD_LIMIT}`, or LimitNOFILE= in its service"),
        ),
        None => Check::info(ID, "the daemon's limits cannot be read by this user"),
    }
}

/// Returns the hard limit of open files out of proc_pid_limits(5).
fn hard_descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn watches(limit: &Result<u64, String>) -> Check {
    const ID: &str = "host.watches";
    match limit {
        Ok(limit) if *limit >= WATCH_LIMIT => Check::ok(ID, format!("{limit} directories can be watched")),
        Ok(limit) => Check::warning(
            ID,
            format!(
                "{limit} directories can be watched, fewer than {WATCH_LIMIT}: edits below large mounts show late"
            ),
            "run `sysctl -w fs.inotify.max_user_watches=1048576` and keep it in /etc/sysctl.d",
        ),
        Err(reason) => Check::warning(
            ID,
            format!("no limit of watches: {reason}"),
            "boot a kernel with CONFIG_INOTIFY_USER, or edits below the mount show a second late",
        ),
    }
}

/// A time limit on FUSE requests aborts a mount whose disk or daemon pauses for longer.
fn request_timeouts() -> Vec<Check> {
    const ID: &str = "host.request-timeout";
    let limits = ["default_request_timeout", "max_request_timeout"]
        .map(|name| (name, number_in(&format!("/proc/sys/fs/fuse/{name}"))));
    let mut checks = Vec::new();
    for (name, limit) in limits {
        if let Ok(seconds @ 1..) = limit {
            checks.push(Check::warning(
                ID,
                format!("fs.fuse.{name} is {seconds} s: a pause of the disk or daemon that is longer ends the mount"),
                format!("run `sysctl -w fs.fuse.{name}=0`"),
            ));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(ID, "the kernel sets requests no time limit"));
    }
    checks
}

fn number_in(path: &str) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    text.trim().parse().map_err(|_| format!("{path} holds no number"))
}

/// Docker is not needed to guard a directory, so whatever is found is only told.
fn docker() -> Check {
    const ID: &str = "host.docker";
    let host = std::env::var(env_vars::DOCKER_HOST).unwrap_or_else(|_| format!("unix://{DOCKER_SOCKET}"));
    let Some(socket) = host.strip_prefix("unix://") else {
        return Check::info(ID, format!("Docker is at {host}, which is not asked"));
    };
    if !Path::new(socket).exists() {
        return Check::info(ID, format!("no Docker engine listens on {socket}"));
    }
    let answer = Client::new(socket).and_then(|client| client.with_limit(DOCKER_LIMIT).probe("/_ping"));
    match answer {
        Ok(200) => Check::info(ID, format!("a Docker engine answers on {socket}")),
        Ok(status) => Check::info(ID, format!("{socket} answers with HTTP status {status}")),
        Err(error) => Check::info(
            ID,
            format!(
                "no Docker engine answers on {socket} ({})",
                error.causes().first().map_or_else(|| error.to_string(), Clone::clone)
            ),
        ),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Level;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        let cases = [
            ("6.18.44-fc-v595", Level::Ok),
            ("6.9-rc1", Level::Ok),
            ("6.8.0-45-generic", Level::Warning),
            ("10.0.1", Level::Ok),
            ("5.10.0", Level::Problem),
            ("unknown", Level::Warning),
        ];
        for (release, level) in cases {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named_with_their_purpose() {
        let all = effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").unwrap();
        assert_eq!(capability_check(all, "the daemon").level, Level::Ok);
        let check = capability_check(all & !(1 << 21), "the daemon");
        assert_eq!(check.level, Level::Problem);
        assert!(check.finding.ends_with("lacks CAP_SYS_ADMIN (mounts and passthrough)"), "{}", check.finding);
    }

    #[test]
    fn hard_limit_of_files_is_the_second_number() {
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024      20000     files\n";
        assert_eq!(hard_descriptor_limit(limits), Some(20_000));
        assert_eq!(hard_descriptor_limit("Max open files 1024 unlimited files"), Some(u64::MAX));
    }

    #[test]
    fn fuse_is_found_as_a_whole_word() {
        let level = |table: &str| fuse_filesystem(&Ok(table.to_owned())).level;
        assert_eq!(level("nodev\tsysfs\nnodev\tfuse\n"), Level::Ok);
        assert_eq!(level("nodev\tfusectl\n\tfuseblk\n"), Level::Problem);
    }

    #[test]
    fn few_watches_are_a_warning() {
        assert_eq!(watches(&Ok(8_192)).level, Level::Warning);
        assert_eq!(watches(&Ok(1 << 20)).level, Level::Ok);
    }
}
