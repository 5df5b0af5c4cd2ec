//! The names of the metrics that proxies expose and generated alerts read.
//!
//! Owns names, labels and label values, because an alert over a name that nobody exposes is silent for ever.
//! It must not count anything: the proxy does, and the compiler only writes PromQL with these words.

/// StateSet of a breaker: one sample for each [`STATES`] entry in label [`STATE`], exactly one of them 1. Labels [`BREAKER_LABELS`].
pub const BREAKER_STATE: &str = "fusebox_circuit_breaker_state";

/// The same state as a number: 0 closed, 1 half-open, 2 open. Labels [`BREAKER_LABELS`].
pub const BREAKER_STATE_CODE: &str = "fusebox_circuit_breaker_state_code";

/// Counter of state changes, by [`BREAKER_LABELS`] and the labels `from` and `to`.
pub const BREAKER_TRANSITIONS: &str = "fusebox_circuit_breaker_transitions_total";

/// Counter of requests refused by a breaker (in Shadow, those it would have refused), by [`BREAKER_LABELS`].
pub const BREAKER_REJECTED: &str = "fusebox_circuit_breaker_rejected_total";

/// Gauge of the failures among the requests of a breaker's window, 0 to 1, by [`BREAKER_LABELS`].
pub const BREAKER_FAILURE_RATIO: &str = "fusebox_circuit_breaker_failure_ratio";

/// Gauge of the probes under way in a half-open breaker, by [`BREAKER_LABELS`].
pub const BREAKER_PROBES: &str = "fusebox_circuit_breaker_half_open_probes_in_flight";

/// Counter of requests, by [`BREAKER_LABELS`] (empty where no policy applies) and [`RESULT`].
pub const REQUESTS: &str = "fusebox_requests_total";

/// Histogram of request durations in seconds, by the labels of [`REQUESTS`]; refused requests are in `result="rejected"`.
pub const REQUEST_DURATION: &str = "fusebox_request_duration_seconds";

/// Label: the policy's namespace (never `namespace`, which scraping overwrites).
pub const POLICY_NAMESPACE: &str = "policy_namespace";

/// Label: the policy's name.
pub const POLICY: &str = "policy";

/// Label: the target, as `namespace/name`, with `/section` where the reference has one.
pub const TARGET: &str = "target";

/// Label: `client` or `server`.
pub const SIDE: &str = "side";

/// Label: the port, as in [`crate::config::BreakerKey`].
pub const PORT: &str = "port";

/// Label: the rule's name; empty for the policy's own breaker.
pub const RULE: &str = "rule";

/// Label of [`BREAKER_STATE`]: one of [`STATES`].
pub const STATE: &str = "state";

/// Label of [`REQUESTS`]: one of [`RESULTS`].
pub const RESULT: &str = "result";

/// What names one breaker of one proxy.
pub const BREAKER_LABELS: [&str; 6] = [POLICY_NAMESPACE, POLICY, TARGET, SIDE, PORT, RULE];

/// The values of label [`STATE`].
pub const STATES: [&str; 3] = ["closed", "half_open", "open"];

/// The answer came and does not count as a failure.
pub const RESULT_SUCCESS: &str = "success";
/// The answer came and its status counts as a failure.
pub const RESULT_FAILURE: &str = "failure";
/// The request took longer than its timeout.
pub const RESULT_TIMEOUT: &str = "timeout";
/// No connection could be made.
pub const RESULT_CONNECT_FAILURE: &str = "connect_failure";
/// The connection broke before the answer was complete.
pub const RESULT_RESET: &str = "reset";
/// A breaker refused it: it never reached the upstream.
pub const RESULT_REJECTED: &str = "rejected";
/// The client went away, or its own request was at fault.
pub const RESULT_CLIENT_ERROR: &str = "client_error";

/// The values of label [`RESULT`].
pub const RESULTS: [&str; 7] = [
    RESULT_SUCCESS,
    RESULT_FAILURE,
    RESULT_TIMEOUT,
    RESULT_CONNECT_FAILURE,
    RESULT_RESET,
    RESULT_REJECTED,
    RESULT_CLIENT_ERROR,
];

/// The results that are the upstream's fault.
pub const UPSTREAM_FAILURES: [&str; 4] = [RESULT_FAILURE, RESULT_TIMEOUT, RESULT_CONNECT_FAILURE, RESULT_RESET];
