use std::{fs, path::Path, process::Command};

use super::{Work, ok};

/// A small program that every machine has.
const PROGRAM: &str = "/bin/echo";

/// Runs a binary that lies on the mount.
pub(super) fn binary_runs(work: &Work) {
    let binary = work.mounted.join("program");
    ok("copy a program", fs::copy(Path::new(PROGRAM), &binary));
    let mut round = 0_u64;
    while work.goes_on() {
        let output = ok("run a program", Command::new(&binary).arg(round.to_string()).output());
        assert!(output.status.success(), "round {round}: {}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{round}\n"));
        round += 1;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
