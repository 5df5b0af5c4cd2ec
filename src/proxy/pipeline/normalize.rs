//! What a proxy must change in messages that pass through it (RFC 9110 section 7.6, RFC 9112 section 3.2).
//!
//! It must not decide by policy. Two parties that read one message differently are how requests are
//! smuggled, so what is ambiguous is refused here.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;

use super::request_body::RequestBody;

/// Headers that speak of one connection only.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers that `Connection` must not be able to take away: they say where a message goes and where it ends.
const NEVER_NOMINATED: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];

/// The prefix of headers that this proxy alone may set.
const OWN_PREFIX: &str = "fusebox-";

/// Why a request can't be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// Not exactly one Host header.
    #[error("request must have exactly one Host header")]
    HostCount,
    /// The Host header is no host.
    #[error("header Host is not a host with an optional port")]
    Host,
    /// CONNECT asks for a tunnel.
    #[error("method CONNECT is not served")]
    Connect,
    /// The target is neither a path nor an absolute http URI.
    #[error("request target is neither a path nor an absolute http URI")]
    Target,
}

/// Checks a request's head and makes it fit for the upstream's connection.
pub(crate) fn request(request: &mut Request<Incoming>) -> Result<(), BadRequest> {
    if request.method() == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    one_host(request)?;
    origin_form(request)?;
    strip_hop_by_hop(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Says how a body of unknown length ends; without it a GET's body would be lost.
pub(crate) fn frame(request: &mut Request<RequestBody>) {
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes an upstream's head fit for the client, who must be able to believe our own headers.
pub(crate) fn response<B>(response: &mut Response<B>) {
    strip_hop_by_hop(response.headers_mut());
    strip_own(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
}

fn one_host(request: &Request<Incoming>) -> Result<(), BadRequest> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(BadRequest::Host),
        _ => Err(BadRequest::HostCount),
    }
}

/// Bytes that can stand in a host and port; anything else would be read differently by different servers.
fn is_host(bytes: &[u8]) -> bool {
    let allowed = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
    };
    !bytes.is_empty() && bytes.len() <= 260 && bytes.iter().all(allowed)
}

/// An absolute target's authority takes the place of the Host header, as RFC 9112 section 3.2.2 demands of proxies.
fn origin_form(request: &mut Request<Incoming>) -> Result<(), BadRequest> {
    let uri = request.uri();
    let Some(authority) = uri.authority() else {
        let path = uri.path();
        let served = path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS);
        return if served { Ok(()) } else { Err(BadRequest::Target) };
    };
    if uri.scheme_str().is_some_and(|scheme| scheme != "http") || authority.as_str().contains('@') {
        return Err(BadRequest::Target);
    }
    let host = host_value(authority)?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

fn host_value(authority: &Authority) -> Result<HeaderValue, BadRequest> {
    HeaderValue::from_str(authority.as_str()).ok().filter(|host| is_host(host.as_bytes())).ok_or(BadRequest::Target)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !NEVER_NOMINATED.contains(name))
        .collect()
}

fn strip_own(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with(OWN_PREFIX)) {
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn nominated_headers_go_but_never_host_or_length() {
        let mut map = headers(&[
            ("connection", "close, X-Secret ,host,content-length"),
            ("x-secret", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }

    #[test]
    fn our_own_headers_from_an_upstream_are_dropped() {
        let mut answer = Response::new(());
        *answer.headers_mut() =
            headers(&[("fusebox-policy", "forged"), ("fusebox-error", "circuit-open"), ("x-kept", "1")]);
        response(&mut answer);
        assert_eq!(answer.headers().len(), 1);
    }

    #[test]
    fn a_host_with_other_characters_is_refused() {
        for host in ["", "a b", "a/b", "a,b", "user@a", "a\\b", "a?b"] {
            assert!(!is_host(host.as_bytes()), "{host:?}");
        }
        for host in ["a", "a:80", "[::1]:80", "payments.shop.svc.cluster.local", "127.0.0.1"] {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
    }
}
