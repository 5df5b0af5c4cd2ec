//! The leader's end of a peer's stream.
//!
//! When a peer is lost its sidecars stay in the book for the reconnect grace: they are most likely
//! on their way to another replica.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::stream::encode;
use http_body_util::channel::Sender;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::{FromPeer, MAX_LINE, ToPeer};
use crate::control::{
    Control, End, Line, MAX_UNDER_WAY_TO_PEER, Order, Reader, SILENCE, Source, Taken, UnderWay, Writer,
};
use crate::lease::Role;

/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// One follower's stream.
pub(crate) struct PeerSession {
    control: Arc<Control>,
    reader: Reader<FromPeer>,
    writer: Writer,
}

impl PeerSession {
    pub(crate) fn new(control: Arc<Control>, body: Incoming, answer: Sender<Bytes, Infallible>) -> Self {
        Self { control, reader: Reader::new(body, MAX_LINE), writer: Writer::new(answer) }
    }

    /// Takes the peer's events until its stream ends.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let end = match tokio::time::timeout(HELLO_TIMEOUT, self.reader.next()).await {
            Ok(Ok(Some(FromPeer::Hello { identity }))) => self.attend(identity, &shutdown).await,
            Ok(Ok(_)) => End::HelloMissing,
            Ok(Err(error)) => error.into(),
            Err(_) => End::HelloTimeout,
        };
        self.control.metrics.streams.ended.with_label_values(&[end.reason()]).inc();
        tracing::info!(reason = end.reason(), "peer's stream ended");
    }

    async fn attend(&mut self, identity: String, shutdown: &CancellationToken) -> End {
        let control = Arc::clone(&self.control);
        let source = Source::Peer(identity.clone());
        let seat = control.peers.enter(&identity, || control.book.lose(&source, Instant::now()));
        control.metrics.streams.peers_connected.inc();
        tracing::info!(identity, "peer connected");
        let mut role = control.leadership.subscribe();
        let end = tokio::select! {
            end = self.listen(&source, &identity) => end,
            _ = role.wait_for(|role| *role != Role::Leader) => End::NotLeader,
            () = seat.replaced.cancelled() => End::Replaced,
            () = shutdown.cancelled() => End::Shutdown,
        };
        control.metrics.streams.peers_connected.dec();
        control.peers.leave(&seat, || control.book.lose(&source, Instant::now()));
        end
    }

    async fn listen(&mut self, source: &Source, identity: &str) -> End {
        let mut commands = self.control.commands.take(Line::Peer(identity.to_owned()));
        let mut under_way = UnderWay::new(MAX_UNDER_WAY_TO_PEER);
        let mut heard_at = tokio::time::Instant::now();
        loop {
            let taken = tokio::select! {
                message = self.reader.next() => {
                    heard_at = tokio::time::Instant::now();
                    match message {
                        Ok(Some(message)) => self.take(source, message, &mut under_way),
                        Ok(None) => Err(End::Closed),
                        Err(error) => Err(error.into()),
                    }
                }
                Some(order) = commands.orders.recv(), if under_way.has_room() => {
                    self.command(order, &mut under_way).await
                }
                () = tokio::time::sleep_until(heard_at + SILENCE) => Err(End::Silent),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    fn take(&self, source: &Source, message: FromPeer, under_way: &mut UnderWay) -> Result<(), End> {
        match message {
            FromPeer::Event { event } => {
                if let Taken::Cut(count) = self.control.book.record_from(source, event, Instant::now()) {
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.control.metrics.reports_dropped.with_label_values(&["TooMany"]).inc_by(count);
                }
            }
            FromPeer::Answer { id, answer: Some(answer) } => under_way.answered(id, answer),
            FromPeer::Answer { id, answer: None } => under_way.give_up(id),
            FromPeer::Ping => {}
            FromPeer::Hello { .. } => return Err(End::HelloTwice),
        }
        Ok(())
    }

    async fn command(&mut self, order: Order, under_way: &mut UnderWay) -> Result<(), End> {
        let Order { pod, command, answer } = order;
        let id = under_way.begin(command.clone(), answer);
        let line = encode(&ToPeer::Command { id, pod, command }).map_err(|_| End::Broken)?;
        Ok(self.writer.send(Bytes::from(line)).await?)
    }
}
