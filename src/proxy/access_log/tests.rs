//! The access log on a destination that tests can read, or block.

use std::io;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::outlet::MAX_WAITING_BYTES;
use super::*;

/// A destination that keeps what it got, and waits while it is shut.
#[derive(Clone, Default)]
struct Sink(Arc<(Mutex<Kept>, Condvar)>);

/// What was written, and whether it is shut.
type Kept = (Vec<u8>, bool);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (state, opened) = &*self.0;
        let mut state = state.lock();
        opened.wait_while(&mut state, |(_, shut)| *shut && !bytes.is_empty());
        state.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn shut(&self, shut: bool) {
        self.0.0.lock().1 = shut;
        self.0.1.notify_all();
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.0.0.lock().0.clone();
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

const ORIGIN: Origin = Origin { unix_ms: 0, peer: None, direction: "outbound", version: Version::HTTP_11 };

fn logged(mode: AccessLogMode, requests: Vec<(Request<()>, u16)>) -> Vec<Value> {
    let sink = Sink::default();
    let log = AccessLog::start(mode, Box::new(sink.clone())).unwrap();
    for (mut request, status) in requests {
        if let Some(entry) = log.begin(&mut request, ORIGIN) {
            entry.finish(Ended { status, ..Ended::default() });
        }
    }
    drop(log);
    sink.lines()
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/pay/1?card=4111").header("host", "payments.shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[test]
fn a_line_says_what_was_asked_and_how_it_ended_but_not_the_query() {
    let sink = Sink::default();
    let log = AccessLog::start(AccessLogMode::All, Box::new(sink.clone())).unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = request(&[("x-request-id", "a-1"), ("traceparent", trace)]);
    let origin = Origin { peer: Some("10.1.2.3:4000".parse().unwrap()), ..ORIGIN };
    let mut entry = log.begin(&mut request, origin).unwrap();
    entry.note("target", "shop/payments:80");
    entry.note("rule", "");
    entry.note("decision", "open");
    entry.finish(Ended { status: 503, took: Duration::from_micros(1500), bytes: 7, error: "circuit-open" });
    drop(log);
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00.000Z", "requestId": "a-1", "traceId": "0af7651916cd43dd8448eb211c80319c",
        "method": "GET", "path": "/pay/1", "authority": "payments.shop", "protocol": "HTTP/1.1",
        "direction": "outbound", "peer": "10.1.2.3:4000", "status": 503, "durationMs": 1.5, "bytes": 7,
        "target": "shop/payments:80", "decision": "open", "error": "circuit-open",
    });
    assert_eq!(sink.lines(), [expected]);
}

#[test]
fn an_identifier_that_is_not_sane_is_replaced_for_the_upstream_too() {
    let long = "x".repeat(MAX_ID_BYTES + 1);
    for bad in ["", "a b", "\"", "<script>", &long] {
        let log = AccessLog::start(AccessLogMode::All, Box::new(Sink::default())).unwrap();
        let mut request = request(&[("x-request-id", bad)]);
        log.begin(&mut request, ORIGIN).unwrap();
        let id = request.headers()[REQUEST_ID].to_str().unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{bad:?} became {id:?}");
    }
    let twice = request(&[("x-request-id", "a"), ("x-request-id", "b")]);
    assert_eq!(logged(AccessLogMode::All, vec![(twice, 200)])[0]["requestId"].as_str().unwrap().len(), 32);
}

#[test]
fn made_identifiers_differ() {
    let lines = logged(AccessLogMode::All, (0..1000).map(|_| (request(&[]), 200)).collect());
    let ids: std::collections::BTreeSet<&str> = lines.iter().map(|line| line["requestId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1000);
}

#[test]
fn a_malformed_traceparent_names_no_trace() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let bad = [
        format!("00-{trace}-b7ad6b7169203331"),
        format!("ff-{trace}-b7ad6b7169203331-01"),
        format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
        format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
        format!("00-{trace}-0000000000000000-01"),
        format!("00-{trace}-b7ad6b7169203331-01-x"),
        "\"-\"-\"-\"".to_owned(),
    ];
    for value in bad {
        assert_eq!(trace_id(value.as_bytes()), None, "{value}");
    }
    let later = format!("01-{trace}-b7ad6b7169203331-01-later");
    assert_eq!(trace_id(later.as_bytes()), Some(trace.as_bytes()));
}

#[test]
fn errors_alone_are_logged_where_errors_are_asked_for() {
    let statuses = [200, 404, 500, 503, 0];
    let lines = logged(AccessLogMode::Errors, statuses.map(|status| (request(&[]), status)).into());
    let logged: Vec<u64> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(logged, [500, 503, 0]);
}

#[test]
fn a_sample_is_about_as_large_as_asked() {
    let lines = logged(AccessLogMode::Sampled(10.0), (0..10_000).map(|_| (request(&[]), 200)).collect());
    assert!((700..=1300).contains(&lines.len()), "{}", lines.len());
}

#[test]
fn a_destination_that_blocks_costs_lines_and_never_time() {
    let sink = Sink::default();
    sink.shut(true);
    let log = AccessLog::start(AccessLogMode::All, Box::new(sink.clone())).unwrap();
    let line_bytes = 100;
    let many = 3 * MAX_WAITING_BYTES / line_bytes;
    for _ in 0..many {
        log.begin(&mut request(&[]), ORIGIN).unwrap().finish(Ended { status: 200, ..Ended::default() });
    }
    let dropped = log.dropped();
    assert!(dropped > 0, "memory is bounded");
    sink.shut(false);
    drop(log);
    assert_eq!(sink.lines().len() as u64 + dropped, many as u64, "every line was written or counted");
}

#[test]
fn modes_are_parsed_and_others_refused() {
    assert_eq!("sampled:2.5".parse::<AccessLogMode>().unwrap(), AccessLogMode::Sampled(2.5));
    for bad in ["", "on", "sampled", "sampled:", "sampled:0", "sampled:101", "sampled:NaN", "sampled:-1"] {
        assert!(bad.parse::<AccessLogMode>().unwrap_err().to_string().contains("such as"), "{bad:?}");
    }
}
