//! The leader's end of a peer's stream.
//!
//! When a peer is lost its sidecars stay in the book for the reconnect grace: they are most likely
//! on their way to another replica.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::channel::Sender;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::{FromPeer, MAX_LINE};
use crate::control::{Control, End, Reader, SILENCE, Source, Taken};
use crate::lease::Role;

/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// One follower's stream.
pub(crate) struct PeerSession {
    control: Arc<Control>,
    reader: Reader<FromPeer>,
    /// Held open for as long as the stream lives: nothing is sent to a peer.
    _answer: Sender<Bytes, Infallible>,
}

impl PeerSession {
    pub(crate) fn new(control: Arc<Control>, body: Incoming, answer: Sender<Bytes, Infallible>) -> Self {
        Self { control, reader: Reader::new(body, MAX_LINE), _answer: answer }
    }

    /// Takes the peer's events until its stream ends.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let end = match tokio::time::timeout(HELLO_TIMEOUT, self.reader.next()).await {
            Ok(Ok(Some(FromPeer::Hello { identity }))) => self.attend(identity, &shutdown).await,
            Ok(Ok(_)) => End::HelloMissing,
            Ok(Err(error)) => error.into(),
            Err(_) => End::HelloTimeout,
        };
        self.control.metrics.streams_ended.with_label_values(&[end.reason()]).inc();
        tracing::info!(reason = end.reason(), "peer's stream ended");
    }

    async fn attend(&mut self, identity: String, shutdown: &CancellationToken) -> End {
        let control = Arc::clone(&self.control);
        let source = Source::Peer(identity.clone());
        let seat = control.peers.enter(&identity, || control.book.lose(&source, Instant::now()));
        control.metrics.peers_connected.inc();
        tracing::info!(identity, "peer connected");
        let mut role = control.leadership.subscribe();
        let end = tokio::select! {
            end = self.listen(&source) => end,
            _ = role.wait_for(|role| *role != Role::Leader) => End::NotLeader,
            () = seat.replaced.cancelled() => End::Replaced,
            () = shutdown.cancelled() => End::Shutdown,
        };
        control.metrics.peers_connected.dec();
        control.peers.leave(&seat, || control.book.lose(&source, Instant::now()));
        end
    }

    async fn listen(&mut self, source: &Source) -> End {
        loop {
            match tokio::time::timeout(SILENCE, self.reader.next()).await {
                Ok(Ok(Some(FromPeer::Event { event }))) => {
                    if let Taken::Cut(count) = self.control.book.record_from(source, event, Instant::now()) {
                        let count = u64::try_from(count).unwrap_or(u64::MAX);
                        self.control.metrics.reports_dropped.with_label_values(&["TooMany"]).inc_by(count);
                    }
                }
                Ok(Ok(Some(FromPeer::Ping))) => {}
                Ok(Ok(Some(FromPeer::Hello { .. }))) => return End::HelloTwice,
                Ok(Ok(None)) => return End::Closed,
                Ok(Err(error)) => return error.into(),
                Err(_) => return End::Silent,
            }
        }
    }
}
