//! The status writer: what the pods said and what was compiled -> the policies' status, on the leader alone.
//!
//! It reads the book and the plan, asks the compiler what they mean, and writes what differs, at its
//! pace. It decides nothing about states itself.

mod difference;
mod lag;
pub mod pacing;
mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_api::names::{FIELD_MANAGER, GROUP, VERSION};
use fusebox_compiler::status::PolicyStatus;
use fusebox_compiler::{Kind, PolicyKey, PolicyPlan, Reports, fold};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client, ResourceExt};
use opentelemetry::Context;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::apply::{MonitoringResults, explain, is_as_new_as, reason, refusal, until};
use crate::control::{Changes, ReportBook};
use crate::events::{Recorder, ToldBlocked, happenings};
use crate::lease::{GuardedError, Leadership, Role};
use crate::metrics::Metrics;
use crate::reconcile::{Compiled, Published};
use crate::stores::Synced;
use crate::touched::Touched;
use difference::difference;
use lag::Lag;
use pacing::{Decision, Difference, Pacing, Written};
use reports::Settling;

/// A new leader lets stand what pods were said to do for this long, unless all have spoken before.
pub const SETTLE: Duration = Duration::from_secs(10);

/// What the status writer works with.
pub struct StatusWriter {
    /// The client for writes.
    pub client: Client,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// The statuses that stand.
    pub stores: Synced,
    /// What was compiled.
    pub published: Published,
    /// What pods said.
    pub book: ReportBook,
    /// What became of monitoring objects.
    pub monitoring: MonitoringResults,
    /// Policies to look at for other reasons.
    pub touched: Touched<PolicyKey>,
    /// Where transitions are told.
    pub events: Recorder,
    /// Where writes and errors show.
    pub metrics: Metrics,
}

/// The writer while it runs.
struct Running {
    writer: StatusWriter,
    pacing: Pacing<PolicyKey>,
    memory: BTreeMap<PolicyKey, Memory>,
    last: Option<Arc<Compiled>>,
    /// Until when a new leader lets stand what it found.
    settling: Option<Instant>,
    jobs: JoinSet<(PolicyKey, Outcome)>,
}

/// What is remembered of one policy.
#[derive(Debug, Default)]
struct Memory {
    /// What was folded last; transitions are told against it.
    folded: Option<PolicyStatus>,
    /// What was written last, and the object's version after it.
    written: Option<(PolicyStatus, String)>,
    /// The compilation that asks for a look.
    cause: Option<Context>,
    /// Since when its pods lag.
    lag: Lag,
    /// The clients that were told of as blocked.
    blocked: Option<ToldBlocked>,
}

/// How a write ended.
#[derive(Debug)]
enum Outcome {
    Stands(Box<PolicyStatus>, String),
    Gone,
    Failed,
}

impl StatusWriter {
    /// Writes until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut role = self.leadership.subscribe();
        let mut published = self.published.clone();
        let mut book = self.book.subscribe();
        let touched = self.touched.clone();
        let mut running = Running {
            writer: self,
            pacing: Pacing::default(),
            memory: BTreeMap::new(),
            last: None,
            settling: None,
            jobs: JoinSet::new(),
        };
        role.mark_changed();
        published.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = role.changed() => running.new_role(),
                Ok(()) = published.changed() => running.new_plan(),
                Ok(()) = book.changed() => running.new_reports(),
                policies = touched.take() => running.touch(policies),
                Some(Ok((policy, outcome))) = running.jobs.join_next() => running.finish(&policy, outcome),
                () = until(running.settling) => running.settled(),
                () = until(running.pacing.next_due()), if !running.pacing.is_busy() => {}
            }
            running.look_at_due();
        }
    }
}

impl Running {
    fn leads(&self) -> bool {
        self.writer.leadership.role() == Role::Leader
    }

    fn new_role(&mut self) {
        if self.leads() {
            self.memory.clear();
            self.settling = Some(Instant::now() + SETTLE);
            self.touch_all();
        } else {
            self.settling = None;
        }
    }

    fn settled(&mut self) {
        self.settling = None;
        self.touch_all();
    }

    fn new_plan(&mut self) {
        let next = self.writer.published.borrow().clone();
        let (Some(next), last) = (next, self.last.take()) else {
            return;
        };
        let old = last.as_ref().map(|last| &last.plan.policies);
        for gone in old.into_iter().flat_map(BTreeMap::keys).filter(|id| !next.plan.policies.contains_key(*id)) {
            self.pacing.remove(gone);
            self.memory.remove(gone);
        }
        let differs = |(id, policy): &(&PolicyKey, &PolicyPlan)| old.and_then(|old| old.get(*id)) != Some(*policy);
        let changed: Vec<PolicyKey> = next.plan.policies.iter().filter(differs).map(|(id, _)| id.clone()).collect();
        for id in &changed {
            self.memory.entry(id.clone()).or_default().cause = Some(next.context.clone());
        }
        self.last = Some(next);
        self.touch(changed);
    }

    fn new_reports(&mut self) {
        let Changes { workloads, mut policies } = self.writer.book.take_changes();
        let connected = i64::try_from(self.writer.book.snapshot().len()).unwrap_or(i64::MAX);
        self.writer.metrics.proxies_known.set(connected);
        if let Some(compiled) = &self.last {
            policies.extend(workloads.iter().filter_map(|workload| compiled.bound.get(workload)).flatten().cloned());
        }
        self.touch(policies);
    }

    fn touch_all(&mut self) {
        let all: Vec<PolicyKey> = self.last.iter().flat_map(|last| last.plan.policies.keys().cloned()).collect();
        self.touch(all);
    }

    fn touch(&mut self, policies: impl IntoIterator<Item = PolicyKey>) {
        let (Some(compiled), true) = (self.last.clone(), self.leads()) else {
            return;
        };
        let now = Instant::now();
        for policy in policies.into_iter().filter(|policy| compiled.plan.policies.contains_key(policy)) {
            self.pacing.touch(policy, now);
        }
    }

    fn look_at_due(&mut self) {
        if !self.leads() {
            return;
        }
        while let Some(policy) = self.pacing.take(Instant::now()) {
            self.look(&policy);
        }
        let length = i64::try_from(self.pacing.len()).unwrap_or(i64::MAX);
        self.writer.metrics.queue_length.with_label_values(&["status"]).set(length);
    }

    fn look(&mut self, id: &PolicyKey) {
        let Some(compiled) = self.last.clone() else {
            return;
        };
        let Some(plan) = compiled.plan.policies.get(id) else {
            self.pacing.remove(id);
            return;
        };
        let standing = self.standing(id);
        let now = Instant::now();
        let settling = if self.settling.is_some() { Settling::Yet } else { Settling::Over };
        let time = Timestamp::now();
        let lag = &mut self.memory.entry(id.clone()).or_default().lag;
        lag.update(plan, |uid, pod| lag::is_behind(&self.writer.book, (uid, pod)), (standing.as_ref(), time));
        let (behind, next) = (lag.since().clone(), lag.next(time));
        let collected = reports::collect(plan, &self.writer.book, settling, &self.writer.monitoring);
        let status = fold(plan, &Reports { behind, ..collected }, time, standing.as_ref());
        self.tell(plan, standing.as_ref(), &status, now);
        let difference = standing.map_or(Difference::Transition, |standing| difference(&standing, &status));
        if self.pacing.looked(id, difference, now) == Decision::Write {
            self.write(plan, status);
        }
        if let Some(left) = next {
            self.pacing.touch_at(id.clone(), now + left);
        }
    }

    /// What stands: the store's word, or our own where the watch has not brought it back yet.
    fn standing(&self, id: &PolicyKey) -> Option<PolicyStatus> {
        let found = self.writer.stores.standing(id);
        let written = self.memory.get(id).and_then(|memory| memory.written.as_ref());
        match (found, written) {
            (Some(found), Some((_, version))) if is_as_new_as(&found.resource_version, version) => found.status,
            (_, Some((status, _))) => Some(status.clone()),
            (Some(found), None) => found.status,
            (None, None) => None,
        }
    }

    fn tell(&mut self, plan: &PolicyPlan, standing: Option<&PolicyStatus>, status: &PolicyStatus, now: Instant) {
        let memory = self.memory.entry(plan.key.clone()).or_default();
        let before = memory.folded.replace(status.clone());
        let mut happened = happenings(before.as_ref().or(standing), status);
        if let PolicyStatus::RateLimit(status) = status {
            let blocked = memory.blocked.get_or_insert_with(|| ToldBlocked::new(now));
            happened.extend(blocked.happening(standing.and_then(PolicyStatus::rate_limit), status, now));
        }
        self.writer.events.record(&plan.version, happened, now);
    }

    fn write(&mut self, plan: &PolicyPlan, status: PolicyStatus) {
        let id = plan.key.clone();
        let cause = self.memory.get_mut(&id).and_then(|memory| memory.cause.take());
        let (client, leadership, metrics) =
            (self.writer.client.clone(), self.writer.leadership.clone(), self.writer.metrics.clone());
        let span = tracing::info_span!("status write", namespace = id.id.namespace, name = id.id.name);
        if let Some(cause) = cause {
            // Without an exporter there is no parent to set, and none is needed.
            let _ = span.set_parent(cause);
        }
        let kind = plan.version.kind.clone();
        let write = async move {
            let begun = Instant::now();
            let outcome = write(&client, &leadership, &id, status).await;
            let label = [kind.as_str()];
            metrics.status_writes.with_label_values(&label).inc();
            metrics.reconcile.with_label_values(&["status"]).inc();
            metrics.reconcile_duration.with_label_values(&["status"]).observe(begun.elapsed().as_secs_f64());
            let outcome = outcome.unwrap_or_else(|error| failed(&id, &error, &metrics));
            (id, outcome)
        };
        self.jobs.spawn(write.instrument(span));
    }

    fn finish(&mut self, id: &PolicyKey, outcome: Outcome) {
        let now = Instant::now();
        let written = match outcome {
            Outcome::Stands(status, version) => {
                if let Some(memory) = self.memory.get_mut(id) {
                    memory.written = Some((*status, version));
                }
                Written::Done
            }
            Outcome::Gone => Written::Done,
            Outcome::Failed => Written::Failed,
        };
        self.pacing.wrote(id, written, now);
    }
}

async fn write(
    client: &Client,
    leadership: &Leadership,
    PolicyKey { kind, id }: &PolicyKey,
    status: PolicyStatus,
) -> Result<Outcome, GuardedError<kube::Error>> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &id.namespace, &resource(*kind));
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind.as_str(),
        "metadata": { "name": id.name },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match leadership.guard(api.patch_status(&id.name, &params, &Patch::Apply(&patch))).await {
        Ok(object) => {
            let version = object.resource_version().unwrap_or_default();
            Ok(Outcome::Stands(Box::new(status), version))
        }
        Err(error) if refusal(&error).is_some_and(Status::is_not_found) => Ok(Outcome::Gone),
        Err(error) => Err(error),
    }
}

fn resource(kind: Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind.as_str()), kind.plural())
}

fn failed(PolicyKey { id, .. }: &PolicyKey, error: &GuardedError<kube::Error>, metrics: &Metrics) -> Outcome {
    metrics.reconcile_errors.with_label_values(&["status", reason(error)]).inc();
    tracing::warn!(
        namespace = id.namespace,
        name = id.name,
        error = explain(error),
        "status not written; will try again"
    );
    Outcome::Failed
}

/// Counts the resources that have each condition, by its status.
pub fn count_conditions(stores: &Synced, metrics: &Metrics) {
    metrics.resource_condition.reset();
    for kind in Kind::ALL {
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for status in stores.statuses(kind) {
            let conditions = status.conditions().iter();
            let each: BTreeSet<_> =
                conditions.map(|condition| (condition.type_.clone(), condition.status.clone())).collect();
            each.into_iter().for_each(|condition| *counts.entry(condition).or_default() += 1);
        }
        for ((condition, status), count) in counts {
            let labels = [kind.as_str(), condition.as_str(), status.as_str()];
            metrics.resource_condition.with_label_values(&labels).set(count);
        }
    }
}
