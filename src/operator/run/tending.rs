//! Health and gauges, kept true to what only shows with time.
//!
//! It must change nothing else: what it reads goes on without it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::health::{Component, Status};
use crate::lease::{Leadership, Role};
use crate::metrics::Metrics;
use crate::status::count_conditions;
use crate::stores::{Synced, Watches};

/// How often health is brought up to date.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// Keeps health and gauges true to what only shows with time.
pub(super) async fn tend(shared: Shared) {
    let mut ticks = tokio::time::interval(TEND_EVERY);
    while shared.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let leads = shared.leadership.role() == Role::Leader;
        shared.metrics.leader.set(i64::from(leads));
        shared.health.set(Component::Stores, stores_status(&shared.watches, Instant::now()));
        shared.health.set(Component::Lease, lease_status(&shared.leadership, Instant::now()));
    }
}

pub(super) async fn count(synced: Synced, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TEND_EVERY * 5);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        count_conditions(&synced, &metrics);
    }
}

fn stores_status(watches: &Watches, now: Instant) -> Status {
    let (unlisted, failing) = (watches.unlisted(), watches.failing(now));
    let errors: Vec<String> = failing.iter().map(|(kind, error)| format!("{kind}: {error}")).collect();
    match (unlisted.is_empty(), errors.is_empty()) {
        (true, true) => Status::healthy(),
        (true, false) => Status::degraded(format!("watches fail, what is known stays in force: {}", errors.join("; "))),
        (false, _) => Status::unhealthy(format!(
            "not listed yet: {}; if it stays so, check the operator's role and run `kubectl apply --server-side -f crds/` {}",
            unlisted.join(", "),
            errors.join("; ")
        )),
    }
}

fn lease_status(leadership: &Leadership, now: Instant) -> Status {
    match leadership.role() {
        Role::Leader if leadership.may_write(now) => Status::healthy(),
        Role::Leader => Status::degraded("the lease can't be renewed, so nothing is written"),
        Role::Follower { leader: Some(_) } => Status::healthy(),
        Role::Follower { leader: None } => Status::degraded("no replica is known to lead"),
    }
}
