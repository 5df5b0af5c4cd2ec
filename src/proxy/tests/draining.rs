//! Ending gently: requests in flight are finished, new ones are not taken.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Client, DEADLINE, Upstream, config, eventually, get, options, proxy};
use crate::{Drained, Proxy, run};

/// An upstream that answers its only request when it is told to.
async fn held_upstream() -> (std::net::SocketAddr, tokio::sync::oneshot::Receiver<()>, tokio::sync::oneshot::Sender<()>)
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, seen) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        arrived.send(()).unwrap();
        released.await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        let _ = stream.read(&mut head).await;
    });
    (address, seen, release)
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_the_connection_closed() {
    let (upstream, seen, release) = held_upstream().await;
    let (proxy, address) = proxy(&config(upstream)).await;
    let admin = proxy.listeners()[1].address;
    let request = tokio::spawn(async move { get(address, "/").await });
    seen.await.unwrap();
    let draining = tokio::spawn(proxy.drain());
    let mut client = Client::connect(admin).await;
    while client.get("/health/ready").await.status == StatusCode::OK {}
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, refused).await.expect("new connections are refused");
    release.send(()).unwrap();
    let answer = request.await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"done"[..]));
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(draining.await.unwrap(), Drained::Complete);
}

#[tokio::test]
async fn an_idle_kept_connection_does_not_hold_the_drain_up() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    client.get("/").await;
    let drained = tokio::time::timeout(DEADLINE, proxy.drain()).await.unwrap();
    assert_eq!(drained, Drained::Complete);
    assert!(client.try_get("/").await.is_err());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_when_the_time_is_over() {
    let upstream = Upstream::start().await;
    let mut options = options();
    options.drain_timeout = Duration::from_millis(50);
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(&config(upstream.address)).unwrap();
    let address = proxy.listeners()[0].address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("the upstream has it", || upstream.requests() == 1).await;
    assert_eq!(proxy.drain().await, Drained::CutOff);
}

#[tokio::test]
async fn running_ends_when_the_shutdown_does() {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(run(options(), async move {
        let _ = told.await;
    }));
    tell.send(()).unwrap();
    tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut options = options();
    options.admin = address;
    let error = Proxy::start(options).await.unwrap_err().to_string();
    assert!(error.contains("admin listener") && error.contains(&address.to_string()), "{error}");
}
