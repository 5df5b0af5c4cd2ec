//! A waker that tells apart who is woken: the task that drives a connection, or its own next turn.
//!
//! It must not lose a wake. A connection and the request on it are driven by one task; what one does for the
//! other within a turn must not make the runtime schedule the task again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Turns in a row before others get theirs.
const MAX_TURNS: u32 = 16;

/// Wakes whoever drives the connection at this time; nobody while it is idle.
#[derive(Debug, Default)]
pub(super) struct Relay {
    driver: Mutex<Option<Waker>>,
    turning: AtomicBool,
    again: AtomicBool,
}

impl Relay {
    /// Takes turns until there is a result or nothing is left to do before somebody else wakes it.
    ///
    /// `own` is the waker of this relay, for the turns.
    pub(super) fn turn<T>(
        &self,
        own: &Waker,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.drive_by(cx.waker());
        let mut inner = Context::from_waker(own);
        for _ in 0..MAX_TURNS {
            self.again.store(false, SeqCst);
            self.turning.store(true, SeqCst);
            let polled = step(&mut inner);
            // In this order: a wake from another thread either is seen here, or sees that nobody turns any more.
            self.turning.store(false, SeqCst);
            if polled.is_ready() || !self.again.load(SeqCst) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nobody drives it from now on.
    pub(super) fn rest(&self) {
        *self.driver.lock() = None;
    }

    fn drive_by(&self, waker: &Waker) {
        let mut driver = self.driver.lock();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, SeqCst);
        if !self.turning.load(SeqCst)
            && let Some(driver) = &*self.driver.lock()
        {
            driver.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn relay() -> (Arc<Relay>, Waker, Arc<Count>, Waker) {
        let relay = Arc::new(Relay::default());
        let count = Arc::new(Count::default());
        (Arc::clone(&relay), Waker::from(relay), Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn a_wake_within_a_turn_takes_another_turn_and_wakes_no_task() {
        let (relay, own, count, task) = relay();
        let mut turns = 0;
        let polled = relay.turn(&own, &mut Context::from_waker(&task), |cx| {
            turns += 1;
            if turns == 3 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(polled.is_ready());
        assert_eq!((turns, count.0.load(SeqCst)), (3, 0));
    }

    #[test]
    fn a_wake_between_turns_wakes_the_task_until_the_connection_rests() {
        let (relay, own, count, task) = relay();
        let polled: Poll<()> = relay.turn(&own, &mut Context::from_waker(&task), |_| Poll::Pending);
        assert!(polled.is_pending());
        own.wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 1);
        relay.rest();
        own.wake_by_ref();
        assert_eq!(count.0.load(SeqCst), 1);
    }

    #[test]
    fn turns_without_end_give_way() {
        let (relay, own, count, task) = relay();
        let mut turns = 0;
        let polled: Poll<()> = relay.turn(&own, &mut Context::from_waker(&task), |cx| {
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((turns, count.0.load(SeqCst)), (MAX_TURNS, 1));
    }
}
