//! Single steps, and a model of replicas, readers and faults in which nobody may ever meet an unknown authority.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn schedule() -> Schedule {
    Schedule::new(MINUTE * 120, MINUTE * 10, MINUTE * 5).unwrap()
}

fn alone() -> Times {
    Times { current: Validity { begins: start() - BACKDATE, ends: start() + MINUTE * 120 }, next: None, previous: None }
}

fn with_next(published_at: Option<SystemTime>) -> Times {
    Times { next: Some(NextTimes { published_at }), ..alone() }
}

#[test]
fn the_next_authority_is_announced_after_two_thirds() {
    let step = |now| schedule().step(&alone(), Publication::Complete, now);
    assert_eq!(step(start() + MINUTE * 79), Action::Wait);
    assert_eq!(step(start() + MINUTE * 80), Action::Announce);
}

#[test]
fn an_authority_that_was_made_for_longer_is_replaced_as_early() {
    let mut times = alone();
    times.current.ends += MINUTE * 100_000;
    assert_eq!(schedule().step(&times, Publication::Complete, start() + MINUTE * 80), Action::Announce);
}

#[test]
fn it_signs_only_after_every_bundle_has_held_it_for_long_enough() {
    let now = start() + MINUTE * 81;
    let step = |times, publication, now| schedule().step(&times, publication, now);
    assert_eq!(step(with_next(None), Publication::Incomplete, now), Action::Wait);
    assert_eq!(step(with_next(None), Publication::Complete, now), Action::NotePublished);
    let published = with_next(Some(now));
    assert_eq!(step(published, Publication::Complete, now + MINUTE * 4), Action::Wait);
    assert_eq!(step(published, Publication::Incomplete, now + MINUTE * 5), Action::Promote(Why::Known));
}

#[test]
fn an_authority_that_ends_is_replaced_although_not_every_bundle_could_be_written() {
    let step = |now| schedule().step(&with_next(None), Publication::Incomplete, now);
    assert_eq!(step(start() + MINUTE * 109), Action::Wait);
    assert_eq!(step(start() + MINUTE * 110), Action::Promote(Why::Overdue));
    let over = schedule().step(&alone(), Publication::Incomplete, start() + MINUTE * 1_000);
    assert_eq!(over, Action::Announce, "also when the operator was away until it was over");
}

#[test]
fn the_one_before_is_forgotten_when_its_leaves_are_over_and_before_the_next_is_announced() {
    let until = schedule().trusted_until(start());
    assert_eq!(until, start() + MINUTE * 15);
    let times = Times { previous: Some(until), ..alone() };
    assert_eq!(schedule().step(&times, Publication::Complete, until - SHORTEST), Action::Wait);
    assert_eq!(schedule().step(&times, Publication::Complete, until), Action::Forget);
    let late = Times { previous: Some(start() + MINUTE * 90), ..alone() };
    assert_eq!(schedule().step(&late, Publication::Complete, start() + MINUTE * 89), Action::Wait);
}

#[test]
fn times_without_room_are_refused() {
    let no_time = Schedule::new(MINUTE * 59, MINUTE * 10, MINUTE * 5).unwrap_err();
    assert_eq!(no_time, ScheduleError::NoTime { validity: MINUTE * 59, needed: MINUTE * 60 });
    let short = Schedule::new(MINUTE, Duration::from_millis(900), SHORTEST).unwrap_err();
    assert!(matches!(short, ScheduleError::TooShort(_)));
    assert!(Schedule::new(MINUTE * 60, MINUTE * 10, MINUTE * 5).is_ok());
    let usual = Schedule::default();
    assert_eq!(Schedule::new(usual.validity, usual.leaf, usual.propagation), Ok(usual));
    assert_eq!(usual.look_every(), Duration::from_secs(10));
}

/// Authorities by number, as the Secret holds them.
#[derive(Clone, Debug)]
struct Secret {
    version: u32,
    times: Times,
    current: u32,
    next: Option<u32>,
    previous: Option<u32>,
}

impl Secret {
    fn bundle(&self) -> BTreeSet<u32> {
        [Some(self.current), self.next, self.previous].into_iter().flatten().collect()
    }

    fn carry_out(&mut self, action: Action, schedule: &Schedule, now: SystemTime, made: &mut Vec<Validity>) {
        match action {
            Action::Wait => return,
            Action::Announce => {
                made.push(Validity { begins: now - BACKDATE, ends: now + schedule.validity });
                self.next = u32::try_from(made.len() - 1).ok();
                self.times.next = Some(NextTimes { published_at: None });
            }
            Action::NotePublished => self.times.next = Some(NextTimes { published_at: Some(now) }),
            Action::Promote(_) => {
                self.previous = Some(self.current);
                self.times.previous = Some(schedule.trusted_until(now));
                self.current = self.next.take().unwrap();
                self.times.next = None;
                self.times.current = made[self.current as usize];
            }
            Action::Forget => {
                self.previous = None;
                self.times.previous = None;
            }
        }
        self.version += 1;
    }
}

/// A replica: what it last read, and the leaf it shows.
#[derive(Clone, Debug)]
struct Replica {
    seen: Secret,
    leaf: (u32, Validity),
}

impl Replica {
    fn read(&mut self, secret: &Secret, schedule: &Schedule, now: SystemTime, made: &[Validity]) {
        self.seen = secret.clone();
        let due = now >= schedule.renew_at(self.leaf.1);
        if self.leaf.0 != secret.current || due {
            let ends = (now + schedule.leaf).min(made[secret.current as usize].ends);
            self.leaf = (secret.current, Validity { begins: now, ends });
        }
    }
}

/// What one tick does, by chance: who reads, who leads with a view of how long ago, and which bundle can't be written.
#[derive(Clone, Debug)]
struct Tick {
    reads: [bool; 3],
    leader: usize,
    stale: bool,
    writable: [bool; 2],
}

fn ticks() -> impl Strategy<Value = Vec<Tick>> {
    let tick = (any::<[bool; 3]>(), 0..3_usize, prop::bool::weighted(0.2), any::<[bool; 2]>());
    let tick = tick.prop_map(|(reads, leader, stale, writable)| Tick { reads, leader, stale, writable });
    prop::collection::vec(tick, 400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Readers see a bundle as it was up to the propagation time ago; all of what they may see must know each leaf in use.
    #[test]
    fn no_leaf_in_use_lacks_its_authority_in_any_bundle_that_somebody_may_still_read(ticks in ticks()) {
        let schedule = schedule();
        let (tick_length, propagation) = (MINUTE, 5);
        let mut now = start();
        let mut made = vec![alone().current];
        let mut secret = Secret { version: 0, times: alone(), current: 0, next: None, previous: None };
        let leaf = Validity { begins: now, ends: now + schedule.leaf };
        let mut replicas = vec![Replica { seen: secret.clone(), leaf: (0, leaf) }; 3];
        // Two bundles, each with what it said at the last ticks.
        let mut bundles = vec![VecDeque::from([secret.bundle()]); 2];
        let mut signers = BTreeSet::new();
        for (number, tick) in ticks.iter().enumerate() {
            now += tick_length;
            for (replica, reads) in replicas.iter_mut().zip(tick.reads) {
                // A replica that can't read for long loses its certificate, not its clients' trust.
                if reads || number % 4 == 0 {
                    replica.read(&secret, &schedule, now, &made);
                }
            }
            let leader = &mut replicas[tick.leader];
            if !tick.stale {
                leader.read(&secret, &schedule, now, &made);
            }
            let view = leader.seen.clone();
            for (bundle, writable) in bundles.iter_mut().zip(tick.writable) {
                // A view that is not fresh is never published.
                let said = if writable && !tick.stale { view.bundle() } else { bundle[0].clone() };
                bundle.push_front(said);
                bundle.truncate(propagation + 1);
            }
            let complete = bundles.iter().all(|bundle| bundle[0] == view.bundle());
            let publication = if complete { Publication::Complete } else { Publication::Incomplete };
            let action = schedule.step(&view.times, publication, now);
            // The API server takes only a write that has seen the last one.
            if view.version == secret.version && action != Action::Promote(Why::Overdue) {
                secret.carry_out(action, &schedule, now, &mut made);
            }
            for replica in &replicas {
                let (signer, leaf) = replica.leaf;
                if now < leaf.ends {
                    signers.insert(signer);
                    for bundle in &bundles {
                        prop_assert!(bundle.iter().all(|said| said.contains(&signer)),
                            "tick {number}: {signer} is not in {bundle:?}");
                    }
                }
            }
            prop_assert!(secret.bundle().len() <= 2);
        }
        prop_assert!(signers.len() > 2, "it rotated: {signers:?}");
    }
}
