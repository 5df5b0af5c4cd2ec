//! The one place where wall-clock and monotonic time meet.
//!
//! Engines count in monotonic time and reports speak of Unix time. One anchor, taken at the start, maps
//! between them, so that the same moment is always reported as the same number.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A pair of readings of both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    unix_ms: i64,
}

impl Clock {
    /// Takes the anchor now.
    pub(crate) fn start() -> Self {
        Self { instant: Instant::now(), unix_ms: unix_now_ms() }
    }

    /// The Unix time of a monotonic moment, in milliseconds.
    pub(crate) fn unix_ms(&self, moment: Instant) -> i64 {
        match moment.checked_duration_since(self.instant) {
            Some(later) => self.unix_ms.saturating_add(millis(later)),
            None => self.unix_ms.saturating_sub(millis(self.instant.duration_since(moment))),
        }
    }
}

/// The monotonic moment of a Unix time as the wall clock stands now; none when it is past.
pub(crate) fn instant_of(unix_ms: i64, now: Instant) -> Option<Instant> {
    let left = unix_ms.checked_sub(unix_now_ms())?;
    let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
    now.checked_add(Duration::from_millis(left))
}

/// The wall clock, in milliseconds since the Unix epoch.
pub(crate) fn unix_now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_its_number() {
        let clock = Clock::start();
        let moment = Instant::now() + Duration::from_secs(5);
        assert_eq!(clock.unix_ms(moment), clock.unix_ms(moment));
        assert_eq!(clock.unix_ms(moment + Duration::from_millis(7)), clock.unix_ms(moment) + 7);
    }

    #[test]
    fn a_time_that_is_past_has_no_moment() {
        let now = Instant::now();
        assert_eq!(instant_of(1, now), None);
        assert_eq!(instant_of(i64::MIN, now), None);
        assert!(instant_of(unix_now_ms() + 60_000, now).unwrap() > now + Duration::from_secs(50));
    }
}
