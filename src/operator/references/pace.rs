//! How fast objects are asked for: all together, so that many of them, or many refusals, are no storm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backoff::Backoff;
use crate::bucket::{Allowance, Bucket};

/// First looks at objects.
const FIRST: Allowance = Allowance { burst: 20, every: Duration::from_millis(50) };

/// Looks after something went wrong.
const AGAIN: Allowance = Allowance { burst: 3, every: Duration::from_millis(300) };

/// How long an object that may not be read is left alone.
const NOT_PERMITTED: Backoff =
    Backoff { base: Duration::from_secs(30), max: Duration::from_secs(30), jitter_percent: 20 };

/// How long one is left alone after other errors.
const FAILED: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(20), jitter_percent: 50 };

/// What went wrong with one object, and how often in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may not be read.
    NotPermitted,
    /// Anything else.
    Failed(u32),
}

/// The pace of all; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Mutex<(Bucket, Bucket)>>);

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new((Bucket::new(FIRST, now), Bucket::new(AGAIN, now)))))
    }
}

impl Pace {
    /// Waits for a turn to look at an object for the first time.
    pub(super) async fn first(&self) {
        let wait = self.0.lock().0.reserve(Instant::now());
        tokio::time::sleep(wait).await;
    }

    /// Waits until an object may be looked at again.
    pub(super) async fn again(&self, trouble: Trouble, salt: &str) {
        tokio::time::sleep(trouble.delay(salt)).await;
        let wait = self.0.lock().1.reserve(Instant::now());
        tokio::time::sleep(wait).await;
    }
}

impl Trouble {
    fn delay(self, salt: &str) -> Duration {
        match self {
            Self::NotPermitted => NOT_PERMITTED.delay(1, &salt),
            Self::Failed(times) => FAILED.delay(times, &salt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_may_not_be_read_is_asked_for_slowly_and_all_together_a_few_times_a_second() {
        let delay = Trouble::NotPermitted.delay("Secret shop/a");
        assert!((24..=30).contains(&delay.as_secs()), "{delay:?}");
        let start = Instant::now();
        let mut bucket = Bucket::new(AGAIN, start);
        let last = (0..super::super::MAX_WATCHED).map(|_| bucket.reserve(start)).max().unwrap();
        let calls_a_second = super::super::MAX_WATCHED as f64 / last.as_secs_f64();
        assert!(calls_a_second < 4.0, "{calls_a_second}");
    }
}
