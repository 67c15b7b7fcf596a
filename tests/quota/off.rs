//! Quota and history turned off: what is said then, and what is not done.

use std::fs;

use harness::{Daemon, GuardMount};
use wsguard_api::{LogReport, QuotaReport, QuotaState};

use super::ground::Below;

#[test]
fn what_is_turned_off_is_said_and_not_done() {
    if !Below::Ext4.is_there() {
        return;
    }
    let config = "[quota]\nenabled = false\n[history]\nenabled = false\n";
    let mount = GuardMount::builder().daemon(Daemon::builder().config(config)).name("project").mount();
    let daemon = mount.daemon();
    daemon.command().args(["quota", "set", "project:project", "1M"]).ok();
    fs::write(mount.path().join("large"), vec![1; 3 << 20]).unwrap();
    fs::remove_file(mount.path().join("large")).unwrap();
    fs::write(mount.path().join("large"), vec![1; 2 << 20]).unwrap();

    let status = daemon.cli(["status"]).ok();
    assert!(status.contains("warning: project: nothing is counted and no limit is enforced"), "{status}");
    assert!(status.contains("warning: changes are not recorded, history.enabled is false"), "{status}");
    let report: QuotaReport = serde_json::from_str(&daemon.cli(["quota", "report", "--json"]).ok()).unwrap();
    let row = report.items.into_iter().find(|row| row.name.is_some()).unwrap();
    assert_eq!((row.used, row.state), (None, QuotaState::Unknown));
    let check = daemon.cli(["quota", "check", "project"]);
    assert!(check.code == 7 && check.stderr.contains("nothing is counted"), "{check:?}");
    let log: LogReport =
        serde_json::from_str(&daemon.command().args(["log", "--json"]).arg(mount.path()).ok()).unwrap();
    assert!(log.entries.is_empty(), "{log:?}");
    assert!(log.gaps.iter().any(|gap| format!("{gap:?}").contains("history.enabled")), "{log:?}");
    let size = rustix::fs::statvfs(mount.path()).unwrap();
    assert!(size.f_blocks * size.f_frsize > 1 << 20, "df shows a limit that nobody enforces");
}

#[test]
fn what_is_turned_on_again_is_counted_from_the_files() {
    if !Below::Ext4.is_there() {
        return;
    }
    let mut mount =
        GuardMount::builder().daemon(Daemon::builder().config("[quota]\nenabled = false\n")).mount();
    fs::write(mount.path().join("file"), vec![1; 3 << 20]).unwrap();
    mount.daemon_mut().terminate();
    fs::write(mount.daemon().config_file(), "").unwrap();
    mount.daemon_mut().start_again();
    harness::wait_until("the project to be counted", std::time::Duration::from_secs(40), || {
        let text = mount.daemon().cli(["quota", "report", "--json"]).ok();
        let report: QuotaReport = serde_json::from_str(&text).unwrap();
        report
            .items
            .iter()
            .any(|row| row.name.is_some() && row.used.is_some_and(|used| used.bytes == 3 << 20))
    });
}
