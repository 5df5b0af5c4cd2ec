//! The access log: one line of JSON for each request, on standard output.
//!
//! It must never hold a request up. A request writes its line into memory that belongs to its thread's share; one thread
//! of its own carries it out. When that thread can't keep up lines are dropped and counted, because a log that
//! blocks makes its reader a part of every request.

mod line;
mod outlet;

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Version};

use self::line::{HEX, Line};
use self::outlet::Outlet;
use crate::parse::ArgumentError;

/// What carries a request's identifier.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest identifier that is taken from a client.
const MAX_ID_BYTES: usize = 128;

/// Buffers kept by each thread for its next lines.
const MAX_SPARES: usize = 64;

/// A buffer that grew beyond this is not kept.
const MAX_SPARE_BYTES: usize = 4 << 10;

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AccessLogMode {
    /// None, and nothing is done for it.
    #[default]
    Off,
    /// Every one.
    All,
    /// Those that were refused, failed, or were answered with 500 or above.
    Errors,
    /// A share of all, in percent, taken at random.
    Sampled(f64),
}

/// Where lines go.
#[derive(Debug)]
pub(crate) struct AccessLog {
    mode: AccessLogMode,
    outlet: Arc<Outlet>,
    ids: RandomState,
}

/// A request's line, begun when its head was there.
#[derive(Debug)]
pub(crate) struct Entry {
    outlet: Arc<Outlet>,
    errors_only: bool,
    line: Line,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended<'a> {
    /// What the client got; 0 where it got no answer.
    pub(crate) status: u16,
    /// From the head to the end.
    pub(crate) took: Duration,
    /// Bytes of the answer's body.
    pub(crate) bytes: u64,
    /// What went wrong, as header `fusebox-error` names it; empty where nothing did.
    pub(crate) error: &'a str,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// When its head was there, in Unix milliseconds.
    pub(crate) unix_ms: i64,
    /// The client; none where the system no longer knows it.
    pub(crate) peer: Option<SocketAddr>,
    /// `inbound` or `outbound`.
    pub(crate) direction: &'static str,
    /// What it was written in, before it was made fit for the upstream.
    pub(crate) version: Version,
}

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Numbers of this thread's requests; no two threads have one in common.
    static COUNT: Cell<u64> = Cell::new(THREADS.fetch_add(1, Relaxed) << 48);
}

static THREADS: AtomicU64 = AtomicU64::new(0);

impl AccessLog {
    /// Begins to carry lines to `destination`; none when nothing is to be logged.
    pub(crate) fn start(mode: AccessLogMode, destination: Box<dyn Write + Send>) -> Option<Self> {
        if mode == AccessLogMode::Off {
            return None;
        }
        let outlet = Outlet::start(destination)
            .inspect_err(|error| tracing::error!(%error, "no thread for the access log; it stays off"))
            .ok()?;
        Some(Self { mode, outlet, ids: RandomState::new() })
    }

    /// Lines that were dropped because they came faster than they could be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.outlet.dropped()
    }

    /// Begins the line of a request, which has an identifier from here on; none where this one is not logged.
    pub(crate) fn begin<B>(&self, request: &mut Request<B>, origin: Origin) -> Option<Entry> {
        let number = COUNT.with(|count| count.replace(count.get().wrapping_add(1)));
        let random = self.ids.hash_one(number);
        identify(request, random, || self.ids.hash_one((random, number)));
        if let AccessLogMode::Sampled(percent) = self.mode
            && (random % 1_000_000) as f64 >= percent * 10_000.0
        {
            return None;
        }
        let spare = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut line = Line::begin(spare, origin.unix_ms);
        describe(&mut line, request, origin);
        Some(Entry { outlet: Arc::clone(&self.outlet), errors_only: self.mode == AccessLogMode::Errors, line })
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.outlet.finish();
    }
}

impl Entry {
    /// Adds what was found out about the request; left out where it is empty.
    pub(crate) fn note(&mut self, name: &'static str, value: &str) {
        self.line.text(name, value.as_bytes());
    }

    /// Ends the line and gives it away.
    pub(crate) fn finish(mut self, ended: Ended<'_>) {
        let Ended { status, took, bytes, error } = ended;
        let went_wrong = !error.is_empty() || status >= 500 || status == 0;
        if !self.errors_only || went_wrong {
            self.line.number("status", u64::from(status));
            self.line.millis("durationMs", took);
            self.line.number("bytes", bytes);
            self.line.text("error", error.as_bytes());
            self.outlet.put(self.line.end());
        }
        let mut spare = self.line.into_buffer();
        if spare.capacity() <= MAX_SPARE_BYTES {
            spare.clear();
            SPARES.with_borrow_mut(|spares| {
                if spares.len() < MAX_SPARES {
                    spares.push(spare);
                }
            });
        }
    }
}

impl FromStr for AccessLogMode {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let shape = ArgumentError::Shape("off, all, errors or sampled:PERCENT, such as sampled:5");
        match text {
            "off" => Ok(Self::Off),
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            _ => match text.strip_prefix("sampled:").map(str::parse::<f64>) {
                Some(Ok(percent)) if percent > 0.0 && percent <= 100.0 => Ok(Self::Sampled(percent)),
                _ => Err(shape),
            },
        }
    }
}

/// Keeps a sane identifier and makes one otherwise; the upstream gets the same one that is logged.
fn identify<B>(request: &mut Request<B>, high: u64, low: impl Fn() -> u64) {
    let mut given = request.headers().get_all(REQUEST_ID).iter();
    let sane = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        (1..=MAX_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(allowed)
    };
    if given.next().is_some_and(sane) && given.next().is_none() {
        return;
    }
    let low = low();
    let mut digits = [0; 32];
    for (digit, shift) in digits.iter_mut().zip((0..u128::BITS).step_by(4).rev()) {
        let id = (u128::from(high) << 64) | u128::from(low);
        *digit = HEX[(id >> shift) as usize & 15];
    }
    // Hexadecimal digits are always a header's value.
    if let Ok(id) = HeaderValue::from_bytes(&digits) {
        request.headers_mut().insert(REQUEST_ID, id);
    }
}

fn describe<B>(line: &mut Line, request: &Request<B>, origin: Origin) {
    let headers = request.headers();
    let value = |name: &HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    line.text("requestId", value(&REQUEST_ID));
    line.text("traceId", trace_id(value(&TRACEPARENT)).unwrap_or_default());
    line.text("method", request.method().as_str().as_bytes());
    // The query may hold what nobody should read in a log.
    line.text("path", request.uri().path().as_bytes());
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    line.text("authority", authority.unwrap_or_else(|| value(&header::HOST)));
    line.text("protocol", protocol(origin.version));
    line.text("direction", origin.direction.as_bytes());
    if let Some(peer) = origin.peer {
        line.address("peer", peer);
    }
}

fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2",
        _ => b"HTTP/1.1",
    }
}

/// The trace's identifier in a `traceparent` (W3C Trace Context section 3.2); none where it is malformed.
fn trace_id(traceparent: &[u8]) -> Option<&[u8]> {
    let hex = |bytes: &[u8]| bytes.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    let mut parts = traceparent.split(|byte| *byte == b'-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    let whole = lengths && [version, trace, parent, flags].into_iter().all(hex);
    let known = version != b"ff" && (version != b"00" || parts.next().is_none());
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == b'0');
    (whole && known && !zero(trace) && !zero(parent)).then_some(trace)
}

#[cfg(test)]
mod tests;
