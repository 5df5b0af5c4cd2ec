//! The client's body on its way to the upstream.
//!
//! It must never buffer: back-pressure of the upstream reaches the client. It notes whether the client
//! broke it, because then the failure is not the upstream's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The upstream is the one to wait for: it has yet to take what was read.
const OFFERED: u8 = 0;
/// The whole body went to the upstream.
const COMPLETE: u8 = 1;
/// The client broke it.
const BROKEN: u8 = 2;
/// The client is the one to wait for: the upstream asked for more.
const AWAITED: u8 = 3;

/// A request's body, or none.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Option<(Incoming, Arc<ClientBody>)>,
}

/// How far the client's body came, shared with whoever judges the request.
#[derive(Debug, Default)]
pub(crate) struct ClientBody(AtomicU8);

impl ClientBody {
    /// Whether the whole body went to the upstream.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Acquire) == COMPLETE
    }

    /// Whether the client owes data that the upstream is ready to take.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Acquire) == AWAITED
    }

    /// Whether the client broke off or sent what is no body.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire) == BROKEN
    }
}

impl RequestBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self { inner: None }
    }

    /// The client's body and what tells how far it came; nothing to tell when there is none.
    pub(crate) fn new(body: Incoming) -> (Self, Option<Arc<ClientBody>>) {
        if body.is_end_stream() {
            return (Self::empty(), None);
        }
        let progress = Arc::new(ClientBody::default());
        (Self { inner: Some((body, Arc::clone(&progress))) }, Some(progress))
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.is_none()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, progress)) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let state = match &polled {
            Poll::Ready(Some(Err(_))) => BROKEN,
            Poll::Ready(None) => COMPLETE,
            Poll::Ready(Some(Ok(_))) if body.is_end_stream() => COMPLETE,
            Poll::Ready(Some(Ok(_))) => OFFERED,
            Poll::Pending => AWAITED,
        };
        progress.0.store(state, Ordering::Release);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}
