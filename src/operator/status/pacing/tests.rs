//! The pace against scripts of changes.

use super::*;

const KEY: &str = "shop/payments";

/// A policy whose state changes at given times, and the writes that follow.
struct Script {
    start: Instant,
    pacing: Pacing<&'static str>,
    written: Vec<(u64, u64)>,
    looks: usize,
}

impl Script {
    fn new() -> Self {
        Self { start: Instant::now(), pacing: Pacing::default(), written: Vec::new(), looks: 0 }
    }

    /// Runs `seconds` in steps of a millisecond. `state` gives the state in a millisecond; each change touches.
    fn run(&mut self, seconds: u64, difference: Difference, state: impl Fn(u64) -> u64) {
        let mut standing = self.written.last().map_or(u64::MAX, |(_, state)| *state);
        for ms in 0..seconds * 1000 {
            let now = self.start + Duration::from_millis(ms);
            if ms == 0 || state(ms) != state(ms - 1) {
                self.pacing.touch(KEY, now);
            }
            while self.pacing.take(now).is_some() {
                self.looks += 1;
                let found = if state(ms) == standing { Difference::None } else { difference };
                if self.pacing.looked(&KEY, found, now) == Decision::Write {
                    standing = state(ms);
                    self.written.push((ms, standing));
                    self.pacing.wrote(&KEY, Written::Done, now);
                }
            }
        }
    }
}

#[test]
fn the_first_change_is_written_at_once() {
    let mut script = Script::new();
    script.run(5, Difference::Transition, |_| 1);
    assert_eq!(script.written, [(0, 1)]);
}

#[test]
fn a_thousand_trips_a_second_are_one_write_each_two_seconds_and_the_last_state_is_exact() {
    let mut script = Script::new();
    let last = 10_500;
    script.run(20, Difference::Transition, |ms| ms.min(last));
    assert!(script.written.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 2000), "{:?}", script.written);
    assert_eq!(script.written.last(), Some(&(12_000, last)), "written within two seconds of the last change");
    assert!(script.looks <= 10 * 11 + script.written.len(), "{} looks", script.looks);
}

#[test]
fn a_state_that_came_back_is_not_written() {
    let mut script = Script::new();
    script.run(10, Difference::Transition, |ms| u64::from((1000..1500).contains(&ms)));
    assert_eq!(script.written, [(0, 0)]);
}

#[test]
fn numbers_alone_are_refreshed_each_half_minute() {
    let mut script = Script::new();
    script.run(100, Difference::Numbers, |ms| ms);
    let times: Vec<u64> = script.written.iter().map(|(ms, _)| ms / 1000).collect();
    assert_eq!(times, [0, 30, 60, 90]);
}

#[test]
fn a_transition_does_not_wait_for_the_refresh_of_numbers() {
    let mut pacing = Pacing::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    pacing.touch(KEY, start);
    pacing.take(start);
    assert_eq!(pacing.looked(&KEY, Difference::Transition, start), Decision::Write);
    pacing.wrote(&KEY, Written::Done, start);
    pacing.touch(KEY, at(1));
    pacing.take(at(1));
    assert_eq!(pacing.looked(&KEY, Difference::Numbers, at(1)), Decision::Wait);
    assert_eq!(pacing.next_due(), Some(at(30)));
    pacing.touch(KEY, at(3));
    assert_eq!(pacing.take(at(3)), Some(KEY));
    assert_eq!(pacing.looked(&KEY, Difference::Transition, at(3)), Decision::Write);
}

#[test]
fn a_failed_write_is_tried_again_later_each_time() {
    let mut pacing = Pacing::default();
    let mut now = Instant::now();
    let mut waits = Vec::new();
    pacing.touch(KEY, now);
    for _ in 0..6 {
        let before = now;
        loop {
            now = pacing.next_due().unwrap().max(now);
            pacing.take(now);
            if pacing.looked(&KEY, Difference::Transition, now) == Decision::Write {
                break;
            }
        }
        waits.push(now - before);
        pacing.wrote(&KEY, Written::Failed, now);
    }
    assert!(waits[1] >= WRITE_EVERY && waits[5] > waits[2], "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(20)), "{waits:?}");
}

#[test]
fn no_more_than_the_bound_are_written_at_once_and_a_change_meanwhile_is_not_lost() {
    let mut pacing = Pacing::default();
    let now = Instant::now();
    (0..6).for_each(|key| pacing.touch(key, now));
    let mut running = Vec::new();
    while let Some(key) = pacing.take(now) {
        assert_eq!(pacing.looked(&key, Difference::Transition, now), Decision::Write);
        running.push(key);
    }
    assert_eq!(running.len(), MAX_RUNNING);
    pacing.touch(running[0], now);
    pacing.wrote(&running[0], Written::Done, now);
    assert_eq!(pacing.len(), 6, "one ended, and waits for its second look");
}

#[test]
fn a_policy_that_is_gone_is_forgotten() {
    let mut pacing = Pacing::default();
    let now = Instant::now();
    pacing.touch(KEY, now);
    pacing.remove(&KEY);
    assert!(pacing.is_empty() && pacing.take(now).is_none());
}
