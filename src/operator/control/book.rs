//! The book: what every sidecar said last, folded in memory and bounded.
//!
//! Streams of this replica and, at the leader, of its peers write here; the status writer reads.
//! It must not interpret: whether a policy is enforced is the compiler's to say. Facts of several
//! replicas about one pod stand side by side, and the newest living stream counts.

mod proxy_state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_compiler::PolicyKey;
use fusebox_policy::config::WorkloadId;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::directory::PodRef;
use super::event::{Connection, Happened, ProxyEvent};

pub use self::proxy_state::{MAX_BREAKERS, MAX_LIMITS, ProxyState};

/// A pod whose stream ended is kept for this long, so that a reconnect is not seen. It is as long as
/// the compiler's grace: after it the pod counts as silent either way.
pub const RECONNECT_GRACE: Duration = Duration::from_secs(10);

/// Pods kept for one replica, at most; what comes beyond is dropped and counted.
pub const MAX_PODS: usize = 20_000;

/// Events that a slow follower may lag behind before it starts over with the full state.
const EVENT_BACKLOG: usize = 256;

/// Which replica a pod's stream goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// This one.
    Local,
    /// The follower with this identity.
    Peer(String),
}

/// What changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Workloads whose pods connected, went, acknowledged or refused.
    pub workloads: BTreeSet<WorkloadId>,
    /// Policies of which something changed in a pod: a breaker, a limit, a value that can't be used.
    pub policies: BTreeSet<PolicyKey>,
}

/// How an event was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Whole.
    Whole,
    /// Not, or not whole, for a bound was reached: this many breakers, limits or pods were dropped.
    Cut(usize),
    /// Not: the pod has no stream there.
    Unconnected,
}

/// The book; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct ReportBook {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pages: Mutex<Pages>,
    version: watch::Sender<u64>,
    local: broadcast::Sender<Arc<ProxyEvent>>,
}

/// The fold itself, with time as an argument.
#[derive(Debug, Default)]
struct Pages {
    pods: BTreeMap<String, BTreeMap<Source, Arc<ProxyState>>>,
    counts: BTreeMap<Source, usize>,
    changes: Changes,
}

impl Default for ReportBook {
    fn default() -> Self {
        Self::new()
    }
}

impl ReportBook {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                pages: Mutex::new(Pages::default()),
                version: watch::Sender::new(0),
                local: broadcast::Sender::new(EVENT_BACKLOG),
            }),
        }
    }

    /// Takes an event of this replica's own streams, and passes it on to those who forward.
    pub fn record(&self, event: ProxyEvent, now: Instant) -> Taken {
        let mut pages = self.shared.pages.lock();
        let taken = pages.apply(&Source::Local, event.clone(), now);
        // Nobody forwards on the leader; then there is no receiver, and nothing is kept.
        let _ = self.shared.local.send(Arc::new(event));
        drop(pages);
        self.announce();
        taken
    }

    /// Takes an event that a follower forwarded.
    pub fn record_from(&self, source: &Source, event: ProxyEvent, now: Instant) -> Taken {
        let taken = self.shared.pages.lock().apply(source, event, now);
        self.announce();
        taken
    }

    /// Says that a replica's streams can no longer be heard: after the grace its pods are gone.
    pub fn lose(&self, source: &Source, now: Instant) {
        self.shared.pages.lock().lose(source, now);
        self.announce();
    }

    /// Forgets what has been gone for longer than the grace. Call it about once a second.
    pub fn expire(&self, now: Instant) {
        if self.shared.pages.lock().expire(now) {
            self.announce();
        }
    }

    /// Everything known, one entry for each pod that is connected or was within the grace, in the order of uids.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<ProxyState>> {
        self.shared.pages.lock().pods.values().filter_map(newest).cloned().collect()
    }

    /// What is known of one pod.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<ProxyState>> {
        self.shared.pages.lock().pods.get(uid).and_then(newest).cloned()
    }

    /// What changed since this was last called.
    #[must_use]
    pub fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.shared.pages.lock().changes)
    }

    /// Which replica one pod's stream goes to, as far as it lives.
    #[must_use]
    pub fn source(&self, uid: &str) -> Option<Source> {
        let pages = self.shared.pages.lock();
        let living = pages.pods.get(uid)?.iter().filter(|(_, state)| state.lost_at.is_none());
        living.max_by_key(|(_, state)| state.connection.since_unix_ms).map(|(source, _)| source.clone())
    }

    /// Tells of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// This replica's own state as events, and all events after it; nothing is missed between.
    #[must_use]
    pub fn follow(&self) -> (Vec<ProxyEvent>, broadcast::Receiver<Arc<ProxyEvent>>) {
        let pages = self.shared.pages.lock();
        let receiver = self.shared.local.subscribe();
        let local = pages.pods.values().filter_map(|sources| sources.get(&Source::Local));
        (local.filter(|state| state.lost_at.is_none()).flat_map(|state| state.as_events()).collect(), receiver)
    }

    fn announce(&self) {
        self.shared.version.send_modify(|version| *version += 1);
    }
}

/// The newest living stream; without one, the newest that was lost.
fn newest(sources: &BTreeMap<Source, Arc<ProxyState>>) -> Option<&Arc<ProxyState>> {
    sources.values().max_by_key(|state| (state.lost_at.is_none(), state.connection.since_unix_ms))
}

impl Pages {
    fn apply(&mut self, source: &Source, event: ProxyEvent, now: Instant) -> Taken {
        let ProxyEvent { pod, happened } = event;
        match happened {
            Happened::Connected(connection) => self.connect(source, pod, connection),
            Happened::Deleted => {
                self.delete(&pod.uid);
                Taken::Whole
            }
            Happened::Disconnected => self.update(source, &pod, |state, changes| {
                changes.workloads.insert(state.connection.workload.clone());
                state.lost_at = Some(now);
                0
            }),
            Happened::Acknowledged(acknowledged) => self.update(source, &pod, |state, changes| {
                changes.workloads.insert(state.connection.workload.clone());
                state.acknowledge(acknowledged);
                0
            }),
            Happened::Refused(rejected) => self.update(source, &pod, |state, changes| {
                changes.workloads.insert(state.connection.workload.clone());
                state.rejected = Some(rejected);
                0
            }),
            Happened::Reported(report) => self.update(source, &pod, |state, changes| state.merge(report, changes)),
        }
    }

    fn connect(&mut self, source: &Source, pod: PodRef, connection: Connection) -> Taken {
        let count = self.counts.entry(source.clone()).or_default();
        let sources = self.pods.entry(pod.uid.clone()).or_default();
        if !sources.contains_key(source) {
            if *count >= MAX_PODS {
                return Taken::Cut(1);
            }
            *count += 1;
        }
        self.changes.workloads.insert(connection.workload.clone());
        // What it said stays until the full report that follows: a reconnect must not look like a reset.
        let (breakers, limits, broken_references) = newest(sources).map(|state| state.said()).unwrap_or_default();
        let acknowledged = connection.enforced.clone();
        let state = ProxyState {
            pod,
            connection,
            acknowledged,
            rejected: None,
            breakers,
            limits,
            broken_references,
            lost_at: None,
        };
        sources.insert(source.clone(), Arc::new(state));
        Taken::Whole
    }

    fn update(
        &mut self,
        source: &Source,
        pod: &PodRef,
        change: impl FnOnce(&mut ProxyState, &mut Changes) -> usize,
    ) -> Taken {
        let Some(state) = self.pods.get_mut(&pod.uid).and_then(|sources| sources.get_mut(source)) else {
            return Taken::Unconnected;
        };
        match change(Arc::make_mut(state), &mut self.changes) {
            0 => Taken::Whole,
            dropped => Taken::Cut(dropped),
        }
    }

    fn delete(&mut self, uid: &str) {
        for (source, state) in self.pods.remove(uid).into_iter().flatten() {
            self.forget(&source, &state);
        }
    }

    fn forget(&mut self, source: &Source, state: &ProxyState) {
        if let Some(count) = self.counts.get_mut(source) {
            *count = count.saturating_sub(1);
        }
        self.changes.workloads.insert(state.connection.workload.clone());
        self.changes.policies.extend(state.policies());
    }

    fn lose(&mut self, source: &Source, now: Instant) {
        for state in self.pods.values_mut().filter_map(|sources| sources.get_mut(source)) {
            if state.lost_at.is_none() {
                self.changes.workloads.insert(state.connection.workload.clone());
                Arc::make_mut(state).lost_at = Some(now);
            }
        }
    }

    fn expire(&mut self, now: Instant) -> bool {
        let mut gone = Vec::new();
        self.pods.retain(|_, sources| {
            sources.retain(|source, state| {
                let over = state.lost_at.is_some_and(|lost| now.saturating_duration_since(lost) >= RECONNECT_GRACE);
                if over {
                    gone.push((source.clone(), Arc::clone(state)));
                }
                !over
            });
            !sources.is_empty()
        });
        for (source, state) in &gone {
            self.forget(source, state);
        }
        self.counts.retain(|_, count| *count > 0);
        !gone.is_empty()
    }
}

#[cfg(test)]
mod tests;
