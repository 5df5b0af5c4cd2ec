//! Loops that this proxy refused a moment ago, by the connection that the request came on.
//!
//! It must not believe a header: a refusal is this proxy's own where the answer came over the very connection on which it was
//! given. Without it a loop through the proxy would be its own breaker's failure, once for each time round.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many are remembered; older ones are forgotten.
pub(crate) const MAX_REMEMBERED: usize = 256;

/// For how long: the answer only has to cross this host.
pub(crate) const MEMORY: Duration = Duration::from_secs(5);

/// The client's ends of connections on which a loop was refused.
#[derive(Debug, Default)]
pub(crate) struct OwnRefusals(Mutex<VecDeque<(SocketAddr, Instant)>>);

impl OwnRefusals {
    /// A loop was refused, or such a refusal passed on, on the connection from `peer`.
    pub(crate) fn note(&self, peer: Option<SocketAddr>, now: Instant) {
        let Some(peer) = peer else { return };
        let mut recent = self.0.lock();
        if recent.len() == MAX_REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((peer, now));
    }

    /// Whether the answer on the connection whose near end is `local` is one of them. Each is told of once.
    pub(crate) fn take(&self, local: SocketAddr, now: Instant) -> bool {
        let mut recent = self.0.lock();
        recent.retain(|(_, at)| now.saturating_duration_since(*at) < MEMORY);
        let found = recent.iter().position(|(peer, _)| *peer == local);
        found.is_some_and(|at| recent.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_of_once_on_its_own_connection_and_not_for_long() {
        let (refusals, now) = (OwnRefusals::default(), Instant::now());
        let [own, other] = ["127.0.0.1:4000", "127.0.0.1:4001"].map(|address| address.parse().unwrap());
        refusals.note(Some(own), now);
        refusals.note(None, now);
        assert!(!refusals.take(other, now));
        assert!(refusals.take(own, now));
        assert!(!refusals.take(own, now), "once");
        refusals.note(Some(own), now);
        assert!(!refusals.take(own, now + MEMORY), "a port is used again by others");
    }

    #[test]
    fn a_crowd_of_loops_takes_no_more_memory() {
        let (refusals, now) = (OwnRefusals::default(), Instant::now());
        for port in 1..=u16::MAX {
            refusals.note(Some(([10, 0, 0, 1], port).into()), now);
        }
        assert_eq!(refusals.0.lock().len(), MAX_REMEMBERED);
        assert!(refusals.take(([10, 0, 0, 1], u16::MAX).into(), now));
    }
}
