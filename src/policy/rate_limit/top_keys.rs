//! The clients that a limit refused most: "space-saving" heavy hitters (Metwally, Agrawal and El Abbadi, 2005).
//!
//! It must not grow with the clients, and keeps no key: what is shown was hashed or redacted before. A client that is refused
//! more than one part in [`MAX_TOP_KEYS`] of all refusals is always among them.

use std::time::Instant;

use parking_lot::Mutex;

use super::digest::KeyDigest;

/// So many clients are watched.
pub const MAX_TOP_KEYS: usize = 64;

/// The longest text that shows a key, in bytes; the rest is cut off.
pub const MAX_SHOWN_BYTES: usize = 512;

/// The most refused clients of one rule of one limit.
#[derive(Debug, Default)]
pub struct TopKeys(Mutex<Vec<Watched>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopKey {
    /// Whose.
    pub digest: KeyDigest,
    /// How it is shown.
    pub shown: String,
    /// Since when it is watched; of a blocked client, since when it is blocked.
    pub since: Instant,
    /// Requests it was refused since it is watched.
    pub refused: u64,
    /// Until when it is refused for a time.
    pub blocked_until: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    key: TopKey,
    /// Its rank: what it was refused, and what the client was refused whose place it took.
    count: u64,
}

impl TopKeys {
    /// Counts a refusal. `show` is asked for the text of a client that was not watched yet.
    pub fn refused(
        &self,
        (digest, now): (KeyDigest, Instant),
        blocked_until: Option<Instant>,
        show: impl FnOnce() -> String,
    ) {
        let mut watched = self.0.lock();
        if let Some(known) = watched.iter_mut().find(|known| known.key.digest == digest) {
            known.count += 1;
            known.key.refused += 1;
            if blocked_until.is_some() && !known.key.is_blocked(now) {
                (known.key.since, known.key.refused) = (now, 1);
            }
            known.key.blocked_until = blocked_until;
            return;
        }
        let key = |show: String| TopKey { digest, shown: bounded(show), since: now, refused: 1, blocked_until };
        if watched.len() < MAX_TOP_KEYS {
            watched.push(Watched { key: key(show()), count: 1 });
        } else if let Some(least) = watched.iter_mut().min_by_key(|known| (known.key.is_blocked(now), known.count)) {
            *least = Watched { key: key(show()), count: least.count + 1 };
        }
    }

    /// Forgets that a client is blocked: a person let it go.
    pub fn unblock(&self, unblocked: impl Fn(&KeyDigest) -> bool) {
        for known in self.0.lock().iter_mut().filter(|known| unblocked(&known.key.digest)) {
            known.key.blocked_until = None;
        }
    }

    /// The most refused, the most first, at most so many.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<TopKey> {
        self.sorted(most, |_| true)
    }

    /// The most refused of those that are refused for a time now.
    #[must_use]
    pub fn top_blocked(&self, most: usize, now: Instant) -> Vec<TopKey> {
        self.sorted(most, |key| key.is_blocked(now))
    }

    fn sorted(&self, most: usize, wanted: impl Fn(&TopKey) -> bool) -> Vec<TopKey> {
        let mut keys: Vec<TopKey> =
            self.0.lock().iter().map(|known| &known.key).filter(|key| wanted(key)).cloned().collect();
        keys.sort_by_key(|key| (std::cmp::Reverse(key.refused), key.digest));
        keys.truncate(most);
        keys
    }
}

impl TopKey {
    /// Whether it is refused for a time.
    #[must_use]
    pub fn is_blocked(&self, now: Instant) -> bool {
        self.blocked_until.is_some_and(|until| until > now)
    }
}

fn bounded(mut text: String) -> String {
    let end = (0..=MAX_SHOWN_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}
