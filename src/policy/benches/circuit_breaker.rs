//! What a closed breaker costs a request: one admit and one settle, beside crate `failsafe`.
//!
//! It must not judge: it prints medians and ratios of contenders measured side by side. Rounds are
//! interleaved, because a machine's speed drifts and would otherwise favour whoever ran at the right moment.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use failsafe::{FailurePolicy, Instrument, StateMachine, backoff, failure_policy};
use fusebox_policy::circuit_breaker::{Decision, Outcome, Settings, SharedBreaker};
use fusebox_policy::config::{BreakerParameters, FailureRate, HalfOpen, Open, RateWindow, Recovery, Trip};

/// How often each contender is measured.
const ROUNDS: usize = 201;

/// Requests in one measurement, by each thread: about a millisecond, so that on a busy machine most
/// measurements end before the scheduler takes the thread off its processor.
const REQUESTS: u32 = 20_000;

/// Requests that are told the same time where the time is an argument.
const REQUESTS_PER_TICK: u32 = 64;

const WINDOW: Duration = Duration::from_secs(10);

/// One thing measured.
struct Contender {
    name: &'static str,
    threads: u32,
    /// Runs [`REQUESTS`] requests on one thread.
    run: Box<dyn Fn() + Sync>,
    /// Nanoseconds a request, one for each round.
    rounds: Vec<f64>,
}

impl Contender {
    fn new(name: &'static str, threads: u32, run: impl Fn() + Sync + 'static) -> Self {
        Self { name, threads, run: Box::new(run), rounds: Vec::new() }
    }

    /// The time from the first thread's start to the last one's end, over the requests of one thread.
    fn measure(&mut self) {
        let began = Instant::now();
        if self.threads == 1 {
            (self.run)();
        } else {
            thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(&self.run);
                }
            });
        }
        self.rounds.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(REQUESTS));
    }

    fn median(&self) -> f64 {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    }

    fn fastest(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

fn main() {
    let mut contenders = contenders();
    for _ in 0..ROUNDS {
        contenders.iter_mut().for_each(Contender::measure);
    }
    print(&contenders);
}

fn contenders() -> Vec<Contender> {
    vec![
        Contender::new("fusebox, row and window, time given", 1, time_given(breaker(true))),
        Contender::new("fusebox, row and window, clock read", 1, clock_read(breaker(true))),
        Contender::new("failsafe, row and window, its clock", 1, other(failsafe_row_and_window())),
        Contender::new("fusebox, row only, time given", 1, time_given(breaker(false))),
        Contender::new("failsafe, row only, its clock", 1, other(failsafe_row())),
        Contender::new("fusebox, row and window, clock read", 2, clock_read(breaker(true))),
        Contender::new("failsafe, row and window, its clock", 2, other(failsafe_row_and_window())),
        Contender::new("fusebox, row only, time given", 2, time_given(breaker(false))),
        Contender::new("failsafe, row only, its clock", 2, other(failsafe_row())),
        Contender::new("reading the clock once", 1, read_clock),
    ]
}

fn print(contenders: &[Contender]) {
    println!("closed breaker, admit + settle(success), {ROUNDS} interleaved rounds of {REQUESTS} requests a thread\n");
    println!("{:<38} {:>7} {:>10} {:>10} {:>9}", "contender", "threads", "median ns", "fastest ns", "x first");
    let first = contenders[0].median();
    for contender in contenders {
        let (median, fastest) = (contender.median(), contender.fastest());
        println!(
            "{:<38} {:>7} {median:>10.1} {fastest:>10.1} {:>9.2}",
            contender.name,
            contender.threads,
            median / first
        );
    }
}

/// A breaker that trips by failures in a row and, `windowed`, by a failure rate as well.
fn breaker(windowed: bool) -> Arc<SharedBreaker> {
    let failure_rate =
        windowed.then_some(FailureRate { percent: 50, window: RateWindow::Time(10_000), min_requests: 20 });
    let parameters = BreakerParameters {
        trip: Trip { consecutive_failures: Some(5), failure_rate, ..Trip::default() },
        open: Open { base_duration_ms: 30_000, max_duration_ms: 300_000, jitter_percent: 10, honor_retry_after: false },
        half_open: HalfOpen { max_probes: 1, success_threshold: 2, probe_timeout_ms: 10_000, max_duration_ms: 60_000 },
        recovery: Recovery::default(),
    };
    SharedBreaker::new(Settings::try_from(&parameters).unwrap(), 1, Instant::now())
}

fn request(breaker: &Arc<SharedBreaker>, began: Instant, ended: impl FnOnce() -> Instant) {
    match breaker.admit(began).decision {
        Decision::Admitted(permit) => {
            black_box(breaker.settle(permit, Outcome::Success, ended()));
        }
        Decision::Refused(refusal) => panic!("a closed breaker refused: {refusal:?}"),
    }
}

fn time_given(breaker: Arc<SharedBreaker>) -> impl Fn() {
    move || {
        for _ in 0..REQUESTS / REQUESTS_PER_TICK {
            let now = Instant::now();
            for _ in 0..REQUESTS_PER_TICK {
                request(&breaker, black_box(now), || black_box(now));
            }
        }
    }
}

fn clock_read(breaker: Arc<SharedBreaker>) -> impl Fn() {
    move || (0..REQUESTS).for_each(|_| request(&breaker, Instant::now(), Instant::now))
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
