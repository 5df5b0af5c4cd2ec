//! A gRPC client and server of a real library on the two sides of a proxy: all four shapes, deadlines, cancellation.
//!
//! Both are tonic, because what a library makes of headers, trailers and resets can't be known from our own clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fusebox_e2e::standalone::Standalone;
use fusebox_testkit::eventually;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

const PATIENCE: Duration = Duration::from_secs(20);

type Text = ProstCodec<String, String>;
type Answers = BoxStream<'static, Result<String, Status>>;
type Serving = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// A service with a method of each shape, and one that never answers.
#[derive(Clone, Default)]
struct Shapes {
    given_up: Arc<AtomicUsize>,
}

/// Counts a call that ended before it was answered.
struct Unanswered(Arc<AtomicUsize>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl NamedService for Shapes {
    const NAME: &'static str = "test.Shapes";
}

impl Service<http::Request<Body>> for Shapes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Serving;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Serving {
        let given_up = Arc::clone(&self.given_up);
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Text::default());
            Ok(match request.uri().path() {
                "/test.Shapes/Unary" => grpc.unary(service_fn(greet), request).await,
                "/test.Shapes/Server" => grpc.server_streaming(service_fn(count), request).await,
                "/test.Shapes/Client" => grpc.client_streaming(service_fn(join), request).await,
                "/test.Shapes/Both" => grpc.streaming(service_fn(echo), request).await,
                _ => grpc.server_streaming(service_fn(move |_| hang(Arc::clone(&given_up))), request).await,
            })
        })
    }
}

/// Fails for one name, and passes metadata back in both places that there are for it.
async fn greet(request: Request<String>) -> Result<Response<String>, Status> {
    let kept = request.metadata().get("x-kept").cloned();
    let name = request.into_inner();
    if name == "nobody" {
        let mut status = Status::not_found("100 % nobody: für");
        status.metadata_mut().insert("x-why", MetadataValue::from_static("tested"));
        return Err(status);
    }
    let mut response = Response::new(format!("hello {name}"));
    if let Some(kept) = kept {
        response.metadata_mut().insert("x-kept", kept);
    }
    Ok(response)
}

async fn count(request: Request<String>) -> Result<Response<Answers>, Status> {
    let end = request.into_inner().parse().unwrap_or(0);
    let fails = stream::iter([Err(Status::data_loss("the end"))]);
    Ok(Response::new(stream::iter(0..end).map(|number: u32| Ok(number.to_string())).chain(fails).boxed()))
}

async fn join(request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let parts: Vec<String> = request.into_inner().try_collect().await?;
    Ok(Response::new(parts.concat()))
}

async fn echo(request: Request<Streaming<String>>) -> Result<Response<Streaming<String>>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn hang(given_up: Arc<AtomicUsize>) -> Result<Response<Answers>, Status> {
    let unanswered = Unanswered(given_up);
    let first = stream::iter([Ok("first".to_owned())]);
    let never = stream::once(async move {
        let _unanswered = unanswered;
        std::future::pending().await
    });
    Ok(Response::new(first.chain(never).boxed()))
}

/// A client of the service behind a proxy.
struct Scene {
    shapes: Shapes,
    channel: Channel,
    _proxy: Standalone,
}

impl Scene {
    async fn start() -> Result<Self> {
        let shapes = Shapes::default();
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let upstream = incoming.local_addr()?;
        tokio::spawn(Server::builder().add_service(shapes.clone()).serve_with_incoming(incoming));
        let proxy = Standalone::start_before(upstream, None).await?;
        let channel = Channel::from_shared(format!("http://{}", proxy.listener.address()))?.connect().await?;
        Ok(Self { shapes, channel, _proxy: proxy })
    }

    async fn client(&self) -> Result<tonic::client::Grpc<Channel>> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await?;
        Ok(client)
    }

    async fn unary(&self, request: Request<String>) -> Result<Result<Response<String>, Status>> {
        Ok(self.client().await?.unary(request, path("Unary"), Text::default()).await)
    }

    async fn server(&self, method: &'static str, request: Request<String>) -> Result<Streaming<String>> {
        let answer = self.client().await?.server_streaming(request, path(method), Text::default()).await?;
        Ok(answer.into_inner())
    }

    async fn both(&self, parts: impl Stream<Item = String> + Send + 'static) -> Result<Streaming<String>> {
        let answer = self.client().await?.streaming(Request::new(parts), path("Both"), Text::default()).await?;
        Ok(answer.into_inner())
    }

    async fn gives_up(&self, calls: usize) -> Result<()> {
        eventually(PATIENCE, "the server's call is given up", async || {
            let given_up = self.shapes.given_up.load(Ordering::SeqCst);
            ensure!(given_up == calls, "{given_up} calls");
            Ok(())
        })
        .await
    }
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/test.Shapes/{method}")).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_calls_keep_messages_metadata_and_statuses() -> Result<()> {
    let scene = Scene::start().await?;
    let mut request = Request::new("you".to_owned());
    request.metadata_mut().insert("x-kept", "1".parse()?);
    let answer = scene.unary(request).await??;
    assert_eq!(answer.metadata().get("x-kept").map(MetadataValue::as_bytes), Some(&b"1"[..]));
    assert_eq!(answer.into_inner(), "hello you");
    let status = scene.unary(Request::new("nobody".to_owned())).await?.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "100 % nobody: für"));
    assert_eq!(status.metadata().get("x-why").map(MetadataValue::as_bytes), Some(&b"tested"[..]));
    let large = "x".repeat(3 << 20);
    assert_eq!(scene.unary(Request::new(large.clone())).await??.into_inner(), format!("hello {large}"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_either_side_keep_their_order_and_their_end() -> Result<()> {
    let scene = Scene::start().await?;
    let mut numbers = scene.server("Server", Request::new("1000".to_owned())).await?;
    for number in 0..1000 {
        assert_eq!(numbers.message().await?, Some(number.to_string()));
    }
    assert_eq!(numbers.message().await.unwrap_err().code(), Code::DataLoss);

    let parts = stream::iter((0..1000).map(|number| format!("{number},")));
    let joined = scene.client().await?.client_streaming(Request::new(parts), path("Client"), Text::default()).await?;
    let expected: String = (0..1000).map(|number| format!("{number},")).collect();
    assert_eq!(joined.into_inner(), expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_speak_in_turn() -> Result<()> {
    let scene = Scene::start().await?;
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let mut answers = scene.both(receiver).await?;
    for part in ["ping", "pong", ""] {
        sender.unbounded_send(part.to_owned())?;
        assert_eq!(answers.message().await?.as_deref(), Some(part));
    }
    drop(sender);
    assert_eq!(answers.message().await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_call_on_both_sides() -> Result<()> {
    let scene = Scene::start().await?;
    let mut request = Request::new(String::new());
    request.set_timeout(Duration::from_millis(300));
    let begun = Instant::now();
    let ended = match scene.server("Hang", request).await {
        Ok(mut answers) => {
            assert_eq!(answers.message().await?.as_deref(), Some("first"));
            answers.message().await.unwrap_err().code()
        }
        // Before the first message, on a busy machine; the library's own timer says Cancelled.
        Err(error) => error.downcast::<Status>()?.code(),
    };
    assert!(matches!(ended, Code::DeadlineExceeded | Code::Cancelled), "{ended:?}");
    assert!(begun.elapsed() < PATIENCE);
    scene.gives_up(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_is_cancelled_at_the_server_and_others_go_on() -> Result<()> {
    let scene = Scene::start().await?;
    for calls in 1..=3 {
        let mut answers = scene.server("Hang", Request::new(String::new())).await?;
        assert_eq!(answers.message().await?.as_deref(), Some("first"));
        drop(answers);
        scene.gives_up(calls).await?;
        assert_eq!(scene.unary(Request::new("you".to_owned())).await??.into_inner(), "hello you");
    }
    Ok(())
}
