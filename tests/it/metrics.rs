//! Metrics, the nightly sample, the log of a workspace, and forecasts.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use harness::{Daemon, GuardMount, Run, kill, require, run_as, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const OWNER: u32 = 4_321;
const PATIENCE: Duration = Duration::from_secs(30);

fn metrics(mount: &GuardMount) -> String {
    mount.daemon().command().arg("metrics").ok()
}

/// The value of the first line that begins so.
fn value(text: &str, start: &str) -> Option<i64> {
    text.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_tell_use_limits_refusals_deliveries_and_deaths() {
    require!(fuse);
    // A port that is free now; whoever takes it meanwhile makes the test fail, not pass.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Daemon::builder().config(format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let mount = GuardMount::builder().owner(OWNER).name("be\"rt").daemon(daemon).mount();
    let id = &mount.workspace().id;
    mount.daemon().command().args(["quota", "set", &format!("project:{id}"), "4M", "--soft", "3M"]).ok();
    let output = Run::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=8"])
        .arg(format!("of={}", mount.path().join("large").display()));
    assert_ne!(output.output().code, 0);
    let labels = format!("{{scope=\"project\",name=\"be\\\"rt\",id=\"{id}\",uid=\"{OWNER}\"");
    wait_until("the notice to be counted", PATIENCE, || {
        value(&metrics(&mount), "wsguard_delivery_notices_total{channel=\"login\",result=\"delivered\"}")
            .is_some_and(|delivered| delivered > 0)
    });
    let text = metrics(&mount);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let of = |name: &str, rest: &str| value(&text, &format!("wsguard_{name}{labels}{rest}")).unwrap_or(-1);
    assert_eq!(of("quota_limit_bytes", ",kind=\"hard\"}"), 4 << 20);
    assert_eq!(of("quota_limit_bytes", ",kind=\"soft\"}"), 3 << 20);
    let used = of("quota_used_bytes", "}");
    assert!(used > 3 << 20 && used <= 4 << 20, "{text}");
    assert!(of("quota_refused_total", "}") > 0, "{text}");
    assert!(of("quota_grace_seconds", "}") > 6 * 86_400, "{text}");
    assert_eq!(value(&text, "wsguard_worker_deaths_total"), Some(0));
    assert_eq!(value(&text, "wsguard_tracker_dropped_records_total"), Some(0));
    assert_eq!(value(&text, "wsguard_quota_drifts_total"), Some(0));
    assert_eq!(value(&text, "wsguard_workspaces{state=\"mounted\"}"), Some(1));
    kill(mount.daemon().worker_pid(), Signal::KILL);
    wait_until("the death to be counted", PATIENCE, || {
        value(&metrics(&mount), "wsguard_worker_deaths_total") == Some(1)
    });
    wait_until("the address to answer", PATIENCE, || {
        over_tcp(port).is_some_and(|answer| {
            answer.starts_with("HTTP/1.1 200 OK")
                && answer.contains("application/openmetrics-text")
                && answer.contains("wsguard_takeover_stall_milliseconds")
        })
    });
    let other = TcpStream::connect(("127.0.0.1", port)).map(|mut stream| {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(other.unwrap().starts_with("HTTP/1.1 404"), "nothing else is answered there");
}

fn over_tcp(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn sample_compares_the_counters_with_the_index_without_a_walk() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).name("bert").mount();
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/file"), vec![1; 100_000]).unwrap();
    let sample = || {
        let command = mount.daemon().command().args(["quota", "check", "bert", "--sample", "--json"]);
        let output = command.output();
        // 4 while somebody writes, 10 while the index has not caught up.
        assert!([0, 4, 10].contains(&output.code), "{output:?}");
        (output.code == 0).then(|| serde_json::from_str::<Value>(&output.stdout).unwrap()["items"][0].clone())
    };
    let mut found = None;
    wait_until("index and counters to agree", PATIENCE, || {
        found = sample();
        found.is_some()
    });
    let found = found.unwrap();
    assert_eq!(found["counted"], serde_json::json!({ "bytes": 102_400, "inodes": 3 }));
    assert_eq!((&found["is_sample"], &found["drift_bytes"]), (&Value::Bool(true), &0.into()));
}

#[test]
fn log_of_a_workspace_names_who_did_what() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).name("bert").mount();
    let script = "echo hello > \"$1/be\nfore\"; mv \"$1/be\nfore\" \"$1/after\"; rm \"$1/after\"";
    Run::new("sh").args(["-c", script, "sh"]).arg(mount.path()).ok();
    let log = || fs::read_to_string(mount.path().join(".wsguard/log")).unwrap();
    wait_until("the log to have it", PATIENCE, || log().contains("deleted after"));
    let text = log();
    let lines: Vec<&str> = text.lines().collect();
    let at =
        |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{text}"));
    assert!(at("created be?fore") < at("renamed be?fore to after"), "{text}");
    assert!(at("renamed be?fore to after") < at("deleted after"), "{text}");
    assert!(lines[at("deleted after")].contains("by uid 0, rm "), "{text}");
    assert!(lines.last().unwrap().starts_with("the latest changes as of 2"), "{text}");
    let read =
        |uid| run_as(uid, uid, &[], Path::new("cat")).arg(mount.path().join(".wsguard/log")).output().code;
    assert_eq!((read(OWNER), read(OWNER + 1)), (0, 1), "it is the owner's");
}

#[test]
fn checkpoint_that_will_not_fit_is_told_when_it_is_begun() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).name("bert").mount();
    mount.daemon().command().args(["quota", "set", "project:bert", "10M"]).ok();
    fs::create_dir(mount.path().join("run")).unwrap();
    fs::write(mount.path().join("run/step-1.pt"), vec![1; 6 << 20]).unwrap();
    let screen = || fs::read_to_string(mount.path().join(".wsguard/quota")).unwrap();
    wait_until("the index to know the checkpoint", PATIENCE, || {
        screen().contains("next checkpoint ~6 MiB: does not fit any more")
    });
    let notices = || fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap();
    let told = || notices().matches("will probably not fit").count();
    assert_eq!(told(), 0, "{}", notices());
    // The driver has to have seen the complete one at rest.
    std::thread::sleep(Duration::from_secs(6));
    let mut next = File::create(mount.path().join("run/step-2.pt.tmp")).unwrap();
    next.write_all(&[1; 4_096]).unwrap();
    wait_until("the forecast", PATIENCE, || told() == 1);
    let text = notices();
    assert!(text.contains("run/step-2.pt.tmp will probably not fit: the last one took 6 MiB"), "{text}");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(told(), 1, "once for each");
    let events = mount.daemon().command().args(["events", "--json"]).ok();
    assert!(events.contains("quota-forecast"), "{events}");
}
