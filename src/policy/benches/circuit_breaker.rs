//! What a closed breaker costs a request: one admit and one settle, beside crate `failsafe`, and with many breakers.
//!
//! It must not judge: it prints medians and ratios of contenders measured side by side. Rounds are
//! interleaved, because a machine's speed drifts and would otherwise favour whoever ran at the right moment.

#![allow(clippy::unwrap_used, clippy::panic)]

mod contender;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use failsafe::{FailurePolicy, Instrument, StateMachine, backoff, failure_policy};
use fusebox_policy::circuit_breaker::{Decision, Ended, Outcome, Settings, SharedBreaker};
use fusebox_policy::config::{
    BreakerParameters, FailureRate, HalfOpen, Open, RateWindow, Recovery, SlowCallRate, Trip,
};

use self::contender::{Contender, REQUESTS, measured, print};

/// Requests that are told the same time where the time is an argument.
const REQUESTS_PER_TICK: u32 = 64;

/// One request in this many fails, where some do.
const REQUESTS_PER_FAILURE: u32 = 100;

const WINDOW: Duration = Duration::from_secs(10);

fn main() {
    let contenders = measured(contenders());
    print("closed breaker, admit + settle(success)", &contenders);
}

fn contenders() -> Vec<Contender> {
    let (times, calls) = (Rules::Windows(RateWindow::Time(10_000)), Rules::Windows(RateWindow::Calls(100)));
    vec![
        Contender::new("fusebox, all rules, time given", 1, time_given(many(1, times))),
        Contender::new("fusebox, all rules, last 100 calls", 1, time_given(many(1, calls))),
        Contender::new("fusebox, all rules, clock read", 1, clock_read(many(1, times))),
        Contender::new("fusebox, all rules, 1 in 100 fails", 1, some_fail(many(1, times))),
        Contender::new("failsafe, row and window, its clock", 1, other(failsafe_row_and_window())),
        Contender::new("fusebox, row only, time given", 1, time_given(many(1, Rules::Row))),
        Contender::new("failsafe, row only, its clock", 1, other(failsafe_row())),
        Contender::new("fusebox, all rules, time given", 2, time_given(many(1, times))),
        Contender::new("fusebox, all rules, clock read", 2, clock_read(many(1, times))),
        Contender::new("fusebox, all rules, 1 in 100 fails", 2, some_fail(many(1, times))),
        Contender::new("failsafe, row and window, its clock", 2, other(failsafe_row_and_window())),
        Contender::new("fusebox, row only, time given", 2, time_given(many(1, Rules::Row))),
        Contender::new("failsafe, row only, its clock", 2, other(failsafe_row())),
        Contender::new("fusebox, all rules, 100 in turn", 1, time_given(many(100, times))),
        Contender::new("fusebox, all rules, 10000 in turn", 1, time_given(many(10_000, times))),
        Contender::new("fusebox, all rules, 10000 in turn", 2, time_given(many(10_000, times))),
        Contender::new("reading the clock once", 1, read_clock),
    ]
}

/// What breakers trip by.
#[derive(Clone, Copy)]
enum Rules {
    /// Failures in a row.
    Row,
    /// Those, and the rates of failures and of slow calls.
    Windows(RateWindow),
}

fn many(count: usize, rules: Rules) -> Vec<Arc<SharedBreaker>> {
    let row = Trip { consecutive_failures: Some(5), ..Trip::default() };
    let trip = match rules {
        Rules::Row => row,
        Rules::Windows(window) => Trip {
            failure_rate: Some(FailureRate { percent: 50, window, min_requests: 20 }),
            slow_call_rate: Some(SlowCallRate { percent: 80, slower_than_ms: 500, window, min_requests: 20 }),
            ..row
        },
    };
    let parameters = BreakerParameters {
        trip,
        open: Open { base_duration_ms: 30_000, max_duration_ms: 300_000, jitter_percent: 10, honor_retry_after: true },
        half_open: HalfOpen { max_probes: 1, success_threshold: 2, probe_timeout_ms: 10_000, max_duration_ms: 60_000 },
        recovery: Recovery::default(),
    };
    let settings = Settings::try_from(&parameters).unwrap();
    (0..count).map(|seed| SharedBreaker::new(settings.clone(), seed as u64, Instant::now())).collect()
}

#[inline]
fn request(breaker: &Arc<SharedBreaker>, outcome: Outcome, began: Instant, ended: impl FnOnce() -> Instant) {
    match breaker.admit(began).decision {
        Decision::Admitted(permit) => {
            let ended_like = Ended::after(black_box(Duration::from_millis(5)), outcome);
            // What a caller asks first; a copy of the whole transition would be measured otherwise.
            black_box(breaker.settle(permit, ended_like, ended()).is_some());
        }
        Decision::Refused(refusal) => panic!("a closed breaker refused: {refusal:?}"),
    }
}

/// The breakers one after the other, as often as it takes.
fn time_given(breakers: Vec<Arc<SharedBreaker>>) -> impl Fn() {
    move || {
        let mut next = breakers.iter().cycle();
        for _ in 0..REQUESTS / REQUESTS_PER_TICK {
            let now = Instant::now();
            for breaker in next.by_ref().take(REQUESTS_PER_TICK as usize) {
                request(breaker, Outcome::Success, black_box(now), || black_box(now));
            }
        }
    }
}

fn some_fail(breakers: Vec<Arc<SharedBreaker>>) -> impl Fn() {
    move || {
        for breaker in breakers.iter().cycle().take((REQUESTS / REQUESTS_PER_FAILURE) as usize) {
            let now = Instant::now();
            request(breaker, Outcome::Failure, black_box(now), || black_box(now));
            for _ in 1..REQUESTS_PER_FAILURE {
                request(breaker, Outcome::Success, black_box(now), || black_box(now));
            }
        }
    }
}

fn clock_read(breakers: Vec<Arc<SharedBreaker>>) -> impl Fn() {
    move || {
        for (_, breaker) in (0..REQUESTS).zip(breakers.iter().cycle()) {
            request(breaker, Outcome::Success, Instant::now(), Instant::now);
        }
    }
}

fn read_clock() {
    for _ in 0..REQUESTS {
        black_box(Instant::now());
    }
}

fn failsafe_row() -> StateMachine<impl FailurePolicy, ()> {
    StateMachine::new(failure_policy::consecutive_failures(5, backoff::constant(Duration::from_secs(30))), ())
}

fn failsafe_row_and_window() -> StateMachine<impl FailurePolicy, ()> {
    let wait = || backoff::constant(Duration::from_secs(30));
    let row = failure_policy::consecutive_failures(5, wait());
    let window = failure_policy::success_rate_over_time_window(0.5, 20, WINDOW, wait());
    StateMachine::new(row.or_else(window), ())
}

fn other<P: FailurePolicy, I: Instrument>(machine: StateMachine<P, I>) -> impl Fn() {
    move || {
        for _ in 0..REQUESTS {
            assert!(black_box(machine.is_call_permitted()));
            machine.on_success();
        }
    }
}
