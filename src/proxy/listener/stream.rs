//! A client's socket: bytes that were read ahead, counters, and an end that is ours to choose.
//!
//! It must not close the socket when a protocol ends on it: the socket may go on as an idle connection
//! or as a tunnel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::activity::Activity;
use super::flood::FrameMeter;
use crate::socket::Socket;

/// How much a client may still send after its last answer before its connection is closed.
const LINGER_BYTES: usize = 256 << 10;

/// How long that may take.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientStream {
    prefix: Bytes,
    stream: Socket,
    activity: Arc<Activity>,
    end: End,
    farewell: Option<Box<Farewell>>,
    frames: Option<FrameMeter>,
    /// What is still to be sent of interim answers.
    interim: Bytes,
    /// The parser holds no bytes that it wanted sent: what it sends next belongs to the request in flight.
    flushed: bool,
}

/// What the end of the protocol means for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing: HTTP's end is not yet the socket's.
    HttpOnly,
    /// No more is sent, and what the client still sends is read for a moment: a socket closed over unread bytes
    /// would take back what was sent last.
    Gentle,
    /// No more is sent.
    Sending,
}

/// Reading what a client still sends after the last was sent to it, within bounds.
#[derive(Debug)]
struct Farewell {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Farewell {
    fn begin() -> Self {
        Self { left: LINGER_BYTES, until: Box::pin(tokio::time::sleep(LINGER_TIME)) }
    }

    /// Ready when the client ended its sending too, or a bound was met.
    fn poll(&mut self, stream: &mut Socket, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = [0; 1024];
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut room);
            let read = std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            match buffer.filled().len() {
                1.. if read.is_ok() => self.left = self.left.saturating_sub(buffer.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl ClientStream {
    /// A connection of which nothing was read.
    pub(crate) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            prefix: Bytes::new(),
            stream: Socket::new(stream),
            activity,
            end: End::HttpOnly,
            farewell: None,
            frames: None,
            interim: Bytes::new(),
            flushed: true,
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get()
    }

    /// What happens on it.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// From now on HTTP/2 is spoken, and its frames are counted.
    pub(crate) fn into_http2(mut self) -> Self {
        self.frames = Some(FrameMeter::new());
        self.end = End::Gentle;
        self
    }

    /// Follows what was read; a client that floods is cut off.
    fn met(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        if self.activity.take_forgiveness() {
            frames.forgive();
        }
        Ok(frames.read(bytes)?)
    }

    /// From now on the stream carries bytes, and each side ends its own sending.
    pub(crate) fn into_tunnel(mut self) -> Self {
        self.activity.forbid_half_close();
        self.end = End::Sending;
        self
    }

    /// From now on HTTP/1 is spoken again.
    pub(crate) fn into_http1(mut self) -> Self {
        self.end = End::HttpOnly;
        self
    }

    /// When it is dropped the client sees a connection that broke.
    pub(crate) fn reset(&self) {
        // A socket that refuses is closed all the same.
        let _ = self.socket().set_zero_linger();
    }

    /// Whether bytes were read that nobody has taken yet.
    pub(crate) fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Gives bytes back that were read but not used.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        // Even an empty part of a buffer would keep the whole buffer alive.
        if bytes.is_empty() {
            return;
        }
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else {
            let mut both = BytesMut::from(&bytes[..]);
            both.extend_from_slice(&self.prefix);
            self.prefix = both.freeze();
        }
    }

    /// Ends the connection so that the last answer arrives: a socket closed over unread bytes would take it back.
    pub(crate) async fn close(mut self) {
        // An end that can't be said is one all the same.
        let _ = std::future::poll_fn(|cx| self.say_farewell(cx)).await;
    }

    fn say_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let farewell = match &mut self.farewell {
            Some(farewell) => farewell,
            None => {
                std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                self.farewell.insert(Box::new(Farewell::begin()))
            }
        };
        farewell.poll(&mut self.stream, cx).map(Ok)
    }

    /// Sends interim answers where that is their place: after all of earlier answers and before all of their own.
    fn send_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let more = self.activity.take_interim();
        if self.flushed && !more.is_empty() {
            self.interim = [&self.interim[..], &more].concat().into();
        }
        while !self.interim.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.interim);
            let sent = std::task::ready!(self.wrote(polled))?;
            self.interim = self.interim.split_off(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket, of a client that floods only little at once.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = self.frames.as_ref().map_or(usize::MAX, FrameMeter::read_bytes);
        if most >= buffer.remaining() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let length = part.filled().len();
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Ready(Ok(bytes)) => {
                self.activity.note_written(*bytes);
                if let Some(frames) = &mut self.frames {
                    frames.wrote(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.note_write_blocked(),
        }
        polled
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let length = this.prefix.len().min(buffer.remaining());
            let bytes = this.prefix.split_to(length);
            buffer.put_slice(&bytes);
            if this.prefix.is_empty() {
                this.prefix = Bytes::new();
            }
            this.activity.note_reread();
            return Poll::Ready(this.met(&bytes));
        }
        if this.frames.as_mut().is_some_and(FrameMeter::has_had_its_turn) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        std::task::ready!(this.read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 if this.activity.holds_end_back(cx.waker()) => Poll::Pending,
            0 => Poll::Ready(Ok(())),
            length => {
                this.activity.note_read(length);
                Poll::Ready(this.met(&buffer.filled()[before..]))
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.send_interim(cx))?;
        this.flushed = false;
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.send_interim(cx))?;
        this.flushed = false;
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.flushed = true;
        this.send_interim(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.end {
            End::HttpOnly => Poll::Ready(Ok(())),
            End::Gentle => this.say_farewell(cx),
            End::Sending => Pin::new(&mut this.stream).poll_shutdown(cx),
        }
    }
}
