//! A window over the requests of a rolling time, in buckets.
//!
//! It must not know what its counts mean. It costs one comparison and a few additions a request and
//! never allocates, because it stands in every request's way.

use std::time::{Duration, Instant};

use super::Totals;

/// How many buckets a window is made of. A window spans the current bucket, begun, and the nine
/// before it: between nine tenths of its span and all of it.
pub const WINDOW_BUCKETS: usize = 10;

/// The outcomes of a stretch of time up to now.
#[derive(Clone, Debug)]
pub(in super::super) struct TimeWindow {
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

impl TimeWindow {
    /// An empty window over `span`, whose first bucket begins `now`.
    pub(in super::super) fn new(span: Duration, now: Instant) -> Self {
        let width = bucket_width(span);
        let buckets = [Totals::default(); WINDOW_BUCKETS];
        Self { width, bucket_end: end_of(now, width), buckets, current: 0, totals: Totals::default() }
    }

    /// Puts these buckets in place of its own, oldest first; the last of them began at `bucket_start`.
    pub(in super::super) fn fill(&mut self, bucket_start: Instant, buckets: [Totals; WINDOW_BUCKETS]) {
        let mut totals = Totals::default();
        buckets.iter().for_each(|bucket| totals.add(*bucket));
        let bucket_end = end_of(bucket_start, self.width);
        *self = Self { width: self.width, bucket_end, buckets, current: WINDOW_BUCKETS - 1, totals };
    }

    /// Forgets everything; the first bucket begins `now`.
    pub(in super::super) fn reset(&mut self, now: Instant) {
        self.buckets = [Totals::default(); WINDOW_BUCKETS];
        self.totals = Totals::default();
        self.bucket_end = end_of(now, self.width);
    }

    /// Counts outcomes at `now`, which is never before an earlier `now`.
    pub(in super::super) fn record(&mut self, outcomes: Totals, now: Instant) {
        if now >= self.bucket_end {
            self.roll(now);
        }
        self.add(outcomes);
    }

    /// Counts outcomes that came before the current bucket's end.
    pub(in super::super) fn add(&mut self, outcomes: Totals) {
        self.buckets[self.current].add(outcomes);
        self.totals.add(outcomes);
    }

    /// When the current bucket ends.
    pub(in super::super) fn bucket_end(&self) -> Instant {
        self.bucket_end
    }

    /// What was counted when the last outcome came.
    pub(in super::super) fn last_totals(&self) -> Totals {
        self.totals
    }

    /// What is in the window at `now`.
    pub(in super::super) fn totals_at(&self, now: Instant) -> Totals {
        let gone = self.buckets_gone(now);
        let mut totals = Totals::default();
        self.oldest_first().skip(gone).for_each(|bucket| totals.add(bucket));
        totals
    }

    /// The buckets, oldest first; the last is the current one.
    pub(in super::super) fn oldest_first(&self) -> impl Iterator<Item = Totals> {
        (1..=WINDOW_BUCKETS).map(|step| self.buckets[(self.current + step) % WINDOW_BUCKETS])
    }

    /// How long ago the current bucket began.
    pub(in super::super) fn bucket_age(&self, now: Instant) -> Duration {
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

/// The end of a stretch of at most a day, which no clock that is still running can overflow on.
fn end_of(start: Instant, width: Duration) -> Instant {
    start.checked_add(width).unwrap_or(start)
}

fn bucket_width(span: Duration) -> Duration {
    // `Settings` refuses a span under one millisecond a bucket; a width of zero would have no buckets.
    (span / WINDOW_BUCKETS as u32).max(Duration::from_nanos(1))
}
