//! Bytes as an HTTP/1 client would send them, through a real listener to an upstream that reads them strictly.
//!
//! Whatever comes in, the upstream must only see requests that every server reads alike: one Host, one framing, header
//! lines without a way to break out of them.

#![no_main]

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::Duration;

use fusebox_proxy::{Options, Proxy};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// How long one input may take; what waits for more bytes ends here.
const PATIENCE: Duration = Duration::from_millis(50);
/// Longer inputs find nothing that shorter ones don't, but in bounds that tests cover.
const MAX_BYTES: usize = 8 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

struct World {
    runtime: Runtime,
    _proxy: Proxy,
    address: SocketAddr,
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > MAX_BYTES {
        return;
    }
    WORLD.with(|world| {
        let world = world.get_or_init(start);
        world.runtime.block_on(send(world.address, bytes));
    });
});

fn start() -> World {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (proxy, address) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream));
            }
        });
        let options = Options {
            outbound: vec!["127.0.0.1:0=shop/payments:80".parse().expect("a listener")],
            upstream: vec![format!("shop/payments={upstream}").parse().expect("an upstream")],
            admin: "127.0.0.1:0".parse().expect("an address"),
            ..Options::default()
        };
        let proxy = Proxy::start(options).await.expect("a proxy");
        let config = format!(
            r#"{{"format":1,"workload":{{"namespace":"shop","kind":"Pod","name":"web"}},"outbound":[{{"service":{{
            "namespace":"shop","name":"payments"}},"port":80,"protocol":"Http","addresses":["{upstream}"]}}]}}"#
        );
        proxy.apply(&serde_json::from_str(&config).expect("a configuration")).expect("a configuration that is taken");
        let address = proxy.listeners()[0].address;
        (proxy, address)
    });
    World { runtime, _proxy: proxy, address }
}

async fn send(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("the listener takes connections");
    let mut answer = Vec::new();
    let talking = async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        while let Ok(1..) = stream.read_buf(&mut answer).await {}
    };
    let _ = tokio::time::timeout(PATIENCE, talking).await;
    let http2 = bytes.starts_with(b"PRI");
    assert!(answer.is_empty() || http2 || answer.starts_with(b"HTTP/1."), "{answer:?}");
}

async fn receive(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        if bytes.starts_with(b"PRI ") {
            return;
        }
        // Whoever waits for leave to send a body gets it.
        let head = bytes.to_ascii_lowercase();
        if head.ends_with(b"\r\n\r\n") && head.windows(9).any(|nine| nine == b"\r\nexpect:") {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        while let Some(length) = request(&bytes) {
            bytes.drain(..length);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// The length of the whole request at the start of `bytes`, if it is all there. Anything but a request is a finding.
fn request(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = &bytes[..end - 4];
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().expect("a first line");
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    assert!(words.len() == 3 && words[2] == b"HTTP/1.1" && !words[0].is_empty(), "{}", shown(first));
    assert!(words[1].starts_with(b"/") || words[1] == b"*" || words[0] == b"CONNECT", "{}", shown(first));
    let (mut hosts, mut lengths, mut codings) = (0, Vec::new(), 0);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').expect("a header has a colon");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(!name.is_empty() && name.iter().all(token), "{}", shown(line));
        assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)), "{}", shown(line));
        match name.to_ascii_lowercase().as_slice() {
            b"host" => hosts += 1,
            b"content-length" => lengths.push(value.to_vec()),
            b"transfer-encoding" => {
                assert_eq!(value, b"chunked");
                codings += 1;
            }
            b"keep-alive" | b"proxy-connection" => panic!("a header of another connection: {}", shown(line)),
            _ => {}
        }
    }
    assert!(hosts == 1 && lengths.len() + codings <= 1, "{}", shown(head));
    let body = &bytes[end..];
    let length = match lengths.pop() {
        Some(length) => {
            assert!(length.iter().all(u8::is_ascii_digit) && !length.is_empty(), "{}", shown(head));
            String::from_utf8_lossy(&length).parse().ok().filter(|length| *length <= body.len())?
        }
        None if codings == 1 => chunks(body)?,
        None => 0,
    };
    Some(end + length)
}

/// The length of a whole chunked body.
fn chunks(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = body[at..].windows(2).position(|two| two == b"\r\n")?;
        let digits = &body[at..at + line];
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let size = size.expect("a chunk begins with its size alone");
        at += line + 2;
        if size == 0 {
            // Trailers, then an empty line.
            loop {
                let line = body[at..].windows(2).position(|two| two == b"\r\n")?;
                at += line + 2;
                if line == 0 {
                    return Some(at);
                }
            }
        }
        let end = body.get(at + size..at + size + 2)?;
        assert_eq!(end, b"\r\n", "a chunk ends where its size says");
        at += size + 2;
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
