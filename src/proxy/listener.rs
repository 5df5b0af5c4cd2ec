//! Accepts client connections and hands each to a task of its own.
//!
//! It must bound everything a client can make it hold: connections, headers, the time to send them.
//! When the proxy drains, requests in flight are finished and then each connection is closed.

pub(crate) mod activity;
pub(crate) mod caller;
mod connection;
pub(crate) mod detect;
mod flood;
mod http1;
mod http2;
pub(crate) mod limits;
pub(crate) mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caller::Caller;
use self::stream::ClientStream;
use crate::enforcer::Enforcer;
use crate::interception::{self, Way};

/// Bytes that a request's head may have: more than the longest target that hyper takes, so that a target which is
/// longer is told so.
pub(crate) const MAX_HEADER_BYTES: usize = 80 << 10;

/// How long accepting rests after the system refused, for instance for want of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What all listeners share.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// Cancelled when no new connections and requests are wanted.
    pub(crate) draining: CancellationToken,
    /// Cancelled when what is still open is to be cut.
    pub(crate) cut: CancellationToken,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// The bound on connections.
    pub(crate) slots: Arc<Semaphore>,
    /// Where the proxy itself listens.
    pub(crate) own: Arc<[SocketAddr]>,
}

/// Keeps the count of open connections, however a connection ends.
struct Counted {
    enforcer: Arc<Enforcer>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.enforcer.counters().closed();
    }
}

impl Serving {
    /// Accepts connections of listener `index` until the proxy drains.
    pub(crate) async fn accept(self, listener: TcpListener, index: usize) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                Some((accepted, slot)) => self.spawn(accepted, index, slot),
                None => return,
            }
        }
    }

    /// The next connection, once there is room for it; none when the bound was taken away.
    async fn next(&self, listener: &TcpListener) -> Option<((TcpStream, SocketAddr), OwnedSemaphorePermit)> {
        let accepted = loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        };
        // Only now, or listeners that nobody calls would hold room that others need.
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some((accepted, slot));
        }
        self.enforcer.counters().waited();
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        Some((accepted, slot))
    }

    fn spawn(&self, accepted: (TcpStream, SocketAddr), index: usize, slot: OwnedSemaphorePermit) {
        let (stream, peer) = accepted;
        let Some(way) = self.way(&stream, index) else { return };
        // Without it small answers wait for the client's acknowledgement; a socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let counted = Counted { enforcer: Arc::clone(&self.enforcer), _slot: slot };
        self.enforcer.counters().opened();
        let caller = Caller::new(Arc::clone(&self.enforcer), way, peer, self.draining.clone());
        let stream = ClientStream::new(stream, Arc::clone(&caller.activity));
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            let _counted = counted;
            tokio::select! {
                () = connection::run(stream, Arc::new(caller)) => {}
                () = cut.cancelled() => {}
            }
        });
    }
    /// Where the connection goes; none where it would go in circles, and then the client sees it break.
    fn way(&self, stream: &TcpStream, index: usize) -> Option<Way> {
        let Some(direction) = self.enforcer.redirected(index) else { return Some(Way::Listener(index)) };
        match interception::destination(stream, direction, &self.own) {
            Ok(address) => Some(Way::aimed(direction, address)),
            Err(refused) => {
                tracing::debug!(error = &refused as &dyn std::error::Error, "connection refused");
                self.enforcer.counters().refused_connection(refused.reason());
                // A socket that refuses is closed all the same.
                let _ = stream.set_zero_linger();
                None
            }
        }
    }
}
