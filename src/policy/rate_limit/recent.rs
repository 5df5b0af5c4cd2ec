//! What was decided in the last minute, found from counts that only grow.
//!
//! It must not be asked on a request's way: whoever counts goes on as before, and somebody looks about once a second. So what
//! is said of the last minute costs a decision nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What counts as recent. Since counts are kept every [`STEP`], up to one step more may be counted in.
pub const RECENT_WINDOW: Duration = Duration::from_secs(60);

/// How often counts are kept.
const STEP: Duration = Duration::from_secs(5);

/// The most counts that are kept: the window's, the one before it, and the newest.
const MAX_KEPT: usize = 14;

const _: () = assert!(MAX_KEPT as u64 == RECENT_WINDOW.as_secs() / STEP.as_secs() + 2, "the window is not covered");

/// The recent past of one rule of one limit.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Past>);

/// Requests that passed and requests that were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that passed.
    pub allowed: u64,
    /// Those that were refused.
    pub limited: u64,
}

/// What is known of the recent past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// What was decided within [`RECENT_WINDOW`].
    pub decided: Totals,
    /// When a look first found the last refusal; none where there never was one.
    pub last_limited: Option<Instant>,
}

#[derive(Debug, Default)]
struct Past {
    /// Counts as they were, the oldest first; only the first may be older than the window.
    kept: VecDeque<(Instant, Totals)>,
    /// Refusals that the last look found.
    limited: u64,
    last_limited: Option<Instant>,
}

impl Recent {
    /// Takes all that was counted so far, and says what of it is recent. To be called about once a second while anything is counted.
    pub fn look(&self, totals: Totals, now: Instant) -> Lately {
        let mut past = self.0.lock();
        past.keep(totals, now);
        Lately { decided: totals.since(past.before_window(now)), last_limited: past.last_limited }
    }
}

impl Past {
    fn keep(&mut self, totals: Totals, now: Instant) {
        if totals.limited > self.limited {
            (self.limited, self.last_limited) = (totals.limited, self.last_limited.max(Some(now)));
        }
        if self.kept.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < STEP) {
            return;
        }
        while self.kept.get(1).is_some_and(|(at, _)| is_before_window(*at, now)) || self.kept.len() >= MAX_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((now, totals));
    }

    /// The newest counts from before the window; without any, all was counted within it.
    fn before_window(&self, now: Instant) -> Totals {
        let before = self.kept.iter().take_while(|(at, _)| is_before_window(*at, now));
        before.last().map(|(_, totals)| *totals).unwrap_or_default()
    }
}

fn is_before_window(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= RECENT_WINDOW
}

impl Totals {
    /// Two threads may look at once, and the one with the older counts come later.
    fn since(self, before: Self) -> Self {
        Self {
            allowed: self.allowed.saturating_sub(before.allowed),
            limited: self.limited.saturating_sub(before.limited),
        }
    }
}
