//! How notices reach people: terminals of containers, login messages, mail and a webhook.
//!
//! Each channel that is configured has a thread and a queue of its own, so that a relay that does not answer holds up
//! nobody else, and whoever tells something never waits: what does not fit is counted and left out. Nothing here is
//! the only copy of a notice, the event log and the file `notices` have it in any case.

mod login;
mod mail;
mod rate;
mod terminals;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, error, warn};
use wsguard_api::{DeliveryChannel, DeliveryStatus, EventKind, NotifyOutcome};

use crate::config::DeliverySettings;
use crate::error_chain::one_line;
use crate::mounting::mountinfo::DeviceNumber;
use rate::Rate;

/// Notices that may wait in one channel.
const QUEUE: usize = 256;

/// How long the end waits for what is under way.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// A workspace whose containers are to see a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) workspace: String,
    /// Its superblock.
    pub(crate) device: DeviceNumber,
}

/// Something that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// When it happened.
    pub(crate) at: Timestamp,
    /// What kind of thing.
    pub(crate) kind: EventKind,
    /// One line without control characters.
    pub(crate) message: String,
    /// What notices are counted by: so many an hour about one subject.
    pub(crate) subject: String,
    /// The workspace's name, if it is about one.
    pub(crate) workspace: Option<String>,
    /// The users whom it concerns.
    pub(crate) readers: Vec<u32>,
    /// It concerns the administrators.
    pub(crate) is_for_admins: bool,
    /// Where it is shown on terminals.
    pub(crate) places: Vec<Place>,
}

/// How far a notice got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reached {
    /// Somebody, described.
    Somebody(String),
    /// There was nobody to be reached, for this reason.
    Nobody(&'static str),
}

/// Why a notice did not get through.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Terminals(#[from] terminals::TerminalError),
    #[error(transparent)]
    Login(#[from] login::LoginError),
    #[error(transparent)]
    Mail(#[from] mail::MailError),
    #[error(transparent)]
    Webhook(#[from] webhook::WebhookError),
}

/// A way to reach people. Used by one thread, which may wait as long as the way itself limits it.
trait Way: Send {
    fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError>;
}

struct Order {
    notice: Arc<Notice>,
    /// Who waits for what became of it.
    answer: Option<Sender<NotifyOutcome>>,
}

#[derive(Debug, Default)]
struct Stats {
    delivered: AtomicU64,
    failed: AtomicU64,
    suppressed: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<(Timestamp, String)>>,
}

impl Stats {
    fn fail(&self, reason: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some((Timestamp::now(), reason));
    }
}

struct Channel {
    kind: DeliveryChannel,
    stats: Arc<Stats>,
    /// `None` if the channel is not configured, or after the end.
    queue: Mutex<Option<SyncSender<Order>>>,
    rate: Mutex<Rate>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Lets a thread that waits for its next attempt hear of the end.
#[derive(Debug, Default)]
struct Ending {
    is_near: Mutex<bool>,
    told: Condvar,
}

impl Ending {
    /// Waits; returns whether the end came first.
    fn comes_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut is_near = self.is_near.lock();
        while !*is_near && !self.told.wait_until(&mut is_near, deadline).timed_out() {}
        *is_near
    }

    fn announce(&self) {
        *self.is_near.lock() = true;
        self.told.notify_all();
    }
}

/// All channels.
pub(crate) struct Delivery {
    channels: Vec<Channel>,
    ending: Arc<Ending>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = self.channels.iter().filter(|channel| channel.queue.lock().is_some());
        f.debug_struct("Delivery").field("on", &on.map(|channel| channel.kind).collect::<Vec<_>>()).finish()
    }
}

impl Delivery {
    /// Starts the channels that are configured. `past` are notices that users may not have seen yet, oldest first.
    pub(crate) fn start(settings: &DeliverySettings, runtime_dir: &Path, past: Vec<Notice>) -> Self {
        let ending = Arc::<Ending>::default();
        let way = |kind| -> Option<Box<dyn Way>> {
            match kind {
                DeliveryChannel::Terminals => {
                    settings.terminals.then(|| Box::new(terminals::Terminals) as Box<dyn Way>)
                }
                DeliveryChannel::Login => settings
                    .login
                    .then(|| Box::new(login::LoginFiles::new(runtime_dir, &past)) as Box<dyn Way>),
                DeliveryChannel::Mail => {
                    settings.mail.clone().map(|mail| Box::new(mail::Mail::new(mail)) as _)
                }
                DeliveryChannel::Webhook => settings
                    .webhook
                    .clone()
                    .map(|webhook| Box::new(webhook::Webhook::new(webhook, Arc::clone(&ending))) as _),
            }
        };
        let channel = |kind| Channel::start(kind, way(kind), settings.per_hour);
        let channels = DeliveryChannel::ALL.into_iter().map(channel).collect();
        Self { channels, ending }
    }

    /// Passes a notice on to every channel. Never waits.
    pub(crate) fn send(&self, notice: Notice) {
        let notice = Arc::new(notice);
        self.channels.iter().for_each(|channel| channel.send(&notice));
    }

    /// Sends a notice through the channels that `only` names, or all, whatever their rate, and waits for what becomes
    /// of it.
    pub(crate) fn send_and_wait(
        &self,
        notice: Notice,
        only: Option<DeliveryChannel>,
        patience: Duration,
    ) -> Vec<(DeliveryChannel, NotifyOutcome)> {
        let notice = Arc::new(notice);
        let wanted = self.channels.iter().filter(|channel| only.is_none_or(|only| only == channel.kind));
        // All first, so that they work at the same time.
        let asked: Vec<_> = wanted.map(|channel| (channel.kind, channel.ask(&notice))).collect();
        let deadline = Instant::now() + patience;
        let answer = |(kind, asked): (_, Result<Receiver<NotifyOutcome>, NotifyOutcome>)| {
            let outcome = match asked {
                Ok(answer) => answer
                    .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                    .unwrap_or_else(|_| NotifyOutcome::Failed {
                        reason: format!("no answer within {} s; it is still tried", patience.as_secs()),
                    }),
                Err(outcome) => outcome,
            };
            (kind, outcome)
        };
        asked.into_iter().map(answer).collect()
    }

    /// Returns how the channels do.
    pub(crate) fn status(&self) -> Vec<DeliveryStatus> {
        self.channels.iter().map(Channel::status).collect()
    }

    /// Ends the threads; what takes longer than a moment is left to itself, and counted in the log.
    pub(crate) fn stop(&self) {
        self.ending.announce();
        for channel in &self.channels {
            channel.queue.lock().take();
        }
        let deadline = Instant::now() + END_PATIENCE;
        for channel in &self.channels {
            let Some(thread) = channel.thread.lock().take() else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                warn!(channel = channel.kind.word(), "notices under way are not waited for");
            } else if thread.join().is_err() {
                error!(channel = channel.kind.word(), "thread that delivers notices panicked");
            }
        }
    }
}

impl Channel {
    fn start(kind: DeliveryChannel, way: Option<Box<dyn Way>>, per_hour: u64) -> Self {
        let stats = Arc::<Stats>::default();
        let started = way.and_then(|way| {
            let (queue, orders) = sync_channel(QUEUE);
            let counted = Arc::clone(&stats);
            let name = format!("notices {}", kind.word());
            let thread =
                std::thread::Builder::new().name(name).spawn(move || run(kind, way, &orders, &counted));
            thread
                .map(|thread| (queue, thread))
                .inspect_err(|error| {
                    error!(channel = kind.word(), error = %error, "notices are not delivered");
                    stats.fail(format!("there is no thread: {error}"));
                })
                .ok()
        });
        let (queue, thread) = started.unzip();
        Self {
            kind,
            stats,
            queue: Mutex::new(queue),
            rate: Mutex::new(Rate::new(per_hour)),
            thread: Mutex::new(thread),
        }
    }

    fn send(&self, notice: &Arc<Notice>) {
        let queue = self.queue.lock();
        let Some(queue) = &*queue else { return };
        if !self.rate.lock().admits(&notice.subject, Instant::now()) {
            self.stats.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.queue_up(queue, Order { notice: Arc::clone(notice), answer: None });
    }

    fn ask(&self, notice: &Arc<Notice>) -> Result<Receiver<NotifyOutcome>, NotifyOutcome> {
        let queue = self.queue.lock();
        let Some(queue) = &*queue else { return Err(NotifyOutcome::Off) };
        let (answer, outcome) = std::sync::mpsc::channel();
        if self.queue_up(queue, Order { notice: Arc::clone(notice), answer: Some(answer) }) {
            return Ok(outcome);
        }
        Err(NotifyOutcome::Failed { reason: format!("{QUEUE} notices wait already") })
    }

    fn queue_up(&self, queue: &SyncSender<Order>, order: Order) -> bool {
        match queue.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.stats.dropped.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    fn status(&self) -> DeliveryStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &self.stats;
        let last = stats.last_error.lock().clone();
        DeliveryStatus {
            channel: self.kind,
            is_enabled: self.queue.lock().is_some(),
            delivered: count(&stats.delivered),
            failed: count(&stats.failed),
            suppressed: count(&stats.suppressed),
            dropped: count(&stats.dropped),
            last_error_at: last.as_ref().map(|(at, _)| at.to_string()),
            last_error: last.map(|(_, reason)| reason),
        }
    }
}

fn run(kind: DeliveryChannel, mut way: Box<dyn Way>, orders: &Receiver<Order>, stats: &Stats) {
    let channel = kind.word();
    while let Ok(Order { notice, answer }) = orders.recv() {
        let outcome = match way.deliver(&notice) {
            Ok(Reached::Somebody(to)) => {
                stats.delivered.fetch_add(1, Ordering::Relaxed);
                NotifyOutcome::Delivered { to }
            }
            Ok(Reached::Nobody(reason)) => {
                debug!(channel, reason, "notice reaches nobody");
                NotifyOutcome::Nobody { reason: reason.to_owned() }
            }
            Err(error) => {
                let reason = one_line(&error);
                warn!(channel, error = %reason, "notice is not delivered");
                stats.fail(reason.clone());
                NotifyOutcome::Failed { reason }
            }
        };
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            answer.send(outcome).ok();
        }
    }
}

#[cfg(test)]
fn sample(message: &str) -> Notice {
    Notice {
        at: "2030-01-01T12:00:00Z".parse().expect("a time"),
        kind: EventKind::QuotaCrossed,
        message: message.to_owned(),
        subject: "project:w1".to_owned(),
        workspace: Some("bert".to_owned()),
        readers: vec![rustix::process::getuid().as_raw()],
        is_for_admins: false,
        places: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits at each notice until it is let go.
    struct Gate(Receiver<()>);

    impl Way for Gate {
        fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError> {
            self.0.recv().ok();
            Ok(Reached::Somebody(notice.message.clone()))
        }
    }

    fn gated(per_hour: u64) -> (Delivery, Sender<()>) {
        let (open, gate) = std::sync::mpsc::channel();
        let channel = Channel::start(DeliveryChannel::Mail, Some(Box::new(Gate(gate))), per_hour);
        (Delivery { channels: vec![channel], ending: Arc::default() }, open)
    }

    fn wait_for(delivery: &Delivery, is_there: impl Fn(&DeliveryStatus) -> bool) -> DeliveryStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = delivery.status().remove(0);
            if is_there(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn whoever_tells_never_waits_and_what_does_not_fit_is_counted() {
        let (delivery, open) = gated(1_000);
        (0..QUEUE + 51).for_each(|_| delivery.send(sample("x")));
        // One may be with the thread already.
        let dropped = delivery.status()[0].dropped;
        assert!([50, 51].contains(&dropped), "{dropped}");
        drop(open);
        let status = wait_for(&delivery, |status| status.delivered + status.dropped == QUEUE as u64 + 51);
        assert_eq!((status.failed, status.suppressed), (0, 0));
        delivery.stop();
        assert!(!delivery.status()[0].is_enabled);
    }

    #[test]
    fn too_many_about_one_subject_are_suppressed_and_tests_are_not() {
        let (delivery, open) = gated(2);
        drop(open);
        (0..5).for_each(|_| delivery.send(sample("x")));
        delivery.send(Notice { subject: "project:w2".to_owned(), ..sample("y") });
        let status = wait_for(&delivery, |status| status.delivered == 3);
        assert_eq!(status.suppressed, 3);
        let answers = delivery.send_and_wait(sample("test"), None, Duration::from_secs(10));
        let delivered = NotifyOutcome::Delivered { to: "test".to_owned() };
        assert_eq!(answers, [(DeliveryChannel::Mail, delivered)]);
    }

    #[test]
    fn channel_that_hangs_does_not_keep_the_end() {
        let (delivery, _open) = gated(2);
        delivery.send(sample("x"));
        let started = Instant::now();
        delivery.stop();
        assert!(started.elapsed() < END_PATIENCE + Duration::from_secs(5));
    }

    #[test]
    fn channel_that_is_not_configured_is_off() {
        let channel = Channel::start(DeliveryChannel::Mail, None, 2);
        let delivery = Delivery { channels: vec![channel], ending: Arc::default() };
        delivery.send(sample("x"));
        let answers = delivery.send_and_wait(sample("x"), None, Duration::from_secs(1));
        assert_eq!(answers, [(DeliveryChannel::Mail, NotifyOutcome::Off)]);
        let status = &delivery.status()[0];
        assert_eq!((status.is_enabled, status.dropped, status.failed), (false, 0, 0));
    }
}
