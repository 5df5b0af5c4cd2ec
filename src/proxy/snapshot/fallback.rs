//! The fixed answer of a policy, checked when the configuration is taken and made ready for requests.
//!
//! It must not be able to break the connection it is sent on: headers that belong to one connection or frame the
//! body are refused, and so is a body where a status has none.

use bytes::Bytes;
use fusebox_policy::config::{AnswerHeader, StaticAnswer};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::config_error::ConfigError;
use crate::pipeline::problem::{ERROR_HEADER, POLICY_HEADER};

/// The longest body, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 10;

/// Headers it can have.
pub(crate) const MAX_HEADERS: usize = 32;

/// The longest header, name and value together, in bytes.
pub(crate) const MAX_HEADER_BYTES: usize = 4 << 10;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), frame the body or are the proxy's own word.
const REFUSED: [HeaderName; 13] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::VIA,
    POLICY_HEADER,
    ERROR_HEADER,
];

/// A fixed answer, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Fallback {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Fallback {
    /// Checks `answer`, which stands at `field`.
    pub(super) fn build(field: &str, answer: &StaticAnswer) -> Result<Self, ConfigError> {
        let StaticAnswer { status, headers, body } = answer;
        let status = StatusCode::from_u16(*status).ok().filter(|status| (200..=599).contains(&status.as_u16()));
        let status =
            status.ok_or_else(|| ConfigError::text(&format!("{field}.status"), "is not one from 200 to 599"))?;
        let has_no_body =
            matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        if has_no_body && !body.is_empty() {
            return Err(ConfigError::text(&format!("{field}.body"), "is there, but an answer of this status has none"));
        }
        if body.len() > MAX_BODY_BYTES {
            return Err(ConfigError::text(&format!("{field}.body"), &format!("is longer than {MAX_BODY_BYTES} bytes")));
        }
        if headers.len() > MAX_HEADERS {
            return Err(ConfigError::text(
                &format!("{field}.headers"),
                &format!("has more than {MAX_HEADERS} entries"),
            ));
        }
        let mut checked = HeaderMap::with_capacity(headers.len());
        for (index, header) in headers.iter().enumerate() {
            let (name, value) = self::header(&format!("{field}.headers[{index}]"), header)?;
            checked.append(name, value);
        }
        Ok(Self { status, headers: checked, body: Bytes::from(body.clone()) })
    }

    /// The answer to a request of `method`, in which `policy` says who answered and why. The body's length is said
    /// here, since an answer to HEAD has the length that GET would have (RFC 9110, section 9.3.2).
    pub(crate) fn answer(&self, method: &Method, policy: &HeaderValue) -> Response<Option<Bytes>> {
        let shown = *method != Method::HEAD && !self.body.is_empty();
        let mut response = Response::new(shown.then(|| self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response.headers_mut().insert(POLICY_HEADER, policy.clone());
        if *method == Method::HEAD && !self.body.is_empty() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        response
    }
}

fn header(field: &str, header: &AnswerHeader) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let AnswerHeader { name, value } = header;
    if name.len() + value.len() > MAX_HEADER_BYTES {
        return Err(ConfigError::text(field, &format!("is longer than {MAX_HEADER_BYTES} bytes")));
    }
    let parsed = HeaderName::try_from(name.as_str()).map_err(|_| {
        ConfigError::text(&format!("{field}.name"), "is not the name of a header, such as content-type")
    })?;
    if REFUSED.contains(&parsed) {
        return Err(ConfigError::text(
            &format!("{field}.name"),
            &format!("is {parsed}, which only the proxy itself may set; leave it out"),
        ));
    }
    let value = HeaderValue::try_from(value.as_str())
        .map_err(|_| ConfigError::text(&format!("{field}.value"), "has characters that can't stand in a header"))?;
    Ok((parsed, value))
}
