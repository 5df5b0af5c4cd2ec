//! Until when a request may take: what its rule allows, and what its caller waits.
//!
//! It must say whose time was over: the rule's says that the upstream is too slow, the caller's only that
//! the caller is in a hurry.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

/// Whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The rule's.
    Rule,
    /// The caller's.
    Caller,
}

/// A timer that the requests of a connection use one after the other: to set one further costs no lock, to make
/// and unmake one costs several.
#[derive(Debug, Default)]
pub(crate) struct SpareTimer(Mutex<Option<Pin<Box<Sleep>>>>);

/// The earlier of the two times, and the other one.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// None once it was given back.
    sleep: Option<Pin<Box<Sleep>>>,
    spare: Arc<SpareTimer>,
    whose: Whose,
    callers: Option<Instant>,
}

impl Deadline {
    /// The times of a request that began at `started`; none when there is neither.
    pub(crate) fn new(
        started: Instant,
        rule: Option<Duration>,
        caller: Option<Duration>,
        spare: &Arc<SpareTimer>,
    ) -> Option<Self> {
        let (limit, whose) = match (rule, caller) {
            (None, None) => return None,
            (Some(rule), Some(caller)) if caller < rule => (caller, Whose::Caller),
            (Some(rule), _) => (rule, Whose::Rule),
            (None, Some(caller)) => (caller, Whose::Caller),
        };
        let sleep = Some(spare.take(started + limit));
        Some(Self { sleep, spare: Arc::clone(spare), whose, callers: caller.map(|caller| started + caller) })
    }

    /// Whose time this is.
    pub(crate) fn whose(&self) -> Whose {
        self.whose
    }

    /// Ready when the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Whether it was found to be over.
    pub(crate) fn is_over(&self) -> bool {
        self.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed())
    }

    /// What is left when the rule's time does not count: the caller's.
    pub(crate) fn without_rule(mut self) -> Option<Self> {
        let callers = self.callers?;
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(callers.into());
        }
        self.whose = Whose::Caller;
        Some(self)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            *self.spare.0.lock() = Some(sleep);
        }
    }
}

impl SpareTimer {
    fn take(&self, at: Instant) -> Pin<Box<Sleep>> {
        match self.0.lock().take() {
            Some(mut sleep) => {
                sleep.as_mut().reset(at.into());
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(at.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_earlier_time_counts_and_says_whose_it_is() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        let spare = Arc::default();
        let whose = |rule, caller| Deadline::new(Instant::now(), rule, caller, &spare).map(|deadline| deadline.whose());
        assert_eq!(whose(None, None), None);
        assert_eq!(whose(Some(short), Some(long)), Some(Whose::Rule));
        assert_eq!(whose(Some(long), Some(short)), Some(Whose::Caller));
        assert_eq!(whose(Some(short), Some(short)), Some(Whose::Rule));
        assert_eq!(whose(None, Some(short)), Some(Whose::Caller));
        let deadline = Deadline::new(Instant::now(), Some(short), Some(long), &spare).unwrap();
        assert_eq!(deadline.without_rule().unwrap().whose(), Whose::Caller);
    }

    #[tokio::test]
    async fn a_timer_that_was_used_before_keeps_the_new_time() {
        let spare = Arc::default();
        for limit in [50, 5, 20].map(Duration::from_millis) {
            let started = Instant::now();
            let mut deadline = Deadline::new(started, Some(limit), None, &spare).unwrap();
            std::future::poll_fn(|cx| deadline.poll(cx)).await;
            assert!(started.elapsed() >= limit);
        }
    }
}
