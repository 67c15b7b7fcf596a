//! A real container engine for tests: the machine's own where one answers, else a private one.

mod container;
mod engine;
mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
    time::Duration,
};

pub use container::{ContainerRun, RunningContainer};

use crate::{
    Run,
    require::{find_program, is_root, program_missing},
    scratch,
};

/// A container engine with the images of the tests.
///
/// There is one for each test process. A private one is stopped by the janitor when the process ends, together
/// with every container that is still there.
pub struct Docker {
    host: String,
    busybox: OnceLock<&'static str>,
    debian: OnceLock<&'static str>,
    /// Held while an image is made, so that two tests do not import it at the same time.
    images: Mutex<()>,
}

impl Docker {
    /// Returns the engine; starts it when called for the first time.
    ///
    /// Tests call `require!(docker)` first.
    pub fn engine() -> &'static Self {
        static ENGINE: OnceLock<Docker> = OnceLock::new();
        ENGINE.get_or_init(|| {
            let host = match running_engine() {
                Some(host) => {
                    // Tells the janitor where to look for containers that were left.
                    fs::write(scratch::base().join("foreign-engine"), &host)
                        .expect("own directory can be written");
                    host
                }
                None => engine::start(),
            };
            Self { host, busybox: OnceLock::new(), debian: OnceLock::new(), images: Mutex::new(()) }
        })
    }

    /// Restarts dockerd while its containers go on (`--live-restore`). Returns whether it did: the machine's own engine
    /// is left alone.
    pub fn restart(&self) -> bool {
        let is_private = !scratch::base().join("foreign-engine").exists();
        if is_private {
            engine::restart_dockerd();
        }
        is_private
    }

    /// Returns the value of `DOCKER_HOST` that reaches it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Prepares a `docker` command; add its arguments to the result.
    pub fn command(&self) -> Run {
        Run::new("docker")
            .env("DOCKER_HOST", &self.host)
            // The user's own client configuration may name another context or credentials.
            .env("DOCKER_CONFIG", scratch::base().join("docker-config"))
            .env_remove("DOCKER_CONTEXT")
            .timeout(Duration::from_secs(120))
    }

    /// Returns the name of an image that holds nothing but busybox, with a user `dev` (1000:1000).
    pub fn busybox(&self) -> &'static str {
        let _guard = self.lock_images();
        self.busybox.get_or_init(|| image::busybox(self))
    }

    /// Returns the name of a Debian image with python3, venv and pip.
    ///
    /// It is built once with debootstrap, which takes a minute or two, and kept in cargo's target directory.
    pub fn debian(&self) -> &'static str {
        let _guard = self.lock_images();
        self.debian.get_or_init(|| image::debian(self))
    }

    /// Prepares a container of the busybox image.
    pub fn run(&self) -> ContainerRun<'_> {
        ContainerRun::new(self, self.busybox())
    }

    /// Prepares a container of another image.
    pub fn run_image<'a>(&'a self, image: &'a str) -> ContainerRun<'a> {
        ContainerRun::new(self, image)
    }

    fn lock_images(&self) -> std::sync::MutexGuard<'_, ()> {
        // A test that panicked while it made an image left no broken state behind: the next one tries again.
        self.images.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Returns why no engine can be used, or nothing if one can.
pub(crate) fn missing() -> Option<String> {
    if !is_root() {
        return Some("containers need root".to_owned());
    }
    let client = program_missing("docker");
    if client.is_some() || running_engine().is_some() {
        return client;
    }
    ["dockerd", "containerd", "runc"].into_iter().find_map(program_missing)
}

/// Returns how to reach an engine that already runs on this machine.
fn running_engine() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let find = || {
        let from_environment = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = from_environment.or_else(|| {
            let default = Path::new("/var/run/docker.sock");
            default.exists().then(|| format!("unix://{}", default.display()))
        })?;
        let version = Run::new(find_program("docker")?)
            .args(["version", "--format", "{{.Server.Version}}"])
            .env("DOCKER_HOST", &host)
            .timeout(Duration::from_secs(10))
            .output();
        (version.code == 0).then_some(host)
    };
    FOUND.get_or_init(find).clone()
}

/// Returns the path of a program that [`missing`] has found.
fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("`{name}` is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busybox_container_reads_and_writes_a_bound_directory() {
        crate::require!(docker);
        let scratch = crate::Scratch::new();
        fs::write(scratch.path().join("in"), "from the host").unwrap();
        let docker = Docker::engine();
        let printed = docker.run().volume(scratch.path(), "/x").shell("cat /x/in; echo there >/x/out").ok();
        assert_eq!(printed, "from the host");
        assert_eq!(fs::read_to_string(scratch.path().join("out")).unwrap(), "there\n");
    }

    #[test]
    fn a_container_in_the_background_is_removed_when_dropped() {
        crate::require!(docker);
        let docker = Docker::engine();
        let container = docker.run().shell_in_background("sleep 1000");
        let name = container.name().to_owned();
        assert_eq!(container.shell("id -u").ok().trim(), "0");
        drop(container);
        let left = docker.command().args(["ps", "-aq", "--filter", &format!("name={name}")]).ok();
        assert_eq!(left.trim(), "");
    }

    #[test]
    fn the_debian_image_has_python() {
        crate::require!(docker, debian);
        let docker = Docker::engine();
        let printed = docker.run_image(docker.debian()).command([
            "python3",
            "-c",
            "import venv, sqlite3; print(6 * 7)",
        ]);
        assert_eq!(printed.ok().trim(), "42");
    }

    #[test]
    fn a_killed_test_process_leaves_no_engine_and_no_container() {
        crate::require!(docker);
        let name = "docker::tests::a_killed_test_process_leaves_no_engine_and_no_container";
        let Some(base) = scratch::kill_a_copy_of_this_test(name) else {
            let container = Docker::engine().run().shell_in_background("sleep 300");
            fs::write(scratch::base().with_extension("pid"), container.pid().to_string()).unwrap();
            scratch::play_dead();
            return;
        };
        crate::wait_until("the janitor to be done", Duration::from_secs(60), || !base.exists());
        let pid = base.with_extension("pid");
        let container = fs::read_to_string(&pid).unwrap().parse().unwrap();
        fs::remove_file(&pid).unwrap();
        crate::wait_until("the container to be gone", Duration::from_secs(5), || !crate::is_alive(container));
        assert_eq!(crate::mounts_below(&base), []);
    }
}
