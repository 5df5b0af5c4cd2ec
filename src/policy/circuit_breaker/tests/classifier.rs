//! Claims about what is a failure.

use super::super::{Answer, FailureClassifier};
use super::*;
use crate::config::{FailureCondition, FailureOn, GrpcCode, StatusRange};

fn http(status: u16) -> Answer {
    Answer { status, grpc_status: None }
}

/// gRPC answers have status 200, whatever they say.
fn grpc(code: u32) -> Answer {
    Answer { status: 200, grpc_status: Some(code) }
}

fn classifier(failure_on: &FailureOn) -> FailureClassifier {
    FailureClassifier::try_from(failure_on).unwrap()
}

#[test]
fn a_grpc_answer_is_judged_by_its_code_alone() {
    let failure_on = FailureOn {
        http_status: vec![StatusRange { from: 200, to: 599 }],
        grpc_codes: vec![GrpcCode::Unavailable, GrpcCode::Internal, GrpcCode::Internal],
        ..FailureOn::default()
    };
    let classifier = classifier(&failure_on);
    for (code, outcome) in
        [(0, Outcome::Success), (5, Outcome::Success), (13, Outcome::Failure), (14, Outcome::Failure)]
    {
        assert_eq!(classifier.outcome(&grpc(code)), outcome, "{code}");
    }
    assert_eq!(classifier.outcome(&http(200)), Outcome::Failure);
}

#[test]
fn a_code_that_grpc_does_not_have_is_unknown() {
    let unknown = classifier(&FailureOn { grpc_codes: vec![GrpcCode::Unknown], ..FailureOn::default() });
    for code in [2, 17, 32, 34, u32::MAX] {
        assert_eq!(unknown.outcome(&grpc(code)), Outcome::Failure, "{code}");
    }
    assert_eq!(classifier(&FailureOn::default()).outcome(&grpc(u32::MAX)), Outcome::Success);
}

#[test]
fn being_sent_away_is_neutral_unless_listed() {
    let plain = classifier(&FailureOn::default());
    assert_eq!(plain.outcome(&http(429)), Outcome::Neutral);
    assert_eq!(plain.outcome(&grpc(8)), Outcome::Neutral);
    let listed = classifier(&FailureOn {
        http_status: vec![StatusRange { from: 429, to: 429 }],
        grpc_codes: vec![GrpcCode::ResourceExhausted],
        ..FailureOn::default()
    });
    assert_eq!(listed.outcome(&http(429)), Outcome::Failure);
    assert_eq!(listed.outcome(&grpc(8)), Outcome::Failure);
}

#[test]
fn listed_statuses_and_conditions_are_failures() {
    let failure_on = FailureOn {
        http_status: vec![StatusRange { from: 500, to: 503 }, StatusRange { from: 429, to: 429 }],
        conditions: vec![FailureCondition::Timeout, FailureCondition::Timeout],
        ..FailureOn::default()
    };
    let classifier = classifier(&failure_on);
    for (status, failure) in
        [(200, false), (428, false), (429, true), (499, false), (500, true), (503, true), (504, false)]
    {
        assert_eq!(classifier.is_failure_status(status), failure, "{status}");
    }
    assert_eq!(classifier.outcome(&http(404)), Outcome::Success);
    assert_eq!(classifier.condition_outcome(FailureCondition::Timeout), Outcome::Failure);
    assert_eq!(classifier.condition_outcome(FailureCondition::Reset), Outcome::Neutral, "no answer is no success");
}

#[test]
fn ranges_that_are_no_statuses_are_refused_by_name() {
    for (from, to) in [(503, 500), (99, 200), (500, 600), (0, 0), (0, u16::MAX)] {
        let http_status = vec![StatusRange { from: 500, to: 599 }, StatusRange { from, to }];
        let error = FailureClassifier::try_from(&FailureOn { http_status, ..FailureOn::default() }).unwrap_err();
        assert_eq!((error.field().as_str(), error.reason()), ("failureOn.httpStatus[1]", "BadStatusRange"));
    }
    let http_status = vec![StatusRange { from: 500, to: 599 }; 65];
    let error = FailureClassifier::try_from(&FailureOn { http_status, ..FailureOn::default() }).unwrap_err();
    assert_eq!((error.field().as_str(), error.reason()), ("failureOn.httpStatus", "TooManyStatusRanges"));
}
