//! What happens on one client connection, noted where it happens and read by the watch over it.
//!
//! It must cost next to nothing: relaxed counters, no clock. Who decides by them looks once a second,
//! and a request pays no timer of its own for idle, slow or silent clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use parking_lot::Mutex;

/// Bytes of interim answers that wait for the client; more are left out, as they may be.
pub(crate) const MAX_INTERIM_BYTES: usize = 64 << 10;

/// The counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    served: AtomicU64,
    in_flight: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
    /// Bytes came since the last request's head was complete.
    fresh_bytes: AtomicBool,
    /// The number of the request whose body is not complete, or 0.
    body_open: AtomicU64,
    /// The upstream would take more of it than has come.
    body_awaited: AtomicBool,
    write_blocked: AtomicBool,
    /// Parts of answers that were handed over to be sent, with more to come, and how many of them were followed by a
    /// wish for more.
    offered: AtomicU64,
    taken: AtomicU64,
    /// Interim answers to the request that began last.
    interims: AtomicU32,
    /// Heads of interim answers on their way to the client.
    interim: Mutex<Vec<u8>>,
    has_interim: AtomicBool,
    /// Another while is over for what is counted by the while.
    forgiven: AtomicBool,
    half_closed: AtomicBool,
    /// Whether the protocol lets a client end its sending and still read.
    half_close_allowed: AtomicBool,
    /// Who reads the client's end once nothing is in flight any more.
    reader: Mutex<Option<Waker>>,
}

/// One request that is being served, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

/// One request's body that is not complete.
#[derive(Debug)]
pub(crate) struct OpenBody {
    activity: Arc<Activity>,
    request: u64,
}

impl Activity {
    /// A request's head was complete.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.served.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.fresh_bytes.store(false, Relaxed);
        self.body_open.store(0, Relaxed);
        self.body_awaited.store(false, Relaxed);
        self.interims.store(0, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Requests since the connection began.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Requests being served at this moment.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Bytes from the client.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes to the client.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Whether a head has begun to arrive.
    pub(crate) fn is_head_partial(&self) -> bool {
        self.fresh_bytes.load(Relaxed) && self.in_flight() == 0
    }

    /// Whether bytes wait for the client to read.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Relaxed)
    }

    /// Whether the client sends no more, though it may still read.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
    }

    /// The protocol lets a client end its sending and still read its answer.
    pub(crate) fn allow_half_close(&self) {
        self.half_close_allowed.store(true, Relaxed);
    }

    /// An end of the client's sending is passed on from now on.
    pub(crate) fn forbid_half_close(&self) {
        self.half_close_allowed.store(false, Relaxed);
    }

    /// The body of the request that began last is still to come, until the mark says that it is complete.
    pub(crate) fn begin_body(self: &Arc<Self>) -> OpenBody {
        let request = self.served();
        self.body_open.store(request, Relaxed);
        OpenBody { activity: Arc::clone(self), request }
    }

    /// Whether a request's body is not complete, or never will be: what comes next is not known to be a request.
    pub(crate) fn is_body_open(&self) -> bool {
        self.body_open.load(Relaxed) != 0
    }

    /// Whether the upstream waits for more of a request's body.
    pub(crate) fn is_body_awaited(&self) -> bool {
        self.body_awaited.load(Relaxed)
    }

    /// An interim answer to the request that began last came.
    pub(crate) fn note_interim(&self) {
        self.interims.fetch_add(1, Relaxed);
    }

    /// How many there were.
    pub(crate) fn interims(&self) -> u32 {
        self.interims.load(Relaxed)
    }

    /// The head of an interim answer is to go to the client, unless too much waits already.
    pub(crate) fn pass_interim(&self, head: &[u8]) {
        let mut waiting = self.interim.lock();
        if waiting.len() + head.len() <= MAX_INTERIM_BYTES {
            waiting.extend_from_slice(head);
            self.has_interim.store(true, Relaxed);
        }
    }

    /// The heads that are to go to the client now.
    pub(crate) fn take_interim(&self) -> Vec<u8> {
        if !self.has_interim.load(Relaxed) {
            return Vec::new();
        }
        self.has_interim.store(false, Relaxed);
        std::mem::take(&mut *self.interim.lock())
    }

    /// A part of an answer was handed over to be sent, and more is to come.
    pub(crate) fn note_offered(&self) {
        self.offered.fetch_add(1, Relaxed);
    }

    /// More of that answer is wanted, or none of it any more.
    pub(crate) fn note_taken(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    /// How often more of an answer was wanted.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Whether there is an answer of which no more is wanted at this moment.
    pub(crate) fn is_answer_offered(&self) -> bool {
        self.offered.load(Relaxed) != self.taken()
    }

    /// Another while is over.
    pub(crate) fn forgive(&self) {
        self.forgiven.store(true, Relaxed);
    }

    /// Whether another while was over since this was last asked.
    pub(crate) fn take_forgiveness(&self) -> bool {
        self.forgiven.load(Relaxed) && self.forgiven.swap(false, Relaxed)
    }

    /// The client sent bytes.
    pub(crate) fn note_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Relaxed);
        self.fresh_bytes.store(true, Relaxed);
    }

    /// Bytes that were read before are read again.
    pub(crate) fn note_reread(&self) {
        self.fresh_bytes.store(true, Relaxed);
    }

    /// The client's socket took bytes.
    pub(crate) fn note_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Relaxed);
        self.write_blocked.store(false, Relaxed);
        self.wake_reader();
    }

    /// The client's socket takes no more.
    pub(crate) fn note_write_blocked(&self) {
        self.write_blocked.store(true, Relaxed);
    }

    /// The client sends no more. True while that is to be kept from the parser, which would take it for an abort:
    /// the whole request is here, and its answer is not yet sent.
    pub(crate) fn holds_end_back(&self, reader: &Waker) -> bool {
        let possible = self.half_close_allowed.load(Relaxed) && !self.is_body_open();
        let held = possible && (self.in_flight() > 0 || self.is_write_blocked());
        if held {
            *self.reader.lock() = Some(reader.clone());
            self.half_closed.store(true, Relaxed);
        }
        held
    }

    fn wake_reader(&self) {
        if self.is_half_closed()
            && let Some(reader) = self.reader.lock().take()
        {
            reader.wake();
        }
    }
}

impl InFlight {
    /// The connection it is served on.
    pub(crate) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl OpenBody {
    /// The upstream would take more of it than has come.
    pub(crate) fn note_awaited(&self) {
        self.activity.body_awaited.store(true, Relaxed);
    }

    /// Some of it came.
    pub(crate) fn note_come(&self) {
        self.activity.body_awaited.store(false, Relaxed);
    }

    /// The last of it was read. A later request's body stays open.
    pub(crate) fn complete(&self) {
        self.note_come();
        let _ = self.activity.body_open.compare_exchange(self.request, 0, Relaxed, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.fresh_bytes.store(false, Relaxed);
        self.0.wake_reader();
    }
}
