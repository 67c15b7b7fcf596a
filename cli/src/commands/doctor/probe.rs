use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs a question to the kernel that may hang (a mount whose daemon stopped answering) and waits for a moment.
///
/// `None` if it did not answer in time. The thread is left behind then: it holds nothing, and it ends with the
/// process, because a FUSE request can be killed.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let spawned = thread::Builder::new().name("probe".to_owned()).spawn(move || {
        // Nobody listens any more after the limit.
        sender.send(question()).ok();
    });
    spawned.ok()?;
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_time_is_passed_on_and_a_late_one_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(5), || 7), Some(7));
        let (_keep, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || never.recv().is_ok()), None);
    }
}
