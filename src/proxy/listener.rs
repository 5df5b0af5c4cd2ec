//! Accepts client connections and serves HTTP/1.1 on them.
//!
//! It must bound everything a client can make it hold: connections, headers, the time to send them.
//! When the proxy drains, requests in flight are finished and then each connection is closed.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::enforcer::Enforcer;
use crate::pipeline;
use crate::pipeline::hop::Hop;

/// Bytes that a request's head may have: more than the longest target that hyper takes, so that a target which is
/// longer is told so.
pub(crate) const MAX_HEADER_BYTES: usize = 80 << 10;

/// How long a connection may stay without a complete request head, which covers slow headers and idle
/// connections alike. Longer than this proxy's own clients keep theirs, so that they close first.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// How long accepting rests after the system refused, for instance for want of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What all listeners share.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// Cancelled when no new connections and requests are wanted.
    pub(crate) draining: CancellationToken,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// The bound on connections.
    pub(crate) slots: Arc<Semaphore>,
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
                Some((stream, slot)) => self.spawn(stream, index, slot),
                None => return,
            }
        }
    }

    /// The next connection, once there is room for it; none when the bound was taken away.
    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _peer)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        };
        // Only now, or listeners that nobody calls would hold room that others need.
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some((stream, slot));
        }
        self.enforcer.counters().waited();
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        Some((stream, slot))
    }

    fn spawn(&self, stream: TcpStream, index: usize, slot: OwnedSemaphorePermit) {
        let counted = Counted { enforcer: Arc::clone(&self.enforcer), _slot: slot };
        self.enforcer.counters().opened();
        let draining = self.draining.clone();
        self.tasks.spawn(async move {
            serve(stream, index, (&counted.enforcer, draining)).await;
        });
    }
}

async fn serve(stream: TcpStream, index: usize, around: (&Arc<Enforcer>, CancellationToken)) {
    let (enforcer, draining) = around;
    // Without it small answers wait for the client's acknowledgement; a socket that refuses is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let hop = Hop::new(enforcer.direction(index), stream.peer_addr().ok());
    let service = service_fn(|request| pipeline::handle(Arc::clone(enforcer), (index, hop), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, "client connection ended");
    }
}
