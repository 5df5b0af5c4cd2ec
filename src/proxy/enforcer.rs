//! What is in force: the one snapshot that requests load, and how it is swapped.
//!
//! Requests must never wait for it: they load a pointer. A new configuration is built and checked beside
//! the old one and replaces it whole, or not at all.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use fusebox_policy::circuit_breaker::{Force, Transition};
use fusebox_policy::config::{BreakerKey, PolicyVersion, ProxyConfig, RateLimit, Reference};
use fusebox_policy::report::{BreakerState, BrokenReference};
use fusebox_policy::stream::{LiveReplicas, ReferenceValue, ServiceEndpoints};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::breakers::{Maker, Tracked, Watchlist};
use crate::clock::{self, Clock};
use crate::config_error::ConfigError;
use crate::counters::Counters;
use crate::endpoints::{Directory, Known, MAX_ENDPOINT_BREAKERS, Making};
use crate::listener::limits::Limits;
use crate::pipeline::hop::Direction;
use crate::pipeline::own_refusals::OwnRefusals;
use crate::rate_limit::Stores;
use crate::rate_limit::references::References;
use crate::snapshot::{Destination, Installed, Snapshot, Surroundings, Topology};
use crate::state_file::Saved;
use crate::upstream::{Pool, Pools};

/// The shared heart of a proxy.
#[derive(Debug)]
pub(crate) struct Enforcer {
    topology: Topology,
    pools: Pools,
    clock: Clock,
    access_log: OnceLock<AccessLog>,
    snapshot: ArcSwap<Snapshot>,
    books: Mutex<Books>,
    watchlist: Watchlist,
    generation: watch::Sender<u64>,
    changed: watch::Sender<u64>,
    counters: Counters,
    own_refusals: OwnRefusals,
}

/// What new breakers and endpoints are made from. Whoever changes what is in force holds it.
#[derive(Debug)]
struct Books {
    directory: Directory,
    saved: Saved,
    references: References,
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

impl Enforcer {
    /// Nothing is in force yet.
    pub(crate) fn new(topology: Topology) -> Result<Self, ConfigError> {
        let pools = Pools::default();
        let saved = Saved::default();
        let maker = Maker { saved: &saved, now: Instant::now() };
        let around = Surroundings { topology: &topology, pools: &pools, previous: None, maker };
        let snapshot = Snapshot::empty(around)?;
        let directory = Directory::new(&topology.upstreams, topology.endpoints_max_age);
        let changed = watch::Sender::new(0);
        let references = References::new(Stores::new(changed.clone(), topology.stores));
        Ok(Self {
            topology,
            pools,
            clock: Clock::start(),
            access_log: OnceLock::new(),
            snapshot: ArcSwap::from_pointee(snapshot),
            books: Mutex::new(Books { directory, saved, references }),
            watchlist: Watchlist::default(),
            generation: watch::Sender::new(0),
            changed,
            counters: Counters::default(),
            own_refusals: OwnRefusals::default(),
        })
    }

    /// Which way the traffic of listener `index` goes.
    pub(crate) fn direction(&self, index: usize) -> Direction {
        match self.topology.listeners.get(index) {
            Some(Destination::Application { .. }) => Direction::Inbound,
            Some(Destination::Original(direction)) => *direction,
            _ => Direction::Outbound,
        }
    }

    /// For how long a client may hold what it was given.
    pub(crate) fn limits(&self) -> &Limits {
        &self.topology.limits
    }

    /// Which way the connections of listener `index` were going, if they are redirected to it.
    pub(crate) fn redirected(&self, index: usize) -> Option<Direction> {
        match self.topology.listeners.get(index) {
            Some(Destination::Original(direction)) => Some(*direction),
            _ => None,
        }
    }

    /// Connections to `address`.
    pub(crate) fn pool(&self, address: &str) -> Arc<Pool> {
        self.pools.get(address)
    }

    /// The access log; none where nothing is logged.
    pub(crate) fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.get()
    }

    /// Logs requests from now on.
    pub(crate) fn log_to(&self, log: AccessLog) {
        // A second one would only be for a second start.
        let _ = self.access_log.set(log);
    }

    /// What is in force at this moment.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Lets breakers that are made from now on begin as an earlier process left them.
    pub(crate) fn recall(&self, saved: Saved) {
        self.books.lock().saved = saved;
    }

    /// Puts `config` in force as version `revision`, whole or not at all.
    pub(crate) fn apply(&self, config: &ProxyConfig, revision: &str) -> Result<Applied, ConfigError> {
        let mut books = self.books.lock();
        let now = Instant::now();
        let previous = self.snapshot.load_full();
        let Books { saved, references, .. } = &mut *books;
        let around = Surroundings {
            topology: &self.topology,
            pools: &self.pools,
            previous: Some(&previous),
            maker: Maker { saved, now },
        };
        let next = Snapshot::build(config, revision, around, references)?;
        references.keep_only(referred_to(config));
        let applied = compare(&previous, &next, revision);
        for installed in next.breakers.values() {
            self.direct(installed, now);
        }
        for (key, installed) in &next.limits {
            installed.take_over(previous.limits.get(key), now);
        }
        self.fill(&next, &mut books, now);
        self.snapshot.store(Arc::new(next));
        drop(previous);
        books.references.configure_stores(now);
        self.generation.send_modify(|count| *count += 1);
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

    /// Takes the values of references. Quotas count at once, and what was spent stays spent.
    pub(crate) fn references(&self, values: Vec<ReferenceValue>, now: Instant) {
        let mut books = self.books.lock();
        let before = books.references.broken();
        books.references.tell(values);
        books.references.configure_stores(now);
        for installed in self.snapshot.load().limits.values().filter(|installed| installed.has_quotas()) {
            installed.adopt_rates(now);
        }
        if books.references.broken() != before {
            self.limits_changed();
        }
    }

    /// How many replicas share each policy's limits now.
    pub(crate) fn replicas(&self, policies: Vec<LiveReplicas>) {
        self.books.lock().references.stores.tell_replicas(policies);
    }

    /// Values of references that can't be used.
    pub(crate) fn broken_references(&self) -> Vec<BrokenReference> {
        self.books.lock().references.broken()
    }

    /// Something about limits is worth telling at once.
    pub(crate) fn limits_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The operator says who stands behind Services; this replaces all it said before.
    pub(crate) fn endpoints(&self, services: Vec<ServiceEndpoints>, now: Instant) {
        let mut books = self.books.lock();
        let left_out = books.directory.tell(services);
        if left_out > 0 {
            tracing::warn!(left_out, "endpoints that can't be used or are too many are left out");
        }
        self.refill(&mut books, now);
    }

    /// The stream on which endpoints were said ended.
    pub(crate) fn endpoints_lost(&self, now: Instant) {
        self.books.lock().directory.lost(now);
    }

    /// How many configurations were applied; a change tells that there is a new one.
    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Tells of each configuration that is applied from now on.
    pub(crate) fn configurations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Logs and counts a breaker's transition, looks after the breaker while it is not closed, and wakes the reporter.
    pub(crate) fn transitioned(&self, tracked: &Arc<Tracked>, transition: &Transition) {
        tracked.series.step(transition);
        if transition.to != BreakerState::Closed {
            self.watchlist.add(tracked);
        }
        if let Some(group) = tracked.group() {
            group.judge(transition.at);
        }
        let BreakerKey { policy, target, port, rule, endpoint, .. } = &*tracked.key;
        tracing::info!(
            policy = format_args!("{}/{}", policy.namespace, policy.name),
            target_name = format_args!("{}/{}", target.namespace, target.name),
            port,
            rule,
            endpoint,
            from = ?transition.from,
            to = ?transition.to,
            reason = transition.reason.as_str(),
            "breaker transition"
        );
        self.changed.send_modify(|count| *count += 1);
    }

    /// Tells of each transition, configuration and change of endpoints from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Lets breakers that are not closed do what is due, so that their state shows without traffic, and endpoints
    /// that nobody vouches for any more rest.
    pub(crate) fn advance(&self, now: Instant) {
        for (tracked, transition) in self.watchlist.advance(now) {
            self.transitioned(&tracked, &transition);
        }
        let mut books = self.books.lock();
        if books.directory.has_become_stale(now) {
            tracing::warn!("operator is away for too long; Services are reached by their own addresses");
            self.refill(&mut books, now);
        }
        if books.saved.is_over(now) {
            books.saved.forget(|_| true, now);
        }
    }

    /// Closes connections to upstreams that were idle for too long, forgets buckets that are full, and looks at what limits decided.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pools.sweep(now);
        for installed in self.snapshot.load_full().limits.values() {
            installed.forget_full(now);
            installed.look(now);
        }
    }

    /// Carries out an override, and says how many endpoints may be left out.
    fn direct(&self, installed: &Installed, now: Instant) {
        let force = force(installed, now);
        installed.own.breaker.force(force, now);
        if let Some((group, most)) = &installed.endpoints {
            group.direct(*most, force, now);
        }
    }

    fn refill(&self, books: &mut Books, now: Instant) {
        if self.fill(&self.snapshot.load_full(), books, now) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Puts the endpoints that are known behind each rule, and looks after breakers that begin as they were left.
    /// Returns whether any endpoint came or went.
    fn fill(&self, snapshot: &Snapshot, books: &mut Books, now: Instant) -> bool {
        let mut left = MAX_ENDPOINT_BREAKERS;
        let mut changed = false;
        let recalling = !books.saved.is_empty();
        for installed in snapshot.breakers.values() {
            if recalling {
                self.look_after(&installed.own, now);
            }
            let Some((group, _)) = &installed.endpoints else { continue };
            let (mut addresses, mut known) = books.directory.of(&group.place);
            if addresses.len() > left {
                tracing::warn!(rule = ?group.key, "endpoints are too many for one proxy; the Service's address is used");
                (addresses, known) = (Vec::new(), Known::TooMany);
            }
            left -= addresses.len();
            let maker = Maker { saved: &books.saved, now };
            changed |= group.replace(&addresses, known, Making { pools: &self.pools, maker, installed });
            if recalling {
                group.members().all.iter().for_each(|member| self.look_after(&member.tracked, now));
            }
        }
        if recalling {
            books.saved.forget(|key| snapshot.has_breaker(key), now);
        }
        changed
    }

    fn look_after(&self, tracked: &Arc<Tracked>, now: Instant) {
        if tracked.breaker.statistics(now).state != BreakerState::Closed {
            self.watchlist.add(tracked);
        }
    }

    /// How many breakers are looked after.
    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.watchlist.len()
    }

    /// Maps monotonic moments to Unix time.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Loops that were refused a moment ago.
    pub(crate) fn own_refusals(&self) -> &OwnRefusals {
        &self.own_refusals
    }

    /// Counters of the whole proxy.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// All that the limits of `config` refer to.
fn referred_to(config: &ProxyConfig) -> BTreeSet<Reference> {
    let inbound = config.inbound.iter().filter_map(|route| route.rate_limit.as_ref());
    let outbound = config.outbound.iter().filter_map(|route| route.rate_limit.as_ref());
    inbound.chain(outbound).flat_map(RateLimit::references).cloned().collect()
}

/// A person's word in monotonic time; one whose time is over counts for nothing.
fn force(installed: &Installed, now: Instant) -> Option<Force> {
    let wanted = installed.force.as_ref()?;
    let until = clock::instant_of(wanted.until_unix_ms, now)?;
    Some(Force { state: wanted.state, until })
}

fn compare(previous: &Snapshot, next: &Snapshot, revision: &str) -> Applied {
    let is_kept = |(key, installed): &(&BreakerKey, &Installed)| {
        previous.breakers.get(*key).is_some_and(|before| Arc::ptr_eq(&before.own, &installed.own))
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
