use std::ffi::OsStr;

use crate::{Run, sys};

/// Runs `f` on a thread of its own with these credentials (no capabilities unless `uid` is 0), and returns its
/// result; a panic in `f` goes on in the caller.
///
/// The thread has its own umask and working directory too, so `f` may change them.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> T + Send) -> T {
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::unshare_filesystem_attributes().expect("root may unshare its working directory");
            sys::become_user(uid, gid, groups).expect("root may become any user");
            f()
        });
        thread.join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Prepares `program` to run with these credentials; add its arguments to the result.
pub fn run_as(uid: u32, gid: u32, groups: &[u32], program: impl AsRef<OsStr>) -> Run {
    let list = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let groups = if list.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={list}") };
    Run::new("setpriv")
        .args([format!("--reuid={uid}"), format!("--regid={gid}"), groups])
        .arg("--")
        .arg(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_one_thread_leave_the_others_alone() {
        crate::require!(root);
        let inside =
            as_user(1000, 1001, &[7, 8], || std::fs::read_to_string("/proc/thread-self/status").unwrap());
        assert!(inside.contains("Uid:\t1000\t1000\t1000\t1000"), "{inside}");
        assert!(inside.contains("Gid:\t1001\t1001\t1001\t1001"), "{inside}");
        assert!(inside.contains("Groups:\t7 8"), "{inside}");
        let outside = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(outside.contains("Uid:\t0\t0\t0\t0"), "{outside}");
    }

    #[test]
    fn a_command_gets_its_supplementary_groups() {
        crate::require!(root);
        assert_eq!(run_as(1000, 1001, &[7, 8], "id").arg("-G").ok().trim(), "1001 7 8");
        assert_eq!(run_as(1000, 1001, &[], "id").arg("-u").ok().trim(), "1000");
    }
}
