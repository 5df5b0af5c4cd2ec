//! The requests that a breaker's rules look at: those of a rolling time, or the last so many.
//!
//! It must not know what its counts mean. Rules that look at the same requests share one window,
//! because recording stands in every request's way.

mod calls;
mod time;

use std::time::{Duration, Instant};

use super::settings::{Settings, Span};

pub(super) use calls::{CallWindow, OutcomeLetter};
pub(super) use time::TimeWindow;
pub use time::WINDOW_BUCKETS;

/// The span over which outcomes are shown where no rule has a window of its own.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// Outcomes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// How many failed.
    pub(super) failures: u64,
    /// How many were slow; a failure may be as well.
    pub(super) slow: u64,
    /// How many there were.
    pub(super) requests: u64,
}

/// The windows of one breaker, each span once.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    distinct: Vec<Window>,
    /// Which one is shown.
    shown: usize,
    /// Which one each rule looks at; meaningless without that rule.
    failure_count: usize,
    failure_rate: usize,
    slow_call_rate: usize,
}

/// One window. A breaker has at most three, and never moves them: boxing one would cost every request a step more.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)]
pub(super) enum Window {
    /// Requests of a rolling time.
    Time(TimeWindow),
    /// The last so many requests.
    Calls(CallWindow),
}

impl Windows {
    /// Empty windows for the rules of `settings`.
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let shown_span = settings.shown_span();
        let count = settings.failure_count.map(|rule| Span::Time(rule.window));
        let rate = settings.failure_rate.map(|rule| rule.span);
        let slow = settings.slow_call_rate.map(|rule| rule.rate.span);
        let mut spans: Vec<Span> = Vec::new();
        let mut place = |span: Option<Span>| {
            let span = span.unwrap_or(shown_span);
            spans.iter().position(|other| *other == span).unwrap_or_else(|| {
                spans.push(span);
                spans.len() - 1
            })
        };
        let (shown, failure_count) = (place(None), place(count));
        let (failure_rate, slow_call_rate) = (place(rate), place(slow));
        let distinct = spans.into_iter().map(|span| Window::new(span, now)).collect();
        Self { distinct, shown, failure_count, failure_rate, slow_call_rate }
    }

    /// Each window once, in an order that the settings decide.
    pub(super) fn distinct(&self) -> &[Window] {
        &self.distinct
    }

    /// The same, to be filled anew.
    pub(super) fn distinct_mut(&mut self) -> &mut [Window] {
        &mut self.distinct
    }

    /// The one that is shown.
    pub(super) fn shown(&self) -> &Window {
        &self.distinct[self.shown]
    }

    /// The one that the failure count looks at.
    pub(super) fn of_failure_count(&self) -> &Window {
        &self.distinct[self.failure_count]
    }

    /// The one that the failure rate looks at.
    pub(super) fn of_failure_rate(&self) -> &Window {
        &self.distinct[self.failure_rate]
    }

    /// The one that the rate of slow calls looks at.
    pub(super) fn of_slow_call_rate(&self) -> &Window {
        &self.distinct[self.slow_call_rate]
    }

    /// Counts one request at `now`, which is never before an earlier `now`.
    pub(super) fn record(&mut self, request: Totals, now: Instant) {
        self.distinct.iter_mut().for_each(|window| window.record(request, now));
    }

    /// Counts requests that went well, and ended before [`Windows::stands_until`].
    pub(super) fn add_good(&mut self, count: u64) {
        self.distinct.iter_mut().for_each(|window| window.add_good(count));
    }

    /// Until when time alone moves no request out of any window; none if it never does.
    pub(super) fn stands_until(&self) -> Option<Instant> {
        self.distinct.iter().filter_map(Window::stands_until).min()
    }

    /// Forgets everything; the first buckets begin `now`.
    pub(super) fn reset(&mut self, now: Instant) {
        self.distinct.iter_mut().for_each(|window| window.reset(now));
    }
}

impl Window {
    fn new(span: Span, now: Instant) -> Self {
        match span {
            Span::Time(span) => Self::Time(TimeWindow::new(span, now)),
            Span::Calls(calls) => Self::Calls(CallWindow::new(calls)),
        }
    }

    fn record(&mut self, request: Totals, now: Instant) {
        match self {
            Self::Time(window) => window.record(request, now),
            Self::Calls(window) => window.record(request),
        }
    }

    fn add_good(&mut self, count: u64) {
        match self {
            Self::Time(window) => window.add(Totals { requests: count, ..Totals::default() }),
            Self::Calls(window) => window.add_good(count),
        }
    }

    fn stands_until(&self) -> Option<Instant> {
        match self {
            Self::Time(window) => Some(window.bucket_end()),
            Self::Calls(_) => None,
        }
    }

    fn reset(&mut self, now: Instant) {
        match self {
            Self::Time(window) => window.reset(now),
            Self::Calls(window) => window.reset(),
        }
    }

    /// What was in it when the last request was counted.
    pub(super) fn last_totals(&self) -> Totals {
        match self {
            Self::Time(window) => window.last_totals(),
            Self::Calls(window) => window.totals(),
        }
    }

    /// What is in it at `now`.
    pub(super) fn totals_at(&self, now: Instant) -> Totals {
        match self {
            Self::Time(window) => window.totals_at(now),
            Self::Calls(window) => window.totals(),
        }
    }
}

impl Totals {
    /// The share of failures, 0 to 1; none without requests.
    pub(super) fn failure_ratio(self) -> Option<f64> {
        self.share(self.failures)
    }

    /// The share of slow requests, 0 to 1; none without requests.
    pub(super) fn slow_ratio(self) -> Option<f64> {
        self.share(self.slow)
    }

    fn share(self, part: u64) -> Option<f64> {
        // Exact up to 2^53 requests in a window.
        #[allow(clippy::cast_precision_loss)]
        (self.requests > 0).then(|| part as f64 / self.requests as f64)
    }

    fn add(&mut self, other: Self) {
        let Self { failures, slow, requests } = other;
        self.failures = self.failures.saturating_add(failures);
        self.slow = self.slow.saturating_add(slow);
        self.requests = self.requests.saturating_add(requests);
    }

    fn remove(&mut self, other: Self) {
        let Self { failures, slow, requests } = other;
        self.failures = self.failures.saturating_sub(failures);
        self.slow = self.slow.saturating_sub(slow);
        self.requests = self.requests.saturating_sub(requests);
    }
}
