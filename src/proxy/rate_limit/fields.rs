//! What clients are told of their quota: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10), or
//! the older `X-RateLimit-*`.
//!
//! It must append, never replace: the upstream may have limits of its own, and both hold. What never changes is made once.

use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::config::LimitHeaders;
use fusebox_policy::rate_limit::Rate;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Bytes of one member of `RateLimit`, as a rule.
const USUAL_BYTES: usize = 48;

/// What one limit has left for a client.
#[derive(Clone, Debug)]
pub(crate) struct Told<'a> {
    /// The limit's name: letters, digits, `-`, `_` and `.` alone.
    pub(crate) name: &'a str,
    /// Its rate.
    pub(crate) rate: Rate,
    /// Its member of `RateLimit-Policy`, where it was made before.
    pub(crate) policy: Option<&'a HeaderValue>,
    /// What its bucket holds, in whole requests.
    pub(crate) remaining: u32,
    /// After what time the bucket is full again, or, for a request that was refused, one of its kind may pass.
    pub(crate) reset: Duration,
}

/// Appends what clients are told of the limits that concerned a request.
pub(crate) fn append(headers: &mut HeaderMap, told: &[Told<'_>], which: LimitHeaders) {
    if told.is_empty() {
        return;
    }
    if matches!(which, LimitHeaders::Standard | LimitHeaders::Both) {
        for one in told {
            headers.append(RATE_LIMIT_POLICY, one.policy.cloned().unwrap_or_else(|| policy(one.name, one.rate)));
        }
        headers.append(RATE_LIMIT, remaining(told));
    }
    if matches!(which, LimitHeaders::Legacy | LimitHeaders::Both)
        && let Some(tightest) = told.iter().min_by_key(|one| (one.remaining, std::cmp::Reverse(one.reset)))
    {
        headers.append(LEGACY_LIMIT, HeaderValue::from(tightest.rate.requests()));
        headers.append(LEGACY_REMAINING, HeaderValue::from(tightest.remaining));
        headers.append(LEGACY_RESET, HeaderValue::from(whole_seconds(tightest.reset)));
    }
}

/// A limit's member of `RateLimit-Policy`. The window is in whole seconds, and the quota is for that time.
pub(crate) fn policy(name: &str, rate: Rate) -> HeaderValue {
    let seconds = whole_seconds(rate.per()).max(1);
    let quota = u128::from(rate.requests()) * u128::from(seconds) * 1000 / rate.per().as_millis().max(1);
    value(format!("\"{name}\";q={quota};w={seconds}"))
}

/// Whole seconds, rounded up.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn remaining(told: &[Told<'_>]) -> HeaderValue {
    let mut text = String::with_capacity(told.len() * USUAL_BYTES);
    let (mut left, mut reset_in) = (itoa::Buffer::new(), itoa::Buffer::new());
    for Told { name, remaining, reset, .. } in told {
        let between = if text.is_empty() { "\"" } else { ", \"" };
        let (left, reset_in) = (left.format(*remaining), reset_in.format(whole_seconds(*reset)));
        // Every answer has it: the library's formatting takes several times as long.
        text.extend([between, name, "\";r=", left, ";t=", reset_in]);
    }
    value(text)
}

fn value(text: String) -> HeaderValue {
    // Names are checked when the limit is made; what is left are digits.
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &'static str, remaining: u32, reset_ms: u64) -> Told<'static> {
        let rate = Rate::new(60, Duration::from_secs(60), 10).unwrap();
        Told { name, rate, policy: None, remaining, reset: Duration::from_millis(reset_ms) }
    }

    fn written(told: &[Told<'_>], which: LimitHeaders) -> Vec<String> {
        let mut headers = HeaderMap::new();
        append(&mut headers, told, which);
        let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn the_draft_has_one_member_for_each_limit() {
        let lines = written(&[told("per-key", 9, 1_000), told("all", 0, 1)], LimitHeaders::Standard);
        let expected = [
            "ratelimit-policy: \"all\";q=60;w=60",
            "ratelimit-policy: \"per-key\";q=60;w=60",
            "ratelimit: \"per-key\";r=9;t=1, \"all\";r=0;t=1",
        ];
        let mut expected: Vec<String> = expected.map(str::to_owned).into();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_older_headers_tell_of_the_tightest_limit() {
        let lines = written(&[told("a", 9, 1_000), told("b", 2, 1_001), told("c", 2, 5)], LimitHeaders::Legacy);
        assert_eq!(lines, ["x-ratelimit-limit: 60", "x-ratelimit-remaining: 2", "x-ratelimit-reset: 2"]);
        assert_eq!(written(&[told("a", 9, 0)], LimitHeaders::Both).len(), 5);
    }

    #[test]
    fn none_is_none_and_so_is_a_request_that_no_limit_concerned() {
        assert!(written(&[told("a", 9, 0)], LimitHeaders::None).is_empty());
        assert!(written(&[], LimitHeaders::Both).is_empty());
    }

    #[test]
    fn a_window_that_is_no_whole_second_is_widened_with_its_quota() {
        let text = |requests, per_ms| policy("a", Rate::new(requests, Duration::from_millis(per_ms), 1).unwrap());
        assert_eq!(text(10, 500), "\"a\";q=20;w=1");
        assert_eq!(text(10, 1_500), "\"a\";q=13;w=2");
        assert_eq!(text(1, 86_400_000), "\"a\";q=1;w=86400");
        assert_eq!(text(1_000, 1), "\"a\";q=1000000;w=1");
    }

    #[test]
    fn lines_of_the_upstream_stay() {
        let mut headers = HeaderMap::from_iter([(RATE_LIMIT, HeaderValue::from_static("\"theirs\";r=1"))]);
        append(&mut headers, &[told("ours", 1, 1)], LimitHeaders::Standard);
        assert_eq!(headers.get_all(RATE_LIMIT).iter().count(), 2);
    }
}
