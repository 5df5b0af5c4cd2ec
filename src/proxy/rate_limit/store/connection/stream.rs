//! The stream to a server, on which the other side may not say more than befits what it was asked.
//!
//! It must not hold back what was written: it only counts. The library reads whatever comes, so that the bound stands below it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a server may send before it was asked anything, and for each byte that it was sent since. An answer of ours is never as
/// long as its question; a cluster's list of slots is.
const UNASKED_BYTES: u64 = 1 << 20;
const BYTES_FOR_EACH_SENT: u64 = 16;

/// A stream on which the other side may not say more than befits what it was asked.
pub(super) struct Bounded<S> {
    inner: S,
    may_read: u64,
    last_word: LastWord,
}

/// Why the other side ended TLS, as far as it said so. The library that reads the stream would keep it to itself.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWord(Arc<OnceLock<AlertDescription>>);

impl<S> Bounded<S> {
    /// A stream to a server that was asked nothing yet.
    pub(super) fn new(inner: S, last_word: LastWord) -> Self {
        Self { inner, may_read: UNASKED_BYTES, last_word }
    }
}

impl LastWord {
    /// Remembers what an error says of it.
    pub(super) fn note(&self, error: &io::Error) {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = of_tls {
            // The first one ended it.
            let _ = self.0.set(*alert);
        }
    }

    /// What it was.
    pub(super) fn get(&self) -> Option<AlertDescription> {
        self.0.get().copied()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(ctx, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            self.last_word.note(error);
        }
        let read = u64::try_from(buffer.filled().len() - before).unwrap_or(u64::MAX);
        match self.may_read.checked_sub(read) {
            Some(left) => {
                self.may_read = left;
                polled
            }
            None => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the store says more than it was asked")))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(ctx, bytes);
        if let Poll::Ready(Ok(sent)) = &polled {
            let more = u64::try_from(*sent).unwrap_or(u64::MAX).saturating_mul(BYTES_FOR_EACH_SENT);
            self.may_read = self.may_read.saturating_add(more);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(ctx)
    }
}
