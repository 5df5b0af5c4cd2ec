//! The upstream's body on its way to the client.
//!
//! It must settle its exchange exactly once: at the end, on the upstream's error, at the deadline, or,
//! when the client went away, by being dropped. It never buffers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use fusebox_policy::metrics;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::deadline::{Deadline, Whose};
use super::exchange::Exchange;
use super::grpc;
use super::logged::Passing;
use super::request_body::ClientBody;
use crate::listener::activity::InFlight;
use crate::series::Ending;
use crate::upstream::Lease;

/// What a listener answers with: a short text of our own, or the upstream's stream.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Bytes made here.
    Local(Option<Bytes>),
    /// Bytes passed on.
    Upstream(Passage),
}

/// An answer's body and the note that its request is in flight.
#[derive(Debug)]
pub(crate) struct Served {
    body: ResponseBody,
    in_flight: InFlight,
    passing: Option<Passing>,
    /// A part was handed over, and nobody has asked for the next one yet.
    offered: bool,
}

/// Why a body ended early; the client sees its connection end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The upstream's connection broke.
    #[error("upstream broke off")]
    Upstream(#[source] hyper::Error),
    /// The rule's time was over.
    #[error("time is over")]
    Timeout,
}

impl BodyError {
    /// As header `fusebox-error` would name it.
    fn name(&self) -> &'static str {
        match self {
            Self::Upstream(_) => metrics::ERROR_RESET,
            Self::Timeout => metrics::ERROR_TIMEOUT,
        }
    }
}

/// A response being passed on.
#[derive(Debug)]
pub(crate) struct Passage {
    /// None once the rest of it is not wanted any more.
    inner: Option<Incoming>,
    deadline: Option<Deadline>,
    open: Option<Open>,
}

/// What is held until the end.
#[derive(Debug)]
struct Open {
    exchange: Exchange,
    lease: Lease,
    client: Option<Arc<ClientBody>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Passage {
    /// Passes `inner` on; `exchange` is settled by how it ends.
    pub(crate) fn new(
        inner: Incoming,
        exchange: Exchange,
        connection: (Lease, Option<Arc<ClientBody>>),
        deadline: Option<Deadline>,
    ) -> Self {
        let (lease, client) = connection;
        if let Some(client) = &client {
            client.answered();
        }
        let is_over = inner.is_end_stream();
        let mut passage = Self { inner: Some(inner), deadline, open: Some(Open { exchange, lease, client }) };
        if is_over {
            passage.complete();
        }
        passage
    }

    fn complete(&mut self) {
        self.deadline = None;
        let Some(Open { exchange, lease, client }) = self.open.take() else { return };
        let now = Instant::now();
        if client.is_none_or(|client| client.is_complete()) {
            lease.give_back(now);
        }
        exchange.answered(now);
    }

    /// The upstream failed, or its time is over.
    fn fail(&mut self, ending: Ending) {
        self.deadline = None;
        self.inner = None;
        let Some(Open { exchange, client, .. }) = self.open.take() else { return };
        exchange.broke(ending.blaming(client.as_deref()), Instant::now());
        if let Some(client) = client {
            client.cancel();
        }
    }

    /// The time is over. A gRPC caller is told so in trailers; any other sees its answer end.
    fn time_out(&mut self, ending: Ending) -> Polled {
        let is_grpc = self.open.as_ref().is_some_and(|open| open.exchange.is_grpc());
        self.fail(ending);
        Poll::Ready(Some(if is_grpc {
            Ok(Frame::trailers(grpc::trailers(grpc::DEADLINE_EXCEEDED, "The answer was not complete in time.")))
        } else {
            Err(BodyError::Timeout)
        }))
    }

    /// How the time that is over counts: as the upstream's failure, if it was the rule's.
    fn lateness(&self) -> Ending {
        match self.deadline.as_ref().map(Deadline::whose) {
            Some(Whose::Rule) => Ending::Timeout,
            Some(Whose::Caller) | None => Ending::ClientAbort,
        }
    }

    /// Whether the time is over, and that is to be acted on.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        while self.deadline.as_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            if !self.only_counted() {
                return true;
            }
        }
        false
    }

    /// In Shadow the rule's time that is over is counted, and the body goes on.
    fn only_counted(&mut self) -> bool {
        if self.lateness() != Ending::Timeout {
            return false;
        }
        let Some(Open { exchange, client, .. }) = &mut self.open else { return false };
        let shadow = exchange.overdue_in_shadow(client.as_deref(), Instant::now());
        if shadow {
            self.deadline = self.deadline.take().and_then(Deadline::without_rule);
        }
        shadow
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = match &mut self.open {
            Some(open) => open.lease.poll_frame(inner, cx),
            None => Pin::new(inner).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => self.pass(frame),
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(Ending::Reset);
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Poll::Pending if self.poll_deadline(cx) => {
                let ending = self.lateness();
                self.time_out(ending)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Polled {
        // The time is over, but the upstream was not what we waited for: the client reads too slowly.
        if self.deadline.as_ref().is_some_and(Deadline::is_over) && !self.only_counted() {
            return self.time_out(Ending::ClientAbort);
        }
        if let (Some(trailers), Some(open)) = (frame.trailers_ref(), &mut self.open) {
            open.exchange.trailers(trailers);
        }
        if self.inner.as_ref().is_none_or(Body::is_end_stream) {
            self.complete();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(Open { client: Some(client), .. }) = &self.open {
            client.cancel();
        }
    }
}

impl Served {
    /// `body`, and what is known of the request while it is passed on.
    pub(crate) fn new(body: ResponseBody, in_flight: InFlight, passing: Option<Passing>) -> Self {
        let mut passing = passing;
        if let Some(passing) = passing.as_mut().filter(|_| body.is_end_stream()) {
            passing.is_whole();
        }
        Self { body, in_flight, passing, offered: false }
    }

    /// Who serves the client asks for more, or for nothing any more.
    fn asked(&mut self) {
        if std::mem::take(&mut self.offered) {
            self.in_flight.activity().note_taken();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.asked();
    }
}

impl Body for Served {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        this.asked();
        let Self { body, in_flight, passing, offered } = this;
        let polled = Pin::new(&mut *body).poll_frame(cx);
        *offered = matches!(polled, Poll::Ready(Some(Ok(_)))) && !body.is_end_stream();
        if *offered {
            in_flight.activity().note_offered();
        }
        if let Some(passing) = passing {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => passing.sent(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(Some(Err(error))) => passing.broke(error.name()),
                Poll::Ready(None) => passing.is_whole(),
                Poll::Pending => {}
            }
            if body.is_end_stream() {
                passing.is_whole();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            Self::Local(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(passage) => passage.poll_inner(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.is_none(),
            Self::Upstream(passage) => passage.inner.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(passage) => passage.inner.as_ref().map(Body::size_hint).unwrap_or_default(),
        }
    }
}
