//! Limits of scope Shared: the store is asked, what it refused is remembered, and what is done without it.
//!
//! It must not ask for what is certain already: a client that is over its limit stays so until the moment the store named. Where
//! the store does not answer, exactly what the policy declares is done.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fusebox_policy::config::{PolicyId, RateLimit, RedisStore, Reference, StoreFailure};
use fusebox_policy::rate_limit::{Ask, Exceed, KeyDigest, KeyId, Outcome, Rate, Refusal, Verdict};
use fusebox_policy::report::BrokenReference;
use fusebox_policy::stream::LiveReplicas;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::store::{
    BucketFamily, Found, SharedDemand, SharedStore, StoreAddresses, StoreLost, StoreSettings, StoreState, Unresolved,
};

/// Stores that are connected to at once.
pub(crate) const MAX_STORES: usize = 64;

/// Decisions of one store in Shadow, which are made beside requests, that are under way at once; what comes on top is skipped.
/// Fewer than the store takes at once, so that they never stand in the way of those that requests wait for.
const MAX_BESIDE: usize = 256;

/// Policies whose replicas are known.
const MAX_POLICIES: usize = 10_000;

/// Where a policy's shared limits are kept, and what is done without it.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// None where there is no room for another one.
    store: Option<Arc<Store>>,
    beside: Arc<Semaphore>,
    pub(super) on_failure: StoreFailure,
    replicas: Arc<AtomicU32>,
}

/// One store and whether it can be reached.
#[derive(Debug)]
pub(super) struct Store {
    wanted: RedisStore,
    shared: SharedStore,
    /// Decisions that nobody waits for.
    beside: Arc<Semaphore>,
    /// Since when it is not known how to reach it, and why.
    unresolved: Mutex<Option<(Instant, String)>>,
    _told: AbortOnDropHandle<()>,
}

/// All stores, and how many replicas share them.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    stores: Vec<Arc<Store>>,
    told: BTreeMap<PolicyId, u32>,
    replicas: BTreeMap<PolicyId, Arc<AtomicU32>>,
    changed: Option<watch::Sender<u64>>,
    addresses: StoreAddresses,
}

impl Stores {
    /// No stores yet; they may be at these addresses, and `changed` is told when one is lost or back.
    pub(crate) fn new(changed: watch::Sender<u64>, addresses: StoreAddresses) -> Self {
        Self { changed: Some(changed), addresses, ..Self::default() }
    }

    /// Where the shared limits of `policy` are kept.
    pub(super) fn common(&mut self, policy: &RateLimit, now: Instant) -> Option<Common> {
        let wanted = policy.store.as_ref()?;
        let (store, on_failure) = (self.store(wanted, now), policy.on_store_failure);
        let beside = store.as_ref().map(|store| Arc::clone(&store.beside));
        let beside = beside.unwrap_or_else(|| Arc::new(Semaphore::new(MAX_BESIDE)));
        let known = self.told.get(&policy.policy).copied().unwrap_or(1);
        let replicas = self.replicas.entry(policy.policy.clone());
        let replicas = Arc::clone(replicas.or_insert_with(|| Arc::new(AtomicU32::new(known.max(1)))));
        Some(Common { store, beside, on_failure, replicas })
    }

    /// How many replicas share each policy's limits now; this replaces all that was said before.
    pub(crate) fn tell_replicas(&mut self, policies: Vec<LiveReplicas>) {
        self.told = policies.into_iter().take(MAX_POLICIES).map(|live| (live.policy, live.replicas.max(1))).collect();
        for (policy, replicas) in &self.replicas {
            replicas.store(self.told.get(policy).copied().unwrap_or(1), Relaxed);
        }
    }

    /// Gives up stores that only this list still holds, and tells the others how they are reached. What can't be used is
    /// returned; each value is named once.
    pub(crate) fn configure(
        &mut self,
        value: impl Fn(&Reference) -> Option<String>,
        now: Instant,
    ) -> Vec<BrokenReference> {
        self.stores.retain(|store| Arc::strong_count(store) > 1);
        self.replicas.retain(|_, replicas| Arc::strong_count(replicas) > 1);
        self.stores.iter().filter_map(|store| store.configure(&value, (self.addresses, now))).collect()
    }

    fn store(&mut self, wanted: &RedisStore, now: Instant) -> Option<Arc<Store>> {
        if let Some(known) = self.stores.iter().find(|store| store.wanted == *wanted) {
            return Some(Arc::clone(known));
        }
        // Without a runtime nothing is served, and nothing can be connected to.
        let changed =
            self.changed.clone().filter(|_| Handle::try_current().is_ok() && self.stores.len() < MAX_STORES)?;
        let shared = SharedStore::start();
        let mut states = shared.states();
        let told = tokio::spawn(async move {
            while states.changed().await.is_ok() {
                changed.send_modify(|count| *count += 1);
            }
        });
        let unresolved = Mutex::new(Some((now, "its credentials are not known yet".to_owned())));
        let store = Arc::new(Store {
            wanted: wanted.clone(),
            shared,
            beside: Arc::new(Semaphore::new(MAX_BESIDE)),
            unresolved,
            _told: AbortOnDropHandle::new(told),
        });
        self.stores.push(Arc::clone(&store));
        Some(store)
    }
}

impl Store {
    fn configure(
        &self,
        value: impl Fn(&Reference) -> Option<String>,
        (addresses, now): (StoreAddresses, Instant),
    ) -> Option<BrokenReference> {
        let mut unresolved = self.unresolved.lock();
        let error = match StoreSettings::resolve(&self.wanted, value) {
            Ok(settings) => {
                self.shared.configure(settings.at(addresses));
                *unresolved = None;
                return None;
            }
            Err(error) => error,
        };
        // What was known before stays in use.
        let since = unresolved.as_ref().map_or(now, |(since, _)| *since);
        if !matches!(self.shared.state(), StoreState::Connected { .. }) {
            *unresolved = Some((since, error.to_string()));
        }
        match error {
            Unresolved::Broken(broken) => Some(broken),
            Unresolved::Missing(_) | Unresolved::Address(_) => None,
        }
    }
}

impl Common {
    /// Since when the store does not answer, and why.
    pub(super) fn lost(&self) -> Option<(Instant, String)> {
        let store = self.store.as_ref()?;
        if let Some(unresolved) = store.unresolved.lock().clone() {
            return Some(unresolved);
        }
        match store.shared.state() {
            StoreState::Lost { since, error } => Some((since, error)),
            StoreState::Starting | StoreState::Connected { .. } => None,
        }
    }

    /// Leave for one decision that no request waits for; none where too many are under way.
    pub(super) fn begin_beside(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.beside).try_acquire_owned().ok()
    }

    /// How many replicas share the limits, as far as it was said.
    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Relaxed)
    }

    /// What is left of `rate` for this proxy while the store does not answer.
    pub(super) fn part_of(&self, rate: Rate, greatest_cost: u32) -> Rate {
        let replicas = NonZeroU32::new(self.replicas()).unwrap_or(NonZeroU32::MIN);
        rate.shared_by(replicas, greatest_cost)
    }

    /// Asks for all of `demands` at once.
    pub(super) async fn decide(&self, demands: &[SharedDemand]) -> Result<Vec<Verdict>, StoreLost> {
        let store = self.store.as_ref().ok_or(StoreLost::NotConnected)?;
        store.shared.decide(demands).await
    }

    /// The buckets in the store whose names fit.
    pub(super) async fn search(&self, pattern: &str) -> Result<Found, StoreLost> {
        let store = self.store.as_ref().ok_or(StoreLost::NotConnected)?;
        store.shared.search(pattern).await
    }

    /// Empties what the store knows of these clients; how many buckets there were.
    pub(super) async fn unblock(&self, family: &BucketFamily, clients: &[KeyId]) -> Result<u32, StoreLost> {
        let store = self.store.as_ref().ok_or(StoreLost::NotConnected)?;
        let buckets: Vec<_> = clients.iter().map(|client| family.bucket(*client)).collect();
        store.shared.unblock(&buckets).await
    }
}

/// What is asked of the store for a client.
pub(super) fn demand(family: &BucketFamily, key: &KeyDigest, ask: &Ask) -> SharedDemand {
    SharedDemand { bucket: family.bucket(key.id()), ask: *ask }
}

/// What is certain without asking: the client is refused for this time.
pub(super) fn certainly_refused(ask: &Ask, left: Duration) -> Verdict {
    let refusal = if matches!(ask.exceed, Exceed::Block(_)) { Refusal::Blocked } else { Refusal::OverLimit };
    let outcome = Outcome::Refused { refusal, retry_after: Some(left) };
    Verdict { outcome, remaining: 0, reset_after: left }
}
