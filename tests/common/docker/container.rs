use std::{
    ffi::{OsStr, OsString},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Docker;
use crate::{Output, Run, require::note, scratch};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A container to be run; removed when it has ended, or when the test fails.
pub struct ContainerRun<'a> {
    docker: &'a Docker,
    image: &'a str,
    network: &'static str,
    options: Vec<OsString>,
    timeout: Duration,
}

/// A container in the background; removed on drop.
pub struct RunningContainer<'a> {
    docker: &'a Docker,
    name: String,
}

impl<'a> ContainerRun<'a> {
    pub(super) fn new(docker: &'a Docker, image: &'a str) -> Self {
        Self { docker, image, network: "none", options: Vec::new(), timeout: DEFAULT_TIMEOUT }
    }

    /// Adds an option of `docker run`.
    #[must_use]
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Adds options of `docker run`.
    #[must_use]
    pub fn options<O: Into<OsString>>(mut self, options: impl IntoIterator<Item = O>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Binds a host path with `-v SOURCE:TARGET`.
    #[must_use]
    pub fn volume(self, source: &Path, target: &str) -> Self {
        let mut value = source.as_os_str().to_owned();
        value.push(format!(":{target}"));
        self.option("-v").option(value)
    }

    /// Binds a host path with `--mount type=bind`, which refuses a source that does not exist.
    #[must_use]
    pub fn bind(self, source: &Path, target: &str) -> Self {
        self.option("--mount").option(format!("type=bind,source={},target={target}", source.display()))
    }

    /// Runs as `uid:gid`.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.options(["--user", user])
    }

    /// Uses the host's network; the default is none.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.network = "host";
        self
    }

    /// Ends it after this time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs a shell script in it and returns what it left.
    pub fn shell(self, script: &str) -> Output {
        self.command(["/bin/sh", "-euc", script])
    }

    /// Runs a program in it and returns what it left.
    pub fn command<A: AsRef<OsStr>>(self, words: impl IntoIterator<Item = A>) -> Output {
        let name = unique_name();
        // Removes it also when the command below panics or runs out of time.
        let _removed = RunningContainer { docker: self.docker, name: name.clone() };
        self.prepare(&name, &[]).args(words).output()
    }

    /// Starts a shell script in it, in the background.
    pub fn shell_in_background(self, script: &str) -> RunningContainer<'a> {
        let name = unique_name();
        let container = RunningContainer { docker: self.docker, name: name.clone() };
        self.prepare(&name, &["--detach"]).args(["/bin/sh", "-euc", script]).ok();
        container
    }

    fn prepare(&self, name: &str, more: &[&str]) -> Run {
        let label = format!("wsguard-test={}", scratch::process_name());
        let run =
            self.docker.command().args(["run", "--name", name, "--label", &label, "--network", self.network]);
        run.args(more).args(&self.options).arg(self.image).timeout(self.timeout)
    }
}

impl RunningContainer<'_> {
    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the pid of its first process, as the host sees it.
    pub fn pid(&self) -> u32 {
        let pid = self.docker.command().args(["inspect", "--format", "{{.State.Pid}}", &self.name]).ok();
        pid.trim().parse().expect("docker prints a pid")
    }

    /// Waits until its first process has ended; returns the exit code and what it printed.
    pub fn wait(&self) -> (i32, String) {
        let code = self.docker.command().args(["wait", &self.name]).timeout(DEFAULT_TIMEOUT).output().ok();
        let printed = self.docker.command().args(["logs", &self.name]).output();
        (code.trim().parse().expect("docker prints an exit code"), printed.stdout + &printed.stderr)
    }

    /// Runs a shell script in it as its own user.
    pub fn shell(&self, script: &str) -> Output {
        self.docker
            .command()
            .args(["exec", &self.name, "/bin/sh", "-euc", script])
            .timeout(DEFAULT_TIMEOUT)
            .output()
    }
}

impl Drop for RunningContainer<'_> {
    fn drop(&mut self) {
        // `-v`: anonymous volumes of the image go as well.
        let removed =
            self.docker.command().args(["rm", "-f", "-v", &self.name]).timeout(DEFAULT_TIMEOUT).output();
        if removed.code != 0 && !removed.stderr.contains("No such container") {
            note(&format!("cannot remove container {}: {}", self.name, removed.stderr.trim()));
        }
    }
}

fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("wsguard-test-{}-{}", scratch::process_name(), NEXT.fetch_add(1, Ordering::Relaxed))
}
