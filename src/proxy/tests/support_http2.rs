//! An HTTP/2 upstream that does what the path says, and an HTTP/2 client.
//!
//! Both are hyper's own, by prior knowledge, so that what passes between them is what two real programs say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use fusebox_policy::config::ProxyConfig;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::support::proxy;
use crate::Proxy;

pub(crate) type TestBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// A server of HTTP/2 by prior knowledge.
pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    leaving: CancellationToken,
}

/// Counts a request that was given up before it was answered.
struct Unanswered(Arc<Counts>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An upstream, a proxy in front of it with these settings, and a client of the proxy.
pub(crate) async fn staged(
    settings: impl FnOnce(&Http2Upstream) -> ProxyConfig,
) -> (Http2Upstream, Proxy, Http2Client) {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&settings(&upstream)).await;
    (upstream, proxy, Http2Client::connect(address).await)
}

impl Http2Upstream {
    pub(crate) async fn start() -> Self {
        Self::with_streams(100).await
    }

    /// One that takes `streams` at once on each connection.
    pub(crate) async fn with_streams(streams: u32) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), streams)
    }

    /// The same on a listener that is there.
    pub(crate) fn on(listener: TcpListener, streams: u32) -> Self {
        let address = listener.local_addr().unwrap();
        let (counts, leaving) = (Arc::new(Counts::default()), CancellationToken::new());
        let shared = (Arc::clone(&counts), leaving.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counts, leaving) = shared.clone();
                counts.connection();
                tokio::spawn(serve(stream, streams, (counts, leaving)));
            }
        });
        Self { address, counts, leaving }
    }

    /// Tells the clients of all connections to leave (GOAWAY).
    pub(crate) fn send_away(&self) {
        self.leaving.cancel();
    }
}

impl Deref for Http2Upstream {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

async fn serve(stream: TcpStream, streams: u32, around: (Arc<Counts>, CancellationToken)) {
    let (counts, leaving) = around;
    let service = service_fn(move |request| answer(request, Arc::clone(&counts)));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = leaving.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Response<TestBody>, Infallible> {
    counts.request();
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let (verb, argument) = path.split_once('/').unwrap_or((&path, ""));
    let kind = request.headers().get("content-type").cloned();
    let mut response = match verb {
        "status" => {
            let mut response = Response::new(full(b"told"));
            *response.status_mut() = argument.parse().unwrap();
            response
        }
        "head" => {
            let head = full(format!("{:?}", request.into_parts().0).as_bytes());
            Response::new(then(head, Some(status(""))))
        }
        "echo" => Response::new(then(request.into_body(), Some(status(argument)))),
        "stream" => Response::new(stream(&[b"one", b"two", b"three"], Some(status(argument)))),
        "only" => {
            let mut response = Response::new(full(b""));
            response.headers_mut().extend(status(argument));
            response
        }
        "missing" => Response::new(stream(&[b"cut"], None)),
        "collect" => {
            let body = request.into_body().collect().await.unwrap_or_default().to_bytes();
            Response::new(then(Full::new(body).map_err(|never| match never {}), Some(status(argument))))
        }
        "stall" => {
            let unanswered = Unanswered(counts);
            let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
            let never = futures::stream::once(async move {
                let _unanswered = unanswered;
                std::future::pending().await
            });
            Response::new(StreamBody::new(first.chain(never)).boxed_unsync())
        }
        "endless" => {
            let unanswered = Unanswered(counts);
            let block = Bytes::from(vec![b'x'; 16 << 10]);
            let blocks = futures::stream::repeat_with(move || {
                let _unanswered = &unanswered;
                Ok(Frame::data(block.clone()))
            });
            Response::new(StreamBody::new(blocks).boxed_unsync())
        }
        "hang" => {
            let _unanswered = Unanswered(counts);
            std::future::pending().await
        }
        _ => Response::new(full(b"ok")),
    };
    response.headers_mut().extend(kind.map(|kind| (http::header::CONTENT_TYPE, kind)));
    Ok(response)
}

fn status(code: &str) -> HeaderMap {
    let code = HeaderValue::from_str(if code.is_empty() { "0" } else { code }).unwrap();
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), code)])
}

fn full(bytes: &[u8]) -> TestBody {
    Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn stream(parts: &[&'static [u8]], trailers: Option<HeaderMap>) -> TestBody {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Frame::data(framed(part)))).collect();
    let body = StreamBody::new(futures::stream::iter(parts));
    then(body, trailers)
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

fn then<B>(body: B, trailers: Option<HeaderMap>) -> TestBody
where
    B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let data = BodyStream::new(body).filter(|frame| {
        let is_data = frame.as_ref().is_ok_and(Frame::is_data);
        async move { is_data }
    });
    let trailers = futures::stream::iter(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
    StreamBody::new(data.chain(trailers)).boxed_unsync()
}

/// A client's connection; clones of it send streams on the same one.
#[derive(Clone)]
pub(crate) struct Http2Client(SendRequest<TestBody>);

/// An answer and its trailers.
pub(crate) struct Http2Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Http2Answer {
    /// The gRPC status, wherever it stands.
    pub(crate) fn grpc_status(&self) -> &str {
        let trailers = self.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        trailers.or(self.headers.get("grpc-status")).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Http2Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// On a connection that is there.
    pub(crate) async fn over(stream: TcpStream) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn get(&self, path: &str) -> Http2Answer {
        self.try_get(path).await.unwrap()
    }

    pub(crate) async fn try_get(&self, path: &str) -> Result<Http2Answer, hyper::Error> {
        let request = Request::get(format!("http://payments.shop{path}"));
        self.send(request.body(Empty::new().map_err(|never| match never {}).boxed_unsync()).unwrap()).await
    }

    /// Asks for `path` and waits for the answer's head only.
    pub(crate) async fn try_open(&self, path: &str) -> Result<Response<Incoming>, hyper::Error> {
        self.open(Request::get(format!("http://payments.shop{path}")).body(full(b"")).unwrap()).await
    }

    /// Whether the connection ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// A gRPC call with one message.
    pub(crate) async fn call(&self, path: &str, headers: &[(&'static str, &'static str)]) -> Http2Answer {
        self.send(grpc_request(path, headers, full(&framed(b"hello")))).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<TestBody>) -> Result<Http2Answer, hyper::Error> {
        tokio::time::timeout(super::support::DEADLINE, async {
            let (parts, body) = self.open(request).await?.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned();
            Ok(Http2Answer { status: parts.status, headers: parts.headers, body: collected.to_bytes(), trailers })
        })
        .await
        .expect("an answer before the deadline")
    }

    /// Sends a request and waits for the answer's head only.
    pub(crate) async fn open(&self, request: Request<TestBody>) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.0.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }
}

pub(crate) fn grpc_request(path: &str, headers: &[(&'static str, &'static str)], body: TestBody) -> Request<TestBody> {
    let mut request = Request::post(format!("http://payments.shop{path}")).header("content-type", "application/grpc");
    for (name, value) in headers.iter().chain(&[("te", "trailers")]) {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// A body that is open until its sender is dropped.
pub(crate) fn open_body() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, TestBody) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let stream = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(|bytes| Ok(Frame::data(bytes)));
    (sender, StreamBody::new(stream).boxed_unsync())
}
