//! Doors for the fuzz targets in `fuzz/`, open only in their builds.
//!
//! It must do exactly what the proxy does with the same bytes: what is checked here besides would not be checked there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::circuit_breaker::SNAPSHOT_FORMAT;
use fusebox_policy::config::ProxyConfig;
use http::HeaderValue;

use crate::enforcer::Enforcer;
use crate::pipeline::problem::{self, Place};
use crate::pipeline::response_body::ResponseBody;
use crate::snapshot::{Destination, Topology};
use crate::state_file::{STATE_FORMAT, Saved, hash};

/// Parses a configuration as the file and as the control stream bring it, and puts it in force on a proxy whose listeners
/// are its routes. Says whether it was one.
pub fn config(bytes: &[u8]) -> bool {
    let json = serde_json::from_slice::<ProxyConfig>(bytes).ok();
    let Some(config) = json.or_else(|| serde_yaml::from_slice(bytes).ok()) else { return false };
    let inbound = config
        .inbound
        .iter()
        .map(|route| Destination::Application { address: "127.0.0.1:1".to_owned(), port: route.port });
    let listeners = inbound.chain([Destination::ByHost]).collect();
    let topology = Topology { listeners, ..Topology::default() };
    let Ok(enforcer) = Enforcer::new(topology) else { return false };
    let revision = config.revision();
    let first = enforcer.apply(&config, &revision).is_ok();
    // What was taken once is taken again, and forgets nothing.
    let again = enforcer.apply(&config, &revision);
    assert!(again.is_ok() == first && again.is_ok_and(|applied| applied.fresh == 0) == first, "{config:?}");
    first
}

/// Reads a state file, both as it stands and as if its first line were the right one. Says how many breakers it had.
pub fn state_file(bytes: &[u8]) -> usize {
    let now = Instant::now();
    let read = |bytes: &[u8]| Saved::parse(bytes, 0, now).map_or(0, |saved| saved.len());
    let first = format!(
        "{{\"format\":{STATE_FORMAT},\"snapshotFormat\":{SNAPSHOT_FORMAT},\"writtenUnixMs\":0,\"sha256\":\"{}\"}}\n",
        hash(bytes)
    );
    read(bytes) + read(&[first.as_bytes(), bytes].concat())
}

/// The problem document of a refusal whose names are these.
pub fn problem(policy: &str, target: &str, rule: &str) -> Option<Bytes> {
    let place = Place { policy, target, rule };
    let response = problem::refused(place, "open", &HeaderValue::from_static("x"), Duration::from_millis(1));
    match response.into_body() {
        ResponseBody::Local(bytes) => bytes,
        ResponseBody::Upstream(_) => None,
    }
}
