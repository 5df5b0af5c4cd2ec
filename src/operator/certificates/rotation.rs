//! When the authority is replaced, pure: the times of what is stored in, the next action out.
//!
//! It knows no keys and no clock. A new authority is announced in every bundle before it signs anything, and the old one
//! stays in them until everything it signed is over; so nobody ever meets a certificate whose authority he does not know.
//! At most two authorities exist at a time, because the second rotation only begins when the first has ended.

use std::time::{Duration, SystemTime};

use super::authority::BACKDATE;
use super::bundle::Validity;

/// The shortest times that certificates can tell apart: they count whole seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is looked at how often, at most and at least.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What was read is published for so long, at most.
const FRESH: Duration = Duration::from_secs(60);

/// The times of authority and leaves, in a proven relation to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    validity: Duration,
    leaf: Duration,
    propagation: Duration,
}

/// Why times can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Certificates count whole seconds.
    #[error("certificates are valid for whole seconds: {0:?} is too short")]
    TooShort(Duration),
    /// A rotation would not end before the next one has to begin.
    #[error("an authority valid for {validity:?} has no time to be replaced: it needs at least {needed:?}")]
    NoTime {
        /// The authority's validity.
        validity: Duration,
        /// The shortest that fits.
        needed: Duration,
    },
}

/// The times of the stored authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the one that signs begins and ends.
    pub current: Validity,
    /// The one that will sign.
    pub next: Option<NextTimes>,
    /// Until when the one that signed before is trusted.
    pub previous: Option<SystemTime>,
}

/// The times of the authority that will sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimes {
    /// Since when every bundle is known to hold it.
    pub published_at: Option<SystemTime>,
}

/// Whether everything that should hold all stored authorities does so now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// It does.
    Complete,
    /// It does not, or it is not known.
    Incomplete,
}

/// What to do with what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Wait,
    /// Make the next authority, for bundles alone.
    Announce,
    /// Write down that every bundle holds it.
    NotePublished,
    /// Let it sign, and keep the one before in bundles.
    Promote(Why),
    /// Take the one before out of bundles.
    Forget,
}

/// Why the next authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was known everywhere for long enough.
    Known,
    /// It was not, but the one before has no time left for a whole leaf.
    Overdue,
}

impl Default for Schedule {
    /// A year for the authority, a day for leaves, ten minutes until a changed bundle is known everywhere.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { validity: day * 365, leaf: day, propagation: Duration::from_secs(600) }
    }
}

impl Schedule {
    /// Checks the times: how long an authority is valid, how long a leaf, and after how long a bundle that was changed is
    /// known to all who read it.
    ///
    /// # Errors
    /// [`ScheduleError`] when a rotation has no time to end before the next.
    pub fn new(validity: Duration, leaf: Duration, propagation: Duration) -> Result<Self, ScheduleError> {
        if let Some(short) = [validity, leaf, propagation].into_iter().find(|time| *time < SHORTEST) {
            return Err(ScheduleError::TooShort(short));
        }
        // In the last third it is announced, and must be over before that of the next begins.
        let needed = (propagation * 2 + leaf) * 3;
        if validity < needed {
            return Err(ScheduleError::NoTime { validity, needed });
        }
        Ok(Self { validity, leaf, propagation })
    }

    /// How long an authority is valid.
    #[must_use]
    pub fn validity(&self) -> Duration {
        self.validity
    }

    /// How long a leaf is valid.
    #[must_use]
    pub fn leaf(&self) -> Duration {
        self.leaf
    }

    /// How often what is stored is looked at.
    #[must_use]
    pub fn look_every(&self) -> Duration {
        (self.propagation / 20).clamp(LOOK_EVERY.0, LOOK_EVERY.1)
    }

    /// For how long what was read may be published: far shorter than until it could lack an authority that signs.
    #[must_use]
    pub fn fresh_for(&self) -> Duration {
        (self.propagation / 4).min(FRESH)
    }

    /// What to do at `now`.
    #[must_use]
    pub fn step(&self, times: &Times, publication: Publication, now: SystemTime) -> Action {
        if times.previous.is_some_and(|until| now >= until) {
            return Action::Forget;
        }
        let Some(next) = times.next else {
            let due = times.previous.is_none() && now >= self.announce_at(times.current);
            return if due { Action::Announce } else { Action::Wait };
        };
        match next.published_at {
            Some(at) if now >= at + self.propagation => Action::Promote(Why::Known),
            _ if now + self.leaf >= times.current.ends => Action::Promote(Why::Overdue),
            None if publication == Publication::Complete => Action::NotePublished,
            _ => Action::Wait,
        }
    }

    /// Until when an authority that stops signing now is trusted: the last leaf of a replica that has not heard of it yet
    /// is over then.
    #[must_use]
    pub fn trusted_until(&self, now: SystemTime) -> SystemTime {
        now + self.leaf + self.propagation
    }

    /// When a leaf is made anew.
    #[must_use]
    pub fn renew_at(&self, leaf: Validity) -> SystemTime {
        leaf.begins + leaf.length() / 2
    }

    /// After two thirds of the time that an authority has now; one that was made for longer is not kept longer.
    fn announce_at(&self, current: Validity) -> SystemTime {
        let by_age = current.begins + BACKDATE + self.validity * 2 / 3;
        let by_end = current.ends.checked_sub(self.validity / 3).unwrap_or(SystemTime::UNIX_EPOCH);
        by_age.min(by_end)
    }
}

#[cfg(test)]
mod tests;
