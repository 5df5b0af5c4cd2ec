//! One living stream for each key: a newer one replaces the older.
//!
//! A sidecar that reconnects must not wait until its dead stream is noticed, and an old stream that
//! ends late must not say that the new one did.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Who sits where.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    state: Mutex<State>,
}

/// A taken seat.
#[derive(Debug)]
pub(crate) struct Seat {
    key: String,
    number: u64,
    /// Cancelled when a newer stream takes the seat.
    pub(crate) replaced: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    seats: HashMap<String, (u64, CancellationToken)>,
}

impl Seats {
    /// Takes the seat, and runs `entered` before anybody else can take or leave one.
    pub(crate) fn enter(&self, key: &str, entered: impl FnOnce()) -> Seat {
        let mut state = self.state.lock();
        state.next += 1;
        let (number, replaced) = (state.next, CancellationToken::new());
        if let Some((_, older)) = state.seats.insert(key.to_owned(), (number, replaced.clone())) {
            older.cancel();
        }
        entered();
        Seat { key: key.to_owned(), number, replaced }
    }

    /// Leaves it, and runs `left` if nobody else has taken it since.
    pub(crate) fn leave(&self, seat: &Seat, left: impl FnOnce()) {
        let mut state = self.state.lock();
        if state.seats.get(&seat.key).is_some_and(|(number, _)| *number == seat.number) {
            state.seats.remove(&seat.key);
            left();
        }
    }

    /// How many are taken.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().seats.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_stream_replaces_the_older_and_the_older_does_not_speak_for_it() {
        let seats = Seats::default();
        let older = seats.enter("a", || {});
        let newer = seats.enter("a", || {});
        assert!(older.replaced.is_cancelled() && !newer.replaced.is_cancelled());
        seats.leave(&older, || panic!("the older stream spoke for the newer"));
        assert_eq!(seats.count(), 1);
        let mut left = false;
        seats.leave(&newer, || left = true);
        assert!(left);
        assert_eq!(seats.count(), 0);
    }
}
