//! What a proxy must change in messages that pass through it (RFC 9110 section 7.6, RFC 9112 section 3.2).
//!
//! It must not decide by policy. Two parties that read one message differently are how requests are
//! smuggled, so what is ambiguous is refused here.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;

use super::hop::Hop;
use super::request_body::RequestBody;

/// Bytes that a path and its query may have. hyper refuses what is over 65,534 by itself.
pub(crate) const MAX_URI_BYTES: usize = 32 << 10;

/// Header lines that a request may have. hyper holds HTTP/1 to the same number by itself.
pub(crate) const MAX_HEADERS: usize = 100;

/// A host name of 253 characters and a port.
const MAX_HOST_BYTES: usize = 260;

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
    /// HTTP/2's `:authority` and the Host header name two hosts.
    #[error("header Host does not agree with :authority")]
    HostDiffers,
    /// CONNECT over HTTP/2.
    #[error("method CONNECT is served on HTTP/1.1 only")]
    Connect,
    /// The target is neither a path nor an absolute http URI.
    #[error("request target is neither a path nor an absolute http URI")]
    Target,
    /// The target is longer than anybody needs.
    #[error("request target is longer than 32768 bytes")]
    TargetLength,
    /// More header lines than anybody needs.
    #[error("request has more than 100 header lines")]
    HeaderCount,
    /// A transfer coding that would be lost, or hides where the body ends.
    #[error("header Transfer-Encoding is not exactly \"chunked\"")]
    TransferEncoding,
    /// It came back to where it was sent from.
    #[error("request came back to this proxy again and again: its upstream leads to the proxy itself")]
    Loop,
}

/// Checks a request's head and makes it fit for the upstream's connection.
pub(crate) fn request(request: &mut Request<Incoming>, hop: &Hop) -> Result<(), BadRequest> {
    bounded(request)?;
    only_chunked(request.headers())?;
    if hop.is_loop(request.headers()) {
        return Err(BadRequest::Loop);
    }
    if request.method() == Method::CONNECT {
        tunnel_target(request)?;
    } else {
        origin_form(request)?;
    }
    let trailers = wants_trailers(request.headers());
    strip_hop_by_hop(request.headers_mut());
    if trailers {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    hop.sign(request);
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Says how a body of unknown length ends; without it a GET's body would be lost.
pub(crate) fn frame(request: &mut Request<RequestBody>) {
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // RFC 9110 section 10.1.4: TE speaks of one connection, and on HTTP/1.1 says so.
    if request.headers().contains_key(header::TE) {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Whether two parties could see the end of this answer's body in two places: then it is not passed on, for what follows
/// the nearer end could pose as the answer to another request.
pub(crate) fn is_ambiguous(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let several = lengths.next().is_some_and(|length| length.as_bytes().contains(&b',')) || lengths.next().is_some();
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    several || (coded && (headers.contains_key(header::CONTENT_LENGTH) || only_chunked(headers).is_err()))
}

/// Makes an upstream's head fit for the client, who must be able to believe our own headers.
pub(crate) fn response<B>(response: &mut Response<B>) {
    strip_hop_by_hop(response.headers_mut());
    strip_own(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
}

fn bounded(request: &Request<Incoming>) -> Result<(), BadRequest> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_URI_BYTES {
        return Err(BadRequest::TargetLength);
    }
    if request.headers().len() > MAX_HEADERS { Err(BadRequest::HeaderCount) } else { Ok(()) }
}

/// hyper undoes `chunked` and nothing else; any other coding would go on without its name.
fn only_chunked(headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(BadRequest::TransferEncoding),
    }
}

/// The one host that the request is for: an absolute target's authority takes the place of the Host header (RFC 9112
/// section 3.2.2), and HTTP/2's `:authority` must agree with it (RFC 9113 section 8.3.1).
fn origin_form(request: &mut Request<Incoming>) -> Result<(), BadRequest> {
    let is_http2 = request.version() == Version::HTTP_2;
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Some(host),
        (Some(_), None) => return Err(BadRequest::Host),
        (None, _) if is_http2 => None,
        _ => return Err(BadRequest::HostCount),
    };
    let uri = request.uri();
    let Some(authority) = uri.authority() else {
        let path = uri.path();
        let served = path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS);
        return match (served, host) {
            (false, _) => Err(BadRequest::Target),
            (true, None) => Err(BadRequest::HostCount),
            (true, Some(_)) => Ok(()),
        };
    };
    // Without a scheme it is what CONNECT asks for, and no path.
    let plain = uri.scheme_str().is_some_and(|scheme| is_http2 || scheme == "http");
    if !plain || authority.as_str().contains('@') {
        return Err(BadRequest::Target);
    }
    let differs = host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
    if is_http2 && differs {
        return Err(BadRequest::HostDiffers);
    }
    let host = host_value(authority)?;
    // An empty path reads as "/", but without a scheme before it would be written as nothing at all.
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// A host and an optional port, in bytes that every server reads alike.
fn is_host(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.len() > MAX_HOST_BYTES {
        return false;
    }
    let (name, rest) = match bytes.iter().position(|byte| *byte == b']') {
        Some(end) if bytes[0] == b'[' => {
            let inside = &bytes[1..end];
            let address =
                !inside.is_empty() && inside.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
            return address && is_port(&bytes[end + 1..]);
        }
        Some(_) => return false,
        None => bytes.split_at(bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len())),
    };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b'%');
    !name.is_empty() && name.iter().all(allowed) && is_port(rest)
}

/// Nothing, or a colon and digits.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [b':', port @ ..] => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// CONNECT names a host and port, and the Host header the same (RFC 9112 section 3.2.3). Where the tunnel leads is
/// for the route to say, and whether there is one for its destination.
fn tunnel_target(request: &Request<Incoming>) -> Result<(), BadRequest> {
    if request.version() == Version::HTTP_2 {
        return Err(BadRequest::Connect);
    }
    let authority = request.uri().authority().filter(|name| name.port().is_some() && !name.as_str().contains('@'));
    let authority = host_value(authority.ok_or(BadRequest::Target)?)?;
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if *host == authority => Ok(()),
        (Some(_), None) => Err(BadRequest::Host),
        _ => Err(BadRequest::HostCount),
    }
}

fn host_value(authority: &Authority) -> Result<HeaderValue, BadRequest> {
    HeaderValue::from_str(authority.as_str()).ok().filter(|host| is_host(host.as_bytes())).ok_or(BadRequest::Target)
}

/// Whether the client can take trailers, of all that TE can say the one thing that this proxy passes on.
fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
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
        for host in [
            "", "a b", "a/b", "a,b", "user@a", "a\\b", "a?b", "a:b", "a:1:2", ":80", "[::1", "[]", "[::1]x", "a:123456",
        ] {
            assert!(!is_host(host.as_bytes()), "{host:?}");
        }
        for host in ["a", "a:80", "[::1]:80", "payments.shop.svc.cluster.local", "127.0.0.1"] {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
    }
}
