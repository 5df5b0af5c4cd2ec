//! What the operator knows of the cluster: one store for each kind, filled by a watch.
//!
//! A store holds the compiler's reduced values and nothing else, so that 10,000 pods fit, and so that
//! a change of anything that decides nothing wakes nobody. Nothing here writes to the cluster.

mod kinds;
mod outputs;
mod policies;
mod scope;
mod table;
mod watch;

use std::sync::Arc;

use fusebox_api::{CircuitBreakerPolicySpec, RateLimitSpec};
use fusebox_compiler::snapshot::{Namespace, Pod, Prometheus, Service, Workload};
use fusebox_compiler::{Kind, PolicyKey, PolicyStatus, Snapshot};
use jiff::Timestamp;
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_calls::Clients;
use crate::control::{EndpointDirectory, PodDirectory};
use crate::metrics::Metrics;
use crate::touched::Touched;

pub use kinds::{spawn, spawn_endpoint_slices};
pub use outputs::{OutputRecord, OutputStores};
pub use policies::{PolicyObject, PolicyRecord};
pub use scope::Scope;
pub use table::{Change, ObjectName, Reduced, Table};
pub use watch::{ERROR_LASTS, Need, WatchBackoff, Watches};

/// All stores that are compiled from; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// CircuitBreakerPolicies, with the status that stands.
    pub circuit_breakers: Table<PolicyRecord<CircuitBreakerPolicySpec>>,
    /// RateLimits, with the status that stands.
    pub rate_limits: Table<PolicyRecord<RateLimitSpec>>,
    /// Services.
    pub services: Table<Service>,
    /// Pods that have not finished.
    pub pods: Table<Pod>,
    /// Namespaces.
    pub namespaces: Table<Namespace>,
    /// Deployments, StatefulSets, DaemonSets, Jobs and CronJobs.
    pub workloads: [Table<Workload>; 5],
}

/// What watches need and whom they wake.
#[derive(Clone)]
pub struct Surroundings {
    /// The clients.
    pub clients: Clients,
    /// Where errors and object counts show.
    pub metrics: Metrics,
    /// Which watches have listed, and which fail.
    pub watches: Watches,
    /// Woken when something changed that decides.
    pub inputs: Signal,
    /// Told of policies whose status is not what it was.
    pub statuses: Touched<PolicyKey>,
    /// Told of pods.
    pub directory: PodDirectory,
    /// Told of EndpointSlices.
    pub endpoints: EndpointDirectory,
    /// The namespaces that are served.
    pub scope: Scope,
    /// The namespaces in which outputs stand: those, and the operator's own.
    pub outputs_scope: Scope,
    /// Ends the watches.
    pub stop: CancellationToken,
    /// The tasks.
    pub tasks: TaskTracker,
}

/// The status of one policy that stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The status; None where there is none or it can't be read.
    pub status: Option<PolicyStatus>,
    /// The version of the object that it was read from.
    pub resource_version: String,
}

/// Wakes one loop, however often it is rung.
#[derive(Clone, Debug)]
pub struct Signal(Arc<channel::Sender<u64>>);

/// Stores that have all been listed once. Only from these is anything compiled, so nothing is
/// ever deleted because a list had not come in yet.
#[derive(Clone, Debug)]
pub struct Synced(Stores);

impl Stores {
    /// Waits until every store was listed.
    pub async fn synced(self, watches: &Watches) -> Synced {
        watches.all_listed().await;
        Synced(self)
    }
}

impl Surroundings {
    /// For what must be seen in every namespace: a policy may name a Service of another one.
    #[must_use]
    pub fn everywhere(&self) -> Self {
        Self { scope: Scope::Cluster, ..self.clone() }
    }

    /// Runs a watch until the end, or until it is aborted.
    fn spawn(&self, watch: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let stop = self.stop.clone();
        let task = self.tasks.spawn(async move {
            // A watch that was stopped has nothing to say.
            let _ = stop.run_until_cancelled(watch).await;
        });
        task.abort_handle()
    }
}

impl Synced {
    /// Everything that decides, as of now.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp, prometheus: Prometheus) -> Snapshot {
        let Stores { circuit_breakers, rate_limits, services, pods, namespaces, workloads } = &self.0;
        Snapshot {
            now,
            circuit_breakers: circuit_breakers.map(|record| record.policy.clone()),
            rate_limits: rate_limits.map(|record| record.policy.clone()),
            services: services.map(Clone::clone),
            pods: pods.map(Clone::clone),
            workloads: workloads.iter().flat_map(|table| table.map(Clone::clone)).collect(),
            namespaces: namespaces.map(Clone::clone),
            prometheus,
            ..Snapshot::empty(now)
        }
    }

    /// The status of a policy that stands, if any, with its object's version; None where there is no such policy.
    #[must_use]
    pub fn standing(&self, key: &PolicyKey) -> Option<Standing> {
        let name = ObjectName { namespace: key.id.namespace.clone(), name: key.id.name.clone() };
        match key.kind {
            Kind::CircuitBreakerPolicy => self.0.circuit_breakers.get(&name).map(|record| Standing::of(&record)),
            Kind::RateLimit => self.0.rate_limits.get(&name).map(|record| Standing::of(&record)),
        }
    }

    /// The statuses of all policies of a kind that stand.
    #[must_use]
    pub fn statuses(&self, kind: Kind) -> Vec<PolicyStatus> {
        let all = match kind {
            Kind::CircuitBreakerPolicy => self.0.circuit_breakers.map(|record| record.status.clone()),
            Kind::RateLimit => self.0.rate_limits.map(|record| record.status.clone()),
        };
        all.into_iter().flatten().collect()
    }
}

impl Standing {
    fn of<S>(record: &PolicyRecord<S>) -> Self {
        Self { status: record.status.clone(), resource_version: record.resource_version.clone() }
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self(Arc::new(channel::Sender::new(0)))
    }
}

impl Signal {
    /// Wakes the loop.
    pub fn ring(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// What the loop waits on.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<u64> {
        self.0.subscribe()
    }
}
