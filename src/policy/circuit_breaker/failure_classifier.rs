//! What counts as a failure of the upstream, in checked form.
//!
//! It must not see a request: status codes and conditions come from the caller, who alone knows
//! what was an upstream's answer and what its own refusal.

use std::ops::RangeInclusive;

use crate::config::{FailureCondition, FailureOn, StatusRange};

use super::admission::Outcome;

/// The most ranges of status codes a rule may have.
pub const MAX_STATUS_RANGES: usize = 64;

/// Every code a response can have (RFC 9110, section 15).
const STATUS_CODES: RangeInclusive<u16> = 100..=599;

/// Tells failures from successes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureClassifier {
    statuses: Vec<RangeInclusive<u16>>,
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

    /// What an answer with this status is to a breaker.
    #[must_use]
    pub fn status_outcome(&self, status: u16) -> Outcome {
        if self.is_failure_status(status) { Outcome::Failure } else { Outcome::Success }
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
        let FailureOn { http_status, grpc_codes: _, conditions } = failure_on;
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
        // Each condition once, however often it was said.
        let all = [FailureCondition::Timeout, FailureCondition::ConnectFailure, FailureCondition::Reset];
        let conditions = all.into_iter().filter(|condition| conditions.contains(condition)).collect();
        Ok(Self { statuses, conditions })
    }
}
