//! What counts as a failure of the upstream, in checked form.
//!
//! It must not see a request: status codes and conditions come from the caller, who alone knows
//! what was an upstream's answer and what its own refusal.

use std::ops::RangeInclusive;

use crate::config::{FailureCondition, FailureOn, GrpcCode, StatusRange};

use super::admission::Outcome;

/// The most ranges of status codes a rule may have.
pub const MAX_STATUS_RANGES: usize = 64;

/// Every code a response can have (RFC 9110, section 15).
const STATUS_CODES: RangeInclusive<u16> = 100..=599;

/// The HTTP status by which an upstream sends callers away without having failed (RFC 6585, section 4).
const TOO_MANY_REQUESTS: u16 = 429;

/// The gRPC status of success.
const GRPC_OK: u32 = 0;

/// The highest gRPC status there is; one above it stands for [`GrpcCode::Unknown`].
const MAX_GRPC_CODE: u32 = GrpcCode::Unauthenticated as u32;

/// An upstream's answer, as far as it says whether the upstream did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status in the trailers, or in the head of an answer without a body; none if it is not gRPC.
    pub grpc_status: Option<u32>,
}

/// Tells failures from successes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureClassifier {
    statuses: Vec<RangeInclusive<u16>>,
    /// The gRPC codes that are failures, one bit each, by number.
    grpc_codes: u32,
    conditions: Vec<FailureCondition>,
}

/// Why a `failureOn` was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassifierError {
    /// Too many ranges.
    #[error("failureOn.httpStatus has {found} ranges; use {MAX_STATUS_RANGES} at most")]
    TooMany {
        /// How many there were.
        found: usize,
    },
    /// A range that is backwards, or not of status codes.
    #[error("failureOn.httpStatus[{index}] is {from} to {to}; use codes from 100 to 599, the lower one first")]
    BadRange {
        /// Which range, from 0.
        index: usize,
        /// Its first code.
        from: u16,
        /// Its last code.
        to: u16,
    },
}

impl ClassifierError {
    /// The field at fault.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::TooMany { .. } => "failureOn.httpStatus".to_owned(),
            Self::BadRange { index, .. } => format!("failureOn.httpStatus[{index}]"),
        }
    }

    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "TooManyStatusRanges",
            Self::BadRange { .. } => "BadStatusRange",
        }
    }
}

impl FailureClassifier {
    /// Whether an answer with this status is a failure.
    #[must_use]
    pub fn is_failure_status(&self, status: u16) -> bool {
        self.statuses.iter().any(|range| range.contains(&status))
    }

    /// Whether this condition is a failure.
    #[must_use]
    pub fn is_failure_condition(&self, condition: FailureCondition) -> bool {
        self.conditions.contains(&condition)
    }

    /// Whether a gRPC answer with this status is a failure.
    #[must_use]
    pub fn is_failure_code(&self, grpc_status: u32) -> bool {
        let known = if grpc_status > MAX_GRPC_CODE { GrpcCode::Unknown as u32 } else { grpc_status };
        self.grpc_codes & (1 << known) != 0
    }

    /// What an answer is to a breaker. A gRPC answer is judged by its code alone. An upstream that only
    /// sends callers away (429, RESOURCE_EXHAUSTED) has neither failed nor shown that it works, unless
    /// that is listed as a failure.
    #[must_use]
    pub fn outcome(&self, answer: &Answer) -> Outcome {
        let Answer { status, grpc_status } = *answer;
        let (failed, sent_away) = match grpc_status {
            Some(GRPC_OK) => (false, false),
            Some(code) => (self.is_failure_code(code), code == GrpcCode::ResourceExhausted as u32),
            None => (self.is_failure_status(status), status == TOO_MANY_REQUESTS),
        };
        match (failed, sent_away) {
            (true, _) => Outcome::Failure,
            (false, true) => Outcome::Neutral,
            (false, false) => Outcome::Success,
        }
    }

    /// What a request that ended by this condition is to a breaker: a failure, or else nothing, since
    /// there was no answer that could be a success.
    #[must_use]
    pub fn condition_outcome(&self, condition: FailureCondition) -> Outcome {
        if self.is_failure_condition(condition) { Outcome::Failure } else { Outcome::Neutral }
    }
}

impl TryFrom<&FailureOn> for FailureClassifier {
    type Error = ClassifierError;

    fn try_from(failure_on: &FailureOn) -> Result<Self, Self::Error> {
        let FailureOn { http_status, grpc_codes, conditions } = failure_on;
        if http_status.len() > MAX_STATUS_RANGES {
            return Err(ClassifierError::TooMany { found: http_status.len() });
        }
        let mut statuses = Vec::with_capacity(http_status.len());
        for (index, StatusRange { from, to }) in http_status.iter().enumerate() {
            if from > to || !STATUS_CODES.contains(from) || !STATUS_CODES.contains(to) {
                return Err(ClassifierError::BadRange { index, from: *from, to: *to });
            }
            statuses.push(*from..=*to);
        }
        let grpc_codes = grpc_codes.iter().fold(0, |codes, code| codes | 1 << code.number());
        // Each condition once, however often it was said.
        let all = [FailureCondition::Timeout, FailureCondition::ConnectFailure, FailureCondition::Reset];
        let conditions = all.into_iter().filter(|condition| conditions.contains(condition)).collect();
        Ok(Self { statuses, grpc_codes, conditions })
    }
}
