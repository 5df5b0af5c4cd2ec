//! The upstream's body on its way to the client.
//!
//! It must settle its exchange exactly once: at the end, on the upstream's error, at the deadline, or,
//! when the client went away, by being dropped. It never buffers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::exchange::Exchange;
use super::request_body::ClientBody;
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

/// A response being passed on.
#[derive(Debug)]
pub(crate) struct Passage {
    inner: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    exchange: Exchange,
    lease: Lease,
    client: Option<Arc<ClientBody>>,
}

impl Passage {
    /// Passes `inner` on; `exchange` is settled by how it ends.
    pub(crate) fn new(
        inner: Incoming,
        exchange: Exchange,
        connection: (Lease, Option<Arc<ClientBody>>),
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        let (lease, client) = connection;
        let mut passage = Self { inner, deadline, open: Some(Open { exchange, lease, client }) };
        if passage.inner.is_end_stream() {
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

    fn fail(&mut self, ending: Ending) {
        self.deadline = None;
        let Some(Open { exchange, client, .. }) = self.open.take() else { return };
        exchange.broke(ending.blaming(client.as_deref()), Instant::now());
    }

    /// Whether the rule's time is over, and that is to be acted on.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) && !self.only_counted()
    }

    /// In Shadow a time that is over is counted, and the body goes on.
    fn only_counted(&mut self) -> bool {
        let Some(Open { exchange, client, .. }) = &mut self.open else { return false };
        let shadow = exchange.overdue_in_shadow(client.as_deref(), Instant::now());
        if shadow {
            self.deadline = None;
        }
        shadow
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                // The time is over, but the upstream was not what we waited for: the client reads too slowly.
                if self.deadline.as_ref().is_some_and(|deadline| deadline.is_elapsed()) && !self.only_counted() {
                    self.fail(Ending::ClientAbort);
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                if self.inner.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(Ending::Reset);
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Poll::Pending if self.poll_deadline(cx) => {
                self.fail(Ending::Timeout);
                Poll::Ready(Some(Err(BodyError::Timeout)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Local(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(passage) => passage.poll_inner(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) => bytes.is_none(),
            Self::Upstream(passage) => passage.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(passage) => passage.inner.size_hint(),
        }
    }
}
