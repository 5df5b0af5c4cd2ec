//! What an upstream of these tests saw, whichever version of HTTP it speaks.
//!
//! It must only count: what is done with a request is the upstream's own.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
pub(crate) struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    aborted: AtomicUsize,
}

impl Counts {
    /// Connections that were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests whose head came whole.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Requests that were given up before they were answered.
    pub(crate) fn aborted(&self) -> usize {
        self.aborted.load(Ordering::SeqCst)
    }

    pub(crate) fn connection(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn abort(&self) {
        self.aborted.fetch_add(1, Ordering::SeqCst);
    }
}
