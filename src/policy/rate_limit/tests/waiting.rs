//! Claims about who waits and whose turn it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A request that waits for a bucket of one a second.
struct Request {
    name: u64,
    priority: u8,
    wait: u64,
}

fn entry(request: &Request, max_delay: u64) -> Entry {
    let (wait, max_delay) = (Duration::from_nanos(request.wait), Duration::from_nanos(max_delay));
    Entry { key: key(1), cost: 1, rate: per_second(1, 1), wait, max_delay, priority: request.priority }
}

fn room(most: u32) -> Arc<WaitingRoom> {
    Arc::new(WaitingRoom::new(most))
}

/// Requests of these priorities, named by their number, that come one after the other at once.
fn waiting(priorities: &[u8], max_delay: u64) -> (Waiting<u64>, Vec<Place>) {
    let waiting = Waiting::new(room(100));
    let places = (1..)
        .zip(priorities)
        .map(|(name, priority)| {
            let request = Request { name, priority: *priority, wait: name * SECOND };
            waiting.enter(&entry(&request, max_delay), request.name, at(0)).unwrap()
        })
        .collect();
    (waiting, places)
}

/// In which order they pass, one each second; those that are overdue are negative.
fn order(waiting: &Waiting<u64>) -> Vec<i64> {
    let mut order = Vec::new();
    while let Some(due) = waiting.next_due() {
        order.extend(waiting.due(due).into_iter().map(|turn| match turn {
            Turn::Passes(name) => i64::try_from(name).unwrap(),
            Turn::Overdue(name) => -i64::try_from(name).unwrap(),
        }));
    }
    order
}

#[test]
fn of_equal_priority_who_came_first_goes_first_each_at_its_time() {
    let (waiting, _) = waiting(&[0, 0, 0], 10 * SECOND);
    assert_eq!(waiting.next_due(), Some(at(SECOND)));
    assert!(waiting.due(at(SECOND - 1)).is_empty());
    assert_eq!(waiting.due(at(SECOND)), [Turn::Passes(1)]);
    assert_eq!(waiting.due(at(2 * SECOND)), [Turn::Passes(2)]);
    // Late by a second, in which a bucket of one is not refilled.
    assert_eq!(waiting.due(at(4 * SECOND)), [Turn::Passes(3)]);
    assert!(waiting.is_empty() && waiting.next_due().is_none());
}

#[test]
fn a_timer_that_is_late_loses_turns_only_of_a_full_bucket() {
    for (burst, passing) in [(1, vec![Turn::Passes(1)]), (2, vec![Turn::Passes(1), Turn::Passes(2)])] {
        let waiting = Waiting::new(room(10));
        for name in 1..=3 {
            let request = Request { name, priority: 0, wait: name * SECOND };
            let entry = Entry { rate: per_second(1, burst), ..entry(&request, 10 * SECOND) };
            waiting.enter(&entry, name, at(0)).unwrap();
        }
        assert_eq!(waiting.due(at(2 * SECOND)), passing);
    }
}

#[test]
fn higher_priority_goes_first() {
    let (waiting, _) = waiting(&[0, 5, 9, 5], 10 * SECOND);
    assert_eq!(order(&waiting), [3, 2, 4, 1]);
}

#[test]
fn a_priority_over_nine_is_nine() {
    let (waiting, _) = waiting(&[9, 255], 10 * SECOND);
    assert_eq!(order(&waiting), [1, 2]);
}

#[test]
fn who_leaves_brings_those_behind_forward() {
    let (waiting, places) = waiting(&[0, 0, 0], 10 * SECOND);
    assert_eq!(waiting.leave(places[0]), Some(1));
    assert_eq!(waiting.leave(places[0]), None, "it left already");
    assert_eq!(waiting.due(at(SECOND)), [Turn::Passes(2)]);
    assert_eq!(waiting.due(at(2 * SECOND)), [Turn::Passes(3)]);
    assert_eq!(waiting.leave(places[1]), None, "it had its turn");
}

#[test]
fn no_more_wait_than_may() {
    let waiting = Waiting::new(room(2));
    let enter = |name, client| {
        let request = Request { name, priority: 0, wait: name * SECOND };
        waiting.enter(&Entry { key: key(client), ..entry(&request, 100 * SECOND) }, name, at(0))
    };
    assert!(enter(1, 1).is_ok() && enter(2, 2).is_ok());
    assert_eq!(enter(3, 3).unwrap_err(), 3, "what came in is given back");
    assert_eq!(waiting.len(), 2);
    waiting.room().set_most(3);
    assert!(enter(3, 3).is_ok());
}

#[test]
fn rules_of_a_limit_share_its_places_and_who_leaves_any_of_them_frees_one() {
    let room = room(3);
    let (one, other) = (Waiting::new(Arc::clone(&room)), Waiting::new(Arc::clone(&room)));
    let enter = |waiting: &Waiting<u64>, name: u64| {
        let request = Request { name, priority: 0, wait: name * SECOND };
        waiting.enter(&Entry { key: key(name.into()), ..entry(&request, 100 * SECOND) }, name, at(0))
    };
    let first = enter(&one, 1).unwrap();
    assert!(enter(&one, 2).is_ok() && enter(&other, 3).is_ok());
    assert!(enter(&one, 4).is_err() && enter(&other, 4).is_err(), "more than the limit may have");
    assert_eq!((one.len(), other.len()), (2, 1));
    one.leave(first);
    assert!(enter(&other, 4).is_ok() && enter(&other, 5).is_err());
    assert_eq!(one.due(at(2 * SECOND)), [Turn::Passes(2)]);
    assert!(enter(&other, 5).is_ok() && enter(&one, 6).is_err());
    drop(other);
    assert!((6..9).all(|name| enter(&one, name).is_ok()), "with a rule go its waiters");
    assert_eq!(enter(&one, 9), Err(9));
}

#[test]
fn clients_do_not_wait_for_each_other() {
    let waiting = Waiting::new(room(10));
    for (client, wait) in [(1, 5 * SECOND), (2, SECOND)] {
        let request = Request { name: client, priority: 0, wait };
        let entry = Entry { key: key(client.into()), ..entry(&request, 10 * SECOND) };
        waiting.enter(&entry, client, at(0)).unwrap();
    }
    assert_eq!(order(&waiting), [2, 1]);
}

#[test]
fn a_heavy_request_waits_for_all_of_its_weight() {
    let waiting = Waiting::new(room(10));
    let request = Request { name: 1, priority: 0, wait: 3 * SECOND };
    waiting.enter(&Entry { cost: 3, ..entry(&request, 10 * SECOND) }, 1, at(0)).unwrap();
    let request = Request { name: 2, priority: 9, wait: 4 * SECOND };
    waiting.enter(&entry(&request, 10 * SECOND), 2, at(0)).unwrap();
    assert_eq!(waiting.due(at(SECOND)), [Turn::Passes(2)]);
    assert!(waiting.due(at(4 * SECOND - 1)).is_empty());
    assert_eq!(waiting.due(at(4 * SECOND)), [Turn::Passes(1)]);
}

#[test]
fn a_high_one_takes_the_place_of_the_last_of_the_lowest_and_not_of_its_equals() {
    let (lows, _) = waiting(&[3, 1, 1, 3], 10 * SECOND);
    assert_eq!(lows.displace(key(1), (1, 9)), Some(3));
    assert_eq!(lows.displace(key(2), (1, 9)), None, "another client's");
    assert_eq!((lows.len(), order(&lows)), (3, vec![1, 4, 2]));
    let (equals, _) = waiting(&[5, 5, 5], 10 * SECOND);
    assert_eq!(equals.displace(key(1), (1, 5)), None);
}

#[test]
fn one_that_weighs_less_does_not_make_place_for_one_that_weighs_more() {
    let (lows, _) = waiting(&[1, 1, 1], 10 * SECOND);
    assert_eq!(lows.displace(key(1), (2, 9)), None);
    assert_eq!(order(&lows), [1, 2, 3]);
}

#[test]
fn one_of_lower_priority_finds_a_place_among_high_ones_and_keeps_it() {
    let (highs, _) = waiting(&[9, 9, 9, 9], 10 * SECOND);
    assert_eq!(highs.displace(key(1), (1, 0)), Some(4), "the last of the highest");
    let request = Request { name: 5, priority: 0, wait: 4 * SECOND };
    highs.enter(&entry(&request, 10 * SECOND), 5, at(0)).unwrap();
    assert_eq!(highs.displace(key(1), (1, 0)), None, "the lower ones have their share");
    assert_eq!(highs.displace(key(1), (1, 9)), None, "and it is not taken from them");
}

#[test]
fn who_has_waited_as_long_as_it_may_is_refused() {
    // Four high ones come before a low one that may wait for three seconds, but has more than its share beside it.
    let (line, _) = waiting(&[0, 0, 9, 9, 9, 9], 3 * SECOND);
    let order = order(&line);
    assert!(order.contains(&-2), "{order:?}");
    assert!(line.is_empty());
}

/// Its priority, when it came, and what it spent.
type Waiter = (u8, u64, Reservation);

/// A bucket of one a second and those that wait for it, as a proxy uses them.
struct Queue {
    buckets: Buckets,
    waiting: Waiting<Waiter>,
    ask: Ask,
    max_delay: Duration,
    /// How long those of each priority waited that passed.
    passed: BTreeMap<u8, Vec<u64>>,
    /// Those of each priority that were let in and refused later.
    overdue: BTreeMap<u8, usize>,
    all: Vec<u64>,
}

impl Queue {
    fn new(max_delay: Duration) -> Self {
        let rate = per_second(1, 1);
        let ask = Ask { exceed: Exceed::Delay(max_delay), ..Ask::new(rate, 1) };
        let (passed, overdue) = (BTreeMap::new(), BTreeMap::new());
        Self {
            buckets: table(rate, 10),
            waiting: Waiting::new(room(1_000)),
            ask,
            max_delay,
            passed,
            overdue,
            all: Vec::new(),
        }
    }

    fn arrive(&mut self, priority: u8, now: u64) {
        let mut asked = self.buckets.reserve(key(1), &self.ask, at(now));
        if asked.0.is_refused() {
            let Some((gone, _, reservation)) = self.waiting.displace(key(1), (1, priority)) else { return };
            *self.overdue.entry(gone).or_default() += 1;
            self.buckets.give_back(reservation);
            asked = self.buckets.reserve(key(1), &self.ask, at(now));
        }
        let reservation = asked.1.unwrap();
        match asked.0.outcome {
            Outcome::Allowed => self.pass(priority, (now, now)),
            Outcome::Delayed { wait } => {
                let max_delay = self.max_delay;
                let entry = Entry { key: key(1), cost: 1, rate: per_second(1, 1), wait, max_delay, priority };
                assert!(self.waiting.enter(&entry, (priority, now, reservation), at(now)).is_ok());
            }
            Outcome::Refused { .. } => panic!("a place was made"),
        }
    }

    fn pass(&mut self, priority: u8, (came, now): (u64, u64)) {
        self.passed.entry(priority).or_default().push(now - came);
        self.all.push(now);
    }

    fn turn(&mut self, now: u64) {
        for turn in self.waiting.due(at(now)) {
            match turn {
                Turn::Passes((priority, came, reservation)) => {
                    self.buckets.settle(reservation, at(now));
                    self.pass(priority, (came, now));
                }
                Turn::Overdue((priority, _, reservation)) => {
                    *self.overdue.entry(priority).or_default() += 1;
                    self.buckets.give_back(reservation);
                }
            }
        }
    }
}

#[test]
fn nobody_starves_however_many_of_the_highest_priority_come() {
    let mut queue = Queue::new(Duration::from_secs(30));
    for step in 0..2_000 {
        let now = step * SECOND / 4;
        queue.turn(now);
        // Four times what passes, of the highest priority; and one low one every five seconds.
        queue.arrive(9, now);
        if step % 20 == 0 {
            queue.arrive(0, now);
        }
    }
    let (low, high) = (queue.passed[&0].len(), queue.passed[&9].len());
    assert!(low >= 40, "{low} of 100 low ones passed, {high} high ones");
    assert!(high >= 7 * low, "{low} low ones held up {high} high ones");
    assert!(queue.passed[&0].iter().all(|waited| *waited <= 30 * SECOND));
}

#[test]
fn the_highest_priority_goes_first_however_many_low_ones_come() {
    let mut queue = Queue::new(Duration::from_secs(30));
    for step in 0..2_000 {
        let now = step * SECOND / 4;
        queue.turn(now);
        queue.arrive(0, now);
        if step % 12 == 0 {
            queue.arrive(9, now);
        }
    }
    assert_eq!(queue.passed[&9].len(), 167, "every one of them");
    let longest = queue.passed[&9].iter().max().unwrap();
    assert!(*longest <= 2 * SECOND, "one waited {longest} ns");
}

#[test]
fn where_all_are_equal_who_was_let_in_passes_in_time() {
    let mut queue = Queue::new(Duration::from_secs(10));
    for step in 0..2_000 {
        let now = step * SECOND / 8;
        queue.turn(now);
        queue.arrive(4, now);
    }
    assert!(queue.overdue.is_empty(), "{:?}", queue.overdue);
    assert!(queue.passed[&4].iter().all(|waited| *waited <= 10 * SECOND + SECOND / 8));
    assert_eq!(queue.all.len(), 250, "one each second, and none of them lost");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever comes, leaves and overtakes: never more pass than the rate, everybody is told once, none waits too long.
    #[test]
    fn the_line_never_lets_more_pass_than_the_bucket(steps in prop::collection::vec((0..2_500_u64, 0..12_u8), 1..150)) {
        let mut queue = Queue::new(Duration::from_secs(6));
        let mut now = 0;
        for (wait, priority) in steps {
            // A timer that wakes in time, as a proxy's does.
            let until = now + wait * MS;
            while let Some(due) = queue.waiting.next_due().filter(|due| *due <= at(until)) {
                now = now.max(u64::try_from((due - at(0)).as_nanos()).unwrap());
                queue.turn(now);
            }
            now = until;
            queue.arrive(priority.min(9), now);
        }
        prop_assert!(!queue.waiting.is_empty() || queue.waiting.next_due().is_none());
        for (first, begin) in queue.all.iter().enumerate() {
            for (more, end) in queue.all[first..].iter().enumerate() {
                prop_assert!(more as u64 <= (end - begin) / SECOND + 1, "{more} after {begin} until {end}: {:?}", queue.all);
            }
        }
        for waited in queue.passed.values().flatten() {
            prop_assert!(*waited <= 6 * SECOND + 1, "one waited {waited}");
        }
    }
}
