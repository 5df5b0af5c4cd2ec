//! A rolling window over outcomes, in buckets of time.
//!
//! It must not know what its counts mean. It costs one comparison and two additions an outcome and
//! never allocates, because it stands in every request's way.

use std::time::{Duration, Instant};

/// How many buckets a window is made of. A window spans the current bucket, begun, and the nine
/// before it: between nine tenths of its span and all of it.
pub const WINDOW_BUCKETS: usize = 10;

/// The span over which outcomes are shown where no rule has a window of its own.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// Outcomes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// How many failed.
    pub(super) failures: u64,
    /// How many there were.
    pub(super) requests: u64,
}

/// The outcomes of a stretch of time up to now.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// The width of one bucket.
    width: Duration,
    /// When the current bucket ends, for one comparison an outcome.
    bucket_end: Instant,
    /// The last `WINDOW_BUCKETS` buckets, as a ring.
    buckets: [Totals; WINDOW_BUCKETS],
    /// The current bucket's place in the ring.
    current: usize,
    /// The sum of `buckets`.
    totals: Totals,
}

impl Window {
    /// An empty window over `span`, whose first bucket begins `now`.
    pub(super) fn new(span: Duration, now: Instant) -> Self {
        let width = bucket_width(span);
        let buckets = [Totals::default(); WINDOW_BUCKETS];
        Self { width, bucket_end: end_of(now, width), buckets, current: 0, totals: Totals::default() }
    }

    /// A window over `span` with these buckets, oldest first, the last of which began at `bucket_start`.
    pub(super) fn with_buckets(span: Duration, bucket_start: Instant, buckets: [Totals; WINDOW_BUCKETS]) -> Self {
        let (width, mut totals) = (bucket_width(span), Totals::default());
        buckets.iter().for_each(|bucket| totals.add(*bucket));
        Self { width, bucket_end: end_of(bucket_start, width), buckets, current: WINDOW_BUCKETS - 1, totals }
    }

    /// Forgets everything; the first bucket begins `now`.
    pub(super) fn reset(&mut self, now: Instant) {
        self.buckets = [Totals::default(); WINDOW_BUCKETS];
        self.totals = Totals::default();
        self.bucket_end = end_of(now, self.width);
    }

    /// Counts outcomes at `now`, which is never before an earlier `now`.
    pub(super) fn record(&mut self, outcomes: Totals, now: Instant) {
        if now >= self.bucket_end {
            self.roll(now);
        }
        self.buckets[self.current].add(outcomes);
        self.totals.add(outcomes);
    }

    /// What was counted when the last outcome came.
    pub(super) fn last_totals(&self) -> Totals {
        self.totals
    }

    /// What is in the window at `now`.
    pub(super) fn totals_at(&self, now: Instant) -> Totals {
        let gone = self.buckets_gone(now);
        let mut totals = Totals::default();
        self.oldest_first().skip(gone).for_each(|bucket| totals.add(bucket));
        totals
    }

    /// The buckets, oldest first; the last is the current one.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = Totals> {
        (1..=WINDOW_BUCKETS).map(|step| self.buckets[(self.current + step) % WINDOW_BUCKETS])
    }

    /// How long ago the current bucket began.
    pub(super) fn bucket_age(&self, now: Instant) -> Duration {
        (now + self.width).saturating_duration_since(self.bucket_end)
    }

    /// Steps over whole buckets, so that buckets keep their phase however late this is noticed.
    #[cold]
    fn roll(&mut self, now: Instant) {
        let age = self.bucket_age(now);
        for _ in 0..self.buckets_gone(now) {
            self.current = (self.current + 1) % WINDOW_BUCKETS;
            self.totals.remove(self.buckets[self.current]);
            self.buckets[self.current] = Totals::default();
        }
        let into_bucket = Duration::from_nanos_u128(age.as_nanos() % self.width.as_nanos());
        self.bucket_end = end_of(now, self.width - into_bucket);
    }

    fn buckets_gone(&self, now: Instant) -> usize {
        let steps = self.bucket_age(now).as_nanos() / self.width.as_nanos();
        usize::try_from(steps).unwrap_or(WINDOW_BUCKETS).min(WINDOW_BUCKETS)
    }
}

impl Totals {
    /// One success.
    pub(super) const SUCCESS: Self = Self { failures: 0, requests: 1 };
    /// One failure.
    pub(super) const FAILURE: Self = Self { failures: 1, requests: 1 };

    /// The share of failures, 0 to 1; none without requests.
    pub(super) fn failure_ratio(self) -> Option<f64> {
        // Exact up to 2^53 requests in a window.
        #[allow(clippy::cast_precision_loss)]
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }

    fn add(&mut self, other: Self) {
        self.failures = self.failures.saturating_add(other.failures);
        self.requests = self.requests.saturating_add(other.requests);
    }

    fn remove(&mut self, other: Self) {
        self.failures = self.failures.saturating_sub(other.failures);
        self.requests = self.requests.saturating_sub(other.requests);
    }
}

/// The end of a stretch of at most a day, which no clock that is still running can overflow on.
fn end_of(start: Instant, width: Duration) -> Instant {
    start.checked_add(width).unwrap_or(start)
}

fn bucket_width(span: Duration) -> Duration {
    // `Settings` refuses a span under one millisecond a bucket; a width of zero would have no buckets.
    (span / WINDOW_BUCKETS as u32).max(Duration::from_nanos(1))
}
