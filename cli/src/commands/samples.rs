//! What the tests of the commands print: one healthy workspace, and a daemon with it and a failed one, on its third
//! worker.

use wsguard_api::{
    BackingInfo, Coherence, DaemonStatus, DataPath, Ownership, Program, WorkerEvent, Workspace,
    WorkspaceState,
};

use crate::output::{Verbosity, View};
use crate::users::Users;

pub(crate) fn view(width: Option<u16>) -> View {
    View {
        width,
        now: "2030-01-01T12:00:00Z".parse().unwrap(),
        users: Users::parse("alice:x:1000:1000::/home/alice:/bin/sh\n"),
        verbosity: Verbosity::Normal,
    }
}

pub(crate) fn workspace(name: &str) -> Workspace {
    Workspace {
        id: format!("{name}-7f3a"),
        name: name.to_owned(),
        dir: format!("/home/alice/workspace/{name}").into(),
        mount_point: format!("/home/alice/workspace/{name}").into(),
        source: format!("/run/wsguard/m/{name}-7f3a").into(),
        owner_uid: 1000,
        owner_gid: 1000,
        ownership: Ownership::Squash,
        state: WorkspaceState::Mounted,
        from_roots: false,
        data_path: Some(DataPath::Passthrough),
        coherence: Some(Coherence::Watched { directories: 12 }),
        backing: Some(BackingInfo {
            filesystem: "ext4".into(),
            device: "254:0".into(),
            reflink: false,
            file_handles: true,
            acl: true,
            xattr: true,
            project_quota: false,
            read_only: false,
            total_bytes: 270_582_939_648,
            available_bytes: 84_933_480_448,
        }),
        mounted_at: Some("2030-01-01T11:00:00Z".into()),
        history: None,
        inodes_known: 1234,
        open_handles: 5,
        changed_outside: None,
        bypassing: Vec::new(),
        kernel_quota: None,
    }
}

pub(crate) fn program(version: &str) -> Program {
    let build = "2029-12-31T23:59:59Z".to_owned();
    Program { version: version.to_owned(), build, path: "/usr/bin/wsguard".into() }
}

pub(crate) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

pub(crate) fn status() -> DaemonStatus {
    let mut failed = workspace("gpt");
    failed.state = WorkspaceState::Failed { reason: "the directory is gone".into() };
    failed.data_path = None;
    failed.coherence = None;
    failed.backing = None;
    DaemonStatus {
        schema: 1,
        generated_at: "2030-01-01T12:00:00Z".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        worker: Some(program(env!("CARGO_PKG_VERSION"))),
        keeper: Some(program(env!("CARGO_PKG_VERSION"))),
        keeper_pid: 100,
        worker_pid: 101,
        generation: 3,
        restarts: 2,
        events: vec![
            WorkerEvent {
                at: "2030-01-01T09:30:00Z".into(),
                generation: 1,
                reason: "signal: 9 (SIGKILL)".into(),
                stall_ms: Some(84),
                log: Vec::new(),
            },
            WorkerEvent {
                at: "2030-01-01T11:55:00Z".into(),
                generation: 2,
                reason: "hung: no heartbeat for 5.0 s".into(),
                stall_ms: Some(61),
                log: vec!["INFO workspace mounted".into(), "WARN the last words".into()],
            },
        ],
        upgrades: Vec::new(),
        resent_requests: 14,
        started_at: "2030-01-01T09:00:00Z".into(),
        state_dir: "/var/lib/wsguard".into(),
        runtime_dir: "/run/wsguard".into(),
        config: None,
        roots: vec!["/home/*/workspace/*".into()],
        kernel: "6.18.0".into(),
        open_fds: 43,
        fd_limit: 20_000,
        resident_bytes: 12 << 20,
        delivery: Vec::new(),
        warnings: vec!["the catalog is on a slow disk".into()],
        workspaces: vec![workspace("bert"), failed],
    }
}
