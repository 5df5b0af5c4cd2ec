//! gRPC probes: `grpc.health.v1.Health/Check`, without TLS as the kubelet does it.
//!
//! It must not need a gRPC library: the request has one field, and of the answer one counts.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use fusebox_policy::config::Probe;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{Failure, Verdict, connect};
use crate::pipeline::grpc;

/// The longest answer that is read; a right one has seven bytes.
const MAX_ANSWER: usize = 1024;

/// The head of a message: not compressed, and its length.
const PREFIX: usize = 5;

/// `status: SERVING` of `HealthCheckResponse`.
const SERVING: u64 = 1;

/// Asks the application's health service.
pub(super) async fn ask(probe: &Probe, address: SocketAddr, told: &HeaderMap) -> Result<Verdict, Failure> {
    let fail = |message: String| Failure::Answer { address, message };
    let request = request(probe, address, told).map_err(|error| fail(error.to_string()))?;
    let stream = connect(address).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
    // It ends when the sender and the answer are dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
    let told = grpc::status(response.headers());
    let mut body = response.into_body();
    let (mut bytes, mut status) = (BytesMut::new(), told);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| fail(error.to_string()))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() <= MAX_ANSWER => bytes.extend_from_slice(&data),
            Ok(_) => return Err(fail(format!("an answer of more than {MAX_ANSWER} bytes"))),
            Err(frame) => status = frame.trailers_ref().and_then(grpc::status).or(status),
        }
    }
    match (status, serving(&bytes)) {
        (Some(0), Some(SERVING)) => Ok(Verdict::text(StatusCode::OK, "SERVING".to_owned())),
        (Some(0), state) => {
            Err(Failure::NotServing(format!("service {:?} is not serving: status {state:?}", service(probe))))
        }
        (Some(code), _) => Err(Failure::NotServing(format!("service {:?}: gRPC status {code}", service(probe)))),
        (None, _) => Err(fail("no gRPC status: is it a gRPC server?".to_owned())),
    }
}

/// The service that is asked about; empty for the server as a whole.
fn service(probe: &Probe) -> &str {
    probe.service.as_deref().unwrap_or_default()
}

fn request(probe: &Probe, address: SocketAddr, told: &HeaderMap) -> Result<Request<Full<Bytes>>, http::Error> {
    let agent = told.get(header::USER_AGENT).cloned().unwrap_or(HeaderValue::from_static("kube-probe"));
    Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, agent)
        .body(Full::new(check(service(probe))))
}

/// `HealthCheckRequest {service}` with its prefix.
fn check(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn varint(bytes: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        bytes.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number as u8);
}

/// Field 1 of `HealthCheckResponse`; absent is 0, UNKNOWN. None for what can't be read.
fn serving(answer: &[u8]) -> Option<u64> {
    let (prefix, message) = answer.split_at_checked(PREFIX)?;
    if prefix[0] != 0 {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status, ..] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_in_the_request_and_the_whole_server_is_not() {
        assert_eq!(check(""), &b"\0\0\0\0\0"[..]);
        assert_eq!(check("a.B"), &b"\0\0\0\0\x05\x0a\x03a.B"[..]);
        assert_eq!(&check(&"x".repeat(200))[..8], b"\0\0\0\0\xcb\x0a\xc8\x01");
    }

    #[test]
    fn only_serving_is_serving() {
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(serving(b"\0\0\0\0\0"), Some(0));
        for torn in [&b""[..], b"\0\0", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x02\x10\x01"] {
            assert_eq!(serving(torn), None);
        }
    }
}
