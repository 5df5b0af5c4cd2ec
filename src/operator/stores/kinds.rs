//! Which kinds are watched, how each is reduced, and whom its changes wake; policies themselves stand in `policies`.
//!
//! It must keep no more of an object than decides something.

use std::fmt::Debug;

use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use fusebox_compiler::snapshot::{Namespace, Pod, Service, Workload};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::table::{Change, ObjectName, Reduced, Table};
use super::watch::{Listed, Need, Watch};
use super::{Scope, Stores, Surroundings, policies};
use crate::control::{ENDPOINT_SLICE_SELECTOR, PodDirectory, PodEntry, PodRef, Sidecar, Slice};

macro_rules! decides_by_equality {
    ($($kind:ty),+) => {
        $(impl Reduced for $kind {
            fn decides_like(&self, other: &Self) -> bool {
                self == other
            }
        })+
    };
}

decides_by_equality!(Service, Pod, Namespace, Workload, Slice);

/// Starts all watches.
pub fn spawn(stores: &Stores, around: &Surroundings) {
    let client = &around.clients.watch;
    policies::spawn::<CircuitBreakerPolicy>(stores, around);
    policies::spawn::<RateLimit>(stores, around);
    spawn_pods(&stores.pods, around);
    spawn_endpoint_slices(around);
    let services = watch("services", Api::<core::Service>::all(client.clone()), &stores.services);
    spawn_one(services, |object| Some(Service::from(object)), &around.everywhere());
    let namespaces = watch("namespaces", Api::<core::Namespace>::all(client.clone()), &stores.namespaces);
    spawn_one(namespaces, |object| Some(Namespace::from(object)), around);
    let [deployments, stateful_sets, daemon_sets, jobs, cron_jobs] = &stores.workloads;
    let workload = watch("deployments", Api::<Deployment>::all(client.clone()), deployments);
    spawn_one(workload, |object| Some(Workload::from(object)), around);
    let workload = watch("statefulsets", Api::<StatefulSet>::all(client.clone()), stateful_sets);
    spawn_one(workload, |object| Some(Workload::from(object)), around);
    let workload = watch("daemonsets", Api::<DaemonSet>::all(client.clone()), daemon_sets);
    spawn_one(workload, |object| Some(Workload::from(object)), around);
    let workload = watch("jobs", Api::<Job>::all(client.clone()), jobs);
    spawn_one(workload, |object| Some(Workload::from(object)), around);
    let workload = watch("cronjobs", Api::<CronJob>::all(client.clone()), cron_jobs);
    spawn_one(workload, |object| Some(Workload::from(object)), around);
}

type Unreduced<K, R> = (&'static str, Api<K>, Table<R>);

fn watch<K, R>(kind: &'static str, api: Api<K>, table: &Table<R>) -> Unreduced<K, R> {
    (kind, api, table.clone())
}

fn spawn_one<K, R>((kind, api, table): Unreduced<K, R>, reduce: fn(&K) -> Option<R>, around: &Surroundings)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    R: Reduced,
{
    let inputs = around.inputs.clone();
    let tell = move |changes: Vec<Change<R>>, _| {
        if changes.iter().any(Change::decides) {
            inputs.ring();
        }
    };
    around.watches.expect(kind);
    let watch = Watch {
        kind,
        need: Need::Always,
        api,
        selector: None,
        scope: around.scope.clone(),
        table,
        reduce: Box::new(reduce),
    };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

fn spawn_pods(table: &Table<Pod>, around: &Surroundings) {
    let (inputs, directory, pods) = (around.inputs.clone(), around.directory.clone(), table.clone());
    let tell = move |changes: Vec<Change<Pod>>, listed| {
        match listed {
            Listed::Anew => directory.replace(pods.map(pod_entry)),
            Listed::Before => changes.iter().for_each(|change| enter(change, &directory)),
        }
        if changes.iter().any(Change::decides) {
            inputs.ring();
        }
    };
    around.watches.expect("pods");
    let api = Api::<core::Pod>::all(around.clients.watch.clone());
    let (scope, reduce) = (around.scope.clone(), Box::new(Pod::from_object));
    let watch = Watch { kind: "pods", need: Need::Always, api, selector: None, scope, table: table.clone(), reduce };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

/// Starts the watch of EndpointSlices. Nothing is compiled from them, so nothing waits for their list: without it (such as
/// under an older role) proxies use the Services' own addresses.
pub fn spawn_endpoint_slices(around: &Surroundings) {
    let (directory, table) = (around.endpoints.clone(), Table::<Slice>::default());
    let listed_slices = table.clone();
    let tell = move |changes: Vec<Change<Slice>>, listed| match listed {
        Listed::Anew => directory.replace(listed_slices.entries().into_iter().map(|(name, slice)| (key(&name), slice))),
        Listed::Before => changes
            .into_iter()
            .for_each(|change| directory.change(&key(&change.name), change.old.as_deref(), change.new)),
    };
    let api = Api::<EndpointSlice>::all(around.clients.watch.clone());
    let reduce = Box::new(Slice::from_object);
    let (selector, scope) = (Some(ENDPOINT_SLICE_SELECTOR), Scope::Cluster);
    let watch = Watch { kind: "endpointslices", need: Need::Always, api, selector, scope, table, reduce };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

/// Names are unique in a namespace, and slices of one Service stand in one.
fn key(name: &ObjectName) -> String {
    name.name.clone()
}

fn enter(change: &Change<Pod>, directory: &PodDirectory) {
    let stays = |old: &Pod| change.new.as_ref().is_some_and(|new| new.uid == old.uid);
    if let Some(old) = change.old.as_ref().filter(|old| !stays(old)) {
        directory.remove(&old.uid);
    }
    if let Some(new) = &change.new {
        directory.insert(pod_entry(new));
    }
}

fn pod_entry(pod: &Pod) -> PodEntry {
    PodEntry {
        pod: PodRef { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() },
        workload: pod.workload.clone(),
        sidecar: if pod.sidecar { Sidecar::Present } else { Sidecar::Absent },
    }
}
