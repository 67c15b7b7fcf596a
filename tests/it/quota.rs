//! Limits as administrators set them and users see them, with a real daemon.

use std::{
    fs,
    io::Write,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Daemon, Output, Run, kill, require, run_as, wait_until, wsguard_binary};
use rusqlite::{Connection, params};
use rustix::process::Signal;
use serde_json::Value;
use wsguard_api::{
    AuditList, Explanation, PolicyDocument, PolicyTarget, QuotaPlan, QuotaReport, QuotaRow, QuotaState,
    ScopeRef,
};

const OWNER: u32 = 4_321;
const GIB: u64 = 1 << 30;

/// A daemon with an empty workspace of a user that `/etc/passwd` does not have.
struct Ground {
    daemon: Daemon,
    id: String,
    dir: PathBuf,
}

impl Ground {
    fn new(config: &str) -> Self {
        let daemon = Daemon::builder().config(config).start();
        let dir = daemon.make_dir("w/bert");
        chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
        let id = daemon.mount(&dir).id;
        Self { daemon, id, dir }
    }

    /// Unmounts the workspace and lets the catalog say what it used then, as an unmount stores it.
    fn with_stored_use(bytes: u64, inodes: u64) -> Self {
        let mut ground = Self::new("");
        ground.daemon.command().arg("umount").arg(&ground.dir).ok();
        ground.daemon.terminate();
        ground
            .catalog()
            .execute(
                "INSERT OR REPLACE INTO quota_counter VALUES (?1, ?2, ?3, ?2, ?3, 1)",
                params![ground.id, bytes.cast_signed(), inodes.cast_signed()],
            )
            .unwrap();
        ground.daemon.start_again();
        ground
    }

    fn catalog(&self) -> Connection {
        Connection::open(self.daemon.state_dir().join("catalog.sqlite")).unwrap()
    }

    fn quota(&self, arguments: &[&str]) -> Output {
        self.daemon.command().arg("quota").args(arguments).output()
    }

    #[track_caller]
    fn set(&self, arguments: &[&str]) -> QuotaPlan {
        parsed(&self.quota(&[&["set"], arguments, &["--json"]].concat()))
    }

    #[track_caller]
    fn report(&self) -> QuotaReport {
        parsed(&self.quota(&["report", "--json"]))
    }

    #[track_caller]
    fn row(&self, scope: &ScopeRef) -> QuotaRow {
        let report = self.report();
        let row = report.items.iter().find(|row| row.scope == *scope).cloned();
        row.unwrap_or_else(|| panic!("{scope:?} is not in {report:#?}"))
    }

    fn owner(&self) -> QuotaRow {
        self.row(&ScopeRef::User { uid: OWNER })
    }

    /// As [`Self::owner`], once the daemon has counted what it only estimates after a start or a death.
    fn owner_once_counted(&self) -> QuotaRow {
        wait_until("a count", Duration::from_secs(60), || self.owner().state != QuotaState::Estimated);
        self.owner()
    }

    #[track_caller]
    fn policy(&self) -> PolicyDocument {
        parsed(&self.quota(&["template", "ls", "--json"]))
    }

    #[track_caller]
    fn audit(&self) -> AuditList {
        parsed(&self.quota(&["audit", "--json"]))
    }

    /// Runs a command as somebody else, by a copy of the binary that everybody can reach.
    fn quota_as(&self, uid: u32, groups: &[u32], arguments: &[&str]) -> Output {
        let copy = self.daemon.dir().join("wsguard");
        if !copy.exists() {
            Run::new("install").args(["-m", "755"]).arg(wsguard_binary()).arg(&copy).ok();
        }
        run_as(uid, uid, groups, &copy)
            .arg("quota")
            .args(arguments)
            .env("WSGUARD_RUNTIME_DIR", self.daemon.runtime_dir())
            .env("WSGUARD_CONFIG", self.daemon.config_file())
            .env("NO_COLOR", "1")
            .output()
    }
}

#[track_caller]
fn parsed<T: serde::de::DeserializeOwned>(output: &Output) -> T {
    assert_eq!(output.code, 0, "{output:?}");
    // Objects whose type has no version of its own carry one all the same.
    let mut value: Value = serde_json::from_str(&output.stdout).unwrap();
    if std::any::type_name::<T>().ends_with("PolicyDocument") {
        value.as_object_mut().unwrap().remove("schema").unwrap();
    }
    serde_json::from_value(value).unwrap()
}

#[test]
fn bad_input_is_refused_with_a_hint_and_changes_nothing() {
    require!(fuse);
    let ground = Ground::new("");
    let uid = OWNER.to_string();
    let outside = ground.daemon.make_dir("outside");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["set", "10"], 2, "nothing to set"),
        (&["set", &uid, "10"], 2, "no unit"),
        (&["set", &uid, "500GBB"], 2, "GBB"),
        (&["set", &uid, "-5G"], 2, "negative"),
        (&["set", &uid, "5G", "--soft", "-5G"], 2, "negative"),
        (&["set", &uid, "5G", "--soft", "6G"], 2, "above the hard one"),
        (&["set", &uid, "--soft", "6G"], 2, "no hard limit"),
        (&["set", &uid, "5G", "--headroom", "6G"], 2, "headroom"),
        (&["set", "no-such-user-here", "5G"], 3, "no user and no workspace"),
        (&["set", "user:no-such-user-here", "5G"], 3, "no user"),
        (&["set", "user:4294967", "5G"], 3, "no user"),
        (&["set", outside.to_str().unwrap(), "5G"], 3, "not in a workspace"),
        (&["set", "/no/such/path", "5G"], 3, "does not exist"),
        (&["set", "project:gpt", "5G"], 3, "no workspace"),
        (&["set", "group:a/b", "5G"], 2, "cannot be the name of a group"),
        (&["set", &uid, "5G", "--each-project"], 2, "is no template"),
        (&["unset", &uid], 3, "nothing is set"),
        (&["boost", &uid, "--by", "5G", "--for", "7d", "--reason", "x"], 4, "no limit of bytes"),
        (&["boost", "default", "--by", "5G", "--for", "7d", "--reason", "x"], 2, "template"),
        (&["boost", &uid, "--end"], 3, "no boost"),
        (&["grace", &uid, "--extend", "3d"], 4, "no grace period"),
        (&["template", "rm", "students"], 3, "no group"),
        (&["template", "assign", "default", &uid], 2, "cannot be the name of a group"),
        (&["template", "unassign", &uid], 3, "in no group"),
        (&["simulate", "--template", "students"], 3, "no group"),
        (&["explain", outside.to_str().unwrap()], 3, "not in a workspace"),
    ];
    for (arguments, code, says) in cases {
        let output = ground.quota(arguments);
        assert_eq!(output.code, *code, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(says), "{arguments:?} does not say {says:?}: {}", output.stderr);
        // What the parser refuses points to the help, everything else has a hint.
        let tells = output.stderr.contains("hint: ") || output.stderr.contains("--help");
        assert!(output.stderr.starts_with("error: ") && tells, "{arguments:?}: {}", output.stderr);
    }
    assert_eq!(ground.policy(), PolicyDocument::default());
    assert_eq!(ground.audit().items, []);
}

#[test]
fn a_limit_below_what_is_used_needs_allow_over() {
    require!(fuse);
    let ground = Ground::with_stored_use(3 * GIB, 1_000);
    let row = ground.owner();
    assert_eq!((row.used.unwrap().bytes, row.state), (3 * GIB, QuotaState::Unmounted));
    let uid = OWNER.to_string();
    for limit in [&["2G"][..], &["unlimited", "--inodes", "999"]] {
        let arguments = [&["set", &uid], limit].concat();
        let output = ground.quota(&arguments).expect_code(4);
        assert!(output.stderr.contains("below current use: user:4321 uses "), "{}", output.stderr);
        assert!(output.stderr.contains("--allow-over"), "{}", output.stderr);
        assert_eq!(ground.policy(), PolicyDocument::default());
    }
    let dry = ground.set(&[&uid, "2G", "--dry-run"]);
    assert!(!dry.applied);
    let hits: Vec<_> = dry.hits.iter().map(|hit| (&hit.scope, hit.used.bytes, hit.bytes_hard)).collect();
    assert_eq!(hits, [(&ScopeRef::User { uid: OWNER }, 3 * GIB, Some(2 * GIB))]);
    assert_eq!(ground.policy(), PolicyDocument::default());
    // The same by the default and by a file: whoever is hit is named.
    ground.quota(&["set", "default", "2G"]).expect_code(4);
    assert!(ground.set(&[&uid, "2G", "--allow-over"]).applied);
    assert_eq!(ground.owner().bytes_hard, Some(2 * GIB));
    // Lower still is one more hit; more room is none.
    ground.quota(&["set", &uid, "1G"]).expect_code(4);
    assert_eq!(ground.set(&[&uid, "3G"]).hits, []);
}

#[test]
fn limits_and_boosts_outlive_worker_and_daemon_and_the_audit_says_who_and_why() {
    require!(fuse);
    let mut ground = Ground::new("");
    let uid = OWNER.to_string();
    ground.set(&["default", "100G", "--soft", "90G", "--grace", "14d"]);
    ground.set(&[&uid, "500G", "--inodes", "1M", "--reason", "thesis"]);
    let boost = ["boost", &uid, "--by", "200G", "--for", "7d", "--reason", "paper"];
    ground.quota(&boost).expect_code(0);
    let before = ground.owner_once_counted();
    assert_eq!((before.bytes_hard, before.inodes_hard), (Some(700 * GIB), Some(1_000_000)));
    assert_eq!((before.bytes_soft, before.limits.grace_seconds), (None, Some(14 * 86_400)));
    let worker = ground.daemon.worker_pid();
    kill(worker, Signal::KILL);
    wait_until("another worker", Duration::from_secs(20), || {
        let output = ground.daemon.cli(["status", "--json"]);
        output.code == 0 && ground.daemon.status().worker_pid != worker
    });
    assert_eq!(ground.owner_once_counted(), before);
    ground.daemon.terminate();
    ground.daemon.start_again();
    assert_eq!(ground.owner_once_counted(), before);
    let audit = ground.audit();
    let of = |field: &str| {
        audit.items.iter().find(|entry| entry.subject == format!("user:{OWNER}") && entry.field == field)
    };
    let hard = of("bytes-hard").unwrap();
    assert_eq!((hard.uid, hard.reason.as_deref()), (Some(0), Some("thesis")));
    assert_eq!((hard.before.as_deref(), hard.after.clone()), (None, Some((500 * GIB).to_string())));
    assert_eq!(of("boost").unwrap().reason.as_deref(), Some("paper"));
    assert!(audit.items.is_sorted_by(|newer, older| newer.id > older.id));
}

#[test]
fn users_see_their_own_and_only_root_and_the_admin_group_change_anything() {
    require!(fuse);
    const ADMINS: u32 = 4_242;
    let ground = Ground::new(&format!("[quota]\nadmin-group = \"{ADMINS}\"\n"));
    let other = ground.daemon.make_dir("w/gpt");
    chown(&other, Some(OWNER + 1), None).unwrap();
    ground.daemon.mount(&other);
    ground.set(&["default", "100G"]);
    let own: QuotaReport = parsed(&ground.quota_as(OWNER, &[], &["report", "--json"]));
    let scopes: Vec<ScopeRef> = own.items.iter().map(|row| row.scope.clone()).collect();
    assert_eq!(scopes, [ScopeRef::User { uid: OWNER }, ScopeRef::Project { id: ground.id.clone() }]);
    assert!(!own.is_admin);
    let get: QuotaReport = parsed(&ground.quota_as(OWNER, &[], &["get", "--json"]));
    assert_eq!(get.items.len(), 2);
    ground.quota_as(OWNER, &[], &["explain", other.to_str().unwrap()]).expect_code(3);
    for arguments in [
        &["set", "default", "1T"][..],
        &["unset", "default"],
        &["template", "assign", "x", "root"],
        &["template", "ls"],
        &["audit"],
    ] {
        let output = ground.quota_as(OWNER, &[], arguments).expect_code(9);
        assert!(output.stderr.contains("4242") && output.stderr.contains("hint: "), "{}", output.stderr);
    }
    assert_eq!(ground.owner().bytes_hard, Some(100 * GIB));
    let plan: QuotaPlan = parsed(&ground.quota_as(OWNER, &[ADMINS], &["set", "default", "1T", "--json"]));
    assert!(plan.applied);
    assert_eq!(ground.audit().items[0].uid, Some(OWNER));
    let all: QuotaReport = parsed(&ground.quota_as(OWNER, &[ADMINS], &["report", "--json"]));
    assert!(all.is_admin && all.items.len() > 4, "{all:?}");
}

#[test]
fn a_grace_clock_outlives_the_daemon_and_can_be_extended() {
    require!(fuse);
    let mut ground = Ground::new("");
    let uid = OWNER.to_string();
    ground.set(&[&uid, "10G", "--soft", "5G"]);
    ground.daemon.command().arg("umount").arg(&ground.dir).ok();
    ground.daemon.terminate();
    // As the daemon keeps it when use passes the soft limit.
    let deadline = jiff_second("2100-01-01T00:00:00Z");
    ground
        .catalog()
        .execute(
            "INSERT OR REPLACE INTO quota_grace VALUES ('user', ?1, 'bytes', ?2)",
            params![uid, deadline * 1_000_000],
        )
        .unwrap();
    ground.daemon.start_again();
    ground.quota(&["grace", &uid, "--extend", "3d", "--reason", "holidays", "--dry-run"]).expect_code(0);
    assert_eq!(stored_deadline(&ground), Some(deadline));
    let output = ground.quota(&["grace", &uid, "--extend", "3d", "--reason", "holidays"]).expect_code(0);
    assert!(output.stdout.contains("2100-01-04T00:00:00Z"), "{}", output.stdout);
    ground.daemon.terminate();
    ground.daemon.start_again();
    assert_eq!(stored_deadline(&ground), Some(deadline + 3 * 86_400));
    assert_eq!(ground.audit().items[0].reason.as_deref(), Some("holidays"));
    // Without the soft limit there is no clock.
    ground.set(&[&uid, "--soft", "unlimited"]);
    assert_eq!(stored_deadline(&ground), None);
}

fn jiff_second(time: &str) -> i64 {
    let output = Run::new("date").args(["-u", "+%s", "-d", time]).ok();
    output.trim().parse().unwrap()
}

fn stored_deadline(ground: &Ground) -> Option<i64> {
    let found =
        ground.catalog().query_row("SELECT deadline_us FROM quota_grace", [], |row| row.get::<_, i64>(0));
    found.ok().map(|microseconds| microseconds / 1_000_000)
}

#[test]
fn explain_names_the_level_that_counts() {
    require!(fuse);
    let ground = Ground::new("");
    let uid = OWNER.to_string();
    fs::create_dir(ground.dir.join("deep")).unwrap();
    ground.set(&["default", "100G"]);
    ground.quota(&["template", "set", "lab", "50G"]).expect_code(0);
    ground.quota(&["template", "assign", "lab", &uid]).expect_code(0);
    let path = ground.dir.join("deep");
    let explained: Explanation = parsed(&ground.quota(&["explain", path.to_str().unwrap(), "--json"]));
    let scopes: Vec<&ScopeRef> = explained.scopes.iter().map(|scope| &scope.row.scope).collect();
    assert!(
        matches!(
            scopes.as_slice(),
            [
                ScopeRef::Project { .. },
                ScopeRef::User { uid: OWNER },
                ScopeRef::Group { .. },
                ScopeRef::Pool { .. }
            ]
        ),
        "{scopes:?}"
    );
    let winners: Vec<&PolicyTarget> =
        explained.scopes[1].steps.iter().filter(|step| step.wins).map(|step| &step.target).collect();
    assert_eq!(winners, [&PolicyTarget::EachUser { group: "lab".into() }]);
    assert_eq!(explained.scopes[1].row.bytes_hard, Some(50 * GIB));
    let text = ground.quota(&["explain", path.to_str().unwrap()]).expect_code(0).stdout;
    assert!(text.contains("template:lab") && text.contains("counts"), "{text}");
}

#[test]
fn a_file_is_applied_by_difference_and_a_wrong_one_not_at_all() {
    require!(fuse);
    let ground = Ground::new("");
    let file = ground.daemon.dir().join("policy.toml");
    let apply = |text: &str, options: &[&str]| {
        fs::write(&file, text).unwrap();
        ground.quota(&[&["apply", file.to_str().unwrap()], options].concat())
    };
    let good = format!(
        "[default]\neach-user = {{ hard = \"100G\" }}\n[group.lab]\nmembers = [\"{OWNER}\"]\n\
         each-user = {{ hard = \"1T\", soft = \"900G\" }}\n[project.bert]\nhard = \"10G\"\n"
    );
    let plan: QuotaPlan = parsed(&apply(&good, &["--dry-run", "--json"]));
    assert!(!plan.applied && plan.changes.len() == 7, "{plan:?}");
    assert_eq!(ground.policy(), PolicyDocument::default());
    apply(&good, &[]).expect_code(0);
    assert_eq!(ground.owner().bytes_hard, Some(1 << 40));
    let again: QuotaPlan = parsed(&apply(&good, &["--json"]));
    assert_eq!(again.changes, []);
    let policy = ground.policy();
    for wrong in [
        "[user.no-such-user-here]\nhard = \"1G\"\n",
        "[default]\neach-user = { hard = \"1G\", soft = \"2G\" }\n",
        "[default]\neach-user = { hrad = \"1G\" }\n",
        "[default\n",
        "[project.gpt]\nhard = \"1G\"\n",
    ] {
        let output = apply(wrong, &["--prune"]);
        assert!([2, 3].contains(&output.code), "{wrong}: {output:?}");
        assert!(output.stderr.contains("hint: "), "{wrong}: {}", output.stderr);
        assert_eq!(ground.policy(), policy, "{wrong}");
    }
    apply("", &["--prune"]).expect_code(0);
    assert_eq!(ground.policy(), PolicyDocument::default());
}

#[test]
fn ds01_limits_are_imported_and_its_names_answer() {
    require!(fuse);
    let ground = Ground::new("");
    let dir = ground.daemon.make_dir("ds01");
    let limits = dir.join("resource-limits.yaml");
    fs::write(
        &limits,
        "defaults: {max_cpus: 32, storage_workspace: 100G, storage_tmp: 50G}\ndefault_group: student\n\
         groups:\n  student: {storage_workspace: 500G}\n  faculty: {storage_workspace: null}\n",
    )
    .unwrap();
    fs::write(dir.join("faculty.members"), format!("# staff\n{OWNER}\nlong-gone-user\n")).unwrap();
    let members = dir.to_str().unwrap();
    let toml = ground.quota(&["import", limits.to_str().unwrap(), "--members", members]).expect_code(0);
    assert!(toml.stdout.contains("550G") && toml.stderr.contains("storage_tmp"), "{toml:?}");
    let apply = ["apply", limits.to_str().unwrap(), "--members", members];
    let refused = ground.quota(&apply).expect_code(3);
    assert!(refused.stderr.contains("long-gone-user"), "{}", refused.stderr);
    ground.quota(&[&apply[..], &["--skip-unknown-users"]].concat()).expect_code(0);
    let row = ground.owner();
    assert_eq!((row.group.as_deref(), row.bytes_hard), (Some("faculty"), None));
    for link in ["quota-check", "check-limits"] {
        let output = linked(&ground, &dir, link).args([OWNER.to_string().as_str(), "--json"]).output();
        let report: QuotaReport = parsed(&output);
        assert_eq!(report.items[0].scope, ScopeRef::User { uid: OWNER });
    }
}

fn linked(ground: &Ground, dir: &Path, name: &str) -> Run {
    let link = dir.join(name);
    symlink(wsguard_binary(), &link).unwrap();
    Run::new(&link)
        .env("WSGUARD_RUNTIME_DIR", ground.daemon.runtime_dir())
        .env("WSGUARD_CONFIG", ground.daemon.config_file())
}

#[test]
fn a_pool_has_one_limit_and_a_forgotten_workspace_none() {
    require!(fuse);
    let ground = Ground::new("");
    let (one, two) = (ground.daemon.make_dir("one"), ground.daemon.make_dir("two"));
    ground.set(&[&format!("pool:{}", one.display()), "5T"]);
    let output = ground.quota(&["set", &format!("pool:{}", two.display()), "6T"]).expect_code(4);
    assert!(output.stderr.contains("one filesystem"), "{}", output.stderr);
    ground.set(&["project:bert", "5G"]);
    ground.daemon.command().arg("umount").arg(&ground.dir).arg("--forget").ok();
    let targets: Vec<PolicyTarget> =
        ground.policy().records.into_iter().map(|record| record.target).collect();
    assert_eq!(targets, [PolicyTarget::Pool { path: one }]);
    let audit = ground.audit();
    assert_eq!(audit.items[0].uid, None);
    assert_eq!(audit.items[0].reason.as_deref(), Some("the workspace was forgotten"));
}

#[test]
fn check_counts_a_mounted_workspace_and_finds_no_difference() {
    require!(fuse);
    let ground = Ground::new("");
    fs::write(ground.dir.join("file"), vec![7; 10_000]).unwrap();
    let output = ground.quota_as(OWNER, &[], &["check", "bert", "--json"]).expect_code(0);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    let item = &report["items"][0];
    assert_eq!((&item["drift_bytes"], &item["drift_inodes"]), (&Value::from(0), &Value::from(0)));
    // The directory itself and the file in it.
    assert_eq!(
        (&item["counted"]["bytes"], &item["counted"]["inodes"]),
        (&Value::from(12_288), &Value::from(2))
    );
    ground.quota_as(OWNER + 1, &[], &["check", "bert"]).expect_code(3);
    ground.daemon.command().arg("umount").arg(&ground.dir).ok();
    ground.quota(&["check", "bert"]).expect_code(4);
}

#[test]
fn a_user_who_changes_groups_takes_what_is_used_along_at_once() {
    require!(fuse);
    let ground = Ground::new("");
    let owner = OWNER.to_string();
    let group = |name: &str| ScopeRef::Group { name: name.to_owned() };
    let used = |ground: &Ground, name: &str| ground.row(&group(name)).used.map(|used| used.bytes);
    for name in ["red", "blue"] {
        ground.set(&[&format!("group:{name}"), "1G"]);
    }
    ground.quota(&["template", "assign", "red", &owner]).ok();
    let mut file = fs::File::create(ground.dir.join("file")).unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    assert_eq!((used(&ground, "red"), used(&ground, "blue")), (Some(12_288), Some(0)));
    ground.quota(&["template", "assign", "blue", &owner]).ok();
    assert_eq!((used(&ground, "red"), used(&ground, "blue")), (Some(0), Some(12_288)));
    // The file is still open, and the next worker was told of the first group.
    kill(ground.daemon.worker_pid(), Signal::KILL);
    file.write_all(&[7; 10_000]).unwrap();
    wait_until("the takeover is booked", Duration::from_secs(20), || used(&ground, "blue") == Some(20_480));
    assert_eq!(used(&ground, "red"), Some(0));
}
