//! Notices reach people: terminals of containers, login shells, mail and a webhook, each by a real one of its kind.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use harness::{Daemon, Docker, GuardMount, Run, kill, require, run_as, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use wsguard_api::{DeliveryChannel, DeliveryStatus, NotifyOutcome, NotifyReport};

const OWNER: u32 = 4_321;
const PATIENCE: Duration = Duration::from_secs(20);

fn mounted(config: &str) -> GuardMount {
    let daemon = Daemon::builder().config(config);
    GuardMount::builder().owner(OWNER).name("bert").daemon(daemon).mount()
}

/// Fills the workspace to 90 % and more, at once.
fn fill(mount: &GuardMount) {
    mount.daemon().command().args(["quota", "set", "project:bert", "10M", "--allow-over"]).ok();
    fs::write(mount.path().join("large"), vec![1; 9_500_000]).unwrap();
}

fn status(mount: &GuardMount, channel: DeliveryChannel) -> DeliveryStatus {
    mount.daemon().status().delivery.into_iter().find(|status| status.channel == channel).unwrap()
}

fn notify(mount: &GuardMount, arguments: &[&str], code: i32) -> Vec<(DeliveryChannel, NotifyOutcome)> {
    let command = mount.daemon().command().args(["quota", "notify", "--test", "--json"]);
    let output = command.args(arguments).output().expect_code(code);
    let report: NotifyReport = serde_json::from_str(&output.stdout).unwrap();
    report.items.into_iter().map(|item| (item.channel, item.outcome)).collect()
}

/// A mail server that takes everything; yields envelope and text of each mail.
fn mail_sink() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, mails) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that breaks off has sent nothing.
            take_mail(stream.unwrap(), &sender).ok();
        }
    });
    (port, mails)
}

fn take_mail(mut stream: TcpStream, mails: &Sender<String>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let (mut mail, mut is_data) = (String::new(), false);
    stream.write_all(b"220 sink\r\n")?;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let command = line.trim_end().to_owned();
        line.clear();
        mail.push_str(&command);
        mail.push('\n');
        if is_data {
            if command == "." {
                is_data = false;
                mails.send(std::mem::take(&mut mail)).ok();
                stream.write_all(b"250 taken\r\n")?;
            }
            continue;
        }
        let answer: &[u8] = match command.split(' ').next() {
            Some("DATA") => {
                is_data = true;
                b"354 go on\r\n"
            }
            Some("QUIT") => b"221 bye\r\n",
            _ => b"250 fine\r\n",
        };
        stream.write_all(answer)?;
    }
    Ok(())
}

/// A web server that answers 204; yields each request.
fn web_sink() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut got, mut buffer) = (Vec::new(), [0; 4_096]);
            while !got.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => got.extend_from_slice(&buffer[..length]),
                }
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").ok();
            sender.send(String::from_utf8(got).unwrap()).ok();
        }
    });
    (port, requests)
}

#[test]
fn crossing_is_mailed_and_posted_once_and_the_rest_is_counted() {
    require!(fuse);
    let ((mail_port, mails), (web_port, requests)) = (mail_sink(), web_sink());
    let mount = mounted(&format!(
        "[delivery]\nlogin = false\nper-hour = 2\nmail-relay = \"smtp://127.0.0.1:{mail_port}\"\n\
         mail-from = \"wsguard@example.org\"\nmail-to = \"owner@example.org\"\nmail-admins = \"admin@example.org\"\n\
         webhook-url = \"http://127.0.0.1:{web_port}/hook\"\n"
    ));
    fill(&mount);
    let mail = mails.recv_timeout(PATIENCE).unwrap();
    assert!(mail.contains("MAIL FROM:<wsguard@example.org>"), "{mail}");
    assert!(mail.contains("RCPT TO:<owner@example.org>") && !mail.contains("admin@"), "{mail}");
    assert!(
        mail.contains("project bert has reached 90 %: 9") && mail.contains("\nSubject: [wsguard]"),
        "{mail}"
    );
    let request = requests.recv_timeout(PATIENCE).unwrap();
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    assert_eq!((body["kind"].as_str(), body["workspace"].as_str()), (Some("quota-crossed"), Some("bert")));
    // Down and up again is another crossing; the third notice in an hour is one too many.
    for _ in 0..2 {
        fs::remove_file(mount.path().join("large")).unwrap();
        wait_until("the use to be low", PATIENCE, || {
            fs::read_to_string(mount.path().join(".wsguard/quota")).unwrap().contains(" 0 %")
        });
        std::thread::sleep(Duration::from_secs(5));
        fs::write(mount.path().join("large"), vec![1; 9_500_000]).unwrap();
        std::thread::sleep(Duration::from_secs(3));
    }
    wait_until("notices to be suppressed", PATIENCE, || {
        let status = status(&mount, DeliveryChannel::Mail);
        status.suppressed > 0 && status.delivered == 2 && status.failed == 0
    });
    assert_eq!(mails.try_iter().count(), 1, "one after the first");
}

#[test]
fn test_notice_says_where_it_got_and_why_not() {
    require!(fuse);
    let (mail_port, mails) = mail_sink();
    let mount = mounted(&format!(
        "[delivery]\nterminals = true\nmail-relay = \"smtp://127.0.0.1:{mail_port}\"\n\
         mail-from = \"wsguard@example.org\"\nmail-admins = \"admin@example.org\"\n\
         webhook-url = \"http://127.0.0.1:1/\"\nwebhook-secret-file = \"/nonexistent/secret\"\n"
    ));
    let outcomes = notify(&mount, &[], 10);
    let channels: Vec<DeliveryChannel> = outcomes.iter().map(|(channel, _)| *channel).collect();
    assert_eq!(channels, DeliveryChannel::ALL);
    assert!(matches!(outcomes[0].1, NotifyOutcome::Nobody { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1].1, NotifyOutcome::Delivered { to: "the login message of uid 0".to_owned() });
    assert_eq!(outcomes[2].1, NotifyOutcome::Delivered { to: "admin@example.org".to_owned() });
    let NotifyOutcome::Failed { reason } = &outcomes[3].1 else { panic!("{outcomes:?}") };
    assert!(reason.contains("/nonexistent/secret"), "{reason}");
    assert!(mails.recv_timeout(PATIENCE).unwrap().contains("this is a test"));
    let text = mount.daemon().command().arg("status").ok();
    assert!(text.contains("mail 1 sent") && text.contains("webhook 0 sent, 1 failed"), "{text}");
    let doctor = mount.daemon().command().args(["doctor", "--json"]).output().stdout;
    let doctor: Value = serde_json::from_str(&doctor).unwrap();
    let checks = doctor["checks"].as_array().unwrap();
    let webhook = checks.iter().find(|check| check["subject"] == "webhook").unwrap();
    assert_eq!(
        (webhook["id"].as_str(), webhook["level"].as_str()),
        (Some("daemon.delivery"), Some("warning"))
    );
    assert!(webhook["finding"].as_str().unwrap().contains("/nonexistent/secret"), "{webhook}");
    // Somebody who may not.
    let output = mount.daemon().command().args(["quota", "notify", "--test"]).user(OWNER, OWNER).output();
    assert_ne!(output.code, 0, "{output:?}");
    let unknown = mount.daemon().command().args(["quota", "notify", "--test", "nothing"]).output();
    assert_eq!(unknown.code, 3, "{unknown:?}");
    let only = notify(&mount, &["bert", "--channel", "login"], 0);
    let to = NotifyOutcome::Delivered { to: format!("the login message of uid {OWNER}") };
    assert_eq!(only, [(DeliveryChannel::Login, to)]);
}

#[test]
fn relay_that_hangs_stops_no_writer_and_no_other_channel() {
    require!(fuse);
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let (web_port, requests) = web_sink();
    let mount = mounted(&format!(
        "[delivery]\nmail-relay = \"smtp://127.0.0.1:{port}\"\nmail-from = \"w@example.org\"\n\
         mail-to = \"o@example.org\"\nwebhook-url = \"http://127.0.0.1:{web_port}/\"\n"
    ));
    fill(&mount);
    requests.recv_timeout(PATIENCE).unwrap();
    fs::write(mount.path().join("small"), "goes on").unwrap();
    wait_until("the relay to count as failed", PATIENCE, || {
        status(&mount, DeliveryChannel::Mail).failed == 1
    });
    assert!(status(&mount, DeliveryChannel::Mail).last_error.is_some());
}

/// What a login shell of the owner prints.
fn login(mount: &GuardMount, home: &Path) -> String {
    let hook = mount.daemon().command().args(["quota", "shell-hook"]).ok();
    fs::write(home.join(".bash_profile"), hook).unwrap();
    let shell = run_as(OWNER, OWNER, &[], Path::new("bash")).args(["-l", "-i", "-c", "exit"]);
    shell.env("HOME", home).env("WSGUARD_WORKSPACE", "/nonexistent").current_dir("/").output().stdout
}

#[test]
fn login_shell_shows_each_notice_once() {
    require!(fuse);
    let mount = mounted("");
    let home = mount.daemon().make_dir("home");
    std::os::unix::fs::chown(&home, Some(OWNER), Some(OWNER)).unwrap();
    assert_eq!(login(&mount, &home), "");
    fill(&mount);
    let file = mount.daemon().runtime_dir().join("motd").join(OWNER.to_string());
    wait_until("the login message", PATIENCE, || file.exists());
    let shown = login(&mount, &home);
    assert!(
        shown.starts_with("wsguard: 2") && shown.contains(" project bert has reached 90 %: 9"),
        "{shown}"
    );
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert_eq!(login(&mount, &home), "", "it was shown");
    // A worker that takes over has not forgotten it and does not tell it again, and what is new comes after it.
    kill(mount.daemon().worker_pid(), Signal::KILL);
    wait_until("the workspace to be known again", PATIENCE, || {
        fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap().contains("90 %")
    });
    std::thread::sleep(Duration::from_secs(5));
    notify(&mount, &["bert", "--channel", "login"], 0);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    let shown = login(&mount, &home);
    assert!(shown.contains("this is a test") && shown.lines().count() == 1, "{shown}");
    let other = run_as(OWNER + 1, OWNER + 1, &[], Path::new("cat")).arg(&file).output();
    assert_ne!(other.code, 0, "it is the reader's own");
    // A home that cannot be written costs nothing but the memory of it.
    fs::remove_dir_all(home.join(".local")).unwrap();
    std::os::unix::fs::chown(&home, Some(0), Some(0)).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(login(&mount, &home).lines().count(), 2);
}

#[test]
fn hook_works_in_a_container_with_the_notices_of_the_workspace() {
    require!(fuse, docker);
    let mount = mounted("");
    fill(&mount);
    wait_until("a notice", PATIENCE, || {
        fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap().contains("90 %")
    });
    let hook = mount.daemon().dir().join("hook.sh");
    fs::write(&hook, mount.daemon().command().args(["quota", "shell-hook"]).ok()).unwrap();
    let container = Docker::engine()
        .run()
        .volume(mount.path(), "/workspace")
        .volume(&hook, "/etc/profile.d/wsguard.sh")
        .shell_in_background("sleep 600");
    let login = "HOME=/root sh -i -c '. /etc/profile.d/wsguard.sh' 2>/dev/null";
    // The shell greets.
    let shown = || container.shell(login).ok().matches("wsguard: 2").count();
    assert_eq!([shown(), shown()], [1, 0]);
}

#[test]
fn terminal_of_a_container_shows_the_notice_and_nothing_else_is_written() {
    require!(fuse, docker);
    let mount = mounted("[delivery]\nterminals = true\nlogin = false\n");
    let docker = Docker::engine();
    let with_terminal =
        docker.run().option("-t").volume(mount.path(), "/workspace").shell_in_background("sleep 600");
    let elsewhere = docker.run().option("-t").shell_in_background("sleep 600");
    let printed = |name: &str| docker.command().args(["logs", name]).output().stdout;
    fill(&mount);
    wait_until("the terminal to show it", PATIENCE, || {
        printed(with_terminal.name()).contains("\r\nwsguard: project bert has reached 90 %")
    });
    let outcomes = notify(&mount, &["bert", "--channel", "terminals"], 0);
    let to = NotifyOutcome::Delivered { to: "terminals: 1, of containers: 1".to_owned() };
    assert_eq!(outcomes, [(DeliveryChannel::Terminals, to)]);
    assert!(!printed(elsewhere.name()).contains("wsguard"), "it does not have the workspace");
    // Whoever wants no messages gets none.
    with_terminal.shell("chmod 600 /dev/pts/0").ok();
    let outcomes = notify(&mount, &["bert", "--channel", "terminals"], 0);
    assert!(matches!(outcomes[0].1, NotifyOutcome::Nobody { .. }), "{outcomes:?}");
}

#[test]
fn hostile_container_cannot_turn_a_notice_against_the_host() {
    require!(fuse, docker);
    let mount = mounted("[delivery]\nterminals = true\nlogin = false\n");
    let victim = mount.daemon().dir().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let docker = Docker::engine();
    // Its terminal is stopped; its /dev/pts holds what is no terminal; the host's terminals are bound into another one.
    let stopped = docker.run().option("-t").volume(mount.path(), "/workspace");
    let stopped = stopped.shell_in_background("stty -F /dev/pts/0 raw; sleep 600");
    let powerful = ["--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"];
    let powerful = || docker.run().options(powerful).volume(mount.path(), "/workspace");
    let replaced = powerful().volume(&victim, "/victim").shell_in_background(
        "umount /dev/pts; mkdir -p /fake; mount -t tmpfs none /fake; ln -s /victim /fake/0; mkfifo /fake/1; \
         mount --move /fake /dev/pts; sleep 600",
    );
    let hosts = powerful().volume(Path::new("/dev/pts"), "/dev/pts").shell_in_background("sleep 600");
    let pty =
        Run::new("script").args(["-q", "-f", "-c", "sleep 30"]).arg(mount.daemon().dir().join("typescript"));
    let mut pty =
        pty.spawn(std::process::Stdio::null(), std::process::Stdio::null(), std::process::Stdio::null());
    wait_until("the containers to be ready", PATIENCE, || {
        replaced.shell("test -L /dev/pts/0").code == 0 && stopped.shell("test -c /dev/pts/0").code == 0
    });
    stopped.shell("kill -0 1").ok();
    let started = std::time::Instant::now();
    for _ in 0..3 {
        notify(&mount, &["bert", "--channel", "terminals"], 0);
    }
    assert!(started.elapsed() < PATIENCE, "nobody is waited for");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    let typed = fs::read_to_string(mount.daemon().dir().join("typescript")).unwrap_or_default();
    assert!(!typed.contains("wsguard:"), "a terminal of the host: {typed}");
    drop(hosts);
    pty.kill().unwrap();
    pty.wait().unwrap();
}
