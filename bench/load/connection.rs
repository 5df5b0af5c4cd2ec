//! One socket of the load generator or of an upstream: reads, hands the bytes to its role, writes.
//!
//! It must not block, and must not read twice where once was enough: with edge-triggered events a read that did not
//! fill the buffer has emptied the socket (epoll(7), question 9).

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use mio::net::TcpStream;

use super::{Completed, Wrong, grpc, grpc_upstream, http1};

/// What a socket is for.
#[derive(Debug)]
pub(super) enum Role {
    Http1Client(http1::Client),
    GrpcClient(Box<grpc::Client>),
    Http1Upstream,
    GrpcUpstream(Box<grpc_upstream::Upstream>),
}

/// A socket with what is half read and half written.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    role: Role,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

/// What a read needs and gives.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    pub(super) buffer: &'a mut [u8],
    pub(super) completed: &'a mut Vec<Completed>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, role: Role) -> Self {
        Self { stream, role, unread: Vec::new(), unsent: Vec::new() }
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self.role, Role::Http1Client(_) | Role::GrpcClient(_))
    }

    /// Writes one more request into the buffer; `flush` sends it.
    pub(super) fn start(&mut self, intended: Instant) {
        match &mut self.role {
            Role::Http1Client(client) => client.start(intended, &mut self.unsent),
            Role::GrpcClient(client) => client.start(intended, &mut self.unsent),
            Role::Http1Upstream | Role::GrpcUpstream(_) => {}
        }
    }

    /// Sends what the socket takes; the rest waits for its next writable event.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The peer of an upstream may go at any time; its end is read next.
                Err(_) if !self.is_client() => self.unsent.clear(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until the socket is empty; false when the peer closed an upstream's connection.
    ///
    /// # Errors
    /// A wrong answer, and a client's connection that ended.
    pub(super) fn read(&mut self, progress: &mut Progress<'_>) -> Result<bool, Wrong> {
        loop {
            match self.stream.read(progress.buffer) {
                Ok(0) if self.is_client() => return Err(Wrong("the proxy closed a connection".to_owned())),
                Ok(0) => return Ok(false),
                Ok(length) => {
                    self.take(length, progress)?;
                    if length < progress.buffer.len() {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.is_client() => return Err(Wrong(format!("a connection broke: {error}"))),
                Err(_) => return Ok(false),
            }
        }
    }

    fn take(&mut self, length: usize, progress: &mut Progress<'_>) -> Result<(), Wrong> {
        let fresh = &progress.buffer[..length];
        if self.unread.is_empty() {
            let done = self.role.receive(fresh, &mut self.unsent, progress.completed)?;
            self.unread.extend_from_slice(&fresh[done..]);
        } else {
            self.unread.extend_from_slice(fresh);
            let done = self.role.receive(&self.unread, &mut self.unsent, progress.completed)?;
            self.unread.drain(..done);
        }
        Ok(())
    }
}

impl Role {
    fn receive(&mut self, input: &[u8], output: &mut Vec<u8>, completed: &mut Vec<Completed>) -> Result<usize, Wrong> {
        let note = |intended| completed.push(Completed { intended, at: Instant::now() });
        match self {
            Self::Http1Client(client) => client.receive(input, note),
            Self::GrpcClient(client) => client.receive(input, output, note),
            Self::Http1Upstream => Ok(http1::answer(input, output)),
            Self::GrpcUpstream(upstream) => upstream.receive(input, output),
        }
    }
}
