//! Leaving HTTP/1.1 for another protocol, as WebSocket does, and CONNECT: both ends agree, then bytes pass.
//!
//! It must not decide where a tunnel leads: it goes over the connection to the route's own destination, and
//! whether that serves CONNECT is for the destination to say.

use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::exchange::Exchange;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::{Manner, failed, normalize};
use crate::listener::caller::Caller;
use crate::series::Ending;
use crate::tunnel;
use crate::upstream::Lease;

/// What a client wants to speak in place of HTTP.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// One of the protocols in this Upgrade header.
    Protocol(HeaderValue),
    /// Whatever is spoken beyond CONNECT.
    Tunnel,
}

impl Upgrade {
    /// What the request asks for. h2c is not offered: who speaks it does so from the first byte (RFC 9113 section 3.1).
    pub(super) fn asked<B>(request: &Request<B>) -> Option<Self> {
        if request.version() != Version::HTTP_11 {
            return None;
        }
        if request.method() == Method::CONNECT {
            return Some(Self::Tunnel);
        }
        let mut wanted = request.headers().get_all(header::UPGRADE).iter();
        let (Some(protocol), None) = (wanted.next(), wanted.next()) else { return None };
        let is_h2c = protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c");
        (!is_h2c && is_nominated(request.headers())).then(|| Self::Protocol(protocol.clone()))
    }

    /// Asks the upstream for the same.
    pub(super) fn ask(&self, request: &mut Request<RequestBody>) {
        if let Self::Protocol(protocol) = self {
            nominate(request.headers_mut(), protocol.clone());
        }
    }
}

/// Whether the answer ends HTTP on both connections.
pub(super) fn is_switch<B>(manner: &Manner, response: &Response<B>) -> bool {
    let tunnel = matches!(manner.upgrade, Some(Upgrade::Tunnel));
    response.status() == StatusCode::SWITCHING_PROTOCOLS || (tunnel && response.status().is_success())
}

/// Passes the upstream's consent on, and leaves the two connections to a tunnel.
pub(super) async fn switch(
    mut exchange: Exchange,
    answer: (Response<Incoming>, Lease),
    around: (&Arc<Caller>, Option<Upgrade>),
) -> Response<ResponseBody> {
    let ((mut response, lease), (caller, upgrade)) = (answer, around);
    let rule = Arc::clone(exchange.rule());
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let agreed = match upgrade {
        Some(Upgrade::Tunnel) => response.status().is_success(),
        Some(Upgrade::Protocol(_)) => protocol.is_some(),
        None => false,
    };
    exchange.head(&response);
    let upgraded = if agreed { lease.into_upgraded().await } else { None };
    let Some((prefix, stream)) = upgraded else {
        // Nobody asked for it, or the connection broke at this very moment.
        return failed(exchange, Ending::Reset, None);
    };
    normalize::response(&mut response);
    if let Some(protocol) = protocol.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
        nominate(response.headers_mut(), protocol);
    }
    caller.upgrade(tunnel::Upstream::new(prefix, stream, rule));
    exchange.answered(Instant::now());
    response.map(|_| ResponseBody::Local(None))
}

fn nominate(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

fn is_nominated(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)]) -> Option<Upgrade> {
        let request = headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        Upgrade::asked(&request.body(()).unwrap())
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_headers() {
        assert!(asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).is_some());
        assert!(asked(&[("upgrade", "websocket")]).is_none());
        assert!(asked(&[("connection", "upgrade")]).is_none());
        assert!(asked(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]).is_none());
        let two = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "other")];
        assert!(asked(&two).is_none(), "which of them is not for us to choose");
    }
}
