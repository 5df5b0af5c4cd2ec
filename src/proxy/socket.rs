//! Writing to a socket by the cheapest call there is.
//!
//! It must not hold bytes back. A head and a short body come as several parts; the kernel takes them as one sooner
//! than it walks through a list, so short ones are put together first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Up to this many bytes are put together; copying more costs more than the list.
const SHORT: usize = 1024;

/// A socket whose short writes are single ones.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl Socket {
    /// Wraps `stream`.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The socket itself.
    pub(crate) fn get(&self) -> &TcpStream {
        &self.0
    }

    /// The socket itself, for good.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.0
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = parts {
            return self.inner().poll_write(cx, only);
        }
        let mut short = [0; SHORT];
        match joined(parts, &mut short) {
            Some(bytes) => self.inner().poll_write(cx, bytes),
            None => self.inner().poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// All parts as one, where they fit.
fn joined<'a>(parts: &[IoSlice<'_>], room: &'a mut [u8; SHORT]) -> Option<&'a [u8]> {
    let mut length = 0;
    for part in parts {
        room.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    Some(&room[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_fit_are_put_together_in_order() {
        let mut room = [0; SHORT];
        let parts = [b"head".as_slice(), b"", b"body"].map(IoSlice::new);
        assert_eq!(joined(&parts, &mut room), Some(&b"headbody"[..]));
        assert_eq!(joined(&[], &mut room), Some(&b""[..]));
        let full = [vec![1; SHORT - 1], vec![2]];
        assert_eq!(joined(&full.each_ref().map(|part| IoSlice::new(part)), &mut room).map(<[u8]>::len), Some(SHORT));
    }

    #[test]
    fn parts_that_do_not_fit_are_left_to_the_kernel() {
        let mut room = [0; SHORT];
        let long = [vec![1; SHORT], vec![2]];
        assert_eq!(joined(&long.each_ref().map(|part| IoSlice::new(part)), &mut room), None);
    }
}
