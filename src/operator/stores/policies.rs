//! Policies of every kind as they are kept, and the watch that fills a kind's table.
//!
//! The resources of our own group go through `DeserializeGuard`, so that one object that can't be read does not stop the others;
//! what it said before stays, and it is named in the log. A new kind is one more impl of [`PolicyObject`].

use std::fmt::Debug;
use std::sync::Arc;

use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use fusebox_compiler::snapshot::{Policy, PolicySpec};
use fusebox_compiler::{Kind, PolicyKey, PolicyStatus, Snapshot};
use fusebox_policy::config::PolicyId;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::core::object::HasSpec;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::table::{Change, ObjectName, Reduced, Table};
use super::watch::{Need, Watch};
use super::{Stores, Surroundings};

/// A policy as kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRecord<S> {
    /// What is compiled.
    pub policy: Policy<S>,
    /// The status that stands; None where there is none or it can't be read.
    pub status: Option<PolicyStatus>,
    /// The version of the object that the status was read from.
    pub resource_version: String,
}

/// A kind of policy, as it is watched.
pub trait PolicyObject:
    Resource<DynamicType = ()>
    + HasSpec<Spec: PolicySpec + Clone + Debug + PartialEq>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The kind.
    const KIND: Kind;
    /// Whether nothing is compiled before its objects were listed; an older chart's CRDs and roles know no newer kinds.
    const NEED: Need;

    /// The status that stands.
    fn standing(&self) -> Option<PolicyStatus>;
    /// Where policies of the kind are kept.
    fn table(stores: &Stores) -> &Table<PolicyRecord<Self::Spec>>;
    /// Where a snapshot has them.
    fn of_snapshot(snapshot: &mut Snapshot) -> &mut Vec<Policy<Self::Spec>>;
}

impl PolicyObject for CircuitBreakerPolicy {
    const KIND: Kind = Kind::CircuitBreakerPolicy;
    const NEED: Need = Need::Always;

    fn standing(&self) -> Option<PolicyStatus> {
        self.status.clone().map(PolicyStatus::CircuitBreaker)
    }

    fn table(stores: &Stores) -> &Table<PolicyRecord<Self::Spec>> {
        &stores.circuit_breakers
    }

    fn of_snapshot(snapshot: &mut Snapshot) -> &mut Vec<Policy<Self::Spec>> {
        &mut snapshot.circuit_breakers
    }
}

impl PolicyObject for RateLimit {
    const KIND: Kind = Kind::RateLimit;
    const NEED: Need = Need::WhereServed;

    fn standing(&self) -> Option<PolicyStatus> {
        self.status.clone().map(PolicyStatus::RateLimit)
    }

    fn table(stores: &Stores) -> &Table<PolicyRecord<Self::Spec>> {
        &stores.rate_limits
    }

    fn of_snapshot(snapshot: &mut Snapshot) -> &mut Vec<Policy<Self::Spec>> {
        &mut snapshot.rate_limits
    }
}

impl<S: PartialEq + Send + Sync + 'static> Reduced for PolicyRecord<S> {
    fn decides_like(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

/// Starts the watch of one kind of policies.
pub(super) fn spawn<P: PolicyObject>(stores: &Stores, around: &Surroundings) {
    let table = P::table(stores);
    let (inputs, statuses) = (around.inputs.clone(), around.statuses.clone());
    let tell = move |changes: Vec<Change<PolicyRecord<P::Spec>>>, _| {
        let differing = changes.iter().filter(|change| status_differs(change));
        statuses.touch(differing.map(|change| key::<P>(&change.name)));
        if changes.iter().any(Change::decides) {
            inputs.ring();
        }
    };
    around.watches.expect(P::KIND.plural());
    let api = Api::<DeserializeGuard<P>>::all(around.clients.watch.clone());
    let (known, errors) = (table.clone(), around.metrics.watch_errors.with_label_values(&[P::KIND.plural()]));
    let reduce = Box::new(move |object: &DeserializeGuard<P>| match &object.0 {
        Ok(policy) => Some(policy_record(policy)),
        Err(unreadable) => {
            errors.inc();
            last_readable::<P>(unreadable, &known)
        }
    });
    let (scope, table) = (around.scope.clone(), table.clone());
    let watch = Watch { kind: P::KIND.plural(), need: P::NEED, api, selector: None, scope, table, reduce };
    around.spawn(watch.follow(around.watches.clone(), around.metrics.clone(), tell));
}

fn key<P: PolicyObject>(ObjectName { namespace, name }: &ObjectName) -> PolicyKey {
    PolicyKey::new(P::KIND, PolicyId { namespace: namespace.clone(), name: name.clone() })
}

fn status_differs<S>(change: &Change<PolicyRecord<S>>) -> bool {
    let status = |record: &Option<Arc<PolicyRecord<S>>>| record.as_ref().and_then(|record| record.status.clone());
    status(&change.old) != status(&change.new)
}

fn policy_record<P: PolicyObject>(policy: &P) -> PolicyRecord<P::Spec> {
    PolicyRecord {
        policy: Policy::from(policy),
        status: policy.standing(),
        resource_version: policy.resource_version().unwrap_or_default(),
    }
}

/// What is known of a policy that can't be read, such as one with a newer version's values: nothing is
/// protected better by forgetting it. None where it is another object of the same name, or was never readable.
fn last_readable<P: PolicyObject>(
    unreadable: &InvalidObject,
    known: &Table<PolicyRecord<P::Spec>>,
) -> Option<PolicyRecord<P::Spec>> {
    let metadata = &unreadable.metadata;
    let (namespace, name) = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
    let last = known.get(&ObjectName { namespace: namespace.clone(), name: name.clone() });
    let last = last.filter(|record| Some(record.policy.uid.as_str()) == metadata.uid.as_deref());
    let (kind, error) = (P::KIND.as_str(), &unreadable.error);
    match &last {
        Some(_) => {
            tracing::warn!(kind, namespace, name, error, "policy can't be read; what it said before stays in force");
        }
        None => tracing::warn!(kind, namespace, name, error, "policy can't be read and is left out"),
    }
    let resource_version = metadata.resource_version.clone().unwrap_or_default();
    last.map(|record| PolicyRecord { resource_version, ..(*record).clone() })
}

#[cfg(test)]
mod tests {
    use kube_runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    fn object<P: PolicyObject>(uid: &str, version: &str, spec: &Value) -> DeserializeGuard<P> {
        let object = json!({
            "apiVersion": "fusebox.dev/v1alpha1", "kind": P::KIND.as_str(),
            "metadata": {"namespace": "shop", "name": "payments", "uid": uid, "resourceVersion": version}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn what_was_said_stays<P: PolicyObject>(readable: &Value, unreadable: &Value) {
        let table = Table::default();
        let record = policy_record(object::<P>("one", "1", readable).0.as_ref().unwrap());
        let name = ObjectName { namespace: "shop".into(), name: "payments".into() };
        table.writer().take(Event::Apply((name, Some(record.clone()))));
        let kept = object::<P>("one", "2", unreadable);
        let kept = last_readable::<P>(kept.0.as_ref().unwrap_err(), &table).unwrap();
        assert!(kept.decides_like(&record));
        assert_eq!(kept.resource_version, "2");
        let anew = object::<P>("another", "3", unreadable);
        assert!(last_readable::<P>(anew.0.as_ref().unwrap_err(), &table).is_none(), "another object of that name");
    }

    #[test]
    fn what_a_policy_said_stays_while_it_cannot_be_read() {
        let with = |mode: &str| json!({"targetRefs": [{"name": "payments"}], "mode": mode});
        what_was_said_stays::<CircuitBreakerPolicy>(&with("Shadow"), &with("NotYetInvented"));
        let with = |mode: &str| {
            let limits = json!([{"name": "all", "rate": {"requests": 1, "per": "1s"}}]);
            json!({"targetRefs": [{"name": "payments"}], "limits": limits, "mode": mode})
        };
        what_was_said_stays::<RateLimit>(&with("Shadow"), &with("NotYetInvented"));
    }
}
