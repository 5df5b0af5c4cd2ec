//! HTTP/1.1 connections to one address: idle ones kept, each driven by the request that uses it.
//!
//! No task of its own drives a connection: the request's task does, so that an answer costs no switch
//! between tasks. An idle one is looked at when it is taken, and now and then by the sweep.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::relay::Relay;
use super::{MAX_IDLE, MAX_IDLE_AGE};
use crate::pipeline::request_body::RequestBody;
use crate::socket::Socket;

/// Idle connections to one address.
#[derive(Debug, Default)]
pub(super) struct IdleConnections(Mutex<VecDeque<Idle>>);

/// One connection and the means to drive it.
pub(super) struct Driven {
    sender: SendRequest<RequestBody>,
    stage: Stage,
    relay: Arc<Relay>,
    waker: Waker,
    local: Option<SocketAddr>,
}

/// How far the connection is.
enum Stage {
    Open(Connection<TokioIo<Socket>, RequestBody>),
    /// HTTP ended on it; the socket is still there, for a tunnel.
    Ended(Connection<TokioIo<Socket>, RequestBody>),
    Gone,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Driven>,
    since: Instant,
}

impl IdleConnections {
    /// The connection that was used last, if it was within `max_age` and still stands.
    pub(super) fn take(&self, now: Instant, max_age: Duration) -> Option<Box<Driven>> {
        loop {
            let mut connection = self.pop(now, max_age)?;
            if connection.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last answer is complete, if there is room.
    pub(super) fn give_back(&self, mut connection: Box<Driven>, now: Instant) {
        if !connection.is_ready() {
            return;
        }
        let mut idle = self.0.lock();
        if idle.len() < MAX_IDLE {
            idle.push_back(Idle { connection, since: now });
        }
    }

    /// Closes what was idle for too long, or was closed by the other end.
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = self.0.lock();
        idle.retain_mut(|entry| {
            now.saturating_duration_since(entry.since) < MAX_IDLE_AGE && entry.connection.is_ready()
        });
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
    }

    fn pop(&self, now: Instant, max_age: Duration) -> Option<Box<Driven>> {
        let mut idle = self.0.lock();
        let entry = idle.pop_back()?;
        if now.saturating_duration_since(entry.since) >= max_age {
            idle.push_back(entry);
            return None;
        }
        Some(entry.connection)
    }
}

impl Driven {
    /// Speaks HTTP/1.1 on `stream`.
    pub(super) async fn new(stream: TcpStream) -> Result<Box<Self>, hyper::Error> {
        let local = stream.local_addr().ok();
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(Socket::new(stream))).await?;
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        Ok(Box::new(Self { sender, stage: Stage::Open(connection), relay, waker, local }))
    }

    /// This side's end of it.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Sends `request` and drives the connection until the answer's head is there.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let Self { sender, stage, relay, waker, .. } = self;
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            relay.turn(waker, cx, |cx| {
                stage.step(cx);
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answer);
                }
                stage.give_up();
                answer.as_mut().poll(cx)
            })
        })
        .await
    }

    /// The next part of the answer's body, which this connection brings.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { stage, relay, waker, .. } = self;
        relay.turn(waker, cx, |cx| {
            // Asking comes first: the connection reads no more of a body than was asked for.
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            stage.step(cx);
            stage.give_up();
            Pin::new(&mut *body).poll_frame(cx)
        })
    }

    /// The socket and what was read beyond HTTP, once both ends agreed to speak something else.
    pub(super) async fn into_upgraded(mut self: Box<Self>) -> Option<(Bytes, TcpStream)> {
        if let Stage::Open(connection) = &mut self.stage {
            std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await.ok()?;
        }
        match self.stage {
            Stage::Open(connection) | Stage::Ended(connection) => {
                let parts = connection.into_parts();
                Some((parts.read_buf, parts.io.into_inner().into_inner()))
            }
            Stage::Gone => None,
        }
    }

    /// Whether it can take a request at this moment, as far as can be known without waiting.
    fn is_ready(&mut self) -> bool {
        self.relay.rest();
        self.stage.step(&mut Context::from_waker(&self.waker));
        self.stage.give_up();
        matches!(self.stage, Stage::Open(_)) && self.sender.is_ready()
    }
}

impl Stage {
    /// Lets the connection do what it can. How it ends is told to the request on it.
    fn step(&mut self, cx: &mut Context<'_>) {
        if let Self::Open(connection) = self
            && connection.poll_without_shutdown(cx).is_ready()
            && let Self::Open(connection) = std::mem::replace(self, Self::Gone)
        {
            *self = Self::Ended(connection);
        }
    }

    /// Drops a connection that ended, so that a request it had not yet looked at learns of it.
    fn give_up(&mut self) {
        if matches!(self, Self::Ended(_)) {
            *self = Self::Gone;
        }
    }
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = matches!(self.stage, Stage::Open(_));
        formatter.debug_struct("Driven").field("open", &open).finish_non_exhaustive()
    }
}
