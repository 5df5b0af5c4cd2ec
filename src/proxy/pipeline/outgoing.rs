//! The request as it goes out to the upstream: in its version's form, with what holds and watches its body.
//!
//! It must not send: where the request goes, and how long it may take, others decide.

use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::config::Mode;
use http::header;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri, Version};
use hyper::body::Incoming;

use super::request_body::{ClientBody, RequestBody};
use super::{Manner, grpc, interim, normalize};
use crate::listener::caller::Caller;
use crate::snapshot::Rule;

/// The request as it goes out, and what tells how far its body came.
pub(super) fn outgoing(
    request: Request<Incoming>,
    caller: &Caller,
    manner: &Manner,
) -> (Request<RequestBody>, Option<Arc<ClientBody>>) {
    let (mut parts, body) = request.into_parts();
    // HTTP/1.0 goes out as HTTP/1.1: a proxy sends its own version (RFC 9110 section 2.5), and 1.0 has no chunks.
    parts.version = if manner.version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let (mut body, client) = RequestBody::new(body, manner.version, &caller.activity);
    if manner.version == Version::HTTP_2 {
        // A stream of gRPC may be silent for long; of HTTP/1.1 the watch over the connection sees to it.
        if !grpc::is_grpc(&parts.headers) {
            body.bound_silence(caller.enforcer.limits().body);
        }
        absolute(&mut parts);
        return (Request::from_parts(parts, body), client);
    }
    let held = client.clone().filter(|_| expects_leave(&parts.headers));
    if held.is_some() {
        body.hold_until_wanted();
    }
    let mut request = Request::from_parts(parts, body);
    normalize::frame(&mut request);
    let listener = interim::Listener { activity: Arc::clone(&caller.activity), version: manner.version, held };
    interim::listen(&mut request, listener);
    if let Some(upgrade) = &manner.upgrade {
        upgrade.ask(&mut request);
    }
    (request, client)
}

/// HTTP/2 names the authority in the target.
fn absolute(parts: &mut http::request::Parts) {
    let Some(host) = parts.headers.get(header::HOST) else { return };
    let path = parts.uri.path_and_query().cloned();
    let target = Uri::builder()
        .scheme("http")
        .authority(host.as_bytes())
        .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build();
    if let Ok(target) = target {
        parts.uri = target;
    }
}

/// The upstream of a gRPC call learns of the rule's time where that is shorter than the caller's.
pub(super) fn with_deadline(
    mut request: Request<RequestBody>,
    rule: &Rule,
    patience: Option<Duration>,
) -> Request<RequestBody> {
    let Some(limit) = rule.timeout.filter(|_| request.version() == Version::HTTP_2) else { return request };
    let enforced = rule.guard.as_ref().is_some_and(|guard| guard.mode == Mode::Enforce);
    if enforced && patience.is_none_or(|patience| limit < patience) && grpc::is_grpc(request.headers()) {
        request.headers_mut().insert(grpc::TIMEOUT, grpc::timeout_value(limit));
    }
    request
}

/// Whether the client waits to be asked for its body.
fn expects_leave(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
