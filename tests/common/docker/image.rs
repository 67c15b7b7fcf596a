use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Docker, program};
use crate::{Run, Scratch, target_dir};

const BUSYBOX: &str = "wsguard-test:busybox";
const DEBIAN: &str = "wsguard-test:debian";
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);

/// Packages of the Debian image beside the minimal system.
const DEBIAN_PACKAGES: &str = "python3,python3-venv,python3-pip,ca-certificates";

/// Makes an image of the machine's static busybox.
pub(super) fn busybox(docker: &Docker) -> &'static str {
    if exists(docker, BUSYBOX) {
        return BUSYBOX;
    }
    let scratch = Scratch::new();
    let root = scratch.path();
    // busybox is left out of the loop: a link to itself would replace it.
    let script = r#"
        cd "$1"
        mkdir -p bin etc tmp root proc sys dev workspace home/dev
        chmod 1777 tmp
        chown 1000:1000 home/dev
        cp "$2" bin/busybox
        for name in $(bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "bin/$name"; done
        printf 'root:x:0:0::/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n' >etc/passwd
        printf 'root:x:0:\ndev:x:1000:\n' >etc/group
    "#;
    Run::shell(script, [root, &program("busybox")]).ok();
    import(docker, root, BUSYBOX, r#"CMD ["/bin/sh"]"#);
    BUSYBOX
}

/// Makes a Debian image from the cached root file system.
pub(super) fn debian(docker: &Docker) -> &'static str {
    if exists(docker, DEBIAN) {
        return DEBIAN;
    }
    let tar = debian_tar();
    docker
        .command()
        .args(["import", "-c", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
        .arg(&tar)
        .arg(DEBIAN)
        .timeout(BUILD_TIMEOUT)
        .ok();
    DEBIAN
}

/// Returns the root file system as a tar file in cargo's target directory; builds it if it is not there.
fn debian_tar() -> PathBuf {
    let dir = target_dir().join("images");
    fs::create_dir_all(&dir).expect("the target directory can be written");
    // Test processes of one run may get here together; one builds, the others wait.
    let lock = File::create(dir.join("lock")).expect("the target directory can be written");
    lock.lock().expect("a lock file can be locked");
    let tar = dir.join("debian.tar");
    if !tar.exists() {
        build_debian(&tar);
    }
    tar
}

fn build_debian(tar: &Path) {
    let scratch = Scratch::new();
    let root = scratch.dir("root");
    let (suite, mirror) = apt_source();
    Run::new(program("debootstrap"))
        .args(["--variant=minbase", &format!("--include={DEBIAN_PACKAGES}"), &suite])
        .arg(&root)
        .args(mirror)
        .timeout(BUILD_TIMEOUT)
        .ok();
    let partial = tar.with_extension("partial");
    let script = r#"
        rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/doc "$1"/usr/share/man
        mkdir -p "$1/workspace"
        tar -C "$1" --one-file-system -cf "$2" .
    "#;
    Run::shell(script, [&root, &partial]).timeout(BUILD_TIMEOUT).ok();
    fs::rename(&partial, tar).expect("the target directory can be written");
}

/// Returns this machine's Debian suite, and the mirror that apt uses for it if apt knows one.
fn apt_source() -> (String, Option<String>) {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.unwrap_or("stable").trim_matches('"').to_owned();
    let format = "$(CODENAME) $(REPO_URI)";
    let targets =
        Run::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output();
    let mirror = targets.stdout.lines().find_map(|line| line.strip_prefix(&format!("{codename} ")));
    (codename, mirror.map(str::to_owned))
}

fn exists(docker: &Docker, image: &str) -> bool {
    docker.command().args(["image", "inspect", image]).output().code == 0
}

fn import(docker: &Docker, root: &Path, image: &str, change: &str) {
    let tar = root.with_extension("tar");
    Run::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg(".").ok();
    docker.command().args(["import", "-c", "ENV PATH=/bin", "-c", change]).arg(&tar).arg(image).ok();
    fs::remove_file(&tar).expect("a file of our own can be removed");
}
