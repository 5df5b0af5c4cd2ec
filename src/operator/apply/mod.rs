//! Makes output objects stand as the last plan wants them, on the leader alone.
//!
//! Nothing is written that stands already. Each object is its own piece of work with its own
//! back-off, so one that can't be written holds up no other; and only what carries our label and
//! our hash is ever deleted.

mod output;
mod queue;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use fusebox_compiler::status::Monitoring;
use fusebox_compiler::{Plan, PolicyKey};
use kube::Client;
use opentelemetry::Context;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::certificates::{Bundle, Trust};
use crate::lease::{Leadership, Role};
use crate::metrics::Metrics;
use crate::reconcile::{Compiled, Published};
use crate::stores::OutputStores;
use crate::touched::Touched;

pub(crate) use output::stands;
pub use output::{APPLIED_ANNOTATION, MANAGED_BY_SELECTOR, Output, OutputKey, OutputKind, Outputs, outputs};
pub use queue::{MAX_KEYS, MAX_RUNNING, Outcome, Queue};

use work::{Action, Done, Work};
pub(crate) use work::{explain, is_as_new_as, reason, refusal};

/// What became of the policies' monitoring objects; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct MonitoringResults {
    results: Arc<Mutex<BTreeMap<PolicyKey, Monitoring>>>,
}

/// What the applier works with.
pub struct Applier {
    /// The client for writes.
    pub client: Client,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// What stands.
    pub stores: OutputStores,
    /// What is wanted.
    pub published: Published,
    /// Which certificates may be told of.
    pub trust: Trust,
    /// Where it is said what became of monitoring objects.
    pub monitoring: MonitoringResults,
    /// Policies whose status is to be looked at.
    pub statuses: Touched<PolicyKey>,
    /// Where writes and errors show.
    pub metrics: Metrics,
}

/// The applier while it runs.
struct Running {
    applier: Applier,
    queue: Queue<OutputKey>,
    /// The spans of the compilations that put keys into the queue.
    causes: HashMap<OutputKey, Context>,
    /// What was written and may not have come back through the watch yet.
    written: HashMap<OutputKey, work::Fresh>,
    jobs: JoinSet<(OutputKey, Done)>,
}

impl MonitoringResults {
    /// What became of one policy's.
    #[must_use]
    pub fn get(&self, policy: &PolicyKey) -> Option<Monitoring> {
        self.results.lock().get(policy).cloned()
    }

    /// Takes a result, and says whether it is new.
    fn set(&self, policy: &PolicyKey, result: Monitoring) -> bool {
        let mut results = self.results.lock();
        let changed = results.get(policy) != Some(&result);
        if changed {
            results.insert(policy.clone(), result);
        }
        changed
    }

    fn keep_only(&self, plan: &Plan) {
        self.results.lock().retain(|policy, _| plan.policies.contains_key(policy));
    }
}

impl Applier {
    /// Applies until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut role = self.leadership.subscribe();
        let mut published = self.published.clone();
        let stores = self.stores.clone();
        let mut listed = stores.listed();
        let mut running = Running {
            applier: self,
            queue: Queue::default(),
            causes: HashMap::new(),
            written: HashMap::new(),
            jobs: JoinSet::new(),
        };
        role.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = role.changed() => running.new_role(),
                Ok(()) = published.changed() => running.new_plan(),
                Ok(()) = listed.changed() => running.new_plan(),
                keys = stores.changed().take() => running.offer(keys, None),
                Some(Ok((key, done))) = running.jobs.join_next() => running.finish(key, done),
                () = until(running.queue.next_due()), if !running.queue.is_busy() => {}
            }
            running.start_due();
        }
    }
}

impl Running {
    fn leads(&self) -> bool {
        self.applier.leadership.role() == Role::Leader
    }

    fn new_role(&mut self) {
        self.written.clear();
        if self.leads() {
            self.new_plan();
        } else if self.jobs.is_empty() {
            self.queue = Queue::default();
            self.causes.clear();
        }
    }

    fn new_plan(&mut self) {
        let Some(compiled) = self.applier.compiled() else {
            return;
        };
        self.applier.monitoring.keep_only(&compiled.plan);
        let keys: Vec<OutputKey> = compiled.outputs.keys().cloned().chain(self.applier.stores.keys()).collect();
        let differing = keys.into_iter().filter(|key| self.applier.action(key, &compiled, None) != Action::Nothing);
        let differing: Vec<OutputKey> = differing.collect();
        self.applier.note_standing(&compiled);
        self.offer(differing, Some(&compiled.context));
    }

    fn offer(&mut self, keys: impl IntoIterator<Item = OutputKey>, cause: Option<&Context>) {
        if !self.leads() {
            return;
        }
        let now = Instant::now();
        for key in keys {
            if let Some(cause) = cause {
                self.causes.insert(key.clone(), cause.clone());
            }
            self.queue.push(key, now);
        }
    }

    fn start_due(&mut self) {
        if self.leads() {
            while let Some(key) = self.queue.take(Instant::now()) {
                self.start(key);
            }
        }
        let length = i64::try_from(self.queue.len()).unwrap_or(i64::MAX);
        self.applier.metrics.queue_length.with_label_values(&["apply"]).set(length);
        let refused = self.applier.metrics.queue_refused.with_label_values(&["apply"]);
        refused.inc_by(self.queue.refused().saturating_sub(refused.get()));
    }

    fn start(&mut self, key: OutputKey) {
        let cause = self.causes.remove(&key);
        let fresh = self.written.get(&key);
        let action = match self.applier.compiled() {
            Some(compiled) => self.applier.action(&key, &compiled, fresh),
            None => Action::Nothing,
        };
        if action == Action::Nothing {
            self.finish(key, Done::stands());
            return;
        }
        let work = Work {
            client: self.applier.client.clone(),
            leadership: self.applier.leadership.clone(),
            metrics: self.applier.metrics.clone(),
            key: key.clone(),
        };
        self.jobs.spawn(async move { (key, work.carry_out(action, cause).await) });
    }

    fn finish(&mut self, key: OutputKey, done: Done) {
        let Done { outcome, fresh, error } = done;
        match fresh {
            Some(fresh) => {
                self.written.insert(key.clone(), fresh);
            }
            None => {
                self.written.remove(&key);
            }
        }
        if self.applier.stores.is_listed(key.kind) {
            self.applier.note(&key, error);
        }
        self.queue.finish(key, outcome, Instant::now());
    }
}

impl Applier {
    fn compiled(&self) -> Option<Arc<Compiled>> {
        self.published.borrow().clone()
    }

    fn action(&self, key: &OutputKey, compiled: &Compiled, fresh: Option<&work::Fresh>) -> Action {
        let unknown = key.is_trust() && !self.may_tell(compiled.bundle.as_ref());
        if unknown || !self.stores.is_listed(key.kind) {
            return Action::Nothing;
        }
        work::decide(compiled.outputs.get(key), self.stores.get(key).as_deref(), fresh)
    }

    /// Whether the authorities that something was compiled with are still all that are known.
    fn may_tell(&self, bundle: Option<&Bundle>) -> bool {
        bundle.is_some_and(|bundle| self.trust.may_publish(bundle, Instant::now()))
    }

    /// Says of monitoring objects that stand already that they do.
    fn note_standing(&self, compiled: &Compiled) {
        let of_policies = compiled.outputs.iter().filter(|(_, output)| output.policy.is_some());
        for (key, _) in of_policies.filter(|(key, _)| self.stores.is_listed(key.kind)) {
            if self.action(key, compiled, None) == Action::Nothing {
                self.note(key, None);
            }
        }
    }

    fn note(&self, key: &OutputKey, error: Option<String>) {
        let Some(compiled) = self.compiled() else {
            return;
        };
        let Some(policy) = compiled.outputs.get(key).and_then(|output| output.policy.as_ref()) else {
            return;
        };
        let result = error.map_or(Monitoring::Applied, |error| Monitoring::Failed { error });
        if self.monitoring.set(policy, result) {
            self.statuses.touch([policy.clone()]);
        }
    }
}

/// Waits until a time, or for ever.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
