//! Claims about overrides.

use std::time::Duration;

use super::super::{Force, Outcome};
use super::*;
use crate::config::ForcedState::{self, ForcedClosed, ForcedOpen};
use crate::report::BreakerState::{Closed, HalfOpen as HalfOpened, Open as Opened};

impl Bench {
    fn force(&mut self, state: ForcedState, for_ms: u64) {
        let until = at(self.now_ms + for_ms);
        self.breaker.force(Some(Force { state, until }), self.now());
    }

    fn forced(&self) -> Option<ForcedState> {
        self.breaker.statistics(self.now()).forced
    }
}

#[test]
fn forced_open_refuses_everything_until_its_time() {
    let mut bench = Bench::new(&parameters());
    bench.force(ForcedOpen, 70);
    bench.wait(69);
    let refusal = bench.refused();
    assert_eq!((refusal.forced, refusal.state), (Some(ForcedOpen), Closed));
    assert_eq!(refusal.retry_after, Duration::from_millis(1));
    bench.wait(1);
    assert_eq!(bench.forced(), None, "the end shows before anybody asks");
    assert_eq!(bench.call(Outcome::Success), None);
}

#[test]
fn forced_closed_admits_everything_and_counts_nothing() {
    let mut bench = Bench::open(&parameters());
    bench.force(ForcedClosed, 1_000);
    for _ in 0..50 {
        assert_eq!(bench.call(Outcome::Failure), None);
    }
    assert_eq!(bench.breaker.state(), Opened, "its own state is kept");
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 3);
}

#[test]
fn own_state_goes_on_when_the_force_ends() {
    let mut bench = Bench::new(&parameters());
    bench.call(Outcome::Failure);
    bench.call(Outcome::Failure);
    bench.force(ForcedClosed, 1_000);
    bench.call(Outcome::Success);
    bench.breaker.force(None, bench.now());
    assert_eq!(bench.call(Outcome::Failure).unwrap().to, Opened, "the row of failures was not kept");
}

#[test]
fn open_time_that_ended_under_force_ends_with_it() {
    let mut bench = Bench::open(&parameters());
    bench.force(ForcedOpen, 5_000);
    bench.wait(4_999);
    assert_eq!(bench.advance(), None);
    bench.wait(1);
    assert_eq!(bench.advance().unwrap().to, HalfOpened);
}

#[test]
fn half_open_is_not_punished_for_the_time_it_was_forced() {
    let mut bench = Bench::half_open(&parameters());
    let hanging = bench.admitted();
    bench.force(ForcedClosed, 10_000);
    bench.wait(10_000);
    assert_eq!(bench.advance(), None);
    assert_eq!(bench.settle(hanging, Outcome::Failure), None);
    assert_eq!(bench.breaker.state(), HalfOpened);
}

#[test]
fn requests_under_way_when_the_force_began_decide_nothing() {
    let mut bench = Bench::new(&parameters());
    let earlier: Vec<Ticket> = (0..5).map(|_| bench.admitted()).collect();
    bench.force(ForcedOpen, 10);
    bench.wait(10);
    for ticket in earlier {
        assert_eq!(bench.settle(ticket, Outcome::Failure), None);
    }
}

#[test]
fn a_force_that_is_over_changes_nothing() {
    let mut bench = Bench::new(&parameters());
    let tickets: Vec<Ticket> = (0..3).map(|_| bench.admitted()).collect();
    bench.wait(100);
    bench.breaker.force(Some(Force { state: ForcedOpen, until: at(100) }), bench.now());
    let transitions: Vec<_> = tickets.into_iter().filter_map(|ticket| bench.settle(ticket, Outcome::Failure)).collect();
    assert_eq!(transitions.len(), 1, "requests under way were cut off by a force that never was");
}

#[test]
fn requests_that_passed_under_force_decide_nothing_later() {
    let mut bench = Bench::new(&parameters());
    bench.force(ForcedClosed, 10);
    let forced: Vec<Ticket> = (0..5).map(|_| bench.admitted()).collect();
    bench.wait(10);
    for ticket in forced {
        assert_eq!(bench.settle(ticket, Outcome::Failure), None);
    }
}

#[test]
fn a_force_can_be_changed_while_it_lasts() {
    let mut bench = Bench::new(&parameters());
    bench.force(ForcedOpen, 1_000);
    bench.refused();
    bench.force(ForcedClosed, 1_000);
    let _passes = bench.admitted();
    assert_eq!(bench.forced(), Some(ForcedClosed));
}
