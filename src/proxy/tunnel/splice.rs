//! Bytes from one socket to the other and back, with nothing held for a connection that is silent.
//!
//! It must not change what it carries, with two exceptions, both for connections that began before a policy stood in their way
//! and only on request: an HTTP/1 request that begins is handed over unsent, and an HTTP/2 client is told to connect anew.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::{FarewellFrame, Frames};
use crate::listener::detect::{self, Spoken};
use crate::listener::stream::ClientStream;

/// Bytes read at once. They are on the stack, and stay only if the other side does not take them.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Splice {
    pub(super) client: ClientStream,
    upstream: TcpStream,
    up: Flow,
    down: Flow,
    first: Option<Spoken>,
    last: Speaker,
    frames: Frames,
    takeover: Takeover,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides were done.
    Complete,
    /// One of them broke off.
    Broken(io::Error),
    /// The client began another request, of which these bytes were read and not passed on.
    NewRequest(Bytes),
}

/// Who sent the latest bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaker {
    Client,
    Upstream,
}

/// Whether HTTP is to be served here from the next chance on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takeover {
    No,
    Wanted,
    /// An HTTP/2 client was told.
    Told,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    held: Bytes,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    Ending,
    Done,
}

impl Splice {
    /// `prefix` was read from `upstream` already.
    pub(super) fn new(client: ClientStream, upstream: TcpStream, prefix: Bytes) -> Self {
        Self {
            client,
            upstream,
            up: Flow::default(),
            down: Flow { held: prefix, stage: Stage::Open },
            first: None,
            last: Speaker::Client,
            frames: Frames::default(),
            takeover: Takeover::No,
        }
    }

    /// Asks for the client's next request, if what it speaks is HTTP.
    pub(super) fn take_over(&mut self) {
        if self.takeover == Takeover::No {
            self.takeover = Takeover::Wanted;
        }
    }

    /// Whether one side has ended its sending and the other has not.
    pub(super) fn is_half_closed(&self) -> bool {
        (self.up.stage == Stage::Open) != (self.down.stage == Stage::Open)
    }

    /// Both sides see that the connection broke, as they would have without anybody between them.
    pub(super) fn reset(&self) {
        self.client.reset();
        // A socket that refuses is closed all the same.
        let _ = self.upstream.set_zero_linger();
    }

    /// Carries what can be carried.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let up = match self.poll_up(cx) {
            Poll::Ready(Ok(Some(request))) => return Poll::Ready(Ended::NewRequest(request)),
            Poll::Ready(Ok(None)) => Poll::Ready(()),
            Poll::Ready(Err(error)) => return Poll::Ready(Ended::Broken(error)),
            Poll::Pending => Poll::Pending,
        };
        match self.poll_down(cx) {
            Poll::Ready(Ok(())) => up.map(|()| Ended::Complete),
            Poll::Ready(Err(error)) => Poll::Ready(Ended::Broken(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Self { client, upstream, up, down, first, last, takeover, .. } = self;
        loop {
            ready!(up.poll_held(cx, upstream))?;
            if up.stage == Stage::Done {
                return Poll::Ready(Ok(None));
            }
            let mut room = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut buffer = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *client).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            let began = *first.get_or_insert_with(|| detect::spoken(bytes));
            // After an answer that is out, only a request can follow; a body or another protocol does not begin like one.
            let is_request =
                *last == Speaker::Upstream && down.held.is_empty() && detect::spoken(bytes) == Spoken::Http1;
            if *takeover == Takeover::Wanted && began == Spoken::Http1 && is_request {
                return Poll::Ready(Ok(Some(Bytes::copy_from_slice(bytes))));
            }
            *last = Speaker::Client;
            up.pass(cx, bytes, upstream)?;
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { client, upstream, down, first, last, frames, takeover, .. } = self;
        loop {
            ready!(down.poll_held(cx, client))?;
            if down.stage == Stage::Done {
                return Poll::Ready(Ok(()));
            }
            if *takeover == Takeover::Wanted && *first == Some(Spoken::Http2) && frames.is_between() {
                *takeover = Takeover::Told;
                down.held = Bytes::from_static(FarewellFrame::BYTES);
                continue;
            }
            let mut room = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut buffer = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *upstream).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if matches!(first, None | Some(Spoken::Http2)) {
                frames.read(bytes);
            }
            *last = Speaker::Upstream;
            down.pass(cx, bytes, client)?;
        }
    }
}

impl Flow {
    /// Writes what the other side did not take before, and passes the end on.
    fn poll_held<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.held.split_to(written);
            if self.held.is_empty() {
                self.held = Bytes::new();
            }
        }
        if self.stage == Stage::Ending {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.stage = Stage::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on what was just read; none is the end.
    fn pass<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, bytes: &[u8], to: &mut W) -> io::Result<()> {
        if bytes.is_empty() {
            self.stage = Stage::Ending;
            return Ok(());
        }
        let written = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if written < bytes.len() {
            self.held = Bytes::copy_from_slice(&bytes[written..]);
        }
        Ok(())
    }
}
