//! How long ago something was, in as few characters as a column of a table has.
//!
//! It must stay as kubectl prints ages, since both stand side by side.

use jiff::Timestamp;

/// The time between two moments in at most two units, such as `3m20s` or `5d`; `0s` where they are the other way round.
#[must_use]
pub fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_shorten_as_they_grow() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, text) in
            [(-5, "0s"), (0, "0s"), (119, "119s"), (125, "2m5s"), (3_600, "60m"), (11_100, "3h5m"), (200_000, "2d")]
        {
            assert_eq!(age(start, Timestamp::from_second(seconds).unwrap()), text);
        }
    }
}
