//! Which kinds are watched, how each is reduced, and whom its changes wake.
//!
//! The resources of our own group go through `DeserializeGuard`, so that one object that can't be
//! read does not stop the others; what it said before stays, and it is named in the log.

use std::fmt::Debug;
use std::sync::Arc;

use fusebox_api::{CircuitBreakerPolicy, CircuitBreakerPolicyStatus};
use fusebox_compiler::snapshot::{CircuitBreaker, Namespace, Pod, Service, Workload};
use fusebox_compiler::{Kind, PolicyKey};
use fusebox_policy::config::PolicyId;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::table::{Change, ObjectName, Reduced, Table};
use super::watch::{Listed, Watch};
use super::{Scope, Stores, Surroundings};
use crate::control::{ENDPOINT_SLICE_SELECTOR, PodDirectory, PodEntry, PodRef, Sidecar, Slice};

/// A policy as kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRecord {
    /// What is compiled.
    pub policy: CircuitBreaker,
    /// The status that stands; None where there is none or it can't be read.
    pub status: Option<CircuitBreakerPolicyStatus>,
    /// The version of the object that the status was read from.
    pub resource_version: String,
}

impl Reduced for PolicyRecord {
    fn decides_like(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

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
    spawn_policies(&stores.policies, around);
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
    let watch = Watch { kind, api, selector: None, scope: around.scope.clone(), table, reduce: Box::new(reduce) };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

fn spawn_policies(table: &Table<PolicyRecord>, around: &Surroundings) {
    let (inputs, statuses) = (around.inputs.clone(), around.statuses.clone());
    let tell = move |changes: Vec<Change<PolicyRecord>>, _| {
        statuses.touch(
            changes
                .iter()
                .filter(|change| status_differs(change))
                .map(|change| PolicyId { namespace: change.name.namespace.clone(), name: change.name.name.clone() })
                .map(|id| PolicyKey::new(Kind::CircuitBreakerPolicy, id)),
        );
        if changes.iter().any(Change::decides) {
            inputs.ring();
        }
    };
    let kind = "circuitbreakerpolicies";
    around.watches.expect(kind);
    let api = Api::<DeserializeGuard<CircuitBreakerPolicy>>::all(around.clients.watch.clone());
    let (known, errors) = (table.clone(), around.metrics.watch_errors.with_label_values(&[kind]));
    let reduce = Box::new(move |object: &DeserializeGuard<CircuitBreakerPolicy>| match &object.0 {
        Ok(policy) => Some(policy_record(policy)),
        Err(unreadable) => {
            errors.inc();
            last_readable(unreadable, &known)
        }
    });
    let watch = Watch { kind, api, selector: None, scope: around.scope.clone(), table: table.clone(), reduce };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

fn status_differs(change: &Change<PolicyRecord>) -> bool {
    let status = |record: &Option<Arc<PolicyRecord>>| record.as_ref().and_then(|record| record.status.clone());
    status(&change.old) != status(&change.new)
}

fn policy_record(policy: &CircuitBreakerPolicy) -> PolicyRecord {
    PolicyRecord {
        policy: CircuitBreaker::from(policy),
        status: policy.status.clone(),
        resource_version: policy.resource_version().unwrap_or_default(),
    }
}

/// What is known of a policy that can't be read, such as one with a newer version's values: nothing is
/// protected better by forgetting it. None where it is another object of the same name, or was never readable.
fn last_readable(unreadable: &InvalidObject, known: &Table<PolicyRecord>) -> Option<PolicyRecord> {
    let metadata = &unreadable.metadata;
    let (namespace, name) = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
    let last = known.get(&ObjectName { namespace: namespace.clone(), name: name.clone() });
    let last = last.filter(|record| Some(&record.policy.uid) == metadata.uid.as_ref());
    let error = &unreadable.error;
    match &last {
        Some(_) => tracing::warn!(namespace, name, error, "policy can't be read; what it said before stays in force"),
        None => tracing::warn!(namespace, name, error, "policy can't be read and is left out"),
    }
    let resource_version = metadata.resource_version.clone().unwrap_or_default();
    last.map(|record| PolicyRecord { resource_version, ..(*record).clone() })
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
    let watch = Watch { kind: "pods", api, selector: None, scope, table: table.clone(), reduce };
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
    let watch = Watch { kind: "endpointslices", api, selector, scope, table, reduce };
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

#[cfg(test)]
mod tests {
    use kube_runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn policy(uid: &str, version: &str, mode: &str) -> DeserializeGuard<CircuitBreakerPolicy> {
        let object = json!({
            "apiVersion": "fusebox.dev/v1alpha1", "kind": "CircuitBreakerPolicy",
            "metadata": {"namespace": "shop", "name": "payments", "uid": uid, "resourceVersion": version},
            "spec": {"targetRefs": [{"name": "payments"}], "mode": mode},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_a_policy_said_stays_while_it_cannot_be_read() {
        let table = Table::default();
        let record = policy_record(policy("one", "1", "Shadow").0.as_ref().unwrap());
        let name = ObjectName { namespace: "shop".into(), name: "payments".into() };
        table.writer().take(Event::Apply((name, Some(record.clone()))));
        let kept = last_readable(policy("one", "2", "NotYetInvented").0.as_ref().unwrap_err(), &table).unwrap();
        assert!(kept.decides_like(&record));
        assert_eq!(kept.resource_version, "2");
        let anew = policy("another", "3", "NotYetInvented");
        assert!(last_readable(anew.0.as_ref().unwrap_err(), &table).is_none(), "another object of that name");
    }
}
