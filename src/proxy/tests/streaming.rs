//! Bodies as they flow: asked for, held back, ended early, followed by trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{DEADLINE, Upstream, config, proxy, raw};

/// An upstream of one connection that does what `script` does.
async fn scripted<F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(stream).await;
    });
    address
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(end) {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => break,
            }
        }
    };
    let timely = tokio::time::timeout(DEADLINE, reading).await.is_ok();
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    assert!(timely, "only {text:?} came");
    text
}

const EXPECTING: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn a_body_is_sent_when_the_upstream_asks_for_it_and_not_before() {
    let upstream = scripted(|mut stream| async move {
        let head = read_until(&mut stream, b"\r\n\r\n").await;
        assert!(head.contains("expect: 100-continue"), "{head}");
        let early = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(early.is_err(), "the body came before it was asked for");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut stream, b"hello").await, "hello");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    assert!(read_until(&mut client, b"\r\n\r\n").await.starts_with("http/1.1 100"));
    client.write_all(b"hello").await.unwrap();
    assert!(read_until(&mut client, b"done").await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn an_upstream_that_declines_gets_no_body_and_the_client_no_leave() {
    let upstream = scripted(|mut stream| async move {
        read_until(&mut stream, b"\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let answer = raw(address, std::str::from_utf8(EXPECTING).unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 417") && answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn an_upstream_that_does_not_know_of_asking_gets_the_body_all_the_same() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[b"POST /echo".as_slice(), &EXPECTING[6..]].concat()).await.unwrap();
    assert!(read_until(&mut client, b"\r\n\r\n").await.starts_with("http/1.1 100"));
    client.write_all(b"hello").await.unwrap();
    assert!(read_until(&mut client, b"hello").await.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let upstream = scripted(|mut stream| async move {
        let request = read_until(&mut stream, b"x-sum: 1\r\n\r\n").await;
        assert!(request.contains("trailer: x-sum"), "{request}");
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n3\r\nabc\r\n0\r\nx-check: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_until(&mut client, b"x-check: 2\r\n\r\n").await;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("trailer: x-check"), "{answer}");
}

#[tokio::test]
async fn an_interim_answer_does_not_stand_in_for_the_final_one() {
    let upstream = scripted(|mut stream| async move {
        read_until(&mut stream, b"\r\n\r\n").await;
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        stream.write_all(interim.repeat(3).as_bytes()).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let last = answer.rsplit("\r\n\r\nHTTP/1.1 ").next().unwrap_or_default();
    assert!(last.starts_with("200") && last.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_gets_its_answer() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let requests = [
        "GET /late HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /trickle HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi",
    ];
    for request in requests {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"), "{request:?} got {answer:?}");
    }
}

#[tokio::test]
async fn an_upload_waits_for_the_upstream_instead_of_filling_memory() {
    const LENGTH: usize = 256 << 20;
    let (read_on, told) = tokio::sync::oneshot::channel::<()>();
    let upstream = scripted(|mut stream| async move {
        read_until(&mut stream, b"\r\n\r\n").await;
        told.await.unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut left = LENGTH;
        while left > 0 {
            left -= stream.read(&mut buffer).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {LENGTH}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'x'; 64 << 10];
        for _ in 0..LENGTH / block.len() {
            writer.write_all(&block).await.unwrap();
            counted.fetch_add(block.len(), Ordering::SeqCst);
        }
        std::future::pending::<()>().await;
    });
    let mut before = 0;
    loop {
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        let now = sent.load(Ordering::SeqCst);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert!(before < LENGTH / 4, "{before} bytes were taken from the client though the upstream does not read");
    read_on.send(()).unwrap();
    let mut answer = String::new();
    tokio::time::timeout(3 * DEADLINE, reader.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(sent.load(Ordering::SeqCst), LENGTH);
}

#[tokio::test]
async fn an_answer_to_half_an_upload_reaches_the_client() {
    let upstream = scripted(|mut stream| async move {
        read_until(&mut stream, b"half").await;
        stream.write_all(b"HTTP/1.1 413 Too much\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    let answer = read_until(&mut client, b"big").await;
    assert!(answer.starts_with("http/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_head_answer_keeps_its_length_and_the_connection_its_step() {
    let upstream = scripted(|mut stream| async move {
        assert!(read_until(&mut stream, b"\r\n\r\n").await.starts_with("head /"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4711\r\n\r\n").await.unwrap();
        assert!(read_until(&mut stream, b"\r\n\r\n").await.starts_with("get /"), "on the same connection");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    })
    .await;
    let (_proxy, address) = proxy(&config(upstream)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, b"\r\n\r\n").await.contains("content-length: 4711"));
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, b"done").await.starts_with("http/1.1 200"));
}
