//! The numbers of one rule's tunnels: how they ended, and the bytes they carried.
//!
//! Atomics that are added to once a tunnel, and read when metrics are asked for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fusebox_policy::metrics::{ERROR_CIRCUIT_OPEN, ERROR_CONNECT_FAILURE, ERROR_RESET};

/// How a tunnel ended, or why there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelEnding {
    /// Both sides were done.
    Complete,
    /// The breaker refused it.
    Refused,
    /// The upstream could not be connected to.
    ConnectFailure,
    /// One side broke off.
    Broken,
    /// Neither side said anything for long.
    Idle,
}

/// Words for the endings, in their order.
const RESULTS: [&str; 5] = ["", ERROR_CIRCUIT_OPEN, ERROR_CONNECT_FAILURE, ERROR_RESET, "idle"];

/// Counters of tunnels.
#[derive(Debug, Default)]
pub(crate) struct TunnelCounts {
    endings: [AtomicU64; RESULTS.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl TunnelCounts {
    /// Counts a tunnel.
    pub(crate) fn ended(&self, ending: TunnelEnding) {
        self.endings[ending as usize].fetch_add(1, Relaxed);
    }

    /// Counts the bytes that came from the client and went to it.
    pub(crate) fn carried(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Relaxed);
        self.sent.fetch_add(sent, Relaxed);
    }

    /// Tunnels by the value of label `error`; endings that never happened are left out.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let read = self.endings.iter().zip(RESULTS).map(|(count, result)| (result, count.load(Relaxed)));
        read.filter(|(_, count)| *count > 0)
    }

    /// Bytes that came from clients, and that went to them.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}
