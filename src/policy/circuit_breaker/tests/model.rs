//! Properties: any history gives what the reference model says, from the engine and the shared breaker alike.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Force, Permit, SharedBreaker, Statistics, TransitionReason};
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
    Settle(u8, Outcome),
    Drop(u8),
    Advance,
    /// The caller's clock is behind by this much, this once.
    AdvanceLate(u64),
    Force(Option<(ForcedState, u64)>),
    /// The process ends, and another goes on from the snapshot after this time.
    Restart(u64),
}

/// What a history is run against.
trait Subject: Sized {
    type Held;
    fn admit(&mut self, now: Instant) -> Admission<Self::Held>;
    fn settle(&mut self, held: Self::Held, outcome: Outcome, now: Instant) -> Option<Transition>;
    fn release(&mut self, held: Self::Held);
    fn advance(&mut self, now: Instant) -> Option<Transition>;
    fn force(&mut self, force: Option<Force>, now: Instant);
    fn statistics(&self, now: Instant) -> Statistics;
    /// Another one from this one's snapshot.
    fn restart(&self, settings: Settings, taken_ms: u64, elapsed_ms: u64) -> Self;
}

impl Subject for Breaker {
    type Held = Ticket;

    fn admit(&mut self, now: Instant) -> Admission<Ticket> {
        Breaker::admit(self, now)
    }

    fn settle(&mut self, held: Ticket, outcome: Outcome, now: Instant) -> Option<Transition> {
        Breaker::settle(self, held, outcome, now)
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

    fn admit(&mut self, now: Instant) -> Admission<Permit> {
        SharedBreaker::admit(self, now)
    }

    fn settle(&mut self, held: Permit, outcome: Outcome, now: Instant) -> Option<Transition> {
        SharedBreaker::settle(self, held, outcome, now)
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
            self.compare()?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = at(self.now_ms);
        match *step {
            Step::Wait(ms) => self.now_ms += ms,
            Step::Admit => self.admit()?,
            Step::Settle(which, outcome) => {
                if let Some((held, ticket)) = self.pick(which) {
                    let told = self.subject.settle(held, outcome, now);
                    let due = self.model.advance(self.now_ms);
                    // The model's own order: what was due comes first, and makes this request a straggler.
                    let expected = due.or(self.model.settle(ticket, outcome));
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
        prop_assert_eq!((shown.trips, shown.last_trip), (expected.trips, expected.last_trip_ms.map(at)));
        prop_assert_eq!(shown.rejected, expected.rejected);
        prop_assert_eq!(u64::from(shown.probes_in_flight), expected.probes_in_flight);
        prop_assert!(shown.probes_in_flight <= self.parameters.half_open.max_probes);
        prop_assert_eq!(shown.next_probe, expected.next_probe_ms.map(at));
        Ok(())
    }
}

fn told(refusal: Refusal) -> ModelRefusal {
    (refusal.state, millis(refusal.retry_after), refusal.forced)
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

fn any_parameters() -> impl Strategy<Value = BreakerParameters> {
    let window_ms = prop_oneof![Just(10), Just(50), Just(200), Just(1_000)];
    let count = (1..6_u32, window_ms.clone()).prop_map(|(count, window_ms)| FailureCount { count, window_ms });
    let rate = (1..=100_u8, window_ms, 1..6_u32).prop_map(|(percent, window_ms, min_requests)| FailureRate {
        percent,
        window: crate::config::RateWindow::Time(window_ms),
        min_requests,
    });
    let trip = (proptest::option::of(1..5_u32), proptest::option::of(count), proptest::option::of(rate)).prop_map(
        |(consecutive_failures, failures, failure_rate)| Trip {
            consecutive_failures,
            failures,
            failure_rate,
            slow_call_rate: None,
        },
    );
    let open = (1..60_u64, 0..300_u64, 0..=100_u8).prop_map(|(base_duration_ms, more, jitter_percent)| Open {
        base_duration_ms,
        max_duration_ms: base_duration_ms + more,
        jitter_percent,
        honor_retry_after: false,
    });
    let half_open = (1..4_u32, 1..4_u32, 1..60_u64, 1..120_u64).prop_map(
        |(max_probes, success_threshold, probe_timeout_ms, max_duration_ms)| HalfOpen {
            max_probes,
            success_threshold,
            probe_timeout_ms,
            max_duration_ms,
        },
    );
    (trip, open, half_open).prop_map(|(trip, open, half_open)| BreakerParameters {
        trip,
        open,
        half_open,
        recovery: crate::config::Recovery::default(),
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![4 => Just(Outcome::Failure), 4 => Just(Outcome::Success), 1 => Just(Outcome::Neutral)];
    let wait = prop_oneof![Just(1), 1..10_u64, 10..60_u64, 60..300_u64];
    let forced = (prop_oneof![Just(ForcedOpen), Just(ForcedClosed)], 0..100_u64);
    prop_oneof![
        30 => Just(Step::Admit),
        30 => (any::<u8>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        15 => wait.prop_map(Step::Wait),
        4 => any::<u8>().prop_map(Step::Drop),
        4 => Just(Step::Advance),
        2 => proptest::option::weighted(0.7, forced).prop_map(Step::Force),
        1 => (0..100_u64).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_what_the_reference_model_says(
        parameters in any_parameters(),
        steps in proptest::collection::vec(
            prop_oneof![20 => any_step(), 1 => (1..30_u64).prop_map(Step::AdvanceLate)], 1..200),
        seed in any::<u64>(),
    ) {
        check(&parameters, &steps, |settings| Breaker::new(settings, seed, at(0)))?;
    }

    #[test]
    fn any_history_of_a_shared_breaker_gives_what_the_reference_model_says(
        parameters in any_parameters(),
        steps in proptest::collection::vec(any_step(), 1..200),
        seed in any::<u64>(),
    ) {
        check(&parameters, &steps, |settings| SharedBreaker::new(settings, seed, at(0)))?;
    }
}
