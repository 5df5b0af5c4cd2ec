//! Decides what of breakers and limits is worth telling, and when.
//!
//! It must bound what a flapping breaker or a crowd of clients can cause: transitions and blocks are told within a tenth of a
//! second, as the last state only; mere numbers wait. It keeps what was told, so that only changes are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as Monotonic};

use fusebox_policy::config::{BreakerKey, LimitKey};
use fusebox_policy::report::{BreakerReport, BrokenReference, LimitReport, ProxyReport};
use tokio::time::Instant;

use crate::enforcer::Enforcer;
use crate::view::RuleReading;

/// Between two reports.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Between two reports of numbers only.
pub(crate) const NUMBERS_INTERVAL: Duration = Duration::from_secs(5);

/// Breakers in one report, so that its line stays within its bound.
pub(crate) const MAX_PER_REPORT: usize = 256;

/// Limits in one report: each may name ten clients.
pub(crate) const MAX_LIMITS_PER_REPORT: usize = 64;

/// What was told so far.
#[derive(Debug)]
pub(crate) struct Reporter {
    told: Readings,
    generation: u64,
    full: bool,
    last: Option<Instant>,
    due: Instant,
}

/// All that there is to tell.
#[derive(Debug, Default)]
struct Readings {
    breakers: BTreeMap<BreakerKey, BreakerReport>,
    limits: BTreeMap<LimitKey, LimitReport>,
    broken: Vec<BrokenReference>,
}

impl Reporter {
    /// Begins with a full report, due at once.
    pub(crate) fn new(enforcer: &Enforcer, now: Instant) -> Self {
        Self { told: Readings::default(), generation: enforcer.generation(), full: true, last: None, due: now }
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
        let current = Readings::of(enforcer);
        // What was told and is gone, such as an endpoint, is only forgotten when all is told anew.
        let gone = self.told.has_lost(&current);
        let reports = if self.full || gone { current.all() } else { current.changes_since(&self.told) };
        self.told = current;
        self.full = false;
        self.last = Some(now);
        self.due = now + NUMBERS_INTERVAL;
        reports
    }
}

impl Readings {
    fn of(enforcer: &Enforcer) -> Self {
        let now = Monotonic::now();
        let (snapshot, clock) = (enforcer.snapshot(), enforcer.clock());
        let used = snapshot.breakers.values().flat_map(|installed| RuleReading::read(installed, now).used());
        let limits = snapshot.limits.values().filter(|limit| limit.is_used());
        Self {
            breakers: used.map(|reading| (BreakerKey::clone(&reading.key), reading.report(clock))).collect(),
            limits: limits.map(|limit| limit.report(clock, now)).map(|report| (report.key.clone(), report)).collect(),
            broken: enforcer.broken_references(),
        }
    }

    fn has_lost(&self, current: &Self) -> bool {
        self.breakers.keys().any(|key| !current.breakers.contains_key(key))
            || self.limits.keys().any(|key| !current.limits.contains_key(key))
    }

    /// All that is used; only the first part says that it is full, since it makes the operator forget.
    fn all(&self) -> Vec<ProxyReport> {
        let mut parts = self.parts(self.breakers.values().cloned().collect(), self.limits.values().cloned().collect());
        match parts.first_mut() {
            Some(first) => first.full = true,
            None => {
                let broken_references = self.broken.clone();
                parts.push(ProxyReport { full: true, broken_references, ..ProxyReport::default() });
            }
        }
        parts
    }

    fn changes_since(&self, told: &Self) -> Vec<ProxyReport> {
        let breakers = self.breakers.values().filter(|report| told.breakers.get(&report.key) != Some(*report));
        let limits = self.limits.values().filter(|report| told.limits.get(&report.key) != Some(*report));
        let mut parts = self.parts(breakers.cloned().collect(), limits.cloned().collect());
        if parts.is_empty() && self.broken != told.broken {
            parts.push(ProxyReport { broken_references: self.broken.clone(), ..ProxyReport::default() });
        }
        parts
    }

    /// As many reports as it takes to keep each line within its bound. Each names all broken references.
    fn parts(&self, mut breakers: Vec<BreakerReport>, mut limits: Vec<LimitReport>) -> Vec<ProxyReport> {
        let mut parts = Vec::new();
        while !breakers.is_empty() || !limits.is_empty() {
            let later_breakers = breakers.split_off(breakers.len().min(MAX_PER_REPORT));
            let later_limits = limits.split_off(limits.len().min(MAX_LIMITS_PER_REPORT));
            let broken_references = self.broken.clone();
            parts.push(ProxyReport { full: false, breakers, limits, broken_references });
            (breakers, limits) = (later_breakers, later_limits);
        }
        parts
    }
}
