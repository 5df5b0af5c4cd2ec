//! HTTP/2 clients that mean harm, frame by frame over bare sockets.
//!
//! Each flood must end its own connection, and no other.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::recorder::{OK, Recorder};
use super::support::{DEADLINE, Upstream, config, get, proxy};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
/// GET http://a/ in HPACK's static table, and the authority written out.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 1, b'a'];
/// Far more frames than any of the bounds.
const MANY: u32 = 400_000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

async fn begin(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Sends `first` and then what `next` makes of 1, 2, 3..., until the connection ends; true when it did before [`MANY`].
async fn is_cut(address: SocketAddr, first: Vec<u8>, next: impl Fn(u32) -> Vec<u8>) -> bool {
    const BATCH: u32 = 500;
    let (mut reading, mut writing) = begin(address).await.into_split();
    let drained = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(1..) = reading.read(&mut buffer).await {}
    });
    let flooding = async {
        if writing.write_all(&first).await.is_err() {
            return true;
        }
        for batch in 0..MANY / BATCH {
            let bytes: Vec<u8> = (1..=BATCH).flat_map(|number| next(batch * BATCH + number)).collect();
            if drained.is_finished() || writing.write_all(&bytes).await.is_err() {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(DEADLINE, flooding).await.expect("a flood does not stall")
}

async fn ends_alone(name: &str, first: Vec<u8>, next: impl Fn(u32) -> Vec<u8>) {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    assert!(is_cut(address, first, next).await, "{name}: the connection goes on");
    assert_eq!(get(address, "/").await.body, "ok", "{name}: another client is served");
}

#[tokio::test]
async fn a_flood_of_pings_ends_its_connection() {
    ends_alone("PING", Vec::new(), |_| frame(PING, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn a_flood_of_settings_ends_its_connection() {
    ends_alone("SETTINGS", Vec::new(), |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])).await;
}

#[tokio::test]
async fn a_flood_of_priorities_ends_its_connection() {
    ends_alone("PRIORITY", Vec::new(), |number| frame(PRIORITY, 0, 2 * number + 1, &[0, 0, 0, 0, 1])).await;
}

#[tokio::test]
async fn a_flood_of_window_updates_ends_its_connection() {
    ends_alone("WINDOW_UPDATE", Vec::new(), |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
}

#[tokio::test]
async fn a_flood_of_unknown_frames_ends_its_connection() {
    ends_alone("unknown", Vec::new(), |_| frame(0xf0, 0, 0, &[])).await;
}

#[tokio::test]
async fn rapid_reset_ends_its_connection() {
    ends_alone("RST_STREAM", Vec::new(), |number| {
        let stream = 2 * number - 1;
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
        [open, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    })
    .await;
}

#[tokio::test]
async fn endless_continuation_ends_its_connection() {
    let open = frame(HEADERS, END_STREAM, 1, GET);
    ends_alone("CONTINUATION", open, |_| frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'])).await;
    let open = frame(HEADERS, END_STREAM, 1, GET);
    ends_alone("empty CONTINUATION", open, |_| frame(CONTINUATION, 0, 1, &[])).await;
}

#[tokio::test]
async fn empty_data_frames_end_their_connection() {
    let open = frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84, 0x01, 1, b'a']);
    ends_alone("DATA", open, |_| frame(DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn an_authority_that_the_host_header_contradicts_never_reaches_the_upstream() {
    let upstream = Recorder::start(OK).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let block = [GET, &[0, 4], b"host", &[1, b'b']].concat();
    let mut stream = begin(address).await;
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
    let answer = tokio::time::timeout(DEADLINE, answer_to(&mut stream, 1)).await.expect("an answer");
    assert_eq!(answer.first(), Some(&0x8c), ":status 400 in HPACK's static table, in {answer:?}");
    assert_eq!(upstream.connections(), 0);
}

/// The header block that answers on `stream`; empty where the connection ends without one.
async fn answer_to(socket: &mut TcpStream, stream: u32) -> Vec<u8> {
    let mut header = [0; 9];
    while socket.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await.unwrap();
        let of = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        match header[3] {
            HEADERS if of == stream => return payload,
            GOAWAY | RST_STREAM => return Vec::new(),
            _ => {}
        }
    }
    Vec::new()
}
