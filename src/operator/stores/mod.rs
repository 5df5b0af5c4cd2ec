//! What the operator knows of the cluster: one store for each kind, filled by a watch.
//!
//! A store holds the compiler's reduced values and nothing else, so that 10,000 pods fit, and so that
//! a change of anything that decides nothing wakes nobody. Nothing here writes to the cluster.

mod kinds;
mod outputs;
mod scope;
mod table;
mod watch;

use std::sync::Arc;

use fusebox_compiler::snapshot::{Namespace, Pod, Prometheus, Service, Workload};
use fusebox_compiler::{PolicyKey, Snapshot};
use jiff::Timestamp;
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_calls::Clients;
use crate::control::{EndpointDirectory, PodDirectory};
use crate::metrics::Metrics;
use crate::touched::Touched;

pub use kinds::{PolicyRecord, spawn, spawn_endpoint_slices};
pub use outputs::{OutputRecord, OutputStores};
pub use scope::Scope;
pub use table::{Change, ObjectName, Reduced, Table};
pub use watch::{ERROR_LASTS, WatchBackoff, Watches};

/// All stores that are compiled from; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// CircuitBreakerPolicies, with the status that stands.
    pub policies: Table<PolicyRecord>,
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
        let Stores { policies, services, pods, namespaces, workloads } = &self.0;
        Snapshot {
            now,
            circuit_breakers: policies.map(|record| record.policy.clone()),
            services: services.map(Clone::clone),
            pods: pods.map(Clone::clone),
            workloads: workloads.iter().flat_map(|table| table.map(Clone::clone)).collect(),
            namespaces: namespaces.map(Clone::clone),
            prometheus,
            ..Snapshot::empty(now)
        }
    }

    /// The policies with their statuses.
    #[must_use]
    pub fn policies(&self) -> &Table<PolicyRecord> {
        &self.0.policies
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
