//! The shared store: buckets of scope Shared, in a Redis that all replicas use.
//!
//! Owns the connections to it and the one script that decides. It must not decide anything itself: whatever is not the store's
//! own answer is `StoreLost`, and what follows from that is the policy's to say. The store's clock is the only one that counts,
//! so that replicas never have to agree on the time.

mod bucket;
mod connection;
mod error;
mod keeper;
mod link;
mod patience;
mod script;
mod search;
mod settings;
mod topology;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fusebox_policy::rate_limit::Verdict;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::bucket::{BucketFamily, BucketName, DIGITS, SharedDemand, Tag};
pub(crate) use self::error::StoreLost;
use self::link::Link;
use self::script::Decision;
pub(crate) use self::search::Found;
pub(crate) use self::settings::{StoreAddresses, StoreSettings, Unresolved};

/// At most so many decisions are under way at once; more wait, within their time.
const MAX_UNDER_WAY: usize = 1024;

/// One store, as one `RedisStore` of a configuration describes it. Everything is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct SharedStore {
    shared: Arc<Shared>,
    settings: watch::Sender<Option<Arc<StoreSettings>>>,
    _keeper: AbortOnDropHandle<()>,
}

/// How things stand with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreState {
    /// The first attempt to connect is under way, or one to a primary that replaced another, or there are no settings yet.
    /// Decisions wait for it within their time.
    Starting,
    /// It answers.
    Connected {
        /// What is not as it should be all the same, such as an eviction policy that drops buckets; empty if nothing.
        warning: String,
    },
    /// It doesn't.
    Lost {
        /// Since when.
        since: Instant,
        /// Why; never a part of a secret.
        error: String,
    },
}

/// What decisions and the keeper share.
#[derive(Debug)]
struct Shared {
    link: ArcSwapOption<Link>,
    state: watch::Sender<StoreState>,
    /// Something about the connections needs to be looked at.
    wake: Arc<Notify>,
    under_way: Semaphore,
}

impl SharedStore {
    /// Begins to connect, on the runtime of the caller, as soon as it is told how.
    pub(crate) fn start() -> Self {
        let (settings, told) = watch::channel(None);
        let shared = Arc::new(Shared {
            link: ArcSwapOption::empty(),
            state: watch::Sender::new(StoreState::Starting),
            wake: Arc::new(Notify::new()),
            under_way: Semaphore::new(MAX_UNDER_WAY),
        });
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared), told));
        Self { shared, settings, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// Says how the store is reached from now on. With new credentials a new connection is made, and the old one is used until
    /// that one works. Another store is another `SharedStore`.
    pub(crate) fn configure(&self, settings: StoreSettings) {
        self.settings.send_if_modified(|told| {
            let is_new = told.as_deref() != Some(&settings);
            if is_new {
                *told = Some(Arc::new(settings));
            }
            is_new
        });
    }

    /// Checks all buckets, and spends from all of them only where all allow it. The verdicts are in the order of the demands.
    ///
    /// # Errors
    /// [`StoreLost`] when the store's own answer is not here within the timeout of its settings. It may have spent all the same.
    pub(crate) async fn decide(&self, demands: &[SharedDemand]) -> Result<Vec<Verdict>, StoreLost> {
        let decision = Decision::new(demands)?;
        let limit = self.timeout()?;
        let decided = async {
            let link = self.shared.link().await?;
            let _under_way = self.shared.under_way.acquire().await.map_err(|_| StoreLost::NotConnected)?;
            link.decide(&decision).await
        };
        tokio::time::timeout(limit, decided).await.map_err(|_| StoreLost::Timeout { limit })?
    }

    /// Forgets these buckets and their blocks, so that their client has full ones. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreLost`] when the store doesn't say so in time.
    pub(crate) async fn unblock(&self, buckets: &[BucketName]) -> Result<u32, StoreLost> {
        let limit = connection::ATTEMPT;
        let forgotten = async {
            let link = self.shared.link().await?;
            let mut count = 0;
            for bucket in buckets {
                count += link.forget(bucket).await?;
            }
            Ok(count)
        };
        tokio::time::timeout(limit, forgotten).await.map_err(|_| StoreLost::Timeout { limit })?
    }

    /// The buckets whose names fit a pattern of [`BucketFamily::pattern`], as far as the store can be searched in a second.
    ///
    /// # Errors
    /// [`StoreLost`] when no connection stands.
    pub(crate) async fn search(&self, pattern: &str) -> Result<Found, StoreLost> {
        let limit = connection::ATTEMPT / 2;
        let link =
            tokio::time::timeout(limit, self.shared.link()).await.map_err(|_| StoreLost::Timeout { limit })??;
        Ok(search::search(&link, pattern).await)
    }

    /// How things stand.
    pub(crate) fn state(&self) -> StoreState {
        self.shared.state.borrow().clone()
    }

    /// Tells of each change of [`Self::state`].
    pub(crate) fn states(&self) -> watch::Receiver<StoreState> {
        self.shared.state.subscribe()
    }

    fn timeout(&self) -> Result<Duration, StoreLost> {
        self.settings.borrow().as_ref().map(|settings| settings.timeout).ok_or(StoreLost::NotConnected)
    }
}

impl Shared {
    /// The connections in use. Before the first attempt has ended it is waited for.
    async fn link(&self) -> Result<Arc<Link>, StoreLost> {
        if let Some(link) = self.link.load_full() {
            return Ok(link);
        }
        let mut states = self.state.subscribe();
        states.wait_for(|state| *state != StoreState::Starting).await.map_err(|_| StoreLost::NotConnected)?;
        self.link.load_full().ok_or(StoreLost::NotConnected)
    }

    fn connected(&self, link: Arc<Link>) {
        let warning = link.warning();
        self.link.store(Some(link));
        self.set_state(StoreState::Connected { warning });
    }

    /// Keeps the moment of the loss while the reasons change.
    fn lost(&self, error: &StoreLost) {
        self.link.store(None);
        let since = match &*self.state.borrow() {
            StoreState::Lost { since, .. } => *since,
            StoreState::Starting | StoreState::Connected { .. } => Instant::now(),
        };
        self.set_state(StoreState::Lost { since, error: error.to_string() });
    }

    /// The connections in use are of no use any more, and others are about to be there.
    fn replacing(&self) {
        self.link.store(None);
        self.set_state(StoreState::Starting);
    }

    /// Old connections are in use, and new credentials are not.
    fn warn(&self, error: &StoreLost) {
        self.set_state(StoreState::Connected { warning: error.to_string() });
    }

    fn set_state(&self, state: StoreState) {
        if *self.state.borrow() == state {
            return;
        }
        match &state {
            StoreState::Starting => tracing::info!("another primary keeps the shared store"),
            StoreState::Connected { warning } if warning.is_empty() => tracing::info!("shared store connected"),
            StoreState::Connected { warning } => tracing::warn!(warning, "shared store connected"),
            StoreState::Lost { error, .. } => tracing::warn!(error, "shared store lost"),
        }
        self.state.send_replace(state);
    }
}

#[cfg(test)]
mod tests;
