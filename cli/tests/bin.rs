//! The binary as a person meets it, without a daemon: help, exit codes, error texts and `--json`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use tempfile::TempDir;

const NOBODY: u32 = 65_534;

/// Private directories, and the binary with nothing else in its environment.
struct Surroundings {
    dir: TempDir,
}

impl Surroundings {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Other users walk through it in the tests without root.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsguard"));
        command
            .env_clear()
            .env("WSGUARD_RUNTIME_DIR", self.path("run"))
            .env("WSGUARD_STATE_DIR", self.path("state"))
            .current_dir(self.dir.path())
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs as a user without privileges; `None` where the test itself has none to give up.
    fn run_as_nobody(&self, arguments: &[&str]) -> Option<Ran> {
        if !is_root() {
            return None;
        }
        // The binary may lie below a directory that only root may enter.
        let reachable = self.path("wsguard");
        if !reachable.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_wsguard"), &reachable).unwrap();
        }
        let mut command = Command::new(reachable);
        command
            .env_clear()
            .env("WSGUARD_RUNTIME_DIR", self.path("run"))
            .env("WSGUARD_STATE_DIR", self.path("state"))
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .args(arguments);
        Some(Ran::of(&mut command))
    }

    /// Listens on the socket and gives the same answer to every connection but empty ones.
    fn answer_always(&self, status: &'static str, body: impl Into<String>) {
        let body = body.into();
        std::fs::create_dir(self.path("run")).unwrap();
        let listener = UnixListener::bind(self.path("run/wsguard.sock")).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                if stream.read(&mut request).unwrap_or(0) > 0 {
                    let length = body.len();
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                    // The command may have hung up; its own exit code is what is checked.
                    stream.write_all(format!("{head}{body}").as_bytes()).ok();
                }
            }
        });
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let ran = Self {
            code: status.code().expect("ended by itself, not by a signal"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        };
        for unwanted in ["panicked", "RUST_BACKTRACE", "Error {", "Os {", "Some(", "\u{1b}["] {
            assert!(
                !ran.stdout.contains(unwanted) && !ran.stderr.contains(unwanted),
                "{unwanted:?} in {ran:?}"
            );
        }
        ran
    }

    /// Checks code and shape of an error: `error: …` first, and a hint after a blank line.
    fn assert_error(&self, code: i32, message_part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let error = self.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains(message_part), "{message_part:?} is not in {self:?}");
        assert!(self.stderr.contains("\n\nhint: "), "no hint: {self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_of_every_command_has_examples_and_exit_codes_and_succeeds() {
    let here = Surroundings::new();
    for command in ["mount", "umount", "ls", "status", "sync", "quota", "doctor", "daemon", "completion"] {
        for flag in ["-h", "--help"] {
            let ran = here.run(&[command, flag]);
            assert_eq!(ran.code, 0, "{ran:?}");
            assert!(ran.stdout.contains("EXAMPLES:") && ran.stdout.contains("EXIT CODES:"), "{ran:?}");
            assert!(!ran.stdout.contains("--worker"), "{ran:?}");
        }
    }
    assert!(here.run(&["--version"]).stdout.starts_with("wsguard "));
}

#[test]
fn wrong_usage_is_code_2_and_names_the_nearest_command() {
    let here = Surroundings::new();
    for arguments in [
        &["mount"][..],
        &["mount", "--all", "/tmp"],
        &["mount", "--ownership", "mine", "/tmp"],
        &["mount", "--owner", "alice", "/tmp"],
        &["umount"],
        &["sync", "--timeout", "0", "/"],
        &["ls", "--verbose", "--quiet"],
        &["completion", "powershell"],
        &["quota", "set", "10"],
        &["quota", "set", "alice"],
        &["quota", "set", "alice", "10"],
        &["quota", "set", "alice", "500GBB"],
        &["quota", "set", "alice", "-5G"],
        &["quota", "set", "alice", "5G", "--soft", "-1G"],
        &["quota", "set", "alice", "5G", "--inodes", "-1"],
        &["quota", "set", "alice", "5G", "--grace", "7"],
        &["quota", "boost", "alice", "--by", "5G", "--for", "7d"],
        &["quota", "boost", "alice", "--by", "0", "--for", "7d", "--reason", "x"],
        &["quota", "grace", "alice", "--extend", "0"],
        &[],
    ] {
        let ran = here.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
    }
    assert!(here.run(&["muont", "x"]).stderr.contains("mount"));
}

#[test]
fn wrong_usage_with_json_is_an_object() {
    let ran = Surroundings::new().run(&["mount", "--json"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stdout.contains("\"code\": \"invalid-request\"") && ran.stdout.contains("\"exit_code\": 2"),
        "{ran:?}"
    );
}

#[test]
fn without_a_daemon_every_client_command_is_code_7_and_says_how_to_start_one() {
    let here = Surroundings::new();
    for arguments in [
        &["status"][..],
        &["ls"],
        &["ls", "--unguarded"],
        &["umount", "x"],
        &["sync", "."],
        &["quota", "get"],
        &["quota", "set", "root", "5G"],
    ] {
        let ran = here.run(arguments);
        ran.assert_error(7, "no daemon answers on ");
        assert!(ran.stderr.contains("wsguard mount DIR"), "{ran:?}");
    }
}

#[test]
fn a_socket_that_a_dead_daemon_left_is_code_7_too() {
    let here = Surroundings::new();
    std::fs::create_dir(here.path("run")).unwrap();
    drop(UnixListener::bind(here.path("run/wsguard.sock")).unwrap());
    here.run(&["status"]).assert_error(7, "no daemon answers on ");
}

#[test]
fn a_missing_directory_is_code_3_and_a_file_is_code_2() {
    let here = Surroundings::new();
    std::fs::write(here.path("file"), "x").unwrap();
    here.run(&["mount", "missing"]).assert_error(3, "missing does not exist");
    here.run(&["mount", "file"]).assert_error(2, "file is not a directory");
    here.run(&["mount", "file/below"]).assert_error(2, "is not a directory");
    here.run(&["sync", "missing"]).assert_error(3, "missing does not exist");
    here.run(&["doctor", "missing"]).assert_error(3, "missing does not exist");
    assert!(!here.path("state").exists(), "no daemon was started for nothing");
}

#[test]
fn a_directory_whose_path_is_not_utf8_is_refused() {
    let here = Surroundings::new();
    let odd = here.dir.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
    std::fs::create_dir(&odd).unwrap();
    Ran::of(here.command(&["mount"]).arg(&odd)).assert_error(2, "is not UTF-8");
}

#[test]
fn a_daemon_that_is_not_root_is_refused_with_code_9() {
    let here = Surroundings::new();
    std::fs::create_dir(here.path("project")).unwrap();
    let project = here.path("project");
    let Some(ran) = here.run_as_nobody(&["mount", text(&project)]) else {
        eprintln!("skipped: needs root to become another user");
        return;
    };
    ran.assert_error(9, "only root can start one");
    assert!(ran.stderr.contains("sudo wsguard mount"), "{ran:?}");
}

#[test]
fn a_socket_that_the_user_may_not_reach_is_code_9() {
    let here = Surroundings::new();
    std::fs::create_dir(here.path("run")).unwrap();
    std::fs::set_permissions(here.path("run"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let Some(ran) = here.run_as_nobody(&["status"]) else {
        eprintln!("skipped: needs root to become another user");
        return;
    };
    ran.assert_error(9, "no permission to connect");
}

#[test]
fn a_named_socket_is_not_replaced_by_a_daemon_elsewhere() {
    if !is_root() {
        eprintln!("skipped: needs root to start a daemon");
        return;
    }
    let here = Surroundings::new();
    let socket = here.path("other.sock");
    here.run(&["mount", ".", "--socket", text(&socket)]).assert_error(7, "no daemon answers on ");
    assert!(!here.path("state").exists());
}

#[test]
fn a_daemon_that_ends_at_once_is_reported_with_what_it_said() {
    if !is_root() {
        eprintln!("skipped: needs root to start a daemon");
        return;
    }
    let here = Surroundings::new();
    let config = here.path("wrong.toml");
    std::fs::write(&config, "[nonsense]\nx = 1\n").unwrap();
    let ran = here.run(&["mount", ".", "--config", text(&config)]);
    ran.assert_error(2, "the daemon ended before ");
    assert!(ran.stderr.contains("nonsense"), "{ran:?}");
    let log = std::fs::metadata(here.path("state/daemon.log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
}

#[test]
fn json_error_is_one_object_on_stdout_and_text_on_stderr() {
    let ran = Surroundings::new().run(&["status", "--json"]);
    assert_eq!(ran.code, 7);
    let object: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(object["schema"], 1);
    assert_eq!(object["code"], "unavailable");
    assert_eq!(object["exit_code"], 7);
    assert!(object["message"].as_str().unwrap().starts_with("no daemon answers on "));
    assert!(object["hint"].as_str().unwrap().contains("wsguard daemon"));
    assert!(ran.stderr.starts_with("error: no daemon answers on "), "{ran:?}");
}

#[test]
fn an_error_of_the_daemon_keeps_its_code_and_hint() {
    let here = Surroundings::new();
    here.answer_always(
        "409 Conflict",
        r#"{"code":"conflict","message":"it is guarded already","hint":"see ls"}"#,
    );
    here.run(&["mount", "."]).assert_error(4, "it is guarded already");
    assert!(here.run(&["mount", "."]).stderr.ends_with("\n\nhint: see ls\n"));
}

#[test]
fn another_program_on_the_socket_is_no_daemon() {
    let here = Surroundings::new();
    here.answer_always("404 Not Found", "<html>");
    here.run(&["status"]).assert_error(1, "HTTP status 404");
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_code_8() {
    let here = Surroundings::new();
    std::fs::create_dir(here.path("run")).unwrap();
    let _silent = UnixListener::bind(here.path("run/wsguard.sock")).unwrap();
    here.run(&["sync", ".", "--timeout", "1"]).assert_error(8, "did not answer within 1 s");
}

#[test]
fn doctor_reports_without_a_daemon_and_its_code_agrees_with_its_report() {
    let here = Surroundings::new();
    let ran = here.run(&["doctor", "--json", "."]);
    let object: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let problems = object["problems"].as_u64().unwrap();
    assert_eq!(ran.code, if problems == 0 { 0 } else { 10 }, "{ran:?}");
    let checks = object["checks"].as_array().unwrap();
    for id in
        ["host.kernel", "host.fuse-device", "host.capabilities", "daemon.answer", "directory.filesystem"]
    {
        assert!(checks.iter().any(|check| check["id"] == id), "{id} is missing: {ran:?}");
    }
    for check in checks {
        let is_wrong = check["level"] == "warning" || check["level"] == "problem";
        assert_eq!(check["advice"].is_string(), is_wrong, "advice where something is wrong: {check}");
    }
}

#[test]
fn piped_list_is_neither_cut_nor_coloured_and_json_is_what_the_daemon_said() {
    let here = Surroundings::new();
    let place = format!("/home/alice/workspace/{}", "long-".repeat(40));
    let workspace = serde_json::json!({
        "id": "w1", "name": "bert", "dir": place, "mount_point": place, "source": "/run/wsguard/m/w1",
        "owner_uid": 4_000_000_000u32, "owner_gid": 1, "ownership": "squash", "state": {"kind": "mounted"},
        "from_roots": false, "data_path": {"kind": "passthrough"}, "coherence": {"kind": "starting"},
        "backing": null, "mounted_at": null, "inodes_known": 1, "open_handles": 0, "changed_outside": null,
        "bypassing": [],
    });
    let list = serde_json::json!({
        "schema": 1, "generated_at": "2030-01-01T00:00:00Z", "items": [workspace],
        "unguarded": [{"dir": "/home/alice/workspace/x", "owner_uid": 0, "reason": "not mounted yet"}],
    });
    here.answer_always("200 OK", list.to_string());
    let ran = here.run(&["ls"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2), "{ran:?}");
    assert!(ran.stdout.contains(&place) && ran.stdout.contains("4000000000"), "{ran:?}");
    assert!(ran.stderr.contains("1 directory below the configured roots not guarded"), "{ran:?}");
    assert_eq!(here.run(&["ls", "--quiet"]).stdout, "w1\n");
    assert!(here.run(&["ls", "--unguarded"]).stdout.contains("not mounted yet"));
    let printed: serde_json::Value = serde_json::from_str(&here.run(&["ls", "--json"]).stdout).unwrap();
    assert_eq!(printed, list);
    here.run(&["umount", "brt"]).assert_error(3, "no workspace is named \"brt\"");
}

#[test]
fn colour_is_only_where_it_is_wanted() {
    let here = Surroundings::new();
    let coloured = |arguments: &[&str], variable: Option<&str>| {
        let mut command = here.command(arguments);
        command.envs(variable.map(|name| (name, "1")));
        command.output().unwrap().stderr.contains(&0x1b)
    };
    assert!(!coloured(&["status"], None));
    assert!(coloured(&["status"], Some("CLICOLOR_FORCE")));
    assert!(coloured(&["status", "--color", "always"], None));
    assert!(!coloured(&["status", "--color", "never"], Some("CLICOLOR_FORCE")));
    assert!(!coloured(&["status"], Some("NO_COLOR")));
}

#[test]
fn completion_scripts_know_the_commands() {
    let here = Surroundings::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = here.run(&["completion", shell]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("umount"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let here = Surroundings::new();
    let mut child =
        here.command(&["completion", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
