//! What is measured side by side: the plain directory, wsguard, and every peer that is installed.

mod peer;
mod wsguard;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

pub(crate) use self::wsguard::Binary;
use crate::{
    cleanup,
    site::{Material, Site},
    sys,
};

/// The variant that all ratios refer to.
pub(crate) const NATIVE: &str = "native";
/// The variant that the goals are for.
pub(crate) const WSGUARD: &str = "wsguard";
/// The same with quota and history off: what they cost is the difference. Only measured where it is named.
pub(crate) const BARE: &str = "wsguard-bare";
/// Peers in the order of the report's columns.
pub(crate) const PEERS: [&str; 4] = ["passthrough_hp", "mergerfs", "bindfs", "gocryptfs"];

/// One way to reach files.
pub(crate) struct Variant {
    /// Its column in the report.
    pub(crate) name: String,
    /// What was measured, in one line.
    pub(crate) version: String,
    /// Where rows run.
    pub(crate) site: Site,
    /// Its processes, to be placed on one processor; none for native.
    pub(crate) daemons: Vec<Pid>,
}

impl Variant {
    /// A directory of the filesystem below everything.
    pub(crate) fn native(base: &Path, material: &Rc<Material>) -> Result<Self> {
        let root = base.join(NATIVE);
        std::fs::create_dir(&root)?;
        let version = "plain directory".to_owned();
        Ok(Self { name: NATIVE.to_owned(), version, site: site(root, material), daemons: Vec::new() })
    }

    /// A guarded workspace of a daemon of its own: [`WSGUARD`] or [`BARE`].
    pub(crate) fn wsguard(name: &str, binary: &Binary, base: &Path, material: &Rc<Material>) -> Result<Self> {
        let base = base.join(name);
        std::fs::create_dir(&base)?;
        let config = if name == BARE { "[quota]\nenabled = false\n[history]\nenabled = false\n" } else { "" };
        let mounted = binary.mount(name, &base, config)?;
        let site = site(mounted.root, material);
        Ok(Self { name: name.to_owned(), version: mounted.version, site, daemons: mounted.daemons })
    }

    /// The peer of this name, if it is installed.
    pub(crate) fn peer(name: &str, base: &Path, material: &Rc<Material>) -> Result<Option<Self>> {
        let Some(program) = find_program(name) else { return Ok(None) };
        let base = base.join(name);
        std::fs::create_dir(&base)?;
        let mounted = peer::mount(name, &program, &base).with_context(|| format!("cannot mount {name}"))?;
        let site = site(mounted.root, material);
        Ok(Some(Self { name: name.to_owned(), version: mounted.version, site, daemons: mounted.daemons }))
    }

    /// Something that is mounted already; rows run in a directory of their own in it.
    pub(crate) fn mounted(name: &str, path: &Path, material: &Rc<Material>) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("wsguard-bench-").tempdir_in(path);
        let root = root.with_context(|| format!("cannot create a directory in {path:?}"))?.keep();
        cleanup::add_directory(&root);
        let version = "mounted by the user".to_owned();
        Ok(Self { name: name.to_owned(), version, site: site(root, material), daemons: Vec::new() })
    }
}

fn site(root: PathBuf, material: &Rc<Material>) -> Site {
    Site { root, material: Rc::clone(material) }
}

/// A started and mounted daemon.
struct Mounted {
    root: PathBuf,
    version: String,
    daemons: Vec<Pid>,
}

/// Finds a program in PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Starts a daemon in a process group of its own, which Ctrl-C at the terminal does not reach.
fn spawn(variant: &str, command: &mut Command, log: &Path, mount_point: &Path) -> Result<(Child, Pid)> {
    use std::os::unix::process::CommandExt;
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = sys::die_with_parent(command).spawn().with_context(|| format!("cannot start {variant}"))?;
    let pid = Pid::from_child(&child);
    cleanup::add_daemon(variant, pid, mount_point);
    Ok((child, pid))
}

/// Waits until `is_ready`; fails when the daemon ends before, or takes too long.
fn wait_until(child: &mut Child, log: &Path, mut is_ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(15);
    while !is_ready()? {
        let text = || {
            std::fs::read_to_string(log).unwrap_or_else(|error| format!("its log cannot be read: {error}"))
        };
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}: {}", text().trim());
        }
        if Instant::now() > limit {
            bail!("it was not ready after 15 s: {}", text().trim());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the first line that the program prints about its version.
fn version_of(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown version").trim().to_owned())
}
