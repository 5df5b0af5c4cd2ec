//! Requests that are no admission reviews, and the 4xx each is answered with.
//!
//! The API server never sends one; whoever else does must learn what is wrong, and cost nothing.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::problem::problem;

/// Why a request is no admission review.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestRefusal {
    /// There is nothing at this path.
    #[error("there is nothing at this path: the webhooks are /admission/inject and /admission/validate")]
    NotFound,
    /// The method is not POST.
    #[error("the method must be POST")]
    Method,
    /// The body is not JSON by its own word.
    #[error("the content type must be application/json")]
    ContentType,
    /// The body is larger than any review.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// There is no body.
    #[error("the body is empty: send an AdmissionReview")]
    Empty,
    /// The body broke off.
    #[error("the body could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body is no review.
    #[error("the body is no AdmissionReview: {0}")]
    Malformed(#[source] serde_json::Error),
    /// It is a review in a version that is not spoken.
    #[error("the body must be an AdmissionReview of admission.k8s.io/v1, not {kind:?} of {api_version:?}")]
    Version {
        /// What it says.
        api_version: String,
        /// What it says.
        kind: String,
    },
    /// It is a review without a request.
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
    /// It took too long.
    #[error("the request took too long")]
    Timeout,
}

impl RequestRefusal {
    /// A stable word for metrics and answers.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Method => "MethodNotAllowed",
            Self::ContentType => "ContentType",
            Self::TooLarge { .. } => "TooLarge",
            Self::Empty => "Empty",
            Self::Body(_) => "Body",
            Self::Malformed(_) => "Malformed",
            Self::Version { .. } => "Version",
            Self::NoRequest => "NoRequest",
            Self::Timeout => "Timeout",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Empty | Self::Body(_) | Self::Malformed(_) | Self::Version { .. } | Self::NoRequest => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        problem(self.status(), self.reason(), &self.to_string())
    }
}
