//! Until when a request may take: what its rule allows, and what its caller waits.
//!
//! It must say whose time was over: the rule's says that the upstream is too slow, the caller's only that
//! the caller is in a hurry.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The rule's.
    Rule,
    /// The caller's.
    Caller,
}

/// The earlier of the two times, and the other one.
#[derive(Debug)]
pub(crate) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    whose: Whose,
    callers: Option<Instant>,
}

impl Deadline {
    /// The times of a request that began at `started`; none when there is neither.
    pub(crate) fn new(started: Instant, rule: Option<Duration>, caller: Option<Duration>) -> Option<Self> {
        let (limit, whose) = match (rule, caller) {
            (None, None) => return None,
            (Some(rule), Some(caller)) if caller < rule => (caller, Whose::Caller),
            (Some(rule), _) => (rule, Whose::Rule),
            (None, Some(caller)) => (caller, Whose::Caller),
        };
        let sleep = Box::pin(tokio::time::sleep_until((started + limit).into()));
        Some(Self { sleep, whose, callers: caller.map(|caller| started + caller) })
    }

    /// Whose time this is.
    pub(crate) fn whose(&self) -> Whose {
        self.whose
    }

    /// Ready when the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }

    /// Whether it was found to be over.
    pub(crate) fn is_over(&self) -> bool {
        self.sleep.is_elapsed()
    }

    /// What is left when the rule's time does not count: the caller's.
    pub(crate) fn without_rule(mut self) -> Option<Self> {
        let callers = self.callers?;
        self.sleep.as_mut().reset(callers.into());
        self.whose = Whose::Caller;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_earlier_time_counts_and_says_whose_it_is() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(2));
        let whose = |rule, caller| Deadline::new(Instant::now(), rule, caller).map(|deadline| deadline.whose());
        assert_eq!(whose(None, None), None);
        assert_eq!(whose(Some(short), Some(long)), Some(Whose::Rule));
        assert_eq!(whose(Some(long), Some(short)), Some(Whose::Caller));
        assert_eq!(whose(Some(short), Some(short)), Some(Whose::Rule));
        assert_eq!(whose(None, Some(short)), Some(Whose::Caller));
        let deadline = Deadline::new(Instant::now(), Some(short), Some(long)).unwrap();
        assert_eq!(deadline.without_rule().unwrap().whose(), Whose::Caller);
    }
}
