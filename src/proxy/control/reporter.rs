//! Decides what of the breakers is worth telling, and when.
//!
//! It must bound what a flapping breaker can cause: transitions are told within a tenth of a second, as the
//! last state only; mere numbers wait. It keeps what was told, so that only changes are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as Monotonic};

use fusebox_policy::config::BreakerKey;
use fusebox_policy::report::{BreakerReport, ProxyReport};
use tokio::time::Instant;

use crate::enforcer::Enforcer;
use crate::view::{self, Reading};

/// Between two reports.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Between two reports of numbers only.
pub(crate) const NUMBERS_INTERVAL: Duration = Duration::from_secs(5);

/// Breakers in one report, so that its line stays within its bound.
pub(crate) const MAX_PER_REPORT: usize = 256;

/// What was told so far.
#[derive(Debug)]
pub(crate) struct Reporter {
    told: BTreeMap<BreakerKey, BreakerReport>,
    generation: u64,
    full: bool,
    last: Option<Instant>,
    due: Instant,
}

impl Reporter {
    /// Begins with a full report, due at once.
    pub(crate) fn new(enforcer: &Enforcer, now: Instant) -> Self {
        Self { told: BTreeMap::new(), generation: enforcer.generation(), full: true, last: None, due: now }
    }

    /// When the next report is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// A breaker or the configuration changed: the next report is due as soon as it may be.
    pub(crate) fn changed(&mut self, enforcer: &Enforcer, now: Instant) {
        let generation = enforcer.generation();
        self.full |= generation != self.generation;
        self.generation = generation;
        let earliest = self.last.map_or(now, |last| last + MIN_INTERVAL).max(now);
        self.due = self.due.min(earliest);
    }

    /// What is to be told now; the next report is due when numbers may be told again.
    pub(crate) fn take(&mut self, enforcer: &Enforcer, now: Instant) -> Vec<ProxyReport> {
        let current = readings(enforcer);
        let news: Vec<BreakerReport> = match self.full {
            true => current.values().cloned().collect(),
            false => current.values().filter(|report| self.told.get(&report.key) != Some(*report)).cloned().collect(),
        };
        let reports = split(news, self.full);
        self.told = current;
        self.full = false;
        self.last = Some(now);
        self.due = now + NUMBERS_INTERVAL;
        reports
    }
}

fn readings(enforcer: &Enforcer) -> BTreeMap<BreakerKey, BreakerReport> {
    let now = Monotonic::now();
    let snapshot = enforcer.snapshot();
    let read = snapshot.breakers.iter().map(|(key, installed)| view::read(key, installed, enforcer.clock(), now));
    read.filter(|reading| reading.used).map(|Reading { report, .. }| (report.key.clone(), report)).collect()
}

/// One report, or several where one line could not hold all; only the first says that it is full.
fn split(news: Vec<BreakerReport>, full: bool) -> Vec<ProxyReport> {
    let mut chunks: Vec<ProxyReport> =
        news.chunks(MAX_PER_REPORT).map(|chunk| ProxyReport { full: false, breakers: chunk.to_vec() }).collect();
    if full && chunks.is_empty() {
        chunks.push(ProxyReport::default());
    }
    if let Some(first) = chunks.first_mut() {
        first.full = full;
    }
    chunks
}
