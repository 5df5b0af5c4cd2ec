//! The load generator and both upstreams, in one thread and one event loop.
//!
//! Owns the sockets and the pace: closed loop for saturation, open loop at a constant rate for latency. It must not wait
//! for answers in the open loop: a latency counts from the moment at which the request was due. One thread does all,
//! because load and upstream share a core, and each switch between them would be taken from what they can carry.

mod connection;
mod frame;
mod grpc;
mod grpc_upstream;
mod hpack;
mod http1;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use connection::{Connection, Progress, Role};

use crate::scenario::Protocol;

/// How many connections, and how many requests at once on each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) streams: usize,
}

/// The event loop.
#[derive(Debug)]
pub(crate) struct Engine {
    poll: Poll,
    events: Events,
    http1: TcpListener,
    grpc: TcpListener,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    buffer: Box<[u8]>,
    /// The right to send one more request, by client connection; used in turn.
    slots: VecDeque<usize>,
    /// What completed since it was last looked at.
    completed: Vec<Completed>,
    pace: Pace,
}

/// An answer that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("wrong answer: {0}")]
struct Wrong(String);

/// One request that was answered.
#[derive(Debug, Clone, Copy)]
struct Completed {
    intended: Instant,
    at: Instant,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The next request, at once.
    Closed,
    /// Nothing: the schedule says when.
    Open,
}

/// Requests at a constant rate.
#[derive(Debug)]
struct Schedule {
    begin: Instant,
    rate: u32,
    sent: u32,
    total: u32,
}

const HTTP1_LISTENER: Token = Token(usize::MAX - 1);
const GRPC_LISTENER: Token = Token(usize::MAX - 2);
const EVENTS_AT_ONCE: usize = 1024;
const READ_AT_ONCE: usize = 64 * 1024;
/// A request that is due for so long and cannot be sent: the rate is beyond what the proxy carries.
const LONGEST_BACKLOG: Duration = Duration::from_secs(5);
/// How long the last answers of a run may take.
const STRAGGLERS: Duration = Duration::from_secs(10);
/// No request for so long, while all wait for answers, is a hang.
const SILENCE: Duration = Duration::from_secs(10);
/// From 1 ns to a minute, three significant digits.
const LONGEST_NANOSECONDS: u64 = 60_000_000_000;

impl Engine {
    /// Binds both upstreams to free ports of the loopback.
    ///
    /// # Errors
    /// No port, or no epoll.
    pub(crate) fn new() -> Result<Self> {
        let poll = Poll::new().context("cannot create an event loop")?;
        let listen = |token| -> io::Result<TcpListener> {
            let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            poll.registry().register(&mut listener, token, Interest::READABLE)?;
            Ok(listener)
        };
        Ok(Self {
            http1: listen(HTTP1_LISTENER).context("cannot listen as the HTTP/1.1 upstream")?,
            grpc: listen(GRPC_LISTENER).context("cannot listen as the gRPC upstream")?,
            poll,
            events: Events::with_capacity(EVENTS_AT_ONCE),
            connections: Vec::new(),
            vacant: Vec::new(),
            buffer: vec![0; READ_AT_ONCE].into(),
            slots: VecDeque::new(),
            completed: Vec::new(),
            pace: Pace::Open,
        })
    }

    /// Where the upstream for `protocol` listens.
    pub(crate) fn upstream(&self, protocol: Protocol) -> Result<SocketAddr> {
        let listener = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Grpc => &self.grpc,
        };
        Ok(listener.local_addr()?)
    }

    /// Opens client connections to `target`; none of them has sent anything yet.
    pub(crate) fn open(&mut self, target: SocketAddr, protocol: Protocol, shape: Shape) -> Result<()> {
        let opened: Result<Vec<usize>> = (0..shape.connections).map(|_| self.open_one(target, protocol)).collect();
        let opened = opened?;
        self.slots = (0..shape.streams).flat_map(|_| opened.iter().copied()).collect();
        Ok(())
    }

    /// Closes all client connections, and lets the upstream's ends follow.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.slots.clear();
        for index in 0..self.connections.len() {
            if self.connections[index].as_ref().is_some_and(Connection::is_client) {
                self.forget(index);
            }
        }
        self.rest(Duration::from_millis(50))
    }

    /// Serves the upstreams for `duration`, and sends nothing. What was in flight may end.
    pub(crate) fn rest(&mut self, duration: Duration) -> Result<()> {
        self.pace = Pace::Open;
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.turn(Some(left))?;
        }
        Ok(())
    }

    /// Keeps every slot busy for `duration`, and returns how many requests were answered.
    pub(crate) fn saturate(&mut self, duration: Duration) -> Result<u64> {
        self.pace = Pace::Closed;
        self.completed.clear();
        let begin = Instant::now();
        while let Some(index) = self.slots.pop_front() {
            self.start(index, begin)?;
        }
        let (mut answered, mut last) = (0, begin);
        while begin.elapsed() < duration {
            self.turn(Some(duration))?;
            if let Some(newest) = self.completed.last() {
                last = newest.at;
            }
            ensure!(last.elapsed() < SILENCE, "no answer within {SILENCE:?}");
            answered += self.completed.len() as u64;
            self.completed.clear();
        }
        Ok(answered)
    }

    /// Sends `rate` requests a second for `duration`, and returns the latencies in nanoseconds, each counted from when
    /// its request was due. It spins rather than sleeps: a timer's lateness would be read as the proxy's.
    pub(crate) fn constant_rate(&mut self, rate: u32, duration: Duration) -> Result<Histogram<u64>> {
        self.pace = Pace::Open;
        self.completed.clear();
        let total = (f64::from(rate) * duration.as_secs_f64()).round() as u32;
        let mut schedule = Schedule { begin: Instant::now(), rate, sent: 0, total };
        let mut latencies = Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, 3)?;
        while latencies.len() < u64::from(total) {
            self.send_due(&mut schedule)?;
            self.turn(Some(Duration::ZERO))?;
            for completed in self.completed.drain(..) {
                let latency = completed.at.saturating_duration_since(completed.intended);
                latencies.saturating_record(u64::try_from(latency.as_nanos())?.max(1));
            }
            let late = schedule.begin.elapsed() > duration + STRAGGLERS;
            ensure!(
                !late,
                "{} of {total} answers are missing after {STRAGGLERS:?}",
                u64::from(total) - latencies.len()
            );
        }
        Ok(latencies)
    }

    fn send_due(&mut self, schedule: &mut Schedule) -> Result<()> {
        let now = Instant::now();
        while schedule.sent < schedule.total && schedule.due() <= now {
            let Some(index) = self.slots.pop_front() else {
                let behind = now - schedule.due();
                ensure!(behind < LONGEST_BACKLOG, "{} requests a second are beyond what it carries", schedule.rate);
                return Ok(());
            };
            self.start(index, schedule.due())?;
            schedule.sent += 1;
        }
        Ok(())
    }

    fn open_one(&mut self, target: SocketAddr, protocol: Protocol) -> Result<usize> {
        let stream = std::net::TcpStream::connect(target).with_context(|| format!("cannot connect to {target}"))?;
        stream.set_nonblocking(true)?;
        let role = match protocol {
            Protocol::Http1 => Role::Http1Client(http1::Client::default()),
            Protocol::Grpc => Role::GrpcClient(Box::default()),
        };
        Ok(self.add(mio::net::TcpStream::from_std(stream), role)?)
    }

    fn add(&mut self, stream: mio::net::TcpStream, role: Role) -> io::Result<usize> {
        stream.set_nodelay(true)?;
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let mut connection = Connection::new(stream, role);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut connection.stream, Token(index), interest)?;
        self.connections[index] = Some(connection);
        Ok(index)
    }

    /// Dropping a socket takes it off the event loop too.
    fn forget(&mut self, index: usize) {
        self.connections[index] = None;
        self.vacant.push(index);
    }

    fn start(&mut self, index: usize, intended: Instant) -> Result<()> {
        let Some(connection) = &mut self.connections[index] else { bail!("a slot without a connection") };
        connection.start(intended);
        Ok(connection.flush()?)
    }

    /// Waits for events and handles them.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let handled = events.iter().try_for_each(|event| match event.token() {
            HTTP1_LISTENER | GRPC_LISTENER => self.accept(event.token()),
            Token(index) => self.ready(index, event.is_readable() || event.is_read_closed()),
        });
        self.events = events;
        handled
    }

    fn accept(&mut self, listener: Token) -> Result<()> {
        loop {
            let (listener, role) = match listener {
                HTTP1_LISTENER => (&self.http1, Role::Http1Upstream),
                _ => (&self.grpc, Role::GrpcUpstream(Box::default())),
            };
            match listener.accept() {
                Ok((stream, _)) => self.add(stream, role)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the upstream cannot accept"),
            };
        }
    }

    fn ready(&mut self, index: usize, readable: bool) -> Result<()> {
        // An event for a connection that an earlier event of the same turn ended.
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if readable {
            let before = self.completed.len();
            let mut progress = Progress { buffer: &mut self.buffer, completed: &mut self.completed };
            let alive = connection.read(&mut progress)?;
            let answered = self.completed.len() - before;
            if self.pace == Pace::Closed {
                let now = self.completed.last().map_or_else(Instant::now, |completed| completed.at);
                (0..answered).for_each(|_| connection.start(now));
            } else {
                self.slots.extend(std::iter::repeat_n(index, answered));
            }
            if !alive {
                self.forget(index);
                return Ok(());
            }
        }
        Ok(connection.flush()?)
    }
}

impl Schedule {
    fn due(&self) -> Instant {
        let nanoseconds = u64::from(self.sent) * 1_000_000_000 / u64::from(self.rate);
        self.begin + Duration::from_nanos(nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { connections: 4, streams: 2 };

    #[test]
    fn a_direct_run_answers_everything_that_was_due() {
        for protocol in [Protocol::Http1, Protocol::Grpc] {
            let mut engine = Engine::new().unwrap();
            let streams = if protocol == Protocol::Http1 { 1 } else { 2 };
            engine.open(engine.upstream(protocol).unwrap(), protocol, Shape { streams, ..SHAPE }).unwrap();
            let latencies = engine.constant_rate(1_000, Duration::from_millis(100)).unwrap();
            assert_eq!(latencies.len(), 100, "{protocol:?}");
            assert!(engine.saturate(Duration::from_millis(200)).unwrap() > 0, "{protocol:?}");
            engine.close().unwrap();
            assert_eq!(engine.vacant.len(), engine.connections.len(), "both ends of every connection are gone");
        }
    }

    #[test]
    fn the_wrong_protocol_is_an_error_and_not_a_figure() {
        let mut engine = Engine::new().unwrap();
        engine.open(engine.upstream(Protocol::Grpc).unwrap(), Protocol::Http1, SHAPE).unwrap();
        let error = engine.saturate(Duration::from_secs(5)).unwrap_err();
        assert!(format!("{error:#}").contains("HTTP/2"), "{error:#}");
    }

    #[test]
    fn requests_are_due_at_even_distances() {
        let begin = Instant::now();
        let schedule = Schedule { begin, rate: 2_000, sent: 3, total: 10 };
        assert_eq!(schedule.due() - begin, Duration::from_micros(1_500));
    }
}
