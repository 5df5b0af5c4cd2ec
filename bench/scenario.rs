//! What is measured: the protocols, and how long and how hard.
//!
//! It must not measure. All proxies get the same from here, so that nothing can be tuned for one of them.

use std::time::Duration;

use serde::Serialize;

use crate::load::Shape;

/// What is spoken through the proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive: a small GET, an answer of 64 bytes.
    Http1,
    /// gRPC over HTTP/2 without TLS: unary, a message of 64 bytes there and back, trailers.
    Grpc,
}

/// How long each part of a visit takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pacing {
    /// Under full load, before anything counts.
    pub(crate) warm_up: Duration,
    /// Under full load, measured.
    pub(crate) saturation: Duration,
    /// At [`FIXED_RATE`], measured.
    pub(crate) fixed_rate: Duration,
    /// One of the turns by which two variants of our proxy are compared: short, so that what the machine does meanwhile falls on
    /// both alike.
    pub(crate) turn: Duration,
    /// How many turns each variant has in a round.
    pub(crate) turns: usize,
}

/// Requests a second in the open loop: far below what any of the proxies carries.
pub(crate) const FIXED_RATE: u32 = 2_000;
/// How many idle connections are held.
pub(crate) const IDLE_CONNECTIONS: usize = 1_000;
/// How fast these send their one request each.
pub(crate) const IDLE_RATE: u32 = 2_000;
/// How long memory is left to settle before it is read.
pub(crate) const SETTLE: Duration = Duration::from_millis(700);

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Grpc];

    /// As headings and progress say it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Grpc => "gRPC",
        }
    }

    /// 64 requests at once: on a connection each, or as a gRPC client shares few connections.
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Http1 => Shape { connections: 64, streams: 1 },
            Self::Grpc => Shape { connections: 8, streams: 8 },
        }
    }

    /// The same for the fixed rate, with room for requests that take long.
    pub(crate) fn open_shape(self) -> Shape {
        match self {
            Self::Http1 => self.shape(),
            Self::Grpc => Shape { connections: 8, streams: 32 },
        }
    }
}

impl Pacing {
    pub(crate) const FULL: Self = Self {
        warm_up: Duration::from_secs(1),
        saturation: Duration::from_secs(5),
        fixed_rate: Duration::from_secs(6),
        turn: Duration::from_millis(700),
        turns: 15,
    };

    pub(crate) const QUICK: Self = Self {
        warm_up: Duration::from_millis(500),
        saturation: Duration::from_secs(1),
        fixed_rate: Duration::from_secs(1),
        turn: Duration::from_millis(500),
        turns: 2,
    };
}
