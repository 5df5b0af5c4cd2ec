//! The election's rules, with instants made up: no clock, no API server.

use super::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn record(holder: &str, version: &str) -> Record {
    Record { holder: holder.into(), address: format!("{holder}:1"), duration: seconds(15), version: version.into() }
}

fn leader(now: Instant) -> Election {
    let mut election = Election::new("me".into(), Timing::default(), now);
    election.take(Outcome::Read(None), now);
    assert_eq!(election.step(now), Step::Call(Call::Create));
    election.take(Outcome::Held(now, record("me", "1")), now);
    election
}

#[test]
fn nobody_leads_before_a_write_came_back() {
    let now = Instant::now();
    let mut election = Election::new("me".into(), Timing::default(), now);
    assert_eq!(election.step(now), Step::Call(Call::Read));
    assert_eq!(election.standing(now), Standing::Vacant);
    election.take(Outcome::Read(Some(record("", "4"))), now);
    assert_eq!(election.step(now), Step::Call(Call::Hold("4".into())));
    assert_eq!(election.standing(now), Standing::Vacant);
    election.take(Outcome::Held(now, record("me", "5")), now);
    assert_eq!(election.standing(now), Standing::Leads(now + seconds(10)));
}

#[test]
fn the_deadline_counts_from_sending_not_from_the_answer() {
    let sent = Instant::now();
    let mut election = leader(sent);
    let answered = sent + seconds(7);
    election.take(Outcome::Held(sent + seconds(5), record("me", "2")), answered);
    assert_eq!(election.standing(answered), Standing::Leads(sent + seconds(15)));
}

#[test]
fn a_leader_that_slept_past_its_deadline_reads_before_it_writes() {
    let start = Instant::now();
    let mut election = leader(start);
    let woken = start + seconds(40);
    assert_eq!(election.standing(woken), Standing::Vacant);
    assert_eq!(election.step(woken), Step::Call(Call::Read));
    election.take(Outcome::Read(Some(record("other", "9"))), woken);
    assert!(matches!(election.step(woken), Step::Wait(_)));
    assert_eq!(election.standing(woken), Standing::Follows(&record("other", "9")));
}

#[test]
fn a_leader_that_slept_alone_takes_its_lease_up_again() {
    let start = Instant::now();
    let mut election = leader(start);
    let woken = start + seconds(40);
    election.take(Outcome::Read(Some(record("me", "1"))), woken);
    assert_eq!(election.step(woken), Step::Call(Call::Hold("1".into())));
    assert_eq!(election.standing(woken), Standing::Vacant);
}

#[test]
fn another_lease_is_over_only_when_unchanged_for_its_duration() {
    let start = Instant::now();
    let mut election = Election::new("me".into(), Timing::default(), start);
    election.take(Outcome::Read(Some(record("other", "1"))), start);
    let renewed = start + seconds(14);
    election.take(Outcome::Read(Some(record("other", "2"))), renewed);
    let later = start + seconds(28);
    election.take(Outcome::Read(Some(record("other", "2"))), later);
    assert!(matches!(election.step(later), Step::Wait(_)));
    let over = renewed + seconds(15);
    election.take(Outcome::Read(Some(record("other", "2"))), over);
    assert_eq!(election.step(over), Step::Call(Call::Hold("2".into())));
}

#[test]
fn a_longer_foreign_lease_is_respected_and_bounded() {
    let start = Instant::now();
    let mut election = Election::new("me".into(), Timing::default(), start);
    let long = Record { duration: seconds(3600), ..record("other", "1") };
    election.take(Outcome::Read(Some(long.clone())), start);
    election.take(Outcome::Read(Some(long.clone())), start + seconds(60));
    assert!(matches!(election.step(start + seconds(60)), Step::Wait(_)));
    election.take(Outcome::Read(Some(long)), start + MAX_FOREIGN_LEASE);
    assert_eq!(election.step(start + MAX_FOREIGN_LEASE), Step::Call(Call::Hold("1".into())));
}

#[test]
fn a_lost_race_is_read_again_at_once_and_a_failure_after_a_pause() {
    let now = Instant::now();
    let mut election = Election::new("me".into(), Timing::default(), now);
    election.take(Outcome::Read(None), now);
    election.take(Outcome::Conflict, now);
    assert_eq!(election.step(now), Step::Call(Call::Read));
    election.take(Outcome::Failed, now);
    assert_eq!(election.step(now), Step::Wait(now + seconds(1)));
}

#[test]
fn a_failed_renewal_keeps_the_lead_until_the_deadline_and_no_longer() {
    let start = Instant::now();
    let mut election = leader(start);
    election.take(Outcome::Failed, start + seconds(7));
    assert_eq!(election.standing(start + seconds(9)), Standing::Leads(start + seconds(10)));
    assert_eq!(election.standing(start + seconds(10)), Standing::Vacant);
}

#[test]
fn a_pause_ends_at_the_deadline_so_that_the_role_is_seen_to_change() {
    let start = Instant::now();
    let mut election = leader(start);
    election.take(Outcome::Failed, start + Duration::from_millis(9_500));
    assert_eq!(election.step(start + Duration::from_millis(9_500)), Step::Wait(start + seconds(10)));
}

#[test]
fn only_a_holder_gives_back() {
    let now = Instant::now();
    let mut election = leader(now);
    assert_eq!(election.clone().release(now + seconds(10)), None);
    assert_eq!(election.release(now), Some("1".into()));
    assert_ne!(election.standing(now), Standing::Leads(now + seconds(10)));
}

#[test]
fn a_write_sent_at_the_deadline_ends_before_the_lease() {
    let timing = Timing::default();
    assert!(timing.renew_deadline + timing.write_timeout() < timing.lease());
}

#[test]
fn times_without_room_are_refused() {
    let refused = |lease, every, deadline| Timing::new(seconds(lease), seconds(every), seconds(deadline)).unwrap_err();
    assert!(matches!(refused(15, 6, 10), TimingError::NoSecondTry { .. }));
    assert!(matches!(refused(15, 5, 14), TimingError::NoMargin { .. }));
    assert!(matches!(refused(15, 0, 10), TimingError::TooFast { .. }));
}
