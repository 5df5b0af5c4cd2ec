//! An upstream that keeps every byte it got, for tests that must know what exactly was sent.
//!
//! It answers each whole request with the same bytes, and understands no more of HTTP than where a request ends:
//! what it shows must not depend on a parser that forgives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::DEADLINE;

/// What a [`Recorder`] answers when a test does not care.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Digits of the random part of a pseudonym.
const ID_DIGITS: usize = 8;

/// The server.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    bytes: Mutex<Vec<u8>>,
}

impl Recorder {
    /// Answers every request with `answer` and keeps the connection.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(record(stream, Arc::clone(&shared), Arc::clone(&answer)));
            }
        });
        Self { address, seen }
    }

    /// All bytes so far, with the random part of this process's pseudonym replaced by `ID`.
    pub(crate) fn received(&self) -> String {
        let text: String = self.seen.bytes.lock().iter().map(|byte| char::from(*byte)).collect();
        let mut parts = text.split(" fusebox-");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |shown, part| {
            let (side, rest) = part.split_once('-').unwrap();
            format!("{shown} fusebox-{side}-ID{}", &rest[ID_DIGITS..])
        })
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

async fn record(mut stream: TcpStream, seen: Arc<Seen>, answer: Arc<[u8]>) {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        request.extend_from_slice(&buffer[..count]);
        seen.bytes.lock().extend_from_slice(&buffer[..count]);
        if is_whole(&request) {
            request.clear();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

/// Whether these bytes are a whole request as a proxy writes them.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    match length {
        Some(length) => body.len() >= length,
        None if head.contains("\r\ntransfer-encoding:") => body.ends_with("0\r\n\r\n") || body.contains("\r\n0\r\n"),
        None => true,
    }
}

/// Sends bytes as they are and returns all that came back until the connection ended, however it ended.
pub(crate) async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let talking = async {
        // A server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        while let Ok(1..) = stream.read_buf(&mut answer).await {}
    };
    let ended = tokio::time::timeout(DEADLINE, talking).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if ended.is_ok() { answer } else { format!("the connection did not end, after {answer:?}") }
}
