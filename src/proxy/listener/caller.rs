//! Who sends requests on one connection, and what its requests share.
//!
//! It must stay small: there is one for each connection, and each request holds it by one pointer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use crate::enforcer::Enforcer;
use crate::interception::Way;
use crate::pipeline::deadline::SpareTimer;
use crate::pipeline::hop::Hop;
use crate::tunnel::Upstream;

/// One client connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Caller {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// How it is known where its requests go.
    pub(crate) way: Way,
    /// The connection, as requests are told of it.
    pub(crate) hop: Hop,
    /// What happens on it.
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when no new requests are wanted.
    pub(crate) draining: CancellationToken,
    /// For its requests' deadlines.
    pub(crate) timer: Arc<SpareTimer>,
    born: Instant,
    upgraded: Mutex<Option<Upstream>>,
}

impl Caller {
    /// A connection from `peer`, which begins now and goes where `way` says.
    pub(crate) fn new(enforcer: Arc<Enforcer>, way: Way, peer: SocketAddr, draining: CancellationToken) -> Self {
        let hop = Hop::new(way.direction(&enforcer), Some(peer));
        Self {
            enforcer,
            way,
            hop,
            activity: Arc::default(),
            draining,
            timer: Arc::default(),
            born: Instant::now(),
            upgraded: Mutex::new(None),
        }
    }

    /// Whether the connection began longer ago than `age`.
    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        self.born.elapsed() > age
    }

    /// The connection is to become a tunnel after the answer that is being given.
    pub(crate) fn upgrade(&self, upgraded: Upstream) {
        *self.upgraded.lock() = Some(upgraded);
    }

    /// The tunnel it is to become.
    pub(crate) fn take_upgrade(&self) -> Option<Upstream> {
        self.upgraded.lock().take()
    }
}
