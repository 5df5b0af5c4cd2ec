//! Probes by the admin port: what the kubelet hears is what it would have found itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::support::{Answer, Client, Upstream, config, get, options, trip};
use crate::Proxy;

/// Answers the first request of a connection by its path, and ends it.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, own: SocketAddr) {
    let mut head = vec![0; 4096];
    let length = stream.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
    let status = |status: &str, headers: &str| format!("HTTP/1.1 {status}\r\n{headers}content-length: 4\r\n\r\ntold");
    let text = match path.as_str() {
        "/head" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()),
        "/sick" => status("503 Sick", ""),
        "/missing" => status("404 Missing", ""),
        "/away" => status("302 Found", "location: http://example.com/\r\n"),
        "/near" => status("302 Found", "location: /sick\r\n"),
        "/same" => status("307 Moved", &format!("location: http://{own}/fine\r\n")),
        "/circle" => status("302 Found", "location: /circle\r\n"),
        "/unmodified" => "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned(),
        "/slow" => return std::future::pending().await,
        "/big" => format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000)),
        _ => status("200 OK", ""),
    };
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, address));
        }
    });
    address
}

async fn tls_app() -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, address).await;
                }
            });
        }
    });
    address
}

/// A health service that serves `shop`, does not serve `ledger`, and knows nobody else.
async fn grpc_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(health);
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

type Frames = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>>;

async fn health(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, std::convert::Infallible> {
    use http_body_util::BodyExt;
    let right = request.uri().path() == "/grpc.health.v1.Health/Check" && request.headers()["te"] == "trailers";
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let (message, status): (&'static [u8], &str) = match &asked[5..] {
        b"\x0a\x04shop" if right => (b"\0\0\0\0\x02\x08\x01", "0"),
        b"\x0a\x06ledger" if right => (b"\0\0\0\0\x02\x08\x02", "0"),
        _ => (b"", "5"),
    };
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status.parse().unwrap())]);
    let frames = vec![Ok(Frame::data(Bytes::from_static(message))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

/// A proxy with these probes, and its admin port.
async fn probing(probes: &str) -> (Proxy, SocketAddr) {
    let mut options = options();
    options.probes = probes.parse().unwrap();
    let proxy = Proxy::start(options).await.unwrap();
    let admin = proxy.listeners().last().unwrap().address;
    (proxy, admin)
}

fn http_probe(app: SocketAddr, target: &str, more: &str) -> String {
    let port = app.port();
    format!(r#"[{{"path":"/probes/app/liveness","port":{port},"kind":"http","target":"{target}"{more}}}]"#)
}

async fn ask(probes: &str) -> Answer {
    let (_proxy, admin) = probing(probes).await;
    get(admin, "/probes/app/liveness").await
}

#[tokio::test]
async fn http_is_judged_as_the_kubelet_judges() {
    let app = app().await;
    for (target, status) in [
        ("/", 200),
        ("/sick", 503),
        ("/missing", 404),
        ("/away", 200),
        ("/near", 503),
        ("/same", 200),
        ("/circle", 503),
        ("/unmodified", 200),
    ] {
        let answer = ask(&http_probe(app, target, "")).await;
        assert_eq!(answer.status.as_u16(), status, "{target}");
        assert!(!answer.headers.contains_key("location"), "{target}: the kubelet follows nothing");
    }
    assert_eq!(ask(&http_probe(app, "/sick", "")).await.body, "told");
    assert_eq!(ask(&http_probe(app, "/big", "")).await.body.len(), 10 << 10);
}

#[tokio::test]
async fn the_application_hears_the_probes_headers_and_the_kubelets_name() {
    let app = app().await;
    let headers = r#","headers":[{"name":"Host","value":"shop.example"},{"name":"X-Kind","value":"probe"}]"#;
    let (_proxy, admin) = probing(&http_probe(app, "/head", headers)).await;
    let request = Request::get("/probes/app/liveness").header("host", "10.1.2.3:15020");
    let request = request.header("user-agent", "kube-probe/1.35").body(Full::default()).unwrap();
    let answer = Client::connect(admin).await.send(request).await.unwrap();
    let head = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    for line in ["host: shop.example", "x-kind: probe", "user-agent: kube-probe/1.35", "accept: */*"] {
        assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
    }
    let silent = http_probe(app, "/head", r#","headers":[{"name":"User-Agent"},{"name":"Accept"}]"#);
    let head = String::from_utf8_lossy(&ask(&silent).await.body).to_ascii_lowercase();
    assert!(!head.contains("user-agent") && !head.contains("accept"), "{head}");
    assert!(head.contains(&format!("host: {app}")), "{head}");
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let app = tls_app().await;
    let https = r#","scheme":"HTTPS""#;
    assert_eq!(ask(&http_probe(app, "/", https)).await.status, StatusCode::OK);
    assert_eq!(ask(&http_probe(app, "/sick", https)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&http_probe(app, "/", "")).await.status, StatusCode::SERVICE_UNAVAILABLE, "plain HTTP is none");
}

#[tokio::test]
async fn a_silent_application_fails_in_time_and_one_that_is_away_at_once() {
    let app = app().await;
    let answer = ask(&http_probe(app, "/slow", r#","timeoutMs":50"#)).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::GATEWAY_TIMEOUT, &b"no answer within 50ms\n"[..]));
    let away = ask(r#"[{"path":"/probes/app/liveness","port":1,"kind":"http"}]"#).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&away.body).contains("127.0.0.1:1 can't be connected to"), "{:?}", away.body);
}

#[tokio::test]
async fn tcp_succeeds_where_somebody_listens() {
    let tcp = |port: u16| format!(r#"[{{"path":"/probes/app/liveness","port":{port},"kind":"tcp"}}]"#);
    assert_eq!(ask(&tcp(app().await.port())).await.status, StatusCode::OK);
    assert_eq!(ask(&tcp(1)).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let port = grpc_app().await.port();
    let grpc = |service: &str| {
        format!(r#"[{{"path":"/probes/app/liveness","port":{port},"kind":"grpc","service":"{service}"}}]"#)
    };
    for (service, status, said) in [
        ("shop", StatusCode::OK, "SERVING"),
        ("ledger", StatusCode::SERVICE_UNAVAILABLE, "is not serving: status Some(2)"),
        ("nobody", StatusCode::SERVICE_UNAVAILABLE, "gRPC status 5"),
    ] {
        let answer = ask(&grpc(service)).await;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{service}: {body}");
        assert!(body.contains(said), "{service}: {body}");
    }
}

#[tokio::test]
async fn other_paths_are_not_found_and_too_many_at_once_are_refused() {
    let app = app().await;
    let (_proxy, admin) = probing(&http_probe(app, "/slow", r#","timeoutMs":5000"#)).await;
    for path in ["/probes/app/readiness", "/probes/other/liveness", "/probes", "/probes/app/liveness/more"] {
        assert_eq!(get(admin, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let mut waiting = Vec::new();
    let refused = loop {
        let asked = tokio::spawn(get(admin, "/probes/app/liveness"));
        let mut asked = asked;
        match tokio::time::timeout(Duration::from_millis(20), &mut asked).await {
            Ok(answer) => break answer.unwrap(),
            Err(_) => waiting.push(asked),
        }
        assert!(waiting.len() <= crate::probes::MAX_AT_ONCE, "nothing bounds them");
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(waiting.len(), crate::probes::MAX_AT_ONCE);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn no_breaker_hears_of_a_probe_and_no_probe_of_a_breaker() {
    let upstream = Upstream::start().await;
    let probe = http_probe(upstream.address, "/status/503", "");
    let (proxy, admin) = probing(&probe).await;
    proxy.apply(&config(upstream.address)).unwrap();
    for _ in 0..5 {
        assert_eq!(get(admin, "/probes/app/liveness").await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(proxy.state().breakers[0].report.state, fusebox_policy::report::BreakerState::Closed);
    let listener = proxy.listeners()[0].address;
    trip(&proxy, listener).await;
    let before = upstream.requests();
    get(admin, "/probes/app/liveness").await;
    assert_eq!(upstream.requests(), before + 1, "an open breaker does not stand in a probe's way");
}

#[tokio::test]
async fn a_probe_that_can_not_be_made_fails_alone_and_says_why() {
    let port = app().await.port();
    let listed = format!(
        r#"[{{"path":"/probes/a/odd","port":{port},"kind":"http","headers":[{{"name":"a b","value":"c"}}]}},
            {{"path":"/probes/a/spaced","port":{port},"kind":"http","target":"/a b"}}]"#
    );
    let (_proxy, admin) = probing(&listed).await;
    let odd = get(admin, "/probes/a/odd").await;
    assert_eq!(odd.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(odd.body, "the probe can't be made: its header \"a b\" can't be sent\n");
    assert_eq!(get(admin, "/probes/a/spaced").await.status, StatusCode::OK);
}
