//! The command line: global options and the list of commands. Each command's own options are in its file.

use std::path::PathBuf;

use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand};

use crate::commands::{
    browse, clean, clone, completion, daemon, doctor, events, log, ls, metrics, mount, quota, restore,
    retention, snapshot, status, sync, top, umount, undo, usage, verify, versions,
};
use crate::env_vars;
use crate::error::ExitStatus;
use crate::help;

/// Guard workspace directories: plain files on the host, protected in every container
#[derive(Debug, Parser)]
#[command(name = "wsguard", version, arg_required_else_help = true, after_help = help::sections(
    &[
        ("sudo wsguard mount ~/workspace/bert", "Guard a directory in place; starts the daemon if none runs"),
        ("wsguard status", "See what is guarded and how"),
        ("wsguard doctor", "Find out what this machine lacks"),
    ],
    &ExitStatus::ALL,
))]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Print one JSON object instead of text, for errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Talk to the daemon on this socket instead of `wsguard.sock` in the runtime directory
    #[arg(long, global = true, value_name = "PATH", env = env_vars::WSGUARD_SOCKET, hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Keep socket and mounts here instead of /run/wsguard
    #[arg(long, global = true, value_name = "DIR", env = env_vars::WSGUARD_RUNTIME_DIR, hide_env_values = true)]
    pub runtime_dir: Option<PathBuf>,
    /// Keep the catalog and the daemon's log here instead of /var/lib/wsguard
    #[arg(long, global = true, value_name = "DIR", env = env_vars::WSGUARD_STATE_DIR, hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Read the daemon's config from here instead of /etc/wsguard/config.toml
    #[arg(long, global = true, value_name = "FILE", env = env_vars::WSGUARD_CONFIG, hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Say more about what is done
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print less: only ids from `mount`, `umount` and `ls`, only what is wrong from the rest
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the doc comment of each argument struct is the help text of its command")]
pub enum Command {
    Mount(mount::MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(umount::UmountArgs),
    Ls(ls::LsArgs),
    Status(status::StatusArgs),
    Log(log::LogArgs),
    Top(top::TopArgs),
    Events(events::EventsArgs),
    Usage(usage::UsageArgs),
    Clean(clean::CleanArgs),
    Browse(browse::BrowseArgs),
    Undo(undo::UndoArgs),
    Restore(Box<restore::RestoreArgs>),
    Clone(clone::CloneArgs),
    Sync(sync::SyncArgs),
    Quota(quota::QuotaArgs),
    Metrics(metrics::MetricsArgs),
    Snapshot(snapshot::SnapshotArgs),
    Versions(versions::VersionsArgs),
    Retention(retention::RetentionArgs),
    Verify(verify::VerifyArgs),
    Doctor(doctor::DoctorArgs),
    Daemon(daemon::DaemonArgs),
    Completion(completion::CompletionArgs),
}

/// Returns the whole command line as clap sees it, for completions and the reference.
pub fn command() -> clap::Command {
    Cli::command()
}
