//! The client's body on its way to the upstream.
//!
//! It must never buffer more than [`MAX_KEPT_BYTES`]: back-pressure of the upstream reaches the client. It notes
//! whether the client broke it, because then the failure is not the upstream's.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::listener::activity::{Activity, OpenBody};

/// How much of an HTTP/2 request's body is kept until its answer begins, so that a stream that the upstream
/// did not look at can be sent once more.
pub(crate) const MAX_KEPT_BYTES: usize = 64 << 10;

/// How long the body waits for an upstream to ask for it, where the client does (RFC 9110 section 10.1.1).
pub(crate) const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// The upstream is the one to wait for: it has yet to take what was read.
const OFFERED: u8 = 0;
/// The whole body went to the upstream.
const COMPLETE: u8 = 1;
/// The client broke it.
const BROKEN: u8 = 2;
/// The client is the one to wait for: the upstream asked for more.
const AWAITED: u8 = 3;
/// The client sent nothing for too long while the upstream asked for more.
const SILENT: u8 = 4;

/// A request's body, or none.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Option<Inner>,
}

/// How far the client's body came, shared with whoever judges the request.
#[derive(Debug)]
pub(crate) struct ClientBody {
    state: AtomicU8,
    answered: AtomicBool,
    cancelled: AtomicBool,
    wanted: AtomicBool,
    reader: Mutex<Option<Waker>>,
    body: OpenBody,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// The client broke off, or sent what is no body.
    #[error("client broke its body")]
    Client(#[source] hyper::Error),
    /// The client owed the next part for too long.
    #[error("client sent nothing of its body for too long")]
    Silent(#[source] h2::Error),
    /// Nobody wants the answer any more.
    #[error("request was given up")]
    Cancelled(#[source] h2::Error),
}

#[derive(Debug)]
struct Inner {
    source: Source,
    progress: Arc<ClientBody>,
    /// Set while the body waits to be asked for.
    held: Option<Pin<Box<Sleep>>>,
    silence: Option<Silence>,
}

/// For how long the client may send nothing, counted from when more was asked for.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    /// Most bodies come without a wait, and need no timer.
    until: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Source {
    Direct(Incoming),
    /// Read by the latest handle; an earlier one belongs to a stream that is over.
    Kept {
        kept: Arc<Mutex<Kept>>,
        next: usize,
    },
}

/// A body and its beginning.
#[derive(Debug)]
struct Kept {
    incoming: Incoming,
    pieces: VecDeque<Piece>,
    bytes: usize,
    is_whole: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl ClientBody {
    /// Whether the whole body went to the upstream.
    pub(crate) fn is_complete(&self) -> bool {
        self.state.load(Ordering::Acquire) == COMPLETE
    }

    /// Whether the client owes data that the upstream is ready to take.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.load(Ordering::Acquire) == AWAITED
    }

    /// Whether the client broke off, sent what is no body, or nothing for too long.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), BROKEN | SILENT)
    }

    /// Whether the client sent nothing for too long.
    pub(crate) fn is_silent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SILENT
    }

    /// The answer began: nothing needs to be kept any more.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// The upstream asked for the body.
    pub(crate) fn wanted(&self) {
        self.wanted.store(true, Ordering::Release);
        self.wake();
    }

    /// Nobody wants the answer any more: the upstream is told so in place of the rest of the body.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    fn note(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        match state {
            // A broken one never is: what comes after it is no request.
            COMPLETE => self.body.complete(),
            AWAITED => self.body.note_awaited(),
            _ => self.body.note_come(),
        }
    }
}

impl RequestBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self { inner: None }
    }

    /// The client's body and what tells how far it came; nothing to tell when there is none.
    pub(crate) fn new(body: Incoming, version: Version, activity: &Arc<Activity>) -> (Self, Option<Arc<ClientBody>>) {
        if body.is_end_stream() {
            return (Self::empty(), None);
        }
        let progress = Arc::new(ClientBody {
            state: AtomicU8::new(OFFERED),
            answered: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            reader: Mutex::new(None),
            body: activity.begin_body(),
        });
        let source = match version {
            Version::HTTP_2 => {
                let kept = Kept { incoming: body, pieces: VecDeque::new(), bytes: 0, is_whole: true };
                Source::Kept { kept: Arc::new(Mutex::new(kept)), next: 0 }
            }
            _ => Source::Direct(body),
        };
        let inner = Inner { source, progress: Arc::clone(&progress), held: None, silence: None };
        (Self { inner: Some(inner) }, Some(progress))
    }

    /// Holds the body back until the upstream asks for it, or for [`CONTINUE_PATIENCE`].
    pub(crate) fn hold_until_wanted(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.held = Some(Box::pin(tokio::time::sleep(CONTINUE_PATIENCE)));
        }
    }

    /// Gives the body up where the client sends nothing for `limit` while more is wanted.
    pub(crate) fn bound_silence(&mut self, limit: Duration) {
        if let Some(inner) = &mut self.inner {
            inner.silence = Some(Silence { limit, until: None });
        }
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// The same body from its beginning, for another attempt; none where that is not kept.
    pub(crate) fn again(&self) -> Option<Self> {
        let Some(Inner { source, progress, held: _, silence }) = &self.inner else { return Some(Self::empty()) };
        match source {
            Source::Direct(_) => None,
            Source::Kept { kept, .. } => {
                let source = Source::Kept { kept: Arc::clone(kept), next: 0 };
                let silence = silence.as_ref().map(|silence| Silence { limit: silence.limit, until: None });
                Some(Self { inner: Some(Inner { source, progress: Arc::clone(progress), held: None, silence }) })
            }
        }
    }

    /// Whether the body can still be read from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.inner {
            None => true,
            Some(Inner { source: Source::Direct(_), .. }) => true,
            Some(Inner { source: Source::Kept { kept, .. }, .. }) => kept.lock().is_whole,
        }
    }
}

impl Inner {
    /// Whether the body is still to wait for the upstream's word.
    fn is_held(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(patience) = &mut self.held else { return false };
        *self.progress.reader.lock() = Some(cx.waker().clone());
        if self.progress.wanted.load(Ordering::Acquire) || patience.as_mut().poll(cx).is_ready() {
            self.held = None;
        }
        self.held.is_some()
    }
}

impl Silence {
    /// Whether it lasted too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = self.limit;
        self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx).is_ready()
    }
}

impl Source {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        progress: &ClientBody,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Direct(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Kept { kept, next } => {
                *progress.reader.lock() = Some(cx.waker().clone());
                kept.lock().poll(cx, next, progress.answered.load(Ordering::Acquire))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(incoming) => incoming.is_end_stream(),
            Self::Kept { kept, next } => {
                let kept = kept.lock();
                *next >= kept.pieces.len() && kept.incoming.is_end_stream()
            }
        }
    }
}

impl Kept {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        next: &mut usize,
        answered: bool,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(piece) = self.pieces.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(piece.clone().into_frame())));
        }
        if answered && self.is_whole {
            self.forget();
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && self.is_whole
        {
            self.keep(frame);
            *next = self.pieces.len();
        }
        polled
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > MAX_KEPT_BYTES {
            self.forget();
        } else {
            self.pieces.push_back(piece);
        }
    }

    fn forget(&mut self) {
        self.is_whole = false;
        self.pieces = VecDeque::new();
    }
}

impl Piece {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        if inner.progress.cancelled.load(Ordering::Acquire) {
            let reason = h2::Error::from(h2::Reason::CANCEL);
            return Poll::Ready(Some(Err(RequestBodyError::Cancelled(reason))));
        }
        if inner.is_held(cx) {
            return Poll::Pending;
        }
        let polled = inner.source.poll(cx, &inner.progress);
        if let Some(silence) = &mut inner.silence {
            if polled.is_ready() {
                silence.until = None;
            } else if silence.is_over(cx) {
                inner.progress.note(SILENT);
                return Poll::Ready(Some(Err(RequestBodyError::Silent(h2::Reason::CANCEL.into()))));
            }
        }
        inner.progress.note(match &polled {
            Poll::Ready(Some(Err(_))) => BROKEN,
            Poll::Ready(None) => COMPLETE,
            Poll::Ready(Some(Ok(_))) if inner.source.is_end_stream() => COMPLETE,
            Poll::Ready(Some(Ok(_))) => OFFERED,
            Poll::Pending => AWAITED,
        });
        polled.map_err(RequestBodyError::Client)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            None => SizeHint::with_exact(0),
            Some(Inner { source: Source::Direct(incoming), .. }) => incoming.size_hint(),
            Some(Inner { source: Source::Kept { kept, next }, .. }) => {
                if *next == 0 && kept.lock().pieces.is_empty() {
                    kept.lock().incoming.size_hint()
                } else {
                    SizeHint::default()
                }
            }
        }
    }
}
