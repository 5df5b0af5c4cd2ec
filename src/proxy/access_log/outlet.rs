//! Lines on their way out: memory that is bounded, and a thread that empties it.
//!
//! It must never make whoever puts a line in wait for the destination. Each thread puts its lines into one of a few
//! shares, so that they rarely meet; the writer takes a share as a whole and leaves an empty buffer for it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Shares; threads beyond this number take turns.
const SHARES: usize = 8;

/// Bytes that wait in a share; lines that don't fit are dropped.
pub(crate) const MAX_WAITING_BYTES: usize = 512 << 10;

/// A share this full wakes the writer,
const WAKE_BYTES: usize = MAX_WAITING_BYTES / 4;

/// which otherwise looks this often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where lines are put.
#[derive(Debug)]
pub(crate) struct Outlet {
    shares: [Mutex<Vec<u8>>; SHARES],
    dropped: AtomicU64,
    finished: Mutex<bool>,
    wake: Condvar,
    writer: Mutex<Option<JoinHandle<()>>>,
}

thread_local! {
    static SHARE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed) % SHARES
    };
}

impl Outlet {
    /// Starts the writer.
    pub(crate) fn start(destination: Box<dyn Write + Send>) -> io::Result<Arc<Self>> {
        let outlet = Arc::new(Self {
            shares: Default::default(),
            dropped: AtomicU64::new(0),
            finished: Mutex::new(false),
            wake: Condvar::new(),
            writer: Mutex::new(None),
        });
        let shared = Arc::clone(&outlet);
        let writer =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || shared.run(destination))?;
        *outlet.writer.lock() = Some(writer);
        Ok(outlet)
    }

    /// Puts a whole line in, or drops it where there is no room.
    pub(crate) fn put(&self, line: &[u8]) {
        let mut share = self.shares[SHARE.with(|share| *share)].lock();
        if share.len() + line.len() > MAX_WAITING_BYTES {
            drop(share);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let before = share.len();
        share.extend_from_slice(line);
        let full = before < WAKE_BYTES && share.len() >= WAKE_BYTES;
        drop(share);
        if full {
            self.wake.notify_one();
        }
    }

    /// Lines that were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Writes what is there and ends the writer. Waits for it.
    pub(crate) fn finish(&self) {
        *self.finished.lock() = true;
        self.wake.notify_one();
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has nothing more to write.
            let _ = writer.join();
        }
    }

    fn run(&self, mut destination: Box<dyn Write + Send>) {
        let mut spare = Vec::new();
        loop {
            let mut finished = self.finished.lock();
            if !*finished {
                self.wake.wait_for(&mut finished, INTERVAL);
            }
            let last = *finished;
            drop(finished);
            for share in &self.shares {
                std::mem::swap(&mut *share.lock(), &mut spare);
                // A reader that went away must not end the proxy; its lines have nowhere to go.
                let _ = destination.write_all(&spare);
                spare.clear();
            }
            let _ = destination.flush();
            if last {
                return;
            }
        }
    }
}
