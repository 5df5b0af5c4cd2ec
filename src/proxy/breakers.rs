//! Breakers as the proxy keeps them: each with its key and where it is counted, and a list of those that are not closed.
//!
//! It must not decide anything: the engine does. The list is why a proxy with ten thousand breakers has nothing
//! to do while all of them are closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use fusebox_policy::circuit_breaker::{Settings, SharedBreaker, Transition};
use fusebox_policy::config::{BreakerKey, BreakerParameters};
use fusebox_policy::report::BreakerState;
use parking_lot::Mutex;

use crate::endpoints::Group;
use crate::series::Series;
use crate::state_file::Saved;

/// One breaker, kept over configuration changes.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// Which breaker.
    pub(crate) key: Arc<BreakerKey>,
    /// The breaker.
    pub(crate) breaker: Arc<SharedBreaker>,
    /// The rule's series, where its transitions are counted.
    pub(crate) series: Arc<Series>,
    /// The endpoints it is one of; none for a rule's own breaker.
    group: Weak<Group>,
    watched: AtomicBool,
}

/// The breakers that are not closed, which are the only ones that anything is ever due for.
#[derive(Debug, Default)]
pub(crate) struct Watchlist {
    breakers: Mutex<Vec<Arc<Tracked>>>,
}

/// Makes breakers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker<'a> {
    /// What an earlier process left of its breakers.
    pub(crate) saved: &'a Saved,
    /// The time.
    pub(crate) now: Instant,
}

impl Maker<'_> {
    /// The breaker of `key`: as an earlier process left it, or else closed.
    pub(crate) fn make(
        &self,
        key: &BreakerKey,
        parameters: &BreakerParameters,
        settings: &Settings,
    ) -> Arc<SharedBreaker> {
        let seed = seed(key);
        self.saved
            .restore(key, parameters, (settings, seed, self.now))
            .unwrap_or_else(|| SharedBreaker::new(settings.clone(), seed, self.now))
    }
}

/// Another number for each breaker and each process, so that a fleet's open times are spread.
fn seed(key: &BreakerKey) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(key)
}

impl Tracked {
    /// A rule's own breaker.
    pub(crate) fn of_rule(key: BreakerKey, breaker: Arc<SharedBreaker>, series: Arc<Series>) -> Self {
        Self { key: Arc::new(key), breaker, series, group: Weak::new(), watched: AtomicBool::new(false) }
    }

    /// The breaker of one of the endpoints of `group`.
    pub(crate) fn of_endpoint(
        key: BreakerKey,
        breaker: Arc<SharedBreaker>,
        series: Arc<Series>,
        group: Weak<Group>,
    ) -> Self {
        Self { key: Arc::new(key), breaker, series, group, watched: AtomicBool::new(false) }
    }

    /// The endpoints it is one of.
    pub(crate) fn group(&self) -> Option<Arc<Group>> {
        self.group.upgrade()
    }
}

impl Watchlist {
    /// Looks after a breaker from now on, until it is closed again.
    pub(crate) fn add(&self, tracked: &Arc<Tracked>) {
        let mut breakers = self.breakers.lock();
        if !tracked.watched.swap(true, Ordering::Relaxed) {
            breakers.push(Arc::clone(tracked));
        }
    }

    /// Lets all of them do what is due, and returns what changed.
    pub(crate) fn advance(&self, now: Instant) -> Vec<(Arc<Tracked>, Transition)> {
        let mut changed = Vec::new();
        self.breakers.lock().retain(|tracked| {
            changed.extend(tracked.breaker.advance(now).map(|transition| (Arc::clone(tracked), transition)));
            // One that only this list still holds belongs to no configuration and no request any more.
            let stays = Arc::strong_count(tracked) > 1 && tracked.breaker.statistics(now).state != BreakerState::Closed;
            tracked.watched.store(stays, Ordering::Relaxed);
            stays
        });
        changed
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.breakers.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fusebox_policy::circuit_breaker::{Decision, Outcome};

    use super::*;
    use crate::enforcer::Enforcer;
    use crate::snapshot::Topology;
    use crate::tests::support::config;

    fn trip(enforcer: &Enforcer, tracked: &Arc<Tracked>, now: Instant) {
        for _ in 0..3 {
            let Decision::Admitted(permit) = tracked.breaker.admit(now).decision else {
                panic!("refused while closed")
            };
            if let Some(transition) = tracked.breaker.settle(permit, Outcome::Failure, now) {
                enforcer.transitioned(tracked, &transition);
            }
        }
    }

    #[test]
    fn only_breakers_that_are_not_closed_are_looked_after_and_gone_ones_are_forgotten() {
        let enforcer = Enforcer::new(Topology::default()).unwrap();
        let settings = config("127.0.0.1:1".parse().unwrap());
        enforcer.apply(&settings, "1").unwrap();
        let own = || Arc::clone(&enforcer.snapshot().breakers.values().next().unwrap().own);
        let now = Instant::now();
        enforcer.advance(now);
        assert_eq!(enforcer.watched(), 0);
        trip(&enforcer, &own(), now);
        enforcer.advance(now);
        assert_eq!(enforcer.watched(), 1);
        enforcer.advance(now + Duration::from_secs(61));
        assert_eq!(own().breaker.statistics(now).state, BreakerState::HalfOpen);

        let mut without = settings;
        without.outbound.clear();
        enforcer.apply(&without, "2").unwrap();
        enforcer.advance(now + Duration::from_secs(62));
        assert_eq!(enforcer.watched(), 0);
    }
}
