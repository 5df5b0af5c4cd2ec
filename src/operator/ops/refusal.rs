//! Why a request of the operations API was refused, as Kubernetes' own `Status`, so that kubectl says it well.
//!
//! What is not authenticated learns nothing but that: which certificate or header was missing stands in the log alone.

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};

use super::authorization::Attributes;

/// How soon it is worth asking again where something is not there yet.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It did not come from the API server's front proxy.
    #[error("Unauthorized")]
    Unauthenticated(&'static str),
    /// The user may not.
    #[error("{0}")]
    Forbidden(Box<Denial>),
    /// There is nothing at this path.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// There is no such object.
    #[error("{resource}.ops.fusebox.dev {name:?} not found: {why}")]
    NotFound {
        /// The resource.
        resource: &'static str,
        /// The object's name.
        name: String,
        /// What to look for.
        why: String,
    },
    /// The resource can't do that.
    #[error("{verb} is not supported on {resource}")]
    Verb {
        /// The verb.
        verb: &'static str,
        /// The resource.
        resource: String,
    },
    /// The request can't be understood.
    #[error("{0}")]
    Malformed(String),
    /// The request says what is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The body is too long.
    #[error("the request's body is longer than {0} bytes")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the request's body did not come in time")]
    SlowBody,
    /// None of the accepted media types is spoken here.
    #[error("only application/json is served")]
    NotAcceptable,
    /// Somebody else manages what is to be changed, or it changed meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// Too many requests at once.
    #[error("too many requests at once: try again")]
    Busy,
    /// It can't be answered now.
    #[error("{0}")]
    Unavailable(&'static str),
    /// It is not known whether it was done.
    #[error("not answered in time: it may or may not have been done; look, and ask again")]
    Unknown,
    /// What another replica or the API server answered.
    #[error("{}", .0.message.as_deref().unwrap_or("refused"))]
    Told(Box<Status>),
}

/// What a user may not do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}{hint}",
    what = self.attributes.object(), verb = self.attributes.verb, resource = self.attributes.resource(),
    group = fusebox_api::names::OPERATIONS_GROUP, place = self.attributes.place(), hint = self.hint())]
pub(crate) struct Denial {
    pub(crate) user: String,
    pub(crate) attributes: Attributes,
}

impl Denial {
    fn hint(&self) -> &'static str {
        if self.attributes.subresource.is_empty() {
            ": ask for ClusterRole fusebox-view, which is part of view"
        } else {
            ": ask for ClusterRole fusebox-operate, which is part of edit"
        }
    }
}

impl Refusal {
    /// The stable word that Kubernetes has for it.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Unauthenticated(_) => "Unauthorized",
            Self::Forbidden(_) => "Forbidden",
            Self::NoSuchPath | Self::NotFound { .. } => "NotFound",
            Self::Verb { .. } => "MethodNotAllowed",
            Self::Malformed(_) => "BadRequest",
            Self::Invalid(_) => "Invalid",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::SlowBody | Self::Unknown => "Timeout",
            Self::NotAcceptable => "NotAcceptable",
            Self::Conflict(_) => "Conflict",
            Self::Busy => "TooManyRequests",
            Self::Unavailable(_) => "ServiceUnavailable",
            Self::Told(status) => status.reason.as_deref().unwrap_or_default(),
        }
    }

    pub(crate) fn code(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NoSuchPath | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Verb { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::GATEWAY_TIMEOUT,
            Self::Told(status) => told_code(status),
        }
    }

    /// When to ask again, where that is worth it.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy | Self::Unavailable(_) => Some(RETRY_AFTER),
            Self::Told(status) => {
                let seconds = status.details.as_ref().and_then(|details| details.retry_after_seconds);
                seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|it| *it > 0).map(Duration::from_secs)
            }
            _ => None,
        }
    }

    /// What is sent.
    pub(crate) fn status(&self) -> Status {
        if let Self::Told(status) = self {
            return Status::clone(status);
        }
        let retry_after = self.retry_after().and_then(|after| i32::try_from(after.as_secs()).ok());
        let details = StatusDetails { retry_after_seconds: retry_after, ..StatusDetails::default() };
        Status {
            status: Some("Failure".to_owned()),
            message: Some(self.to_string()),
            reason: Some(self.reason().to_owned()),
            code: Some(i32::from(self.code().as_u16())),
            details: retry_after.map(|_| details),
            ..Status::default()
        }
    }
}

/// An answer of the API server, as it is passed on.
impl From<&kube::core::Status> for Refusal {
    fn from(status: &kube::core::Status) -> Self {
        let kube::core::Status { message, reason, code, .. } = status;
        Self::Told(Box::new(Status {
            status: Some("Failure".to_owned()),
            message: Some(message.clone()),
            reason: Some(reason.clone()),
            code: Some(i32::from(*code)),
            ..Status::default()
        }))
    }
}

/// The code of a status that somebody else made; one that is no refusal is our own fault.
fn told_code(status: &Status) -> StatusCode {
    let code = status.code.and_then(|code| u16::try_from(code).ok()).and_then(|code| StatusCode::from_u16(code).ok());
    code.filter(|code| code.as_u16() >= 400).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_known_learns_nothing_of_why() {
        let status = Refusal::Unauthenticated("the certificate's name is not allowed").status();
        assert_eq!(status.message.as_deref(), Some("Unauthorized"));
        assert_eq!(status.code, Some(401));
    }

    #[test]
    fn a_refusal_names_the_role_to_ask_for() {
        let attributes = Attributes {
            verb: "create",
            resource: "circuitbreakerstates".into(),
            subresource: "override".into(),
            namespace: "shop".into(),
            name: "payments".into(),
        };
        let text = Refusal::Forbidden(Box::new(Denial { user: "alice".into(), attributes })).to_string();
        assert_eq!(
            text,
            "circuitbreakerstates.ops.fusebox.dev \"payments\" is forbidden: User \"alice\" cannot create resource \
             \"circuitbreakerstates/override\" in API group \"ops.fusebox.dev\" in the namespace \"shop\": ask for ClusterRole \
             fusebox-operate, which is part of edit"
        );
    }

    #[test]
    fn what_is_passed_on_keeps_its_code_and_its_hint_to_try_again() {
        let first = Refusal::Unavailable("no leader").status();
        let told = Refusal::Told(Box::new(first));
        assert_eq!((told.code().as_u16(), told.retry_after()), (503, Some(RETRY_AFTER)));
        assert_eq!(Refusal::Told(Box::default()).code().as_u16(), 500);
    }
}
