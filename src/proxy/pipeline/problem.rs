//! Answers this proxy gives by itself: refusals, timeouts, failures of the upstream (RFC 9457).
//!
//! They must be told apart by machine: a problem type, the header `fusebox-error` and a status each. No
//! address of an upstream is in them, because clients need not know it.

use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::metrics;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use super::normalize::BadRequest;
use super::response_body::ResponseBody;

/// Names the policy and the state that refused a request.
pub(crate) const POLICY_HEADER: HeaderName = HeaderName::from_static("fusebox-policy");

/// Tells our own errors apart.
pub(crate) const ERROR_HEADER: HeaderName = HeaderName::from_static("fusebox-error");

const TYPE_BASE: &str = "https://fusebox.dev/problems/";

/// The type of problem that draft-ietf-httpapi-ratelimit-headers-10 registers for a quota that is spent.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The members of a problem document.
#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(rename = "violated-policies", skip_serializing_if = "<[_]>::is_empty")]
    violated_policies: &'a [&'a str],
}

/// A request that a rate limit refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited<'a> {
    /// The policy of the limit, what the request was for, and the limit's rule.
    pub(crate) place: Place<'a>,
    /// The limit's name.
    pub(crate) limit: &'a str,
    /// Why.
    pub(crate) why: Why,
    /// After what time a request of this kind may pass; of no meaning where it never may.
    pub(crate) retry_after: Duration,
}

/// Why a rate limit refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is beyond the limit.
    Limited,
    /// The client is refused for a time, whatever its bucket holds.
    Blocked,
    /// It has no token whose signature holds.
    NoToken,
    /// It lacks another part of the key.
    NoKey,
    /// Its key has no quota.
    UnknownKey,
    /// The store of the buckets does not answer.
    StoreLost,
}

/// Where a problem arose.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place<'a> {
    /// `namespace/name` of the policy; empty without one.
    pub(crate) policy: &'a str,
    /// What the request was for, such as `shop/payments:80`.
    pub(crate) target: &'a str,
    /// The rule's name; empty for what no rule matched.
    pub(crate) rule: &'a str,
}

/// The breaker refused the request.
pub(crate) fn refused(
    place: Place<'_>,
    state: &'static str,
    header: &HeaderValue,
    retry_after: Duration,
) -> Response<ResponseBody> {
    let seconds = retry_after_seconds(retry_after);
    let problem = Problem {
        state: Some(state),
        detail: format!("The circuit breaker for {} is {state}; try again in {seconds} s.", place.target),
        ..problem(metrics::ERROR_CIRCUIT_OPEN, "Circuit breaker is open", StatusCode::SERVICE_UNAVAILABLE, place)
    };
    let mut response = respond(&problem, Some(metrics::ERROR_CIRCUIT_OPEN));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response.headers_mut().insert(POLICY_HEADER, header.clone());
    response
}

/// A rate limit refused the request.
pub(crate) fn limited(limited: &Limited<'_>) -> Response<ResponseBody> {
    let Limited { place, limit, why, retry_after } = *limited;
    let seconds = retry_after_seconds(retry_after);
    let state = why.state();
    let violated = [limit];
    let problem = Problem {
        limit: Some(limit),
        state: Some(state),
        detail: why.detail(limit, seconds),
        violated_policies: if why.is_quota() { &violated } else { &[] },
        ..problem(why.problem(), why.title(), why.status(), place)
    };
    let problem = if why.is_quota() { Problem { r#type: QUOTA_EXCEEDED.to_owned(), ..problem } } else { problem };
    let mut response = respond(&problem, Some(metrics::ERROR_RATE_LIMITED));
    let headers = response.headers_mut();
    if why.is_quota() || why == Why::StoreLost {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if why == Why::NoToken {
        // RFC 9110 section 15.5.2: who answers 401 says how to do better.
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Ok(value) = HeaderValue::try_from(format!("{}; limit={limit}; state={state}", place.policy)) {
        headers.insert(POLICY_HEADER, value);
    }
    response
}

/// The request took longer than its rule allows.
pub(crate) fn timeout(place: Place<'_>, limit: Duration) -> Response<ResponseBody> {
    let problem = Problem {
        detail: format!("{} did not answer within {} ms.", place.target, limit.as_millis()),
        ..problem(metrics::ERROR_TIMEOUT, "Upstream took too long", StatusCode::GATEWAY_TIMEOUT, place)
    };
    respond(&problem, Some(metrics::ERROR_TIMEOUT))
}

/// No connection to the upstream could be made.
pub(crate) fn connect_failure(place: Place<'_>) -> Response<ResponseBody> {
    let problem = Problem {
        detail: format!("No connection to {} could be made.", place.target),
        ..problem(metrics::ERROR_CONNECT_FAILURE, "Upstream is not reachable", StatusCode::BAD_GATEWAY, place)
    };
    respond(&problem, Some(metrics::ERROR_CONNECT_FAILURE))
}

/// The upstream's connection broke before it answered.
pub(crate) fn reset(place: Place<'_>) -> Response<ResponseBody> {
    let problem = Problem {
        detail: format!("{} closed the connection before it answered.", place.target),
        ..problem(metrics::ERROR_RESET, "Upstream broke off", StatusCode::BAD_GATEWAY, place)
    };
    respond(&problem, Some(metrics::ERROR_RESET))
}

/// Nobody said where the Service is reached.
pub(crate) fn no_address(place: Place<'_>) -> Response<ResponseBody> {
    let problem = Problem {
        detail: format!(
            "No address of {0} is known: start the proxy with --upstream {0}=HOST:PORT, or attach a policy to it.",
            place.target
        ),
        ..problem("no-address", "Upstream has no address", StatusCode::BAD_GATEWAY, place)
    };
    respond(&problem, None)
}

/// The Host header names no Service that is configured.
pub(crate) fn no_route(known: &str) -> Response<ResponseBody> {
    let problem = Problem {
        detail: format!("The Host header must name one of: {known}."),
        ..problem("no-route", "No such Service", StatusCode::NOT_FOUND, Place::default())
    };
    respond(&problem, None)
}

/// The client's body broke.
pub(crate) fn client_abort(place: Place<'_>) -> Response<ResponseBody> {
    let problem = Problem {
        detail: "The request's body ended before it was complete.".to_owned(),
        ..problem(metrics::ERROR_CLIENT_ABORT, "Request body is incomplete", StatusCode::BAD_REQUEST, place)
    };
    respond(&problem, Some(metrics::ERROR_CLIENT_ABORT))
}

/// The client's body took longer than the rule allows for the whole request.
pub(crate) fn slow_client(place: Place<'_>) -> Response<ResponseBody> {
    let problem = Problem {
        detail: "The request's body did not arrive in time.".to_owned(),
        ..problem(metrics::ERROR_CLIENT_ABORT, "Request body is too slow", StatusCode::REQUEST_TIMEOUT, place)
    };
    respond(&problem, Some(metrics::ERROR_CLIENT_ABORT))
}

/// The request is not one that can be passed on.
pub(crate) fn bad_request(error: BadRequest) -> Response<ResponseBody> {
    let status = match error {
        BadRequest::Connect => StatusCode::METHOD_NOT_ALLOWED,
        BadRequest::HostCount
        | BadRequest::Host
        | BadRequest::HostDiffers
        | BadRequest::Target
        | BadRequest::TransferEncoding => StatusCode::BAD_REQUEST,
        BadRequest::TargetLength => StatusCode::URI_TOO_LONG,
        BadRequest::HeaderCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        BadRequest::Loop => StatusCode::LOOP_DETECTED,
    };
    let name = if error == BadRequest::Loop { "loop" } else { "bad-request" };
    let problem = Problem {
        detail: format!("The {error}."),
        ..problem(name, "Request can't be passed on", status, Place::default())
    };
    let mut response = respond(&problem, None);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

impl Why {
    /// A word for logs and for header `fusebox-policy`.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Blocked => "blocked",
            Self::NoToken => "no-token",
            Self::NoKey => "no-key",
            Self::UnknownKey => "unknown-key",
            Self::StoreLost => "store-lost",
        }
    }

    /// Whether waiting helps.
    fn is_quota(self) -> bool {
        matches!(self, Self::Limited | Self::Blocked)
    }

    /// 429 would tell a client without a key to wait, which would not help it.
    fn status(self) -> StatusCode {
        match self {
            Self::Limited | Self::Blocked => StatusCode::TOO_MANY_REQUESTS,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::NoKey | Self::UnknownKey => StatusCode::FORBIDDEN,
            Self::StoreLost => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn problem(self) -> &'static str {
        match self {
            Self::Limited | Self::Blocked => "quota-exceeded",
            Self::NoToken | Self::NoKey => "limit-key-missing",
            Self::UnknownKey => "limit-key-unknown",
            Self::StoreLost => "limit-store-lost",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Limited | Self::Blocked => "Quota exceeded",
            Self::NoToken | Self::NoKey => "Request lacks what limits are counted by",
            Self::UnknownKey => "Key has no quota",
            Self::StoreLost => "Quotas can't be read",
        }
    }

    fn detail(self, limit: &str, seconds: u64) -> String {
        match self {
            Self::Limited => format!("Limit {limit} is reached; try again in {seconds} s."),
            Self::Blocked => format!("Limit {limit} was exceeded and refuses this client for {seconds} s."),
            Self::NoToken => format!("Limit {limit} needs a token whose signature holds."),
            Self::NoKey => format!("Limit {limit} needs a key that this request does not have."),
            Self::UnknownKey => format!("Limit {limit} has no quota for this key."),
            Self::StoreLost => format!("The store of limit {limit} does not answer; try again in {seconds} s."),
        }
    }
}

/// Whole seconds, rounded up, at least one.
fn retry_after_seconds(retry_after: Duration) -> u64 {
    let partial = u64::from(retry_after.subsec_nanos() > 0);
    retry_after.as_secs().saturating_add(partial).max(1)
}

fn problem<'a>(name: &str, title: &'static str, status: StatusCode, place: Place<'a>) -> Problem<'a> {
    let named = |text: &'a str| (!text.is_empty()).then_some(text);
    Problem {
        r#type: format!("{TYPE_BASE}{name}"),
        title,
        status: status.as_u16(),
        detail: String::new(),
        policy: named(place.policy),
        target: named(place.target),
        rule: named(place.rule),
        limit: None,
        state: None,
        violated_policies: &[],
    }
}

fn respond(problem: &Problem<'_>, error: Option<&'static str>) -> Response<ResponseBody> {
    // Plain data with string keys always becomes JSON; an empty body would still carry the status and headers.
    let body = Bytes::from(serde_json::to_vec(problem).unwrap_or_default());
    let mut response = Response::new(ResponseBody::Local(Some(body)));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(error) = error {
        headers.insert(ERROR_HEADER, HeaderValue::from_static(error));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        assert_eq!(retry_after_seconds(Duration::ZERO), 1);
        assert_eq!(retry_after_seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(retry_after_seconds(Duration::from_secs(30)), 30);
    }

    #[test]
    fn every_error_has_its_own_header_value() {
        let answers = [
            timeout(Place::default(), Duration::from_secs(1)),
            connect_failure(Place::default()),
            reset(Place::default()),
            refused(Place::default(), "open", &HeaderValue::from_static("a/b; state=open"), Duration::ZERO),
            limited(&refusal(Why::Limited)),
        ];
        let mut values: Vec<_> = answers.iter().map(|answer| answer.headers()[&ERROR_HEADER].clone()).collect();
        values.dedup();
        assert_eq!(values, ["timeout", "connect-failure", "reset", "circuit-open", "rate-limited"]);
    }

    fn refusal(why: Why) -> Limited<'static> {
        let place = Place { policy: "shop/api", target: "shop/payments:80", rule: "" };
        Limited { place, limit: "per-key", why, retry_after: Duration::from_millis(1_500) }
    }

    #[test]
    fn only_who_can_wait_is_told_to_wait() {
        let cases = [
            (Why::Limited, 429, Some("2"), "limited"),
            (Why::Blocked, 429, Some("2"), "blocked"),
            (Why::NoToken, 401, None, "no-token"),
            (Why::NoKey, 403, None, "no-key"),
            (Why::UnknownKey, 403, None, "unknown-key"),
            (Why::StoreLost, 503, Some("2"), "store-lost"),
        ];
        for (why, status, retry_after, state) in cases {
            let answer = limited(&refusal(why));
            assert_eq!(answer.status().as_u16(), status, "{state}");
            let waits = answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(waits, retry_after, "{state}");
            assert_eq!(answer.headers()[&POLICY_HEADER], format!("shop/api; limit=per-key; state={state}"));
            assert_eq!(answer.headers().contains_key(header::WWW_AUTHENTICATE), status == 401, "RFC 9110 15.5.2");
        }
    }
}
