//! Clients that mean harm, over bare sockets, for as long as they are let.
//!
//! It must not care how they are answered: what matters is what becomes of everybody else, which is for others to measure.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long one connection of an attacker may last.
const PATIENCE: Duration = Duration::from_secs(10);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A way to attack.
struct Attack {
    /// What is sent first.
    first: Vec<u8>,
    /// What is sent again and again after it; nothing where one message is all.
    again: Vec<u8>,
    /// How long the attacker rests before it sends more.
    rest: Duration,
}

/// Attacks `address` in every way at once, until it is dropped; a connection that ends is followed by another.
#[must_use]
pub fn begin(address: SocketAddr) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    for attack in attacks() {
        attackers.spawn(async move {
            loop {
                // What the other side makes of it is its affair.
                let _ = tokio::time::timeout(PATIENCE, attack.carry_out(address)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    attackers
}

impl Attack {
    fn once(first: impl Into<Vec<u8>>) -> Self {
        Self { first: first.into(), again: Vec::new(), rest: Duration::ZERO }
    }

    fn flood(first: &[u8], again: Vec<u8>) -> Self {
        Self { first: [PREFACE, first].concat(), again, rest: Duration::ZERO }
    }

    fn slow(first: &[u8], again: &[u8]) -> Self {
        Self { first: first.to_vec(), again: again.to_vec(), rest: Duration::from_millis(200) }
    }

    async fn carry_out(&self, address: SocketAddr) -> std::io::Result<()> {
        let (mut reading, mut writing) = TcpStream::connect(address).await?.into_split();
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
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{rest}");
    let head = |size: usize| format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(size));
    let get = [0x82, 0x86, 0x84, 0x01, 1, b'a'];
    let resets = (0..500_u32).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(1, 5, stream, &get), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    });
    vec![
        Attack::once(post("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n")),
        Attack::once(post("content-length: 3\r\ncontent-length: 4\r\n\r\nabcd")),
        Attack::once(post("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        Attack::once(post("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n")),
        Attack::once(post("transfer-encoding: chunked\r\n\r\nzz\r\n")),
        Attack::once("GET / HTTP/1.1\r\n\r\n"),
        Attack::once("GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n"),
        Attack::once(head(1 << 20)),
        Attack::once(format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(10_000))),
        Attack::once(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(64 << 10))),
        Attack::once("\x16\x03\x01\x02\0\x01\0 no TLS"),
        Attack::slow(b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"y"),
        Attack::slow(post("content-length: 1000000\r\n\r\n").as_bytes(), b"z"),
        Attack::flood(&[], frame(6, 0, 0, &[0; 8]).repeat(500)),
        Attack::flood(&[], frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(500)),
        Attack::flood(&[], frame(2, 0, 1, &[0, 0, 0, 3, 1]).repeat(500)),
        Attack::flood(&[], frame(8, 0, 0, &[0, 0, 0, 1]).repeat(500)),
        Attack::flood(&frame(1, 1, 1, &get), frame(9, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(500)),
        Attack::flood(&frame(1, 4, 1, &get), frame(0, 0, 1, &[]).repeat(500)),
        Attack::once([PREFACE.to_vec(), resets.collect()].concat()),
    ]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
