//! Claims about the last minute: what is in it, what is not, and when somebody was refused last.

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60 * SECOND;

fn totals(allowed: u64, limited: u64) -> Totals {
    Totals { allowed, limited }
}

#[test]
fn what_was_decided_a_moment_ago_is_recent_and_after_a_minute_it_is_not() {
    let recent = Recent::default();
    assert_eq!(recent.look(totals(9, 3), at(SECOND)).decided, totals(9, 3));
    assert_eq!(recent.look(totals(10, 3), at(30 * SECOND)).decided, totals(10, 3));
    assert_eq!(recent.look(totals(10, 3), at(MINUTE + SECOND)).decided, totals(1, 0));
    assert_eq!(recent.look(totals(10, 3), at(2 * MINUTE)).decided, totals(0, 0));
}

#[test]
fn the_last_refusal_keeps_its_time_however_long_ago_it_was() {
    let recent = Recent::default();
    assert_eq!(recent.look(totals(5, 0), at(SECOND)).last_limited, None);
    assert_eq!(recent.look(totals(5, 1), at(2 * SECOND)).last_limited, Some(at(2 * SECOND)));
    assert_eq!(recent.look(totals(9, 1), at(3 * SECOND)).last_limited, Some(at(2 * SECOND)));
    assert_eq!(recent.look(totals(9, 1), at(60 * MINUTE)).last_limited, Some(at(2 * SECOND)));
}

#[test]
fn an_earlier_time_and_older_counts_from_another_thread_change_nothing() {
    let recent = Recent::default();
    recent.look(totals(8, 4), at(10 * SECOND));
    let late = recent.look(totals(7, 3), at(9 * SECOND));
    assert_eq!((late.decided, late.last_limited), (totals(7, 3), Some(at(10 * SECOND))));
    assert_eq!(recent.look(totals(8, 4), at(11 * SECOND)).decided, totals(8, 4));
}

#[test]
fn after_a_pause_in_which_nobody_looked_nothing_old_is_recent() {
    let recent = Recent::default();
    recent.look(totals(100, 50), at(SECOND));
    assert_eq!(recent.look(totals(100, 50), at(60 * MINUTE)).decided, totals(0, 0));
}

proptest! {
    /// Each second some requests pass and some are refused. What is said of the last minute is never less than it was, and
    /// never more than was decided in the minute and the step before it.
    #[test]
    fn the_last_minute_is_told_to_within_a_step(seconds in prop::collection::vec((0..50_u64, 0..50_u64), 1..400)) {
        let recent = Recent::default();
        let mut sum = totals(0, 0);
        for (second, (allowed, limited)) in seconds.iter().enumerate() {
            sum = totals(sum.allowed + allowed, sum.limited + limited);
            let told = recent.look(sum, at(second as u64 * SECOND)).decided;
            let of_last = |length: usize| {
                let from = (second + 1).saturating_sub(length);
                let last = &seconds[from..=second];
                totals(last.iter().map(|it| it.0).sum(), last.iter().map(|it| it.1).sum())
            };
            let (least, most) = (of_last(60), of_last(65));
            prop_assert!((least.allowed..=most.allowed).contains(&told.allowed), "{told:?} {least:?} {most:?}");
            prop_assert!((least.limited..=most.limited).contains(&told.limited), "{told:?} {least:?} {most:?}");
        }
    }
}
