//! What counts as a failure of a call.
//!
//! It must say only what an answer shows: statuses, gRPC codes, and the ways in which there is none.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What counts as a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(self.httpStatus) > 0 || size(self.grpcCodes) > 0 || size(self.conditions) > 0")
    .message("name at least one status, code or condition; for a breaker that never opens use trip: {type: Never}"))]
pub struct FailureOn {
    /// HTTP statuses: a class (5xx), a code (429) or a range (500-503), at most 16. Default: ["5xx"].
    #[serde(default = "default_http_status")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub http_status: Vec<HttpStatusPattern>,
    /// gRPC codes, as they stand in trailers or in an answer of trailers only; they decide for gRPC calls, whose HTTP
    /// status is 200 whatever happens. Default: [Unknown, DeadlineExceeded, Internal, Unavailable, DataLoss].
    #[serde(default = "default_grpc_codes")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub grpc_codes: Vec<GrpcCode>,
    /// Failures without a status: Timeout (the timeout passed), ConnectFailure (no connection could be made), Reset
    /// (the connection broke before the answer was complete, or a gRPC answer ended without its status). Default: all three.
    #[serde(default = "default_conditions")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub conditions: Vec<FailureCondition>,
}

/// A class, code or range of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-validations" = [{
    "rule": "size(self) != 7 || self.substring(0, 3) <= self.substring(4, 7)",
    "message": "the first code of a range must not be greater than the last"}]))]
pub struct HttpStatusPattern(
    #[schemars(length(max = 7), regex(pattern = "^([1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?)$"))] pub String,
);

/// gRPC codes that can count as failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrpcCode {
    /// 1: the caller gave up.
    Cancelled,
    /// 2: nobody knows, or the status was lost.
    Unknown,
    /// 3: the request is wrong, whatever the state of the system.
    InvalidArgument,
    /// 4: the deadline passed.
    DeadlineExceeded,
    /// 5: it is not there.
    NotFound,
    /// 6: it is there already.
    AlreadyExists,
    /// 7: the caller may not.
    PermissionDenied,
    /// 8: a quota or some other resource is used up.
    ResourceExhausted,
    /// 9: the system is not in the state that the request needs.
    FailedPrecondition,
    /// 10: the request was aborted, as by a conflict.
    Aborted,
    /// 11: past the valid range.
    OutOfRange,
    /// 12: the method is not there.
    Unimplemented,
    /// 13: an invariant was broken.
    Internal,
    /// 14: not available at the moment.
    Unavailable,
    /// 15: data was lost or corrupted.
    DataLoss,
    /// 16: who calls is not known.
    Unauthenticated,
}

/// A failure that has no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureCondition {
    /// The timeout passed.
    Timeout,
    /// No connection could be made.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
}

impl Default for FailureOn {
    fn default() -> Self {
        Self { http_status: default_http_status(), grpc_codes: default_grpc_codes(), conditions: default_conditions() }
    }
}

fn default_http_status() -> Vec<HttpStatusPattern> {
    vec![HttpStatusPattern("5xx".to_owned())]
}

fn default_conditions() -> Vec<FailureCondition> {
    vec![FailureCondition::Timeout, FailureCondition::ConnectFailure, FailureCondition::Reset]
}

fn default_grpc_codes() -> Vec<GrpcCode> {
    vec![GrpcCode::Unknown, GrpcCode::DeadlineExceeded, GrpcCode::Internal, GrpcCode::Unavailable, GrpcCode::DataLoss]
}
