//! Leader election on a `coordination.k8s.io/v1` Lease, and the word on who may write.
//!
//! The lease gates writes and nothing else. A leader may write only until a deadline by its own
//! monotonic clock that lies well before its lease's end, because it can't know how long a call
//! of its own, or it itself, was held up.

mod elector;
mod step;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::watch;

pub use elector::{Candidate, ElectionError, client, run, unique_identity};
pub use step::{Timing, TimingError};

/// The annotation of the Lease under which the leader says where its peers find it, as `host:port`.
pub const ADDRESS_ANNOTATION: &str = "fusebox.dev/control-address";

/// What this replica is, as of the last thing it learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the lease.
    Leader,
    /// It does not.
    Follower {
        /// The leader, where one is known and its lease still runs.
        leader: Option<Leader>,
    },
}

/// Another replica that holds the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its identity.
    pub identity: String,
    /// Where its control port is, as `host:port`; empty when it did not say.
    pub address: String,
}

/// Whether this replica leads, and until when it may write; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct Leadership {
    shared: Arc<Shared>,
}

/// Why a guarded write did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError<E> {
    /// The lease is not held, or not for long enough; nothing was sent.
    #[error("not written: this replica does not hold the lease for long enough")]
    NotLeader,
    /// No answer came in time; it may or may not have been carried out.
    #[error("not answered within {0:?}")]
    TimedOut(Duration),
    /// The write itself failed.
    #[error(transparent)]
    Failed(#[from] E),
}

#[derive(Debug)]
struct Shared {
    role: watch::Sender<Role>,
    write_until: RwLock<Option<Instant>>,
    write_timeout: Duration,
    writes: watch::Sender<usize>,
}

/// Counts one write on its way, also when its future is dropped.
struct OnItsWay<'a>(&'a watch::Sender<usize>);

impl Leadership {
    /// Nobody's, until [`run`] finds out.
    #[must_use]
    pub fn new(timing: &Timing) -> Self {
        Self {
            shared: Arc::new(Shared {
                role: watch::Sender::new(Role::Follower { leader: None }),
                write_until: RwLock::new(None),
                write_timeout: timing.write_timeout(),
                writes: watch::Sender::new(0),
            }),
        }
    }

    /// One that is held until then, without an election.
    #[cfg(test)]
    pub(crate) fn held(timing: &Timing, until: Instant) -> Self {
        let leadership = Self::new(timing);
        leadership.set(Role::Leader, Some(until));
        leadership
    }

    /// Whether a write may be sent at `now`; ask right before each one.
    #[must_use]
    pub fn may_write(&self, now: Instant) -> bool {
        self.shared.write_until.read().is_some_and(|until| now < until)
    }

    /// Until when writes may be sent; None on a follower.
    #[must_use]
    pub fn write_until(&self) -> Option<Instant> {
        *self.shared.write_until.read()
    }

    /// How long a write may take: one that was sent in time then ends before the lease does.
    #[must_use]
    pub fn write_timeout(&self) -> Duration {
        self.shared.write_timeout
    }

    /// Carries out a write if the lease is held, and gives up on it before the lease could end.
    ///
    /// # Errors
    /// [`GuardedError`]; only `NotLeader` says for sure that nothing was sent.
    pub async fn guard<T, E>(&self, write: impl Future<Output = Result<T, E>>) -> Result<T, GuardedError<E>> {
        let _on_its_way = OnItsWay::new(&self.shared.writes);
        if !self.may_write(Instant::now()) {
            return Err(GuardedError::NotLeader);
        }
        match tokio::time::timeout(self.shared.write_timeout, write).await {
            Ok(outcome) => outcome.map_err(GuardedError::Failed),
            Err(_) => Err(GuardedError::TimedOut(self.shared.write_timeout)),
        }
    }

    /// What this replica is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.shared.role.borrow().clone()
    }

    /// Tells of each change of role; renewals are no change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Role> {
        self.shared.role.subscribe()
    }

    /// Takes what the election found out, and says whether the role changed.
    fn set(&self, role: Role, write_until: Option<Instant>) -> bool {
        *self.shared.write_until.write() = write_until;
        self.shared.role.send_if_modified(|current| {
            let changed = *current != role;
            *current = role;
            changed
        })
    }

    /// Waits until no guarded write is on its way.
    async fn writes_ended(&self) {
        let mut writes = self.shared.writes.subscribe();
        // The sender lives in `self`, so the wait can't fail.
        let _ = writes.wait_for(|count| *count == 0).await;
    }
}

impl<'a> OnItsWay<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader_for(time: Duration) -> Leadership {
        Leadership::held(&Timing::default(), Instant::now() + time)
    }

    async fn written() -> Result<&'static str, std::io::Error> {
        Ok("written")
    }

    #[tokio::test]
    async fn a_write_is_sent_only_before_the_deadline() {
        let leads = leader_for(Duration::from_secs(60));
        assert_eq!(leads.guard(written()).await.unwrap(), "written");
        let over = leader_for(Duration::ZERO);
        assert!(
            matches!(over.guard(written()).await, Err(GuardedError::NotLeader)),
            "though the role is not changed yet"
        );
        let follower = Leadership::new(&Timing::default());
        assert!(matches!(follower.guard(written()).await, Err(GuardedError::NotLeader)));
    }

    #[tokio::test]
    async fn a_write_without_an_answer_is_given_up_before_the_lease_ends() {
        let [lease, every, deadline] = [250, 10, 200].map(Duration::from_millis);
        let timing = Timing::new(lease, every, deadline).unwrap();
        let leadership = Leadership::held(&timing, Instant::now() + deadline);
        let stuck = leadership.guard(std::future::pending::<Result<(), std::io::Error>>()).await;
        assert!(matches!(stuck, Err(GuardedError::TimedOut(after)) if after + deadline < lease));
        assert_eq!(*leadership.shared.writes.borrow(), 0);
    }

    #[test]
    fn a_renewal_is_no_change_of_role() {
        let leadership = leader_for(Duration::from_secs(1));
        let mut roles = leadership.subscribe();
        roles.mark_unchanged();
        assert!(!leadership.set(Role::Leader, Some(Instant::now() + Duration::from_secs(9))));
        assert!(!roles.has_changed().unwrap());
        assert!(leadership.set(Role::Follower { leader: None }, None));
        assert!(roles.has_changed().unwrap());
    }
}
