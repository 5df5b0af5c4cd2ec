//! Counters of the whole proxy, for `/metrics`.
//!
//! It must only count: each number here belongs to no rule, because there was none yet or it is about all of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::interception::REASONS;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    invalid_requests: AtomicU64,
    refused_configs: AtomicU64,
    connections_active: AtomicU64,
    connections_total: AtomicU64,
    connections_waited: AtomicU64,
    connections_refused: [AtomicU64; REASONS.len()],
    dropped_series: AtomicU64,
    state_file: OnceLock<&'static str>,
}

impl Counters {
    /// A request that can't be passed on.
    pub(crate) fn invalid_request(&self) {
        self.invalid_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A client connected.
    pub(crate) fn opened(&self) {
        self.connections_active.fetch_add(1, Ordering::Relaxed);
        self.connections_total.fetch_add(1, Ordering::Relaxed);
    }

    /// A client's connection ended.
    pub(crate) fn closed(&self) {
        self.connections_active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The bound on connections was hit.
    pub(crate) fn waited(&self) {
        self.connections_waited.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to a transparent listener that goes nowhere, for one of [`REASONS`].
    pub(crate) fn refused_connection(&self, reason: &str) {
        if let Some(index) = REASONS.iter().position(|known| *known == reason) {
            self.connections_refused[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Such connections, by reason.
    pub(crate) fn connections_refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REASONS.into_iter().zip(self.connections_refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// A configuration that can't be enforced.
    pub(crate) fn refused_config(&self) {
        self.refused_configs.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that could not be passed on.
    pub(crate) fn invalid_requests(&self) -> u64 {
        self.invalid_requests.load(Ordering::Relaxed)
    }

    /// Configurations that were refused.
    pub(crate) fn refused_configs(&self) -> u64 {
        self.refused_configs.load(Ordering::Relaxed)
    }

    /// Open client connections.
    pub(crate) fn connections_active(&self) -> u64 {
        self.connections_active.load(Ordering::Relaxed)
    }

    /// Client connections since the start.
    pub(crate) fn connections_total(&self) -> u64 {
        self.connections_total.load(Ordering::Relaxed)
    }

    /// How often the bound on connections was hit.
    pub(crate) fn connections_waited(&self) -> u64 {
        self.connections_waited.load(Ordering::Relaxed)
    }

    /// What became of reading the state file, once at the start.
    pub(crate) fn read_state_file(&self, result: &'static str) {
        self.state_file.get_or_init(|| result);
    }

    /// Series left out of one page of metrics.
    pub(crate) fn dropped_series(&self, count: u64) {
        self.dropped_series.fetch_add(count, Ordering::Relaxed);
    }

    /// What became of reading the state file; none where there is none to read.
    pub(crate) fn state_file(&self) -> Option<&'static str> {
        self.state_file.get().copied()
    }

    /// Series left out of pages of metrics so far.
    pub(crate) fn series_dropped(&self) -> u64 {
        self.dropped_series.load(Ordering::Relaxed)
    }
}
