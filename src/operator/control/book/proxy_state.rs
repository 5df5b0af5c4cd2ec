//! What one pod's sidecar said: its breakers, limits and acknowledgement, folded from its reports and bounded.
//!
//! Kinds of policies meet here: a new kind of state is a map more, and its part in each report. It must not know which replica
//! heard it, for that may change while the pod stays the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fusebox_compiler::{Kind, PolicyKey};
use fusebox_policy::config::{BreakerKey, LimitKey, PolicyId};
use fusebox_policy::report::{BreakerReport, BrokenReference, LimitReport, ProxyReport};

use super::super::directory::PodRef;
use super::super::event::{Acknowledgement, Connection, Happened, ProxyEvent, Rejection};
use super::Changes;

/// Breakers kept for one pod, at most; what comes beyond is dropped and counted.
pub const MAX_BREAKERS: usize = 1024;

/// Limits kept for one pod, at most; what comes beyond is dropped and counted.
pub const MAX_LIMITS: usize = 512;

/// Breakers or limits of one pod that go to the leader in one line, at most, so that it stays below its bound.
const MAX_IN_EVENT: usize = 256;

/// What is known of one pod's sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyState {
    /// The pod.
    pub pod: PodRef,
    /// Its stream's beginning.
    pub connection: Connection,
    /// What it enforces, if it said so.
    pub acknowledged: Option<Acknowledgement>,
    /// What it refused since its last acknowledgement.
    pub rejected: Option<Rejection>,
    /// Its breakers that saw traffic.
    pub breakers: BTreeMap<BreakerKey, BreakerReport>,
    /// Its limits that decided something.
    pub limits: BTreeMap<LimitKey, LimitReport>,
    /// References whose value it can't use.
    pub broken_references: Vec<BrokenReference>,
    /// When its stream ended; none while it lives.
    pub(super) lost_at: Option<Instant>,
}

impl ProxyState {
    /// How long ago its stream ended; None while it lives.
    #[must_use]
    pub fn lost_for(&self, now: Instant) -> Option<Duration> {
        self.lost_at.map(|lost| now.saturating_duration_since(lost))
    }

    pub(super) fn acknowledge(&mut self, acknowledged: Acknowledgement) {
        let enforced = |kind: Kind, id: &PolicyId| {
            acknowledged.policies.iter().any(|version| version.id == *id && version.kind == kind.as_str())
        };
        self.breakers.retain(|key, _| enforced(Kind::CircuitBreakerPolicy, &key.policy));
        self.limits.retain(|key, _| enforced(Kind::RateLimit, &key.policy));
        self.rejected = None;
        self.acknowledged = Some(acknowledged);
    }

    /// What it said of its state.
    pub(super) fn said(
        &self,
    ) -> (BTreeMap<BreakerKey, BreakerReport>, BTreeMap<LimitKey, LimitReport>, Vec<BrokenReference>) {
        (self.breakers.clone(), self.limits.clone(), self.broken_references.clone())
    }

    /// The policies that it said something of.
    pub(super) fn policies(&self) -> impl Iterator<Item = PolicyKey> {
        let breakers = self.breakers.keys().map(|key| Kind::CircuitBreakerPolicy.key(&key.policy));
        breakers.chain(self.limits.keys().map(|key| Kind::RateLimit.key(&key.policy)))
    }

    /// Takes a report and returns how many breakers and limits were dropped for the bounds.
    pub(super) fn merge(&mut self, report: ProxyReport, changes: &mut Changes) -> usize {
        let ProxyReport { full, breakers, limits, broken_references } = report;
        if full {
            changes.policies.extend(self.policies());
            self.breakers.clear();
            self.limits.clear();
        }
        if self.broken_references != broken_references {
            // Which policies name a reference is not known here: all that the pod enforces are looked at.
            changes.workloads.insert(self.connection.workload.clone());
            self.broken_references = broken_references;
        }
        let breakers = breakers.into_iter().map(|breaker| (breaker.key.clone(), breaker));
        let dropped = take_all(&mut self.breakers, breakers, MAX_BREAKERS, |key| {
            changes.policies.insert(Kind::CircuitBreakerPolicy.key(&key.policy));
        });
        let limits = limits.into_iter().map(|limit| (limit.key.clone(), limit));
        dropped
            + take_all(&mut self.limits, limits, MAX_LIMITS, |key| {
                changes.policies.insert(Kind::RateLimit.key(&key.policy));
            })
    }

    /// The events that lead to this state.
    pub(super) fn as_events(&self) -> Vec<ProxyEvent> {
        let Self { pod, connection, acknowledged, rejected, .. } = self;
        let connection = Connection { enforced: acknowledged.clone(), ..connection.clone() };
        let happened = std::iter::once(Happened::Connected(connection));
        let happened = happened.chain(rejected.clone().map(Happened::Refused));
        let happened = happened.chain(self.as_reports().into_iter().map(Happened::Reported));
        happened.map(|happened| ProxyEvent { pod: pod.clone(), happened }).collect()
    }

    /// What it said as reports, each of which fits into a line.
    fn as_reports(&self) -> Vec<ProxyReport> {
        let empty = || ProxyReport { broken_references: self.broken_references.clone(), ..ProxyReport::default() };
        let breakers: Vec<BreakerReport> = self.breakers.values().cloned().collect();
        let limits: Vec<LimitReport> = self.limits.values().cloned().collect();
        let breakers = breakers.chunks(MAX_IN_EVENT).map(|part| ProxyReport { breakers: part.to_vec(), ..empty() });
        let limits = limits.chunks(MAX_IN_EVENT).map(|part| ProxyReport { limits: part.to_vec(), ..empty() });
        let mut reports: Vec<ProxyReport> = breakers.chain(limits).collect();
        if reports.is_empty() {
            reports.push(empty());
        }
        // The first one takes the place of what was known before.
        reports[0].full = true;
        reports
    }
}

/// Takes what was reported into what is known, and returns how much was dropped for the bound.
fn take_all<K: Ord, V>(
    known: &mut BTreeMap<K, V>,
    reported: impl Iterator<Item = (K, V)>,
    most: usize,
    mut changed: impl FnMut(&K),
) -> usize {
    let mut dropped = 0;
    for (key, value) in reported {
        if known.len() >= most && !known.contains_key(&key) {
            dropped += 1;
            continue;
        }
        changed(&key);
        known.insert(key, value);
    }
    dropped
}
