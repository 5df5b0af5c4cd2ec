//! Refusals as `application/problem+json` (RFC 9457), the same on every port that is not the API server's own dialect.
//!
//! It must only write: who refuses knows the status, the stable reason and the sentence.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// The answer that says why a request was refused; where the method was wrong, with the one that is right.
pub(crate) fn problem(status: StatusCode, reason: &str, detail: &str) -> Response<Full<Bytes>> {
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "reason": reason,
    });
    let mut response = Response::new(Full::from(problem.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wrong_method_is_told_the_right_one() {
        let answer = problem(StatusCode::METHOD_NOT_ALLOWED, "Method", "the method must be POST");
        assert_eq!(
            (answer.status(), &answer.headers()[ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("POST"))
        );
        let other = problem(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this path");
        assert_eq!(other.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(!other.headers().contains_key(ALLOW));
    }
}
