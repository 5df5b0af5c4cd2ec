//! Interim answers (1xx) of an upstream on HTTP/1.1, on their way to the client.
//!
//! It must not let them be without end: who sends interim answers and never an answer holds a request as one who hangs does,
//! but keeps both connections busy. 100 is not passed on but acted upon, and 101 is an answer. On HTTP/2 hyper neither
//! tells of interim answers nor sends them.

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode, Version};

use super::normalize;
use super::request_body::{ClientBody, RequestBody};
use crate::listener::activity::Activity;

/// Interim answers to one request; one more is a reset.
pub(crate) const MAX_INTERIM: u32 = 100;

/// Who hears of a request's interim answers.
pub(super) struct Listener {
    /// The client's connection.
    pub(super) activity: Arc<Activity>,
    /// What the client speaks: HTTP/1.0 knows no interim answers.
    pub(super) version: Version,
    /// The body that waits to be asked for.
    pub(super) held: Option<Arc<ClientBody>>,
}

/// Lets `listener` hear of the interim answers to `request`.
pub(super) fn listen(request: &mut Request<RequestBody>, listener: Listener) {
    let Listener { activity, version, held } = listener;
    hyper::ext::on_informational(request, move |told| {
        activity.note_interim();
        match (told.status(), &held) {
            (StatusCode::CONTINUE, Some(client)) => client.wanted(),
            (StatusCode::CONTINUE, None) => {}
            _ if version == Version::HTTP_10 || activity.interims() > MAX_INTERIM => {}
            (status, _) => activity.pass_interim(&head(status, told.headers())),
        }
    });
}

/// The bytes of an interim answer, fit for the client.
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut told = Response::new(());
    *told.headers_mut() = headers.clone();
    normalize::response(&mut told);
    // It has no body, whatever it says (RFC 9110 section 15.2).
    told.headers_mut().remove(header::CONTENT_LENGTH);
    let reason = status.canonical_reason().unwrap_or("Interim");
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in told.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_interim_answer_keeps_what_is_for_the_client_alone() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("link", "</a>; rel=preload"),
            ("link", "</b>"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("fusebox-error", "circuit-open"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let bytes = head(StatusCode::EARLY_HINTS, &headers);
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let unknown = head(StatusCode::from_u16(199).unwrap(), &HeaderMap::new());
        assert_eq!(unknown, b"HTTP/1.1 199 Interim\r\n\r\n");
    }
}
