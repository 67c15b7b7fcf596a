//! What users ask for from inside a workspace, and what administrators answer.

use std::{fs, path::Path, time::Duration};

use harness::{Docker, GuardMount, Output, Run, kill, require, run_as, wait_until};
use rustix::{io::Errno, process::Signal};
use wsguard_api::{
    AuditList, BoostAnswer, BoostRequest, BoostRequestList, QuotaReport, RequestState, ScopeRef,
};

const OWNER: u32 = 4_321;
const PATIENCE: Duration = Duration::from_secs(20);
const BOOST: &str = "boost 2G for 7d because paper deadline";
const GIB: u64 = 1 << 30;

fn mounted() -> GuardMount {
    let mount = GuardMount::builder().owner(OWNER).name("bert").mount();
    mount.daemon().command().args(["quota", "set", "project:bert", "1G"]).ok();
    mount
}

fn quota(mount: &GuardMount, arguments: &[&str]) -> Output {
    mount.daemon().command().arg("quota").args(arguments).output()
}

fn requests(mount: &GuardMount, arguments: &[&str]) -> Vec<BoostRequest> {
    let output = quota(mount, &[&["requests", "--json"], arguments].concat()).ok();
    serde_json::from_str::<BoostRequestList>(&output).unwrap().items
}

/// Writes a line as a shell does, and returns the errno.
fn ask(mount: &GuardMount, line: &str) -> Result<(), Errno> {
    fs::write(mount.path().join(".wsguard/request"), line)
        .map_err(|error| Errno::from_io_error(&error).unwrap())
}

fn answer(mount: &GuardMount) -> String {
    fs::read_to_string(mount.path().join(".wsguard/request")).unwrap()
}

fn hard(mount: &GuardMount) -> u64 {
    let report: QuotaReport =
        serde_json::from_str(&quota(mount, &["get", "project:bert", "--json"]).ok()).unwrap();
    report.items[0].bytes_hard.unwrap()
}

#[test]
fn boost_is_asked_for_in_a_container_and_approved() {
    require!(fuse, docker);
    let mount = mounted();
    let container =
        Docker::engine().run().volume(mount.path(), "/workspace").shell_in_background("sleep 600");
    let said = container
        .shell(&format!("echo '{BOOST}' > /workspace/.wsguard/request; cat /workspace/.wsguard/request"))
        .ok();
    assert!(said.starts_with(&format!("> {BOOST}\nrequest 1 waits for an administrator")), "{said}");
    let asked = requests(&mount, &[]);
    assert_eq!((asked.len(), asked[0].bytes, asked[0].seconds), (1, 2 * GIB, 7 * 86_400));
    assert_eq!((asked[0].reason.as_str(), asked[0].owner_uid), ("paper deadline", OWNER));
    let dry: BoostAnswer =
        serde_json::from_str(&quota(&mount, &["approve", "1", "--dry-run", "--json"]).ok()).unwrap();
    assert!(!dry.plan.unwrap().applied);
    assert_eq!((hard(&mount), requests(&mount, &[]).len()), (GIB, 1), "nothing has changed");
    let text = quota(&mount, &["approve", "1", "--reason", "good luck"]).ok();
    assert!(text.contains("request 1 of bert (2.0 GiB for 7d): approved"), "{text}");
    assert_eq!(hard(&mount), 3 * GIB);
    // What is read may be a tenth of a second old.
    wait_until("the approval to be readable", PATIENCE, || {
        let answer = container.shell("cat /workspace/.wsguard/request").ok();
        answer.contains("request 1 was approved: 2 GiB more for 7 d: good luck")
    });
    let notices = fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap();
    assert!(notices.contains("request 1 was approved"), "{notices}");
    wait_until("the log to have it", PATIENCE, || {
        let log = container.shell("cat /workspace/.wsguard/log").ok();
        log.contains(&format!("request: {BOOST}: request 1 waits"))
    });
    let audit: AuditList = serde_json::from_str(&quota(&mount, &["audit", "--json"]).ok()).unwrap();
    let fields: Vec<&str> = audit.items.iter().take(2).map(|entry| entry.field.as_str()).collect();
    assert_eq!(fields, ["request", "boost"], "{audit:?}");
    assert_eq!(quota(&mount, &["approve", "1"]).code, 4, "it is decided");
    assert_eq!(quota(&mount, &["approve", "99"]).code, 3);
    assert!(requests(&mount, &[]).is_empty());
    assert_eq!(requests(&mount, &["--all"])[0].state, RequestState::Approved);
}

#[test]
fn notebook_and_its_folder_come_back_without_leaving_the_container() {
    require!(fuse, docker);
    let mount = mounted();
    let container =
        Docker::engine().run().volume(mount.path(), "/workspace").shell_in_background("sleep 600");
    let shell = |script: &str| container.shell(script).ok();
    shell(
        "cd /workspace && mkdir work && echo first > work/a.ipynb && echo snapshot good > .wsguard/request",
    );
    wait_until("the snapshot", PATIENCE, || answer(&mount).contains("is taken"));
    shell("cd /workspace && echo second > work/a.ipynb");
    assert_eq!(shell("cat /workspace/.snapshots/good/work/a.ipynb"), "first\n");
    assert_eq!(shell("cat /workspace/work/.snapshots/good/a.ipynb"), "first\n");
    shell("cd /workspace && rm -rf work && ! test -e work && echo undo > .wsguard/request");
    wait_until("the folder to be back", PATIENCE, || answer(&mount).contains("is done"));
    assert_eq!(shell("cat /workspace/work/a.ipynb"), "second\n");
    shell("cd /workspace && cp .snapshots/good/work/a.ipynb work/a.ipynb");
    assert_eq!(shell("cat /workspace/work/a.ipynb"), "first\n");
    let refused = container.shell("echo restore ../etc > /workspace/.wsguard/request");
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(answer(&mount).contains("leads out of the workspace"), "{}", answer(&mount));
}

#[test]
fn denial_needs_a_reason_and_the_user_reads_it_also_after_a_restart() {
    require!(fuse);
    let mut mount = mounted();
    ask(&mount, BOOST).unwrap();
    assert_eq!(quota(&mount, &["deny", "1", "--reason", " "]).code, 2);
    quota(&mount, &["deny", "1", "--reason", "delete\nrun1 first"]).ok();
    assert_eq!(hard(&mount), GIB);
    let said = "request 1 was denied: delete?run1 first";
    assert!(answer(&mount).contains(said), "{}", answer(&mount));
    mount.daemon_mut().terminate();
    mount.daemon_mut().start_again();
    assert!(answer(&mount).contains(said), "{}", answer(&mount));
    assert_eq!(requests(&mount, &["--all"])[0].decided_by, Some(0));
}

#[test]
fn hostile_lines_are_refused_and_cost_nothing() {
    require!(fuse);
    let mount = mounted();
    assert_eq!(ask(&mount, "help\n"), Ok(()));
    assert!(answer(&mount).contains("boost SIZE for TIME because REASON"));
    assert_eq!(ask(&mount, "boost 2G"), Err(Errno::INVAL));
    assert!(answer(&mount).starts_with("> boost 2G\nnot done: write: boost SIZE"), "{}", answer(&mount));
    let path = mount.path().join(".wsguard/request");
    for bytes in [&b"\xff\xfe\x00"[..], b"a\nb\n", b"\n", b"x\x1b[2J"] {
        assert_eq!(Errno::from_io_error(&fs::write(&path, bytes).unwrap_err()), Some(Errno::INVAL));
    }
    let huge = fs::write(&path, vec![b'a'; 4 << 20]).unwrap_err();
    assert_eq!(Errno::from_io_error(&huge), Some(Errno::MSGSIZE));
    assert!(!answer(&mount).contains("\u{1b}"));
    for number in 1..=3 {
        ask(&mount, &format!("{BOOST} {number}")).unwrap();
        ask(&mount, &format!("{BOOST} {number}")).unwrap();
    }
    assert_eq!(requests(&mount, &[]).len(), 3, "the same one twice is one");
    let refusals: Vec<_> = (0..20).map(|number| ask(&mount, &format!("{BOOST} no {number}"))).collect();
    assert!(refusals.iter().all(|result| matches!(result, Err(Errno::BUSY | Errno::AGAIN))), "{refusals:?}");
    assert_eq!(refusals[19], Err(Errno::AGAIN), "ten a minute");
    assert_eq!(requests(&mount, &[]).len(), 3);
    // Nobody else may write, and nothing else takes lines.
    let script = format!("echo '{BOOST}' > '{}'", path.display());
    let other = run_as(OWNER + 1, OWNER + 1, &[], Path::new("sh")).args(["-c", &script]).output();
    assert!(other.stderr.contains("Permission denied"), "{other:?}");
    let quota = fs::OpenOptions::new().write(true).open(mount.path().join(".wsguard/quota"));
    assert_eq!(Errno::from_io_error(&quota.unwrap_err()), Some(Errno::ROFS));
    for argument in ["chmod 600", "rm -f", "touch", "truncate -s 100"] {
        let output = Run::new("sh").args(["-c", &format!("{argument} '{}'", path.display())]).output();
        assert_eq!(output.code == 0, argument.starts_with("truncate"), "{argument}: {output:?}");
    }
}

#[test]
fn owner_asks_and_sees_their_own_and_decides_nothing() {
    require!(fuse);
    let mount = mounted();
    let path = mount.path().join(".wsguard/request");
    let script = format!("echo '{BOOST}' >> '{0}' && cat '{0}'", path.display());
    let said = run_as(OWNER, OWNER, &[], Path::new("sh")).args(["-c", &script]).ok();
    assert!(said.contains("request 1 waits"), "{said}");
    let binary = mount.daemon().dir().join("wsguard");
    Run::new("install").args(["-m", "755"]).arg(harness::wsguard_binary()).arg(&binary).ok();
    let by = |uid: u32, arguments: &[&str]| {
        run_as(uid, uid, &[], &binary)
            .args(arguments)
            .env("WSGUARD_RUNTIME_DIR", mount.daemon().runtime_dir())
            .env("WSGUARD_CONFIG", mount.daemon().config_file())
            .output()
    };
    let list = |uid| {
        let output = by(uid, &["quota", "requests", "--json"]).ok();
        serde_json::from_str::<BoostRequestList>(&output).unwrap().items.len()
    };
    assert_eq!((list(OWNER), list(OWNER + 1)), (1, 0));
    assert_eq!(by(OWNER, &["quota", "approve", "1"]).code, 9);
    assert_eq!(by(OWNER, &["metrics"]).code, 9);
    assert_eq!(requests(&mount, &[])[0].state, RequestState::Pending);
}

#[test]
fn approval_raises_the_limit_that_binds_and_outlives_a_worker() {
    require!(fuse);
    let mount = mounted();
    mount.daemon().command().args(["quota", "unset", "project:bert"]).ok();
    mount.daemon().command().args(["quota", "set", &format!("user:{OWNER}"), "1G"]).ok();
    ask(&mount, BOOST).unwrap();
    kill(mount.daemon().worker_pid(), Signal::KILL);
    wait_until("the answer to be there again", PATIENCE, || answer(&mount).contains("request 1 waits"));
    let given: BoostAnswer =
        serde_json::from_str(&quota(&mount, &["approve", "1", "--by", "1G", "--for", "2d", "--json"]).ok())
            .unwrap();
    assert_eq!((given.request.bytes, given.request.seconds), (GIB, 2 * 86_400));
    let report: QuotaReport =
        serde_json::from_str(&quota(&mount, &["get", &format!("user:{OWNER}"), "--json"]).ok()).unwrap();
    assert_eq!(report.items[0].scope, ScopeRef::User { uid: OWNER });
    assert_eq!(report.items[0].bytes_hard, Some(2 * GIB));
    // Without any limit there is nothing to raise.
    mount.daemon().command().args(["quota", "boost", &format!("user:{OWNER}"), "--end"]).ok();
    mount.daemon().command().args(["quota", "unset", &format!("user:{OWNER}")]).ok();
    ask(&mount, BOOST).unwrap();
    assert_eq!(quota(&mount, &["approve", "2"]).code, 4);
}
