//! HTTP probes: one GET on a connection of its own, redirects within the host followed.
//!
//! It must judge as the kubelet does: 200 to 399 is success, and so is a redirect to another host, which is not followed.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use fusebox_policy::config::{Probe, ProbeHeader, ProbeScheme};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, MAX_BODY, Verdict, connect, options, tls};

/// Redirects that are followed, as many as Go's client follows.
const MAX_REDIRECTS: usize = 10;

/// What the kubelet calls itself, where nothing else is to be said.
const DEFAULT_AGENT: HeaderValue = HeaderValue::from_static("kube-probe");

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    address: SocketAddr,
    target: PathAndQuery,
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Here(Place),
    Elsewhere,
    Nowhere,
}

/// Asks the application, in the words of the kubelet's request `told`.
pub(super) async fn ask(probe: &Probe, address: SocketAddr, told: &HeaderMap) -> Result<Verdict, Failure> {
    let fail = |message: String| Failure::Answer { address, message };
    let target = options::request_target(probe).map_err(|problem| fail(problem.to_string()))?;
    let mut place = Place { tls: probe.scheme == Some(ProbeScheme::Https), address, target };
    for _ in 0..=MAX_REDIRECTS {
        let response = send(&place, headers(probe, &place, told)).await?;
        let status = response.status();
        if !is_redirect(status) {
            return Ok(verdict(status, body(response).await));
        }
        match next(&place, response.headers()) {
            Next::Here(other) => place = other,
            Next::Elsewhere => return Ok(verdict(StatusCode::OK, Bytes::from("redirects to another host\n"))),
            Next::Nowhere => return Err(fail(format!("{status} without a Location that can be followed"))),
        }
    }
    Err(fail(format!("stopped after {MAX_REDIRECTS} redirects")))
}

/// 2xx for success, else the application's own failure.
fn verdict(status: StatusCode, body: Bytes) -> Verdict {
    let status = match status.as_u16() {
        200..=299 | 400..=599 => status,
        // Anything else of 3xx is success to the kubelet, which would follow it if it heard it.
        300..=399 => StatusCode::OK,
        _ => StatusCode::BAD_GATEWAY,
    };
    Verdict { status, body }
}

async fn send(place: &Place, headers: HeaderMap) -> Result<Response<Incoming>, Failure> {
    let Place { tls, address, target } = place;
    let fail = |message: String| Failure::Answer { address: *address, message };
    let stream = connect(*address).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from(target.clone());
    *request.headers_mut() = headers;
    if *tls {
        let stream = tls::connect(stream, address.ip()).await.map_err(|error| fail(error.to_string()))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
    .map_err(|error| fail(error.to_string()))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body, or when that is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.send_request(request).await
}

/// As much of the body as the kubelet reads.
async fn body(response: Response<Incoming>) -> Bytes {
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while bytes.len() < MAX_BODY
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes.truncate(MAX_BODY);
    bytes.freeze()
}

/// The probe's own headers, else what the kubelet said of itself.
fn headers(probe: &Probe, place: &Place, told: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for ProbeHeader { name, value } in &probe.headers {
        // A probe with one that can't be sent is answered before.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    for (name, default) in [(header::USER_AGENT, DEFAULT_AGENT), (header::ACCEPT, HeaderValue::from_static("*/*"))] {
        let value = told.get(&name).cloned().unwrap_or(default);
        // Who asks for an empty one wants none.
        match headers.entry(name) {
            header::Entry::Vacant(entry) => {
                entry.insert(value);
            }
            header::Entry::Occupied(entry) if entry.get().is_empty() => {
                entry.remove_entry_mult();
            }
            header::Entry::Occupied(_) => {}
        }
    }
    if let (header::Entry::Vacant(entry), Ok(host)) =
        (headers.entry(header::HOST), HeaderValue::try_from(place.address.to_string()))
    {
        entry.insert(host);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where `Location` leads from `place`.
fn next(place: &Place, headers: &HeaderMap) -> Next {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(uri) = location.and_then(|location| resolve(location, &place.target)) else { return Next::Nowhere };
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let Some(authority) = uri.authority() else { return Next::Here(Place { target, ..place.clone() }) };
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(_) => return Next::Nowhere,
        None => place.tls,
    };
    if host(authority) != Some(place.address.ip()) {
        return Next::Elsewhere;
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Next::Here(Place { tls, address: SocketAddr::new(place.address.ip(), port), target })
}

/// A whole URL, a path from the root, or one beside the path there was.
fn resolve(location: &str, from: &PathAndQuery) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() || location.starts_with('/') && !location.starts_with("//") || location.contains("://") {
        return location.parse().ok();
    }
    if location.starts_with("//") {
        return format!("http:{location}").parse().ok();
    }
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{location}").parse().ok()
}

fn host(authority: &Authority) -> Option<IpAddr> {
    authority.host().trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(location: &str) -> Next {
        let place = Place { tls: false, address: "10.1.2.3:8080".parse().unwrap(), target: "/a/b?c".parse().unwrap() };
        next(&place, &HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]))
    }

    fn here(tls: bool, address: &str, target: &str) -> Next {
        Next::Here(Place { tls, address: address.parse().unwrap(), target: target.parse().unwrap() })
    }

    #[test]
    fn redirects_are_followed_within_the_host_alone() {
        assert_eq!(led("/x?y#z"), here(false, "10.1.2.3:8080", "/x?y"));
        assert_eq!(led("x"), here(false, "10.1.2.3:8080", "/a/x"));
        assert_eq!(led("http://10.1.2.3:9090/x"), here(false, "10.1.2.3:9090", "/x"));
        assert_eq!(led("https://10.1.2.3/x"), here(true, "10.1.2.3:443", "/x"));
        assert_eq!(led("http://example.com/x"), Next::Elsewhere);
        assert_eq!(led("//10.9.9.9/x"), Next::Elsewhere);
        assert_eq!(led("ftp://10.1.2.3/x"), Next::Nowhere);
    }
}
