//! Claims about request matching; every refusal is by the field's name.

use std::time::{Duration, Instant};

use super::*;

const NO_HEADERS: [(&str, &str); 0] = [];

fn matcher(request: &RequestMatch) -> RequestMatcher {
    RequestMatcher::try_from(request).unwrap()
}

fn on_path(path: PathMatch) -> RequestMatch {
    RequestMatch { path: Some(path), ..RequestMatch::default() }
}

fn with_header(name: &str, value: &str) -> RequestMatch {
    RequestMatch { headers: vec![HeaderMatch { name: name.into(), value: value.into() }], ..RequestMatch::default() }
}

fn takes<const N: usize>(request: &RequestMatch, line: (&str, &str), headers: [(&str, &str); N]) -> bool {
    matcher(request).matches(line.0, line.1, |name| {
        let name = name.to_owned();
        headers.iter().filter(move |header| header.0 == name).map(|header| header.1.as_bytes())
    })
}

fn takes_path(path: PathMatch, asked: &str) -> bool {
    takes(&on_path(path), ("GET", asked), NO_HEADERS)
}

#[track_caller]
fn refused(request: &RequestMatch, field: &str, reason: &str) -> String {
    let error = RequestMatcher::try_from(request).unwrap_err();
    assert_eq!((error.field(), error.reason()), (field, reason), "{error}");
    assert!(error.to_string().starts_with(field), "{error}");
    error.to_string()
}

#[test]
fn without_conditions_it_takes_everything() {
    assert!(takes(&RequestMatch::default(), ("BREW", "/pot"), NO_HEADERS));
    assert!(RequestMatcher::default().matches("GET", "/", |_| None));
}

#[test]
fn prefix_goes_by_whole_segments() {
    let prefix = |value: &str| PathMatch::PathPrefix(value.into());
    for path in ["/a", "/a/", "/a/b", "/a//b"] {
        assert!(takes_path(prefix("/a"), path), "{path}");
        assert!(takes_path(prefix("/a/"), path), "a slash at the end means nothing: {path}");
    }
    for path in ["/ab", "/A", "/", "", "/b/a", "*"] {
        assert!(!takes_path(prefix("/a"), path), "{path}");
    }
    assert!(takes_path(prefix("/"), "/anything"));
}

#[test]
fn exact_path_goes_byte_for_byte() {
    assert!(takes_path(PathMatch::Exact("/a/".into()), "/a/"));
    assert!(!takes_path(PathMatch::Exact("/a/".into()), "/a"));
    assert!(!takes_path(PathMatch::Exact("/a".into()), "/A"));
}

#[test]
fn regular_expression_must_match_the_whole_path() {
    let regex = |value: &str| PathMatch::RegularExpression(value.into());
    assert!(takes_path(regex("/users/[0-9]+"), "/users/12"));
    assert!(!takes_path(regex("/users/[0-9]+"), "/users/12/x"));
    assert!(!takes_path(regex("/users/[0-9]+"), "/v1/users/12"));
    assert!(!takes_path(regex("/a|/b"), "/a/b"), "an alternative escaped its anchors");
    assert!(takes_path(regex("/a|/ab"), "/ab"), "the longer alternative was not tried");
    assert!(!takes_path(regex("(?m)/a"), "/x\n/a"), "an anchor matched at a line's end");
}

#[test]
fn header_names_go_without_case_and_any_of_its_values_may_match() {
    let request = with_header("X-Tenant", "Blue");
    assert!(takes(&request, ("GET", "/"), [("x-tenant", "green"), ("x-tenant", "Blue")]));
    assert!(!takes(&request, ("GET", "/"), [("x-tenant", "blue")]), "values go by case");
    assert!(!takes(&request, ("GET", "/"), NO_HEADERS));
}

#[test]
fn every_condition_must_hold() {
    let request = RequestMatch {
        methods: vec!["GET".into(), "HEAD".into()],
        path: Some(PathMatch::PathPrefix("/a".into())),
        ..with_header("x", "1")
    };
    assert!(takes(&request, ("HEAD", "/a/b"), [("x", "1")]));
    assert!(!takes(&request, ("get", "/a/b"), [("x", "1")]), "methods go by case");
    assert!(!takes(&request, ("POST", "/a/b"), [("x", "1")]));
    assert!(!takes(&request, ("GET", "/b"), [("x", "1")]));
    assert!(!takes(&request, ("GET", "/a"), [("x", "2")]));
}

#[test]
fn invalid_regular_expression_is_refused() {
    for pattern in ["(", "a)|(b", "[z-a]", r"(a)\1", "(?=a)", "*", "(?x)a # no end"] {
        refused(&on_path(PathMatch::RegularExpression(pattern.into())), "match.path.value", "BadRegularExpression");
    }
    let message =
        refused(&on_path(PathMatch::RegularExpression("/a(b".into())), "match.path.value", "BadRegularExpression");
    assert!(message.ends_with("unclosed group"), "{message}");
}

#[test]
fn regular_expression_that_needs_too_much_memory_is_refused() {
    let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
    for pattern in [r"\w{1000}{1000}", "(a{100}){100}{100}", &deep] {
        refused(&on_path(PathMatch::RegularExpression(pattern.into())), "match.path.value", "BadRegularExpression");
    }
}

#[test]
fn catastrophic_regular_expression_takes_linear_time() {
    let path = format!("/{}!", "a".repeat(60_000));
    let began = Instant::now();
    for pattern in ["/(a+)+", "/(a|a)*", "/(.*)*b", "/(a|aa)+"] {
        assert!(!takes_path(PathMatch::RegularExpression(pattern.into()), &path));
    }
    // Backtracking would take longer than the universe has been there.
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_path_that_no_request_has_is_refused() {
    for path in ["", "a", "http://a/", "/a?b=c", "/a#b", "/a\nb", "/a\0"] {
        refused(&on_path(PathMatch::Exact(path.into())), "match.path.value", "NotAPath");
        refused(&on_path(PathMatch::PathPrefix(path.into())), "match.path.value", "NotAPath");
    }
}

#[test]
fn names_that_http_does_not_know_are_refused() {
    for name in ["", "a b", "a:", "a\r\nb", "\u{202e}a", "ä"] {
        refused(&with_header(name, "v"), "match.headers[0].name", "NotAToken");
        let request = RequestMatch { methods: vec!["GET".into(), name.into()], ..RequestMatch::default() };
        refused(&request, "match.methods[1]", "NotAToken");
    }
    refused(&with_header("x", "a\r\nb"), "match.headers[0].value", "NotAHeaderValue");
}

#[test]
fn everything_is_bounded() {
    let long = format!("/{}", "a".repeat(MAX_VALUE));
    refused(&on_path(PathMatch::PathPrefix(long.clone())), "match.path.value", "TooLong");
    refused(&on_path(PathMatch::RegularExpression(long.clone())), "match.path.value", "TooLong");
    refused(&with_header("x", &long), "match.headers[0].value", "TooLong");
    refused(&with_header(&"x".repeat(MAX_NAME + 1), "v"), "match.headers[0].name", "TooLong");
    let header = HeaderMatch { name: "x".into(), value: "v".into() };
    let request = RequestMatch { headers: vec![header; MAX_HEADERS + 1], ..RequestMatch::default() };
    refused(&request, "match.headers", "TooManyEntries");
    let request = RequestMatch { methods: vec!["GET".into(); MAX_METHODS + 1], ..RequestMatch::default() };
    refused(&request, "match.methods", "TooManyEntries");
}
