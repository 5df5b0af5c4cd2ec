//! Output objects: what the Plan wants to stand in the cluster, and whether it does.
//!
//! Every output carries a label and a hash of all that was wanted of it. The hash shows what was
//! taken out since; that everything wanted stands, is compared field by field, since defaults and
//! others' additions must not cause writes.

use std::collections::BTreeMap;

use fusebox_api::names::{CA_CONFIG_MAP, FIELD_MANAGER, GROUP, VERSION};
use fusebox_compiler::monitoring::MonitoringOptions;
use fusebox_compiler::objects::{self, MANAGED_BY, ObjectError, Wanted};
use fusebox_compiler::{Plan, PolicyKey};
use fusebox_policy::config::PolicyVersion;
use kube::api::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The selector of the stores of outputs.
pub const MANAGED_BY_SELECTOR: &str = "app.kubernetes.io/managed-by=fusebox";

/// The annotation with the hash of what was wanted. Nothing without it is ever deleted.
pub const APPLIED_ANNOTATION: &str = "fusebox.dev/applied";

/// The kinds of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputKind {
    /// A workload's configuration.
    ConfigMap,
    /// The headless Service of a namespace's sidecars.
    Service,
    /// What makes Prometheus scrape them.
    ServiceMonitor,
    /// A policy's alerts.
    PrometheusRule,
}

/// Names one output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputKey {
    /// Its kind.
    pub kind: OutputKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One output as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The object, complete with the label and the annotation of its hash.
    pub object: Value,
    /// The hash.
    pub hash: String,
    /// The policy it belongs to, if to one.
    pub policy: Option<PolicyKey>,
}

/// All outputs of one compilation.
pub type Outputs = BTreeMap<OutputKey, Output>;

impl OutputKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::ConfigMap, Self::Service, Self::ServiceMonitor, Self::PrometheusRule];

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::PrometheusRule => "PrometheusRule",
        }
    }

    /// Whether it belongs to the Prometheus operator.
    #[must_use]
    pub const fn is_prometheus(self) -> bool {
        matches!(self, Self::ServiceMonitor | Self::PrometheusRule)
    }

    /// The kind as the API server knows it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, plural) = match self {
            Self::ConfigMap => ("", "configmaps"),
            Self::Service => ("", "services"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "servicemonitors"),
            Self::PrometheusRule => ("monitoring.coreos.com", "prometheusrules"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", self.name()), plural)
    }
}

/// All objects that a plan wants.
///
/// # Errors
/// [`ObjectError`] where plain data can't be written, which it always can.
pub fn outputs(plan: &Plan, options: &MonitoringOptions) -> Result<Outputs, ObjectError> {
    let wanted = objects::all(plan, options)?.into_iter().filter_map(|Wanted { mut object, policy }| {
        let key = OutputKey::of(&object)?;
        if let Some(owner) = policy.as_ref().and_then(|id| plan.policies.get(id)) {
            object["metadata"]["ownerReferences"] = json!([owner_reference(&owner.version)]);
        }
        Some((key, Output::new(object, policy)))
    });
    Ok(wanted.collect())
}

/// What goes with its policy says so, and needs no finalizer.
fn owner_reference(PolicyVersion { kind, id, uid, generation: _ }: &PolicyVersion) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind,
        "name": id.name,
        "uid": uid,
        "controller": true,
    })
}

impl OutputKey {
    /// Whether it holds the certificates by which sidecars know the operator.
    #[must_use]
    pub fn is_trust(&self) -> bool {
        self.kind == OutputKind::ConfigMap && self.name == CA_CONFIG_MAP
    }

    /// The key of an object; None where it is of a kind or without a name that can't be applied.
    fn of(object: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (version, name) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        let kind = OutputKind::ALL.into_iter().find(|kind| {
            let ApiResource { api_version, kind, .. } = kind.resource();
            (api_version.as_str(), kind.as_str()) == (version, name)
        })?;
        let metadata = &object["metadata"];
        Some(Self { kind, namespace: text(&metadata["namespace"])?, name: text(&metadata["name"])? })
    }
}

impl Output {
    /// Marks an object as ours, with the hash of what it says.
    #[must_use]
    pub fn new(mut object: Value, policy: Option<PolicyKey>) -> Self {
        object["metadata"]["labels"][MANAGED_BY] = FIELD_MANAGER.into();
        let text = object.to_string();
        let hash: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        object["metadata"]["annotations"][APPLIED_ANNOTATION] = hash.clone().into();
        Self { object, hash, policy }
    }
}

/// Whether all that is wanted stands. What stands may say more: defaults, and what others added.
#[must_use]
pub(crate) fn stands(wanted: &Value, standing: &Value) -> bool {
    match (wanted, standing) {
        (Value::Object(wanted), Value::Object(standing)) => {
            wanted.iter().all(|(key, value)| standing.get(key).is_some_and(|other| stands(value, other)))
        }
        (Value::Array(wanted), Value::Array(standing)) => {
            wanted.len() == standing.len() && wanted.iter().zip(standing).all(|(value, other)| stands(value, other))
        }
        (wanted, standing) => wanted == standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"metadata": {"name": "proxies"}, "spec": {"clusterIP": "None", "ports": [{"name": "metrics", "port": 15020}]}})
    }

    #[test]
    fn defaults_and_additions_of_others_are_no_difference() {
        let mut standing = service();
        standing["spec"]["ports"][0]["protocol"] = "TCP".into();
        standing["metadata"]["labels"] = json!({"team": "shop"});
        assert!(stands(&service(), &standing));
    }

    #[test]
    fn a_changed_value_a_missing_one_and_a_longer_list_are_differences() {
        for (path, value) in [("/spec/clusterIP", json!("10.0.0.1")), ("/spec/ports", json!([])), ("/spec", json!({}))]
        {
            let mut standing = service();
            *standing.pointer_mut(path).unwrap() = value;
            assert!(!stands(&service(), &standing), "{path}");
        }
    }

    #[test]
    fn what_is_no_longer_wanted_changes_the_hash() {
        let mut less = service();
        less["spec"].as_object_mut().unwrap().remove("ports");
        let (before, after) = (Output::new(service(), None), Output::new(less, None));
        assert!(!stands(&after.object, &before.object), "the annotation differs");
        assert_eq!(before, Output::new(service(), None));
    }

    #[test]
    fn a_kind_that_is_not_ours_is_no_output() {
        let mut object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "a"}});
        assert!(OutputKey::of(&object).is_some());
        object["kind"] = "Secret".into();
        assert_eq!(OutputKey::of(&object), None);
    }
}
