//! What is said of certificates: how long they last, as a metric and in health.
//!
//! It judges by the certificates alone, so that a rotation that is stuck shows for whatever reason.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::bundle::Validity;
use super::error::{CertificateError, chain};
use crate::health::{Component, Health, Status};
use crate::metrics::Metrics;

/// A certificate that lasts no longer than this should have been replaced.
const SHORT: Duration = Duration::from_secs(7 * 24 * 3600);

/// One that is valid for less in all should have been when only this part of its time is left.
const SHORT_PART: u32 = 6;

/// Says it.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) health: Health,
    pub(super) metrics: Metrics,
}

impl Reporter {
    /// Takes how a round went, and the certificates in use by name; none before the first.
    pub(super) fn round(&self, outcome: Result<(), CertificateError>, certificates: &[(&str, Validity)]) {
        let now = SystemTime::now();
        self.metrics.certificate_expiry.reset();
        for (name, validity) in certificates {
            let left = i64::try_from(validity.left(now).as_secs()).unwrap_or(i64::MAX);
            self.metrics.certificate_expiry.with_label_values(&[name]).set(left);
        }
        if let Err(error) = &outcome {
            self.metrics.reconcile_errors.with_label_values(&["certificates", error.reason()]).inc();
        }
        self.health.set(Component::Certificates, status(outcome.err().as_ref(), certificates, now));
    }
}

/// The word on certificates: the worst of what went wrong and of how long they last.
fn status(error: Option<&CertificateError>, certificates: &[(&str, Validity)], now: SystemTime) -> Status {
    let over = certificates.iter().find(|(_, validity)| validity.left(now).is_zero());
    let short = certificates.iter().find(|(_, validity)| is_short(*validity, now));
    let why = error.map(|error| format!(": {}", chain(error))).unwrap_or_default();
    match (over, short, error) {
        (Some((name, _)), _, _) => Status::unhealthy(format!("certificate {name} is over{why}")),
        (None, Some((name, validity)), _) => {
            let ends = Timestamp::try_from(validity.ends).unwrap_or(Timestamp::MAX);
            Status::degraded(format!("certificate {name} ends at {ends} and was not replaced{why}"))
        }
        (None, None, Some(error)) if certificates.is_empty() => {
            Status::unhealthy(format!("no certificate yet: {}", chain(error)))
        }
        (None, None, Some(error)) => Status::degraded(format!("the last good certificates stay: {}", chain(error))),
        (None, None, None) => Status::healthy(),
    }
}

fn is_short(validity: Validity, now: SystemTime) -> bool {
    validity.left(now) < SHORT.min(validity.length() / SHORT_PART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn lasting(all: Duration, left: Duration) -> (Validity, SystemTime) {
        let begins = SystemTime::UNIX_EPOCH + DAY * 20_000;
        (Validity { begins, ends: begins + all }, begins + all - left)
    }

    fn said(all: Duration, left: Duration) -> State {
        let (validity, now) = lasting(all, left);
        status(None, &[("authority", validity)], now).status
    }

    #[test]
    fn a_certificate_that_should_have_been_replaced_shows() {
        assert_eq!(said(DAY * 365, DAY * 8), State::Healthy);
        assert_eq!(said(DAY * 365, DAY * 6), State::Degraded);
        assert_eq!(said(DAY, DAY / 2), State::Healthy, "short ones are judged by their own time");
        assert_eq!(said(DAY, DAY / 7), State::Degraded);
        assert_eq!(said(DAY, Duration::ZERO), State::Unhealthy);
    }

    #[test]
    fn an_error_takes_nothing_out_of_service_while_there_is_a_certificate() {
        let error = CertificateError::Absent { secret: "ca" };
        let (validity, now) = lasting(DAY, DAY);
        let (with, without) = (status(Some(&error), &[("leaf", validity)], now), status(Some(&error), &[], now));
        assert_eq!((with.status, without.status), (State::Degraded, State::Unhealthy));
        assert!(without.message.contains("no certificate yet: Secret ca is not there yet"), "{}", without.message);
    }
}
