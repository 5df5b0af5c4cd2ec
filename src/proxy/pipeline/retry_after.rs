//! What an upstream says about when to come back (RFC 9110, section 10.2.3).
//!
//! It must not believe everything: a date is compared with this machine's clock, nonsense counts as nothing, and no
//! wait is longer than a bound. What the breaker makes of it is the engine's matter.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The longest wait that is passed on; the breaker's own maximum is never longer.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the upstream asks callers to stay away, in seconds or until a date; none where it says nothing sensible.
pub(crate) fn wait(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let value = values.next()?.to_str().ok()?.trim();
    // Two of them contradict each other.
    if values.next().is_some() || value.is_empty() {
        return None;
    }
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits are no number then, which is a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now()).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// 1994-11-06 08:49:37 UTC, the date of the examples in RFC 9110.
    const THEN: u64 = 784_111_777;

    fn said(values: &[&str]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        wait(&headers, || SystemTime::UNIX_EPOCH + Duration::from_secs(THEN - 90))
    }

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_understood() {
        assert_eq!(said(&["120"]), Some(Duration::from_secs(120)));
        assert_eq!(said(&["0"]), Some(Duration::ZERO));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(said(&[date]), Some(Duration::from_secs(90)), "{date}");
        }
    }

    #[test]
    fn a_date_that_is_past_is_no_wait_and_a_wait_is_bounded() {
        assert_eq!(said(&["Sat, 06 Nov 1993 08:49:37 GMT"]), Some(Duration::ZERO));
        for far in ["86401", "18446744073709551616", "99999999999999999999999", "Sat, 06 Nov 2094 08:49:37 GMT"] {
            assert_eq!(said(&[far]), Some(MAX_WAIT), "{far}");
        }
    }

    #[test]
    fn nonsense_and_contradictions_count_as_nothing() {
        for nonsense in
            ["", " ", "-1", "+5", "1.5", "1e3", "soon", "0x10", "1 2", "\u{e9}", "Sun, 06 Foo 1994 08:49:37 GMT"]
        {
            assert_eq!(said(&[nonsense]), None, "{nonsense}");
        }
        assert_eq!(said(&["1", "2"]), None);
        assert_eq!(said(&[]), None);
    }
}
