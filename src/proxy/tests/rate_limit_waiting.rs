//! Requests that wait for their turn: how long, in which order, and what becomes of those that can't.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fusebox_policy::config::{Delay, Exceed, Limit, LimitRule, PathMatch, Rate, RequestMatch};
use fusebox_policy::report::BreakerState;
use http::StatusCode;
use tokio::task::JoinSet;

use super::rate_limit_support::{limit, limited, send, statuses};
use super::support::{Upstream, eventually, policy, proxy, state};
use super::support_http2::{Http2Client, Http2Upstream};
use crate::Proxy;

/// One request in `per_ms`, and others wait.
fn delaying(per_ms: u64, delay: Delay) -> Limit {
    let mut per_key = limit("per-key", 1);
    per_key.rules[0].rate = Rate { requests: 1, per_ms, burst: 1 };
    per_key.on_exceed = Exceed { block_for_ms: None, delay: Some(delay) };
    per_key
}

fn delay(max_delay_ms: u64, max_queued: u32) -> Delay {
    Delay { max_delay_ms, max_queued, priority_header: Some("x-priority".into()) }
}

/// How long a turn takes, in milliseconds: the first that is enough for all to stand in line before it, on the machine as it is.
const TURNS_MS: [u64; 3] = [300, 1_500, 7_500];

/// Those that stand in line, each with its priority; what each is answered and when.
struct Line {
    proxy: Proxy,
    address: SocketAddr,
    answers: JoinSet<(Instant, String)>,
}

impl Line {
    /// One request passes, and then these wait, one after the other, before any of them has its turn.
    async fn of(priorities: &[&'static str], max_queued: u32) -> Self {
        for per_ms in TURNS_MS {
            let upstream = Upstream::start().await;
            let limit = delaying(per_ms, delay(600_000, max_queued));
            let (proxy, address) = proxy(&limited(upstream.address, vec![limit])).await;
            assert_eq!(statuses(address, "ada", 1).await, [200]);
            let mut line = Self { proxy, address, answers: JoinSet::new() };
            for (before, priority) in priorities.iter().copied().enumerate() {
                line.send(priority);
                eventually("it waits", || line.queued() > before || line.has_passed()).await;
            }
            if line.queued() == priorities.len() {
                return line;
            }
        }
        panic!("on this machine a request needs more than {TURNS_MS:?} ms to stand in line");
    }

    fn send(&mut self, priority: &'static str) {
        let address = self.address;
        self.answers.spawn(async move {
            let answer = send(address, "/", &[("x-api-key", "ada"), ("x-priority", priority)]).await;
            (Instant::now(), format!("{priority}:{}", answer.status.as_u16()))
        });
    }

    fn queued(&self) -> usize {
        usize::try_from(self.proxy.state().limits[0].queued).unwrap()
    }

    /// Whether one that waited has had its turn.
    fn has_passed(&self) -> bool {
        self.proxy.state().limits[0].report.delayed > 0
    }

    async fn answers(self) -> Vec<String> {
        let mut answers = self.answers.join_all().await;
        answers.sort_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_come_out_at_its_rate() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&limited(upstream.address, vec![delaying(100, delay(2_000, 10))])).await;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        clients.spawn(statuses(address, "ada", 1));
    }
    assert_eq!(clients.join_all().await.concat(), [200; 5]);
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    let report = &proxy.state().limits[0].report;
    assert_eq!((report.allowed, report.delayed, report.limited), (5, 4, 0));
}

#[tokio::test]
async fn who_would_wait_too_long_is_refused_at_once() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![delaying(60_000, delay(1_000, 10))])).await;
    let started = Instant::now();
    assert_eq!(statuses(address, "ada", 2).await, [200, 429]);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn more_than_may_wait_are_refused_at_once() {
    let mut line = Line::of(&["0", "0"], 2).await;
    line.send("0");
    let (_, refused) = line.answers.join_next().await.unwrap().unwrap();
    assert!(refused == "0:429" || line.has_passed(), "{refused} although both places are taken");
    assert_eq!(line.answers().await, ["0:200", "0:200"]);
}

#[tokio::test]
async fn the_higher_priority_goes_first() {
    let answers = Line::of(&["1", "x", "9"], 10).await.answers().await;
    assert_eq!(answers, ["9:200", "1:200", "x:200"], "an unreadable one is 0");
}

#[tokio::test]
async fn the_rules_of_a_limit_share_its_places_over_changes_of_them() {
    let upstream = Upstream::start().await;
    // A minute for each turn: none comes during the test.
    let with = |most: u32| {
        let mut limit = delaying(60_000, delay(600_000, most));
        let path = Some(PathMatch::PathPrefix("/exports".into()));
        let matches = Some(RequestMatch { path, ..RequestMatch::default() });
        limit.rules.insert(0, LimitRule { name: "exports".into(), matches, rate: limit.rules[0].rate });
        limited(upstream.address, vec![limit])
    };
    let (proxy, address) = proxy(&with(2)).await;
    let status = async |path: &'static str| send(address, path, &[("x-api-key", "ada")]).await.status.as_u16();
    let queued = || proxy.state().limits.iter().map(|limit| limit.queued).collect::<Vec<u64>>();
    assert_eq!((status("/exports").await, status("/").await), (200, 200), "each rule has a bucket");

    let mut waiting = JoinSet::new();
    for (path, expected) in [("/exports", [0, 1]), ("/", [1, 1])] {
        waiting.spawn(async move { send(address, path, &[("x-api-key", "ada")]).await.status.as_u16() });
        eventually("it waits", || queued() == expected).await;
    }
    assert_eq!((status("/exports").await, status("/").await), (429, 429), "both places are taken");

    proxy.apply(&with(3)).unwrap();
    waiting.spawn(async move { send(address, "/exports", &[("x-api-key", "ada")]).await.status.as_u16() });
    eventually("one more may wait", || queued() == [1, 2]).await;
    assert_eq!(status("/").await, 429);
    waiting.shutdown().await;
    eventually("their places are free", || queued() == [0, 0]).await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_and_what_it_spent() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&limited(upstream.address, vec![delaying(1_500, delay(2_000, 1))])).await;
    let client = Http2Client::connect(address).await;
    assert_eq!(client.get("/head").await.status, StatusCode::OK);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/head").await }
    });
    let queued = || proxy.state().limits[0].queued;
    eventually("it waits", || queued() == 1).await;
    waiting.abort();
    eventually("it is gone", || queued() == 0).await;
    // Two turns away it would be refused, and the place of one that waits is not free.
    assert_eq!(client.get("/head").await.status, StatusCode::OK);
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn the_rules_timeout_bounds_the_wait_and_a_late_start_is_not_the_upstreams_fault() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![delaying(150, delay(10_000, 10))]);
    policy(&mut settings).rules[0].timeout_ms = Some(300);
    policy(&mut settings).rules[0].breaker.trip.consecutive_failures = Some(1);
    let (proxy, address) = proxy(&settings).await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move { send(address, "/late", &[("x-api-key", "ada")]).await.status.as_u16() });
    }
    let mut answers = clients.join_all().await;
    answers.sort_unstable();
    // The first has all of its time; those after it have too little left for an upstream that takes 200 ms.
    assert!(answers.contains(&200) && answers.contains(&504) && answers.contains(&429), "{answers:?}");
    assert_eq!(state(&proxy), BreakerState::Closed);
}
