//! What gRPC over HTTP/2 says in headers and trailers: its status, its deadline.
//!
//! It must not decide what a status means for a breaker. gRPC-Web is left alone: its status stands in the
//! body, and its HTTP status speaks for it.

use std::time::Duration;

use fusebox_policy::metrics::ERROR_RATE_LIMITED;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::problem::{ERROR_HEADER, POLICY_HEADER};
use super::response_body::ResponseBody;

/// The status, in trailers or in the only headers.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status in words, percent-encoded.
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How long the caller waits.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The content type of calls and answers.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// DEADLINE_EXCEEDED.
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;

/// RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u32 = 8;

/// UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

/// A status that is no number stands for UNKNOWN.
const UNKNOWN: u32 = 2;

/// The longest deadline that is kept track of; one beyond it is none.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Whether headers are those of a gRPC call or answer.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    match kind.as_bytes().split_at_checked(CONTENT_TYPE.len()) {
        Some((kind, rest)) => {
            kind.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}

/// The status in headers or trailers.
pub(crate) fn status(headers: &HeaderMap) -> Option<u32> {
    let value = headers.get(STATUS)?;
    Some(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN))
}

/// How long the caller waits; none where it does not say, or says it wrongly.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    (timeout <= MAX_TIMEOUT).then_some(timeout)
}

/// `timeout` as a header's value: whole milliseconds where they fit, else seconds.
pub(crate) fn timeout_value(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis();
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", timeout.as_secs()) };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1H"))
}

/// `text` as a `grpc-message`: what is not printable ASCII, and the percent sign, are encoded.
pub(crate) fn message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static(""))
}

/// Trailers that say `code`.
pub(crate) fn trailers(code: u32, text: &str) -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from(code)), (MESSAGE, message(text))])
}

/// An answer of this proxy as a gRPC caller reads it: only headers, with the status in them.
pub(crate) fn in_headers_only(answer: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut parts, body) = answer.into_parts();
    let said = match body {
        ResponseBody::Local(bytes) => bytes.unwrap_or_default(),
        ResponseBody::Upstream(_) => return Response::from_parts(parts, body),
    };
    let problem: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    let text = problem["detail"].as_str().unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    let is_limited = parts.headers.get(ERROR_HEADER).is_some_and(|error| error == ERROR_RATE_LIMITED);
    let code = if is_limited && parts.status == StatusCode::TOO_MANY_REQUESTS {
        RESOURCE_EXHAUSTED
    } else if parts.headers.contains_key(POLICY_HEADER) && !is_limited {
        // A fixed answer to a refused call is none that gRPC could read, whatever its status.
        UNAVAILABLE
    } else {
        code_of(parts.status)
    };
    parts.headers.extend(trailers(code, text));
    parts.status = StatusCode::OK;
    Response::from_parts(parts, ResponseBody::Local(None))
}

/// The code for an HTTP status (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>), but
/// that a gateway's timeout is a deadline that passed.
fn code_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => DEADLINE_EXCEEDED,
        429 | 502 | 503 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn grpc_is_known_by_its_content_type_and_grpc_web_is_not_it() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert!(is_grpc(&headers(header::CONTENT_TYPE, kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grp"] {
            assert!(!is_grpc(&headers(header::CONTENT_TYPE, kind)), "{kind}");
        }
    }

    #[test]
    fn a_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        let read = |value| timeout(&headers(TIMEOUT, value));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for nonsense in ["", "m", "1", "-1S", "1s", "123456789S", "+1S", "1 S", "99999999H"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_status_that_is_no_number_is_unknown() {
        assert_eq!(status(&headers(STATUS, "14")), Some(14));
        assert_eq!(status(&headers(STATUS, "many")), Some(UNKNOWN));
        assert_eq!(status(&HeaderMap::new()), None);
    }

    #[test]
    fn a_message_is_printable_ascii() {
        assert_eq!(message("100 % für\n"), "100 %25 f%C3%BCr%0A");
    }
}
