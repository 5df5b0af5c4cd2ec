//! For how long a client may hold what it was given.
//!
//! It must not be a matter of configuration: the defaults hold for every proxy. They are a value only so that an embedder,
//! and a test over real sockets, can have shorter ones.

use std::time::Duration;

/// Bounds in time on what one client connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may be silent between requests, or before its first. Longer than this proxy's own clients keep
    /// their connections, so that they close first.
    pub idle: Duration,
    /// How long a request's head may take from its first byte, and the first bytes of a connection to tell what is spoken.
    /// On HTTP/2 a header block that does not end leaves its connection idle, and is held to that.
    pub head: Duration,
    /// How long a client may owe the next part of a body that the upstream would take. A gRPC stream may be silent.
    pub body: Duration,
    /// How long a client may take nothing of what there is for it.
    pub write: Duration,
    /// How long a client that sends no more is served without anything to send to it. It may have gone away for good,
    /// which looks the same, and then its request is given up.
    pub half_closed: Duration,
    /// A connection this old takes no further requests, so that clients spread over what is there by then.
    pub age: Duration,
    /// How long both sides of a tunnel may be silent.
    pub tunnel_idle: Duration,
}

impl Limits {
    /// All of them, for whoever has to look at least so often.
    pub(crate) fn shortest(&self) -> Duration {
        let Self { idle, head, body, write, half_closed, age, tunnel_idle } = *self;
        [idle, head, body, write, half_closed, age, tunnel_idle].into_iter().min().unwrap_or_default()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            body: Duration::from_secs(60),
            write: Duration::from_secs(60),
            half_closed: Duration::from_secs(2),
            age: Duration::from_secs(3600),
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

/// How many looks, `tick` apart, make up `limit`; at least one.
pub(crate) fn ticks(limit: Duration, tick: Duration) -> u32 {
    u32::try_from(limit.as_nanos() / tick.as_nanos().max(1)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_so_many_looks_and_never_none() {
        let tick = Duration::from_millis(200);
        assert_eq!(ticks(Duration::from_secs(10), tick), 50);
        assert_eq!(ticks(Duration::from_millis(1), tick), 1);
        assert_eq!(ticks(Duration::MAX, tick), u32::MAX);
        assert_eq!(ticks(Duration::from_secs(1), Duration::ZERO), 1_000_000_000);
    }

    #[test]
    fn who_looks_as_often_as_the_shortest_limit_misses_none() {
        let limits = Limits { write: Duration::from_millis(3), ..Limits::default() };
        assert_eq!(limits.shortest(), Duration::from_millis(3));
        assert_eq!(Limits::default().shortest(), Limits::default().half_closed);
    }
}
