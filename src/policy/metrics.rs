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

/// Gauge of the slow calls among the requests of a breaker's window, 0 to 1, by [`BREAKER_LABELS`]; absent without a slow-call rule.
pub const BREAKER_SLOW_RATIO: &str = "fusebox_circuit_breaker_slow_ratio";

/// Gauge of the endpoints behind a rule with scope Endpoint, by [`BREAKER_LABELS`] and [`STATE`]. The state of such a rule
/// ([`BREAKER_STATE`]) is that of its best endpoint: open only when no endpoint is closed or half-open.
pub const BREAKER_ENDPOINTS: &str = "fusebox_circuit_breaker_endpoints";

/// Gauge of the probes under way in a half-open breaker, by [`BREAKER_LABELS`].
pub const BREAKER_PROBES: &str = "fusebox_circuit_breaker_half_open_probes_in_flight";

/// Counter of requests, by [`BREAKER_LABELS`] (policy and rule empty where none applies), [`STATUS_CLASS`] and [`ERROR`].
pub const REQUESTS: &str = "fusebox_requests_total";

/// Histogram of the durations of requests that went to an upstream, in seconds, by [`BREAKER_LABELS`]. Refused ones are not in it.
pub const REQUEST_DURATION: &str = "fusebox_request_duration_seconds";

/// Counter of connections that were passed on as bytes, by [`BREAKER_LABELS`] and [`ERROR`], which is empty where both sides were done.
pub const TCP_CONNECTIONS: &str = "fusebox_tcp_connections_total";

/// Counter of the bytes of such connections, by [`BREAKER_LABELS`] and `direction`: `received` from clients, `sent` to them.
pub const TCP_BYTES: &str = "fusebox_tcp_bytes_total";

/// Counter of what limits decided about requests (in Shadow, what they would have), by [`RATE_LIMIT_LABELS`], [`DECISION`] and [`SOURCE`].
pub const RATE_LIMIT_DECISIONS: &str = "fusebox_rate_limit_decisions_total";

/// Gauge of the least that a request since the last reading found left of its bucket's burst, 0 to 1, by [`RATE_LIMIT_LABELS`]; 1
/// without requests, absent before the first one.
pub const RATE_LIMIT_REMAINING_RATIO: &str = "fusebox_rate_limit_remaining_ratio";

/// Gauge of the clients that are refused for a time, by [`RATE_LIMIT_LABELS`].
pub const RATE_LIMIT_BLOCKED_CLIENTS: &str = "fusebox_rate_limit_blocked_clients";

/// Gauge of the keys with a bucket of their own, by [`RATE_LIMIT_LABELS`].
pub const RATE_LIMIT_TRACKED_KEYS: &str = "fusebox_rate_limit_tracked_keys";

/// Gauge of the requests that wait for their turn, by [`RATE_LIMIT_LABELS`]; `maxQueued` bounds the sum over a limit's rules.
pub const RATE_LIMIT_QUEUED: &str = "fusebox_rate_limit_queued_requests";

/// Counter of requests that spent from the bucket which all keys beyond the bound share, by [`RATE_LIMIT_LABELS`].
pub const RATE_LIMIT_OVERFLOW: &str = "fusebox_rate_limit_overflow_total";

/// Counter of requests in Shadow on which the store was not asked, because too many such questions were under way, by
/// [`RATE_LIMIT_LABELS`].
pub const RATE_LIMIT_SKIPPED: &str = "fusebox_rate_limit_shadow_skipped_total";

/// Label: the policy's namespace (never `namespace`, which scraping overwrites).
pub const POLICY_NAMESPACE: &str = "policy_namespace";

/// Label: the policy's name.
pub const POLICY: &str = "policy";

/// Label: the target's namespace.
pub const TARGET_NAMESPACE: &str = "target_namespace";

/// Label: the target's name.
pub const TARGET: &str = "target";

/// Label: `client` or `server`.
pub const SIDE: &str = "side";

/// Label: the port, as in [`crate::config::BreakerKey`].
pub const PORT: &str = "port";

/// Label: the rule's name; empty for the policy's own breaker.
pub const RULE: &str = "rule";

/// Label of [`BREAKER_STATE`]: one of [`STATES`].
pub const STATE: &str = "state";

/// Label of [`REQUESTS`]: `1xx` to `5xx`, or empty where the request got no status.
pub const STATUS_CLASS: &str = "status_class";

/// Label of [`REQUESTS`]: one of [`ERRORS`]; empty where the whole answer was passed on.
pub const ERROR: &str = "error";

/// Label: the limit's name.
pub const LIMIT: &str = "limit";

/// Label of [`RATE_LIMIT_DECISIONS`]: one of [`DECISIONS`].
pub const DECISION: &str = "decision";

/// Label of [`RATE_LIMIT_DECISIONS`]: one of [`SOURCES`].
pub const SOURCE: &str = "source";

/// What names one rule of one limit of one proxy.
pub const RATE_LIMIT_LABELS: [&str; 8] = [POLICY_NAMESPACE, POLICY, TARGET_NAMESPACE, TARGET, SIDE, PORT, LIMIT, RULE];

/// The request passed at once.
pub const DECISION_ALLOWED: &str = "allowed";

/// The request passed after it had waited.
pub const DECISION_DELAYED: &str = "delayed";

/// The request was beyond the limit.
pub const DECISION_LIMITED: &str = "limited";

/// The client is refused for a time, whatever its bucket holds.
pub const DECISION_BLOCKED: &str = "blocked";

/// The request has no key, or one that has no quota, and such are refused.
pub const DECISION_NO_KEY: &str = "no_key";

/// The values of label [`DECISION`].
pub const DECISIONS: [&str; 5] =
    [DECISION_ALLOWED, DECISION_DELAYED, DECISION_LIMITED, DECISION_BLOCKED, DECISION_NO_KEY];

/// The proxy's own buckets decided.
pub const SOURCE_PROXY: &str = "proxy";

/// The store decided.
pub const SOURCE_STORE: &str = "store";

/// The store should have decided and did not answer.
pub const SOURCE_FALLBACK: &str = "fallback";

/// The values of label [`SOURCE`].
pub const SOURCES: [&str; 3] = [SOURCE_PROXY, SOURCE_STORE, SOURCE_FALLBACK];

/// What names one breaker of one proxy.
pub const BREAKER_LABELS: [&str; 7] = [POLICY_NAMESPACE, POLICY, TARGET_NAMESPACE, TARGET, SIDE, PORT, RULE];

/// The values of label [`STATE`].
pub const STATES: [&str; 3] = ["closed", "half_open", "open"];

/// The state in which everything passes.
pub const STATE_CLOSED: &str = STATES[0];

/// The breaker refused the request: it never reached the upstream.
pub const ERROR_CIRCUIT_OPEN: &str = "circuit-open";

/// The request took longer than its timeout.
pub const ERROR_TIMEOUT: &str = "timeout";

/// No connection to the upstream could be made.
pub const ERROR_CONNECT_FAILURE: &str = "connect-failure";

/// The upstream's connection broke before the answer was complete.
pub const ERROR_RESET: &str = "reset";

/// The client went away or sent a broken body.
pub const ERROR_CLIENT_ABORT: &str = "client-abort";

/// A rate limit refused the request: it reached neither the breaker nor the upstream.
pub const ERROR_RATE_LIMITED: &str = "rate-limited";

/// The values of label [`ERROR`] beside the empty one; also those of the header that tells refusals and failures apart.
pub const ERRORS: [&str; 6] =
    [ERROR_CIRCUIT_OPEN, ERROR_TIMEOUT, ERROR_CONNECT_FAILURE, ERROR_RESET, ERROR_CLIENT_ABORT, ERROR_RATE_LIMITED];

/// Gauge of the operator: pods on a policy's enforcing side that ask for a sidecar and have none, by [`POLICY_KIND`],
/// [`POLICY_NAMESPACE`] and [`POLICY`].
pub const OPERATOR_SIDECARS_MISSING: &str = "fusebox_operator_sidecars_missing";

/// Label: the policy's kind, such as `RateLimit`.
pub const POLICY_KIND: &str = "kind";
