//! Properties: any history gives what the reference model says, from the engine and the shared breaker alike.

use std::sync::Arc;

use proptest::option::of;
use proptest::prelude::*;

use super::super::{Ended, Force, Permit, SharedBreaker, Statistics, TransitionReason};
use super::reference::{Model, ModelRefusal, ModelTicket};
use super::*;
use crate::config::ForcedState::{self, ForcedClosed, ForcedOpen};
use crate::report::BreakerState;

/// One step of a history. Times are in milliseconds.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Admit,
    /// The request that is this share (in 256ths) into those under way.
    Settle(u8, Ended),
    Drop(u8),
    Advance,
    /// The caller's clock is behind by this much, this once.
    AdvanceLate(u64),
    Force(Option<(ForcedState, u64)>),
    /// Somebody looks at the numbers, which a shared breaker has to gather first.
    Look,
    /// The process ends, and another goes on from the snapshot after this time.
    Restart(u64),
}

/// What a history is run against.
trait Subject: Sized {
    type Held;
    /// Whether it may be looked at after each step, and still takes the ways it would otherwise.
    const LOOKING_CHANGES_NOTHING: bool;
    fn admit(&mut self, now: Instant) -> Admission<Self::Held>;
    fn settle(&mut self, held: Self::Held, ended: Ended, now: Instant) -> Option<Transition>;
    fn release(&mut self, held: Self::Held);
    fn advance(&mut self, now: Instant) -> Option<Transition>;
    fn force(&mut self, force: Option<Force>, now: Instant);
    fn statistics(&self, now: Instant) -> Statistics;
    /// Another one from this one's snapshot.
    fn restart(&self, settings: Settings, taken_ms: u64, elapsed_ms: u64) -> Self;
}

impl Subject for Breaker {
    type Held = Ticket;
    const LOOKING_CHANGES_NOTHING: bool = true;

    fn admit(&mut self, now: Instant) -> Admission<Ticket> {
        Breaker::admit(self, now)
    }

    fn settle(&mut self, held: Ticket, ended: Ended, now: Instant) -> Option<Transition> {
        Breaker::settle(self, held, ended, now)
    }

    fn release(&mut self, held: Ticket) {
        Breaker::release(self, held);
    }

    fn advance(&mut self, now: Instant) -> Option<Transition> {
        Breaker::advance(self, now)
    }

    fn force(&mut self, force: Option<Force>, now: Instant) {
        Breaker::force(self, force, now);
    }

    fn statistics(&self, now: Instant) -> Statistics {
        Breaker::statistics(self, now)
    }

    fn restart(&self, settings: Settings, taken_ms: u64, elapsed_ms: u64) -> Self {
        let snapshot = self.snapshot(at(taken_ms));
        Breaker::restore(settings, &snapshot, origin(elapsed_ms, taken_ms + elapsed_ms)).unwrap()
    }
}

impl Subject for Arc<SharedBreaker> {
    type Held = Permit;
    const LOOKING_CHANGES_NOTHING: bool = false;

    fn admit(&mut self, now: Instant) -> Admission<Permit> {
        SharedBreaker::admit(self, now)
    }

    fn settle(&mut self, held: Permit, ended: Ended, now: Instant) -> Option<Transition> {
        SharedBreaker::settle(self, held, ended, now)
    }

    fn release(&mut self, held: Permit) {
        drop(held);
    }

    fn advance(&mut self, now: Instant) -> Option<Transition> {
        SharedBreaker::advance(self, now)
    }

    fn force(&mut self, force: Option<Force>, now: Instant) {
        SharedBreaker::force(self, force, now);
    }

    fn statistics(&self, now: Instant) -> Statistics {
        SharedBreaker::statistics(self, now)
    }

    fn restart(&self, settings: Settings, taken_ms: u64, elapsed_ms: u64) -> Self {
        let snapshot = self.snapshot(at(taken_ms));
        SharedBreaker::restore(settings, &snapshot, origin(elapsed_ms, taken_ms + elapsed_ms)).unwrap()
    }
}

/// A history under way, on the subject and on the model.
struct Run<S: Subject> {
    parameters: BreakerParameters,
    subject: S,
    model: Model,
    held: Vec<(S::Held, ModelTicket)>,
    now_ms: u64,
}

impl<S: Subject> Run<S> {
    fn take(mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        for step in steps {
            self.step(step)?;
            if S::LOOKING_CHANGES_NOTHING {
                self.compare()?;
            }
        }
        self.compare()
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = at(self.now_ms);
        match *step {
            Step::Wait(ms) => self.now_ms += ms,
            Step::Admit => self.admit()?,
            Step::Settle(which, ended) => {
                if let Some((held, ticket)) = self.pick(which) {
                    let told = self.subject.settle(held, ended, now);
                    let due = self.model.advance(self.now_ms);
                    // The model's own order: what was due comes first, and makes this request a straggler.
                    let expected = due.or(self.model.settle(ticket, ended));
                    self.same_transition(told, expected)?;
                }
            }
            Step::Drop(which) => {
                if let Some((held, ticket)) = self.pick(which) {
                    self.subject.release(held);
                    self.model.release(ticket);
                }
            }
            Step::Advance => self.advance(self.now_ms)?,
            Step::AdvanceLate(behind_ms) => self.advance(self.now_ms.saturating_sub(behind_ms))?,
            Step::Force(force) => {
                let force = force.map(|(state, for_ms)| (state, self.now_ms + for_ms));
                self.subject.force(force.map(|(state, until)| Force { state, until: at(until) }), now);
                self.model.force(force, self.now_ms);
            }
            Step::Look => self.compare()?,
            Step::Restart(elapsed_ms) => {
                self.subject = self.subject.restart(settings(&self.parameters), self.now_ms, elapsed_ms);
                self.held.clear();
                self.model.restart(self.now_ms, self.now_ms + elapsed_ms);
                self.now_ms += elapsed_ms;
            }
        }
        Ok(())
    }

    fn pick(&mut self, which: u8) -> Option<(S::Held, ModelTicket)> {
        let index = usize::from(which) * self.held.len() / 256;
        (!self.held.is_empty()).then(|| self.held.remove(index))
    }

    fn admit(&mut self) -> Result<(), TestCaseError> {
        let Admission { decision, transition } = self.subject.admit(at(self.now_ms));
        let expected = self.model.advance(self.now_ms);
        self.same_transition(transition, expected)?;
        match (decision, self.model.admit()) {
            (Decision::Admitted(held), Ok(ticket)) => self.held.push((held, ticket)),
            (Decision::Refused(refusal), Err(expected)) => prop_assert_eq!(told(refusal), expected),
            (Decision::Admitted(_), Err(expected)) => prop_assert!(false, "admitted, not refused: {:?}", expected),
            (Decision::Refused(refusal), Ok(_)) => prop_assert!(false, "refused, not admitted: {:?}", refusal),
        }
        Ok(())
    }

    fn advance(&mut self, now_ms: u64) -> Result<(), TestCaseError> {
        let transition = self.subject.advance(at(now_ms));
        let expected = self.model.advance(now_ms);
        self.same_transition(transition, expected)
    }

    /// Compares a transition, and tells the model how long the open time is once it is known to be possible.
    fn same_transition(
        &mut self,
        told: Option<Transition>,
        expected: Option<TransitionReason>,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(told.map(|transition| transition.reason), expected);
        let Some(transition) = told.filter(|transition| transition.to == BreakerState::Open) else {
            return Ok(());
        };
        let next_probe = self.subject.statistics(at(self.now_ms)).next_probe.unwrap();
        let open_ms = millis(next_probe - transition.at);
        let least = self.model.open_time_ms();
        let most = least + least * u64::from(self.parameters.open.jitter_percent) / 100;
        prop_assert!((least..=most).contains(&open_ms), "{} ms open, not {} to {}", open_ms, least, most);
        self.model.open_until_ms = millis(next_probe - at(0));
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let shown = self.subject.statistics(at(self.now_ms));
        let expected = self.model.statistics(self.now_ms);
        prop_assert_eq!((shown.state, shown.forced), (expected.state, expected.forced));
        prop_assert_eq!((shown.since, shown.reason), (at(expected.since_ms), expected.reason));
        prop_assert_eq!(shown.requests, expected.requests);
        let ratio = (expected.requests > 0).then(|| expected.failures as f64 / expected.requests as f64);
        prop_assert_eq!(shown.failure_ratio, ratio);
        prop_assert_eq!(shown.slow_ratio, expected.slow_ratio);
        prop_assert_eq!((shown.idle, shown.ramp_end), (expected.idle, expected.ramp_end_ms.map(at)));
        prop_assert_eq!((shown.trips, shown.last_trip), (expected.trips, expected.last_trip_ms.map(at)));
        prop_assert_eq!(shown.rejected, expected.rejected);
        prop_assert_eq!(u64::from(shown.probes_in_flight), expected.probes_in_flight);
        prop_assert!(shown.probes_in_flight <= self.parameters.half_open.max_probes);
        prop_assert_eq!(shown.next_probe, expected.next_probe_ms.map(at));
        Ok(())
    }
}

fn told(refusal: Refusal) -> ModelRefusal {
    (refusal.state, millis(refusal.retry_after), refusal.forced, refusal.ramping)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

fn check<S: Subject>(
    parameters: &BreakerParameters,
    steps: &[Step],
    make: impl Fn(Settings) -> S,
) -> Result<(), TestCaseError> {
    let model = Model::new(parameters.clone());
    let subject = make(settings(parameters));
    Run { parameters: parameters.clone(), subject, model, held: Vec::new(), now_ms: 0 }.take(steps)
}

fn any_window() -> impl Strategy<Value = (RateWindow, u32)> {
    let time = (prop_oneof![Just(10), Just(50), Just(200), Just(1_000)], 1..6_u32)
        .prop_map(|(window_ms, min_requests)| (RateWindow::Time(window_ms), min_requests));
    let calls = prop_oneof![1..8_u32, Just(20)];
    let calls = calls.prop_flat_map(|calls| (Just(RateWindow::Calls(calls)), 1..=calls));
    prop_oneof![time, calls]
}

fn any_trip() -> impl Strategy<Value = Trip> {
    let window_ms = prop_oneof![Just(10), Just(50), Just(200), Just(1_000)];
    let failures = (1..6_u32, window_ms).prop_map(|(count, window_ms)| FailureCount { count, window_ms });
    let failure_rate = (1..=100_u8, any_window()).prop_map(|(percent, (window, min_requests))| FailureRate {
        percent,
        window,
        min_requests,
    });
    let slow_call_rate =
        (1..=100_u8, 1..6_u64, any_window()).prop_map(|(percent, slower_than_ms, (window, min_requests))| {
            SlowCallRate { percent, slower_than_ms, window, min_requests }
        });
    (of(1..5_u32), of(failures), of(failure_rate), of(slow_call_rate)).prop_map(
        |(consecutive_failures, failures, failure_rate, slow_call_rate)| Trip {
            consecutive_failures,
            failures,
            failure_rate,
            slow_call_rate,
        },
    )
}

fn any_parameters() -> impl Strategy<Value = BreakerParameters> {
    let open = (1..60_u64, 0..300_u64, 0..=100_u8, any::<bool>()).prop_map(
        |(base_duration_ms, more, jitter_percent, honor_retry_after)| Open {
            base_duration_ms,
            max_duration_ms: base_duration_ms + more,
            jitter_percent,
            honor_retry_after,
        },
    );
    let half_open = (1..4_u32, 1..4_u32, 1..60_u64, 1..120_u64).prop_map(
        |(max_probes, success_threshold, probe_timeout_ms, max_duration_ms)| HalfOpen {
            max_probes,
            success_threshold,
            probe_timeout_ms,
            max_duration_ms,
        },
    );
    let recovery = prop_oneof![Just(0), 1..200_u64].prop_map(|ramp_ms| Recovery { ramp_ms });
    (any_trip(), open, half_open, recovery).prop_map(|(trip, open, half_open, recovery)| BreakerParameters {
        trip,
        open,
        half_open,
        recovery,
    })
}

/// How a request ended; of so many that ended well one failed.
fn any_end(well: u32) -> impl Strategy<Value = Ended> {
    let outcome = prop_oneof![
        1 => Just(Outcome::Failure),
        well => Just(Outcome::Success),
        1 => Just(Outcome::Neutral),
    ];
    let took_ms = prop_oneof![4 * well => Just(0), 4 => 0..8_u64];
    (outcome, took_ms, of(0..400_u64)).prop_map(|(outcome, took_ms, retry_after_ms)| Ended {
        outcome,
        took: Duration::from_millis(took_ms),
        retry_after: retry_after_ms.map(Duration::from_millis),
    })
}

fn any_step(well: u32) -> impl Strategy<Value = Step> {
    let wait = prop_oneof![Just(1), 1..10_u64, 10..60_u64, 60..300_u64];
    let forced = (prop_oneof![Just(ForcedOpen), Just(ForcedClosed)], 0..100_u64);
    prop_oneof![
        30 => Just(Step::Admit),
        30 => (any::<u8>(), any_end(well)).prop_map(|(which, ended)| Step::Settle(which, ended)),
        15 => wait.prop_map(Step::Wait),
        4 => any::<u8>().prop_map(Step::Drop),
        4 => Just(Step::Advance),
        4 => Just(Step::Look),
        2 => proptest::option::weighted(0.7, forced).prop_map(Step::Force),
        1 => (0..100_u64).prop_map(Step::Restart),
    ]
}

/// Histories of breakers that trip now and then, and of breakers that are nearly always clean.
fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![Just(1), Just(12)].prop_flat_map(|well| proptest::collection::vec(any_step(well), 1..250))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_what_the_reference_model_says(
        parameters in any_parameters(),
        steps in proptest::collection::vec(
            prop_oneof![20 => any_step(1), 1 => (1..30_u64).prop_map(Step::AdvanceLate)], 1..250),
        seed in any::<u64>(),
    ) {
        check(&parameters, &steps, |settings| Breaker::new(settings, seed, at(0)))?;
    }

    #[test]
    fn any_history_of_a_shared_breaker_gives_what_the_reference_model_says(
        parameters in any_parameters(),
        steps in any_steps(),
        seed in any::<u64>(),
    ) {
        check(&parameters, &steps, |settings| SharedBreaker::new(settings, seed, at(0)))?;
    }
}
