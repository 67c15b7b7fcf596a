//! Drops pages that the kernel cached behind the design's back.
//!
//! No file data is cached by FUSE here, with one exception that the kernel leaves no way around: sendfile(2) and
//! splice(2) *from a descriptor that was opened for writing too* fill the mount's own page cache
//! (`fuse_splice_read` in fs/fuse/file.c prefers direct I/O over passthrough). Later writes through the mount drop
//! such pages, a store through a shared mapping does not. So they are dropped a moment after they were read: not
//! at once, because the reader of those very pages would never find them.
//!
//! The thread starts with the first such read and holds no lock while it waits for the kernel.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use rustix::io::Errno;

use crate::sys::device::{FuseDevice, Invalidate};

/// How long such a page may stay (SEMANTICS.md, "sendfile").
const DELAY: Duration = Duration::from_millis(10);

/// See the module.
pub(super) struct PageDrop(Mutex<Option<Worker>>);

struct Worker {
    nodes: Sender<u64>,
    thread: JoinHandle<()>,
}

impl PageDrop {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Notes that the kernel read pages of `node` into its cache.
    pub(super) fn note(&self, device: &Arc<FuseDevice>, node: u64) {
        let mut worker = self.0.lock();
        if worker.is_none() {
            *worker = Worker::start(device.clone());
        }
        // The receiver lives as long as the worker's thread, which ends only when the sender is dropped.
        let sent = worker.as_ref().map(|worker| worker.nodes.send(node));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!(ino = node, "cannot drop cached pages; sendfile may show old bytes");
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let Some(Worker { nodes, thread }) = self.0.lock().take() else { return };
        drop(nodes);
        if thread.join().is_err() {
            tracing::error!("the page dropping thread panicked");
        }
    }
}

impl Worker {
    fn start(device: Arc<FuseDevice>) -> Option<Self> {
        let (nodes, receiver) = channel();
        let spawned = std::thread::Builder::new()
            .name("wsguard-pages".into())
            .spawn(move || drop_pages(&device, &receiver));
        match spawned {
            Ok(thread) => Some(Self { nodes, thread }),
            Err(error) => {
                tracing::warn!(%error, "cannot start the page dropping thread");
                None
            }
        }
    }
}

fn drop_pages(device: &FuseDevice, nodes: &Receiver<u64>) {
    while let Ok(first) = nodes.recv() {
        std::thread::sleep(DELAY);
        let batch: FxHashSet<u64> = std::iter::once(first).chain(nodes.try_iter()).collect();
        for node in batch {
            match device.invalidate_node(node, Invalidate::Everything) {
                Ok(()) | Err(Errno::NOTCONN | Errno::NODEV) => {}
                Err(errno) => tracing::warn!(ino = node, %errno, "cannot drop cached pages"),
            }
        }
    }
}
