//! The webhook port: connections within bounds, TLS of the moment, HTTP/1.1 or HTTP/2.
//!
//! The API server keeps connections open; a new certificate counts from the next one. Everything that a client can make last is
//! bounded in time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::endpoint::Admission;

/// Connections at once, at most.
const MAX_CONNECTIONS: usize = 1024;

/// Requests at once on one HTTP/2 connection, at most.
const MAX_STREAMS: u32 = 64;

/// The largest header block, in bytes.
const MAX_HEADERS: usize = 32 * 1024;

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request's headers may take, and how long an HTTP/1.1 connection may idle before them.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long requests in flight get when the operator shuts down.
const DRAIN: Duration = Duration::from_secs(2);

/// How long accepting pauses after it failed, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the webhooks until `shutdown`. `tls` is asked for each connection; where it has nothing, the connection ends.
pub async fn serve(
    listener: TcpListener,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
    admission: Admission,
    shutdown: CancellationToken,
) {
    let (permits, graceful) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (Some(config), Ok(permit)) = (tls(), Arc::clone(&permits).try_acquire_owned()) else { continue };
        let (admission, watcher) = (admission.clone(), graceful.watcher());
        tokio::spawn(async move {
            let (acceptor, _permit) = (TlsAcceptor::from(config), permit);
            connection(stream, acceptor, admission, watcher).await;
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some admission reviews did not end in time");
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    admission: Admission,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // A refused option only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let admission = admission.clone();
        async move { Ok::<Response<Full<Bytes>>, Infallible>(admission.answer(request).await) }
    });
    let ended = if speaks_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADERS);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
