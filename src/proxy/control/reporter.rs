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
use crate::view::RuleReading;

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
        // What was told and is gone, such as an endpoint, is only forgotten when all is told anew.
        let gone = self.told.keys().any(|key| !current.contains_key(key));
        let reports = if self.full || gone { all(&current) } else { changes(&self.told, &current) };
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
    let used = snapshot.breakers.values().flat_map(|installed| RuleReading::read(installed, now).used());
    used.map(|reading| (BreakerKey::clone(&reading.key), reading.report(enforcer.clock()))).collect()
}

/// All that is used; only the first part says that it is full, since it makes the operator forget.
fn all(current: &BTreeMap<BreakerKey, BreakerReport>) -> Vec<ProxyReport> {
    let mut parts = parts(current.values().cloned().collect());
    match parts.first_mut() {
        Some(first) => first.full = true,
        None => parts.push(ProxyReport { full: true, ..ProxyReport::default() }),
    }
    parts
}

fn changes(
    told: &BTreeMap<BreakerKey, BreakerReport>,
    current: &BTreeMap<BreakerKey, BreakerReport>,
) -> Vec<ProxyReport> {
    parts(current.values().filter(|report| told.get(&report.key) != Some(*report)).cloned().collect())
}

/// As many reports as it takes to keep each line within its bound.
fn parts(mut left: Vec<BreakerReport>) -> Vec<ProxyReport> {
    let mut parts = Vec::new();
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(MAX_PER_REPORT));
        parts.push(ProxyReport { breakers: left, ..ProxyReport::default() });
        left = rest;
    }
    parts
}
