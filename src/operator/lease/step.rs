//! The election's decisions, pure: what to do next, and what an answer means, with time as an argument.
//!
//! It never compares wall clocks. Another's lease is over when its record has not changed for its
//! whole duration by this replica's own monotonic clock, since clocks of two machines may differ.

use std::time::{Duration, Instant};

/// The longest duration that another's record is believed.
const MAX_FOREIGN_LEASE: Duration = Duration::from_secs(300);

/// The election's times, in a proven relation to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
    renew_every: Duration,
    renew_deadline: Duration,
}

/// Why times can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// There would be no second try before the deadline.
    #[error("the renew deadline {renew_deadline:?} is shorter than twice the renew interval {renew_every:?}")]
    NoSecondTry {
        /// The deadline.
        renew_deadline: Duration,
        /// The interval.
        renew_every: Duration,
    },
    /// A write sent just before the deadline would have no time to end before the lease does.
    #[error("the renew deadline {renew_deadline:?} leaves less than a fifth of the lease {lease:?} for writes to end")]
    NoMargin {
        /// The deadline.
        renew_deadline: Duration,
        /// The lease.
        lease: Duration,
    },
    /// An interval of nothing would turn into a busy loop.
    #[error("the renew interval {renew_every:?} is shorter than 10 ms")]
    TooFast {
        /// The interval.
        renew_every: Duration,
    },
}

/// What the Lease object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty when it was released.
    pub(super) holder: String,
    /// Where the holder is found.
    pub(super) address: String,
    /// How long it holds after each renewal.
    pub(super) duration: Duration,
    /// The object's version: it differs after each renewal.
    pub(super) version: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until then.
    Wait(Instant),
    /// Ask the API server.
    Call(Call),
}

/// What to ask the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Read the Lease.
    Read,
    /// There is none: create it.
    Create,
    /// Write this replica as its holder, if it still has this version.
    Hold(String),
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It was read; None when there is none.
    Read(Option<Record>),
    /// The write that was sent at this time was carried out, and this is the result.
    Held(Instant, Record),
    /// Somebody else wrote first.
    Conflict,
    /// Nothing is known: an error, or no answer in time.
    Failed,
}

/// What this replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// It may write until then.
    Leads(Instant),
    /// This one holds a lease that still runs.
    Follows(&'a Record),
    /// Nobody is known to hold it.
    Vacant,
}

/// The candidate's state.
#[derive(Clone, Debug)]
pub(super) struct Election {
    identity: String,
    timing: Timing,
    observed: Option<Observed>,
    held_since: Option<Instant>,
    knowledge: Knowledge,
    next_at: Instant,
}

#[derive(Clone, Debug)]
struct Observed {
    record: Record,
    changed_at: Instant,
}

/// Whether the Lease was read since the last pause; a write needs its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    Stale,
    Fresh,
}

impl Default for Timing {
    /// A lease of 15 s, renewed every 5 s, with writes allowed for 10 s after each renewal.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_every: Duration::from_secs(5),
            renew_deadline: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// Checks the times.
    ///
    /// # Errors
    /// [`TimingError`] when they leave no room for a second try or for writes to end.
    pub fn new(lease: Duration, renew_every: Duration, renew_deadline: Duration) -> Result<Self, TimingError> {
        if renew_every < Duration::from_millis(10) {
            return Err(TimingError::TooFast { renew_every });
        }
        if renew_deadline < renew_every * 2 {
            return Err(TimingError::NoSecondTry { renew_deadline, renew_every });
        }
        if lease.saturating_sub(renew_deadline) < lease / 5 {
            return Err(TimingError::NoMargin { renew_deadline, lease });
        }
        Ok(Self { lease, renew_every, renew_deadline })
    }

    /// How long others wait after a renewal before they take over.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How long one call about the Lease itself may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.renew_deadline / 5
    }

    /// How long a leader's write may take: a fifth of the margin is left over.
    #[must_use]
    pub fn write_timeout(&self) -> Duration {
        (self.lease - self.renew_deadline) * 4 / 5
    }

    /// How often a follower looks, and how soon a failed call is tried again.
    #[must_use]
    pub fn retry_every(&self) -> Duration {
        self.renew_every / 5
    }
}

impl Election {
    pub(super) fn new(identity: String, timing: Timing, now: Instant) -> Self {
        Self { identity, timing, observed: None, held_since: None, knowledge: Knowledge::Stale, next_at: now }
    }

    /// What to do at `now`.
    pub(super) fn step(&self, now: Instant) -> Step {
        if now < self.next_at {
            let deadline = self.write_until().filter(|until| *until > now);
            return Step::Wait(deadline.map_or(self.next_at, |until| until.min(self.next_at)));
        }
        // After the deadline even a write that its version guards would be one after the lease's end.
        let overdue = self.write_until().is_some_and(|until| now >= until);
        Step::Call(match (self.knowledge, &self.observed) {
            _ if overdue => Call::Read,
            (Knowledge::Stale, _) => Call::Read,
            (Knowledge::Fresh, None) => Call::Create,
            (Knowledge::Fresh, Some(observed)) => Call::Hold(observed.record.version.clone()),
        })
    }

    /// Takes what came of a call, at `now`.
    pub(super) fn take(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Read(record) => self.read(record, now),
            Outcome::Held(sent_at, record) => {
                self.observe(record, now);
                self.held_since = Some(sent_at);
                self.knowledge = Knowledge::Fresh;
                self.next_at = sent_at + self.timing.renew_every;
            }
            // Who wrote is not known: a call of our own that got no answer, or another replica.
            Outcome::Conflict => self.again(now),
            Outcome::Failed => self.again(now + self.timing.retry_every()),
        }
    }

    /// What this replica is at `now`.
    pub(super) fn standing(&self, now: Instant) -> Standing<'_> {
        if let Some(until) = self.write_until().filter(|until| now < *until) {
            return Standing::Leads(until);
        }
        match &self.observed {
            Some(observed) if !self.is_free(observed, now) => Standing::Follows(&observed.record),
            _ => Standing::Vacant,
        }
    }

    /// The version under which the Lease can be given back; None when it is not held.
    pub(super) fn release(&mut self, now: Instant) -> Option<String> {
        let leads = matches!(self.standing(now), Standing::Leads(_));
        self.held_since = None;
        self.observed.as_ref().filter(|_| leads).map(|observed| observed.record.version.clone())
    }

    fn write_until(&self) -> Option<Instant> {
        self.held_since.map(|since| since + self.timing.renew_deadline)
    }

    fn read(&mut self, record: Option<Record>, now: Instant) {
        let free = match record {
            None => {
                self.observed = None;
                true
            }
            Some(record) => {
                self.observe(record, now);
                self.observed.as_ref().is_none_or(|observed| self.is_free(observed, now))
            }
        };
        if free {
            self.knowledge = Knowledge::Fresh;
            self.next_at = now;
        } else {
            self.again(now + self.timing.retry_every());
        }
        let held_by_me = self.observed.as_ref().is_some_and(|observed| observed.record.holder == self.identity);
        if !held_by_me || self.write_until().is_some_and(|until| now >= until) {
            self.held_since = None;
        }
    }

    fn observe(&mut self, record: Record, now: Instant) {
        match &mut self.observed {
            Some(observed) if observed.record.version == record.version => {}
            observed => *observed = Some(Observed { record, changed_at: now }),
        }
    }

    /// Whether this replica may write itself as the holder: it is already, nobody is, or the other's time is over.
    fn is_free(&self, observed: &Observed, now: Instant) -> bool {
        let Observed { record, changed_at } = observed;
        let duration = record.duration.min(MAX_FOREIGN_LEASE).max(self.timing.lease);
        record.holder.is_empty()
            || record.holder == self.identity
            || now.saturating_duration_since(*changed_at) >= duration
    }

    fn again(&mut self, at: Instant) {
        self.knowledge = Knowledge::Stale;
        self.next_at = at;
    }
}

#[cfg(test)]
mod tests;
