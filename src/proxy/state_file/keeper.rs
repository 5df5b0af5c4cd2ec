//! Writes the state file while the proxy runs, at a bounded pace.
//!
//! It must not hold up requests: breakers are read one by one, and the disk is written by a thread that may wait. A disk
//! that refuses makes the proxy degraded and nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{Snapshot, WindowSnapshot};
use fusebox_policy::config::BreakerKey;
use fusebox_policy::report::BreakerState;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Entry, encode, fingerprint, write};
use crate::clock;
use crate::enforcer::Enforcer;
use crate::health::{Component, Health};

/// Between two writes at least.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Between two writes at most, so that windows are not much older than this after a restart.
const MAX_INTERVAL: Duration = Duration::from_secs(15);

/// Keeps the state file.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    enforcer: Arc<Enforcer>,
    health: Arc<Health>,
    /// What was wrong with the file at the start; empty when nothing was.
    note: String,
    /// Taken before anything can change.
    changes: watch::Receiver<u64>,
    /// Held while the file is written, since the last write of a draining proxy may meet one under way.
    writing: Arc<Mutex<()>>,
}

impl Keeper {
    /// Keeps `path`. `note` stays to be seen when the file is good again.
    pub(crate) fn new(path: PathBuf, enforcer: &Arc<Enforcer>, health: &Arc<Health>, note: String) -> Self {
        let changes = enforcer.changes();
        Self {
            path,
            enforcer: Arc::clone(enforcer),
            health: Arc::clone(health),
            note,
            changes,
            writing: Arc::default(),
        }
    }

    /// Writes after each change, and now and then, until it is dropped.
    pub(crate) async fn run(self) {
        let mut changes = self.changes.clone();
        loop {
            // An error means that the enforcer is gone, which this task would not outlive.
            let _ = tokio::time::timeout(MAX_INTERVAL, changes.changed()).await;
            self.save().await;
            tokio::time::sleep(MIN_INTERVAL).await;
        }
    }

    /// Writes now.
    pub(crate) async fn save(&self) {
        // Before there is a configuration nothing is known, and what an earlier process left must stay.
        if self.enforcer.generation() == 0 {
            return;
        }
        let (path, enforcer, writing) = (self.path.clone(), Arc::clone(&self.enforcer), Arc::clone(&self.writing));
        let written = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = writing.lock();
            let entries = entries(&enforcer, Instant::now());
            write(&path, &encode(&entries, clock::unix_now_ms())?)
        });
        let failed = match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.health.state_file(match failed {
            None => Component::healthy_with(self.note.clone()),
            Some(error) => {
                let message = format!("state file {} can't be written: {error}", self.path.display());
                tracing::warn!(message);
                Component::degraded(message)
            }
        });
    }
}

/// What is worth keeping; breakers that are not closed stand first.
fn entries(enforcer: &Enforcer, now: Instant) -> Vec<Entry> {
    let snapshot = enforcer.snapshot();
    let mut entries = Vec::new();
    for installed in snapshot.breakers.values() {
        let members = installed.endpoints.as_ref().map(|(group, _)| group.members());
        let endpoints = members.iter().flat_map(|members| &members.all).map(|member| &member.tracked);
        for tracked in endpoints.chain([&installed.own]) {
            let snapshot = tracked.breaker.snapshot(now);
            if is_worth_keeping(&snapshot) {
                let parameters = fingerprint(&installed.parameters);
                entries.push(Entry { key: BreakerKey::clone(&tracked.key), parameters, snapshot });
            }
        }
    }
    entries.sort_by_key(|entry| entry.snapshot.state == BreakerState::Closed);
    entries
}

/// A closed breaker that has seen nothing yet is like a new one.
fn is_worth_keeping(snapshot: &Snapshot) -> bool {
    let has_requests = |window: &WindowSnapshot| match window {
        WindowSnapshot::Time(buckets) => buckets.requests.iter().any(|requests| *requests > 0),
        WindowSnapshot::Calls(calls) => !calls.is_empty(),
    };
    snapshot.state != BreakerState::Closed
        || snapshot.last_trip_age_ms.is_some()
        || snapshot.consecutive_failures > 0
        || snapshot.windows.iter().any(has_requests)
}
