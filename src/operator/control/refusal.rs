//! Why a request to the control port was refused, as `application/problem+json` (RFC 9457).
//!
//! Each refusal has a stable reason, so that a sidecar's log, a metric and a test name the same thing.

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use crate::problem::problem;
use crate::token::TokenError;

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is nothing at this path.
    #[error("there is nothing at this path")]
    NotFound,
    /// The method is not POST.
    #[error("the method must be POST")]
    Method,
    /// There is no bearer token.
    #[error("there is no `authorization: Bearer` header with a service-account token")]
    TokenMissing,
    /// The token was not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token's pod does not live.
    #[error("the token's pod does not exist (any more)")]
    PodUnknown,
    /// The token's pod has no sidecar.
    #[error("the token's pod is not marked as having a sidecar")]
    NoSidecar,
    /// Pods or configurations are not known yet.
    #[error("the operator is still starting: try again")]
    NotReady,
    /// The client showed no certificate of a peer.
    #[error("only other replicas of the operator may connect here")]
    NotAPeer,
    /// This replica does not lead.
    #[error("this replica does not lead")]
    NotLeader,
    /// There are as many peers as there may be.
    #[error("too many peers are connected")]
    TooManyPeers,
}

impl Refusal {
    /// A stable word for metrics and answers.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Method => "MethodNotAllowed",
            Self::TokenMissing => "TokenMissing",
            Self::Token(error) => error.reason(),
            Self::PodUnknown => "PodUnknown",
            Self::NoSidecar => "NoSidecar",
            Self::NotReady => "NotReady",
            Self::NotAPeer => "NotAPeer",
            Self::NotLeader => "NotLeader",
            Self::TooManyPeers => "TooManyPeers",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Token(TokenError::Unavailable(_)) | Self::NotReady | Self::TooManyPeers => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(TokenError::Unbound) | Self::PodUnknown | Self::NoSidecar | Self::NotAPeer => {
                StatusCode::FORBIDDEN
            }
            Self::TokenMissing | Self::Token(_) => StatusCode::UNAUTHORIZED,
            Self::NotLeader => StatusCode::CONFLICT,
        }
    }

    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let mut response = problem(status, self.reason(), &self.to_string());
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
