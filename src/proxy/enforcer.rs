//! What is in force: the one snapshot that requests load, and how it is swapped.
//!
//! Requests must never wait for it: they load a pointer. A new configuration is built and checked beside
//! the old one and replaces it whole, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use fusebox_policy::circuit_breaker::{Force, Transition};
use fusebox_policy::config::{BreakerKey, PolicyVersion, ProxyConfig};
use fusebox_policy::report::BreakerState;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::{self, Clock};
use crate::config_error::ConfigError;
use crate::series::Series;
use crate::snapshot::{Installed, Snapshot, Surroundings, Topology};
use crate::upstream::Pools;

/// The shared heart of a proxy.
#[derive(Debug)]
pub(crate) struct Enforcer {
    topology: Topology,
    pools: Pools,
    clock: Clock,
    snapshot: ArcSwap<Snapshot>,
    applying: Mutex<()>,
    generation: AtomicU64,
    changed: watch::Sender<u64>,
    counters: Counters,
}

/// What a configuration became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The version that is in force now.
    pub revision: String,
    /// The policies it carries.
    pub policies: Vec<PolicyVersion>,
    /// Breakers that kept their state.
    pub kept: usize,
    /// Breakers that are new, or whose parameters changed.
    pub fresh: usize,
    /// Breakers that are gone.
    pub removed: usize,
}

/// Counters of the whole proxy.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    invalid_requests: AtomicU64,
    refused_configs: AtomicU64,
    connections_active: AtomicU64,
    connections_total: AtomicU64,
    connections_waited: AtomicU64,
}

impl Enforcer {
    /// Nothing is in force yet.
    pub(crate) fn new(topology: Topology) -> Result<Self, ConfigError> {
        let pools = Pools::default();
        let around = Surroundings { topology: &topology, pools: &pools, previous: None, now: Instant::now() };
        let snapshot = Snapshot::empty(around)?;
        Ok(Self {
            topology,
            pools,
            clock: Clock::start(),
            snapshot: ArcSwap::from_pointee(snapshot),
            applying: Mutex::new(()),
            generation: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            counters: Counters::default(),
        })
    }

    /// What is in force at this moment.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Puts `config` in force as version `revision`, whole or not at all.
    pub(crate) fn apply(&self, config: &ProxyConfig, revision: &str) -> Result<Applied, ConfigError> {
        let _one_at_a_time = self.applying.lock();
        let now = Instant::now();
        let previous = self.snapshot.load_full();
        let around = Surroundings { topology: &self.topology, pools: &self.pools, previous: Some(&previous), now };
        let next = Snapshot::build(config, revision, around)?;
        let applied = compare(&previous, &next, revision);
        for installed in next.breakers.values() {
            installed.breaker.force(force(installed, now), now);
        }
        self.snapshot.store(Arc::new(next));
        self.generation.fetch_add(1, Ordering::Release);
        self.changed.send_modify(|count| *count += 1);
        tracing::info!(
            revision,
            kept = applied.kept,
            fresh = applied.fresh,
            removed = applied.removed,
            "configuration applied"
        );
        Ok(applied)
    }

    /// How many configurations were applied; a change tells that there is a new one.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Logs and counts a breaker's transition, and wakes the reporter.
    pub(crate) fn transitioned(&self, key: &BreakerKey, series: &Series, transition: &Transition) {
        series.step(transition);
        tracing::info!(
            policy = format_args!("{}/{}", key.policy.namespace, key.policy.name),
            target_name = format_args!("{}/{}", key.target.namespace, key.target.name),
            port = key.port,
            rule = key.rule,
            from = ?transition.from,
            to = ?transition.to,
            reason = transition.reason.as_str(),
            "breaker transition"
        );
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells of each transition and configuration from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Lets breakers that are not closed do what is due, so that their state shows without traffic.
    pub(crate) fn advance(&self, now: Instant) {
        let snapshot = self.snapshot.load_full();
        for (key, installed) in &snapshot.breakers {
            if installed.breaker.statistics(now).state == BreakerState::Closed {
                continue;
            }
            if let Some(transition) = installed.breaker.advance(now) {
                self.transitioned(key, &installed.series, &transition);
            }
        }
    }

    /// Closes connections to upstreams that were idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pools.sweep(now);
    }

    /// Maps monotonic moments to Unix time.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Counters of the whole proxy.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
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
}

/// A person's word in monotonic time; one whose time is over counts for nothing.
fn force(installed: &Installed, now: Instant) -> Option<Force> {
    let wanted = installed.force.as_ref()?;
    let until = clock::instant_of(wanted.until_unix_ms, now)?;
    Some(Force { state: wanted.state, until })
}

fn compare(previous: &Snapshot, next: &Snapshot, revision: &str) -> Applied {
    let is_kept = |(key, installed): &(&BreakerKey, &Installed)| {
        previous.breakers.get(*key).is_some_and(|before| Arc::ptr_eq(&before.breaker, &installed.breaker))
    };
    let kept = next.breakers.iter().filter(is_kept).count();
    let removed = previous.breakers.keys().filter(|key| !next.breakers.contains_key(*key)).count();
    Applied {
        revision: revision.to_owned(),
        policies: next.policies.clone(),
        kept,
        fresh: next.breakers.len() - kept,
        removed,
    }
}
