//! Output objects: what the Plan wants to stand in the cluster, and whether it does.
//!
//! Every output carries a label and a hash of all that was wanted of it. The hash shows what was
//! taken out since; that everything wanted stands, is compared field by field, since defaults and
//! others' additions must not cause writes.

use std::collections::BTreeMap;

use fusebox_api::names::{FIELD_MANAGER, GROUP};
use fusebox_compiler::Plan;
use fusebox_policy::config::PolicyId;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The label of everything that the operator made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The selector of the stores of outputs.
pub const MANAGED_BY_SELECTOR: &str = "app.kubernetes.io/managed-by=fusebox";

/// The annotation with the hash of what was wanted. Nothing without it is ever deleted.
pub const APPLIED_ANNOTATION: &str = "fusebox.dev/applied";

/// The annotation of a ConfigMap with its configuration's revision.
pub const REVISION_ANNOTATION: &str = "fusebox.dev/revision";

/// The key of a ConfigMap under which the configuration stands.
pub const CONFIG_KEY: &str = "config.yaml";

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
    pub policy: Option<PolicyId>,
}

/// All outputs of one compilation.
pub type Outputs = BTreeMap<OutputKey, Output>;

/// Why an output can't be made.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Plain data that can't be written.
    #[error("the configuration of {kind} {namespace}/{name} can't be written as YAML")]
    Yaml {
        /// The workload's kind.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
}

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

    /// The kind of an object, if it is one of these.
    #[must_use]
    pub fn of(types: &TypeMeta) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *types == kind.types())
    }

    fn types(self) -> TypeMeta {
        let ApiResource { api_version, kind, .. } = self.resource();
        TypeMeta { api_version, kind }
    }
}

/// The ConfigMap of every workload with sidecars.
///
/// # Errors
/// [`OutputError`].
pub(super) fn config_maps(plan: &Plan) -> Result<Outputs, OutputError> {
    let made = plan.workloads.iter().map(|(id, workload)| {
        let yaml = serde_yaml::to_string(&workload.config).map_err(|source| OutputError::Yaml {
            kind: id.kind.clone(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            source,
        })?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "namespace": id.namespace,
                "name": workload.config_map_name,
                "annotations": {
                    REVISION_ANNOTATION: workload.revision,
                    format!("{GROUP}/workload"): format!("{}/{}", id.kind, id.name),
                },
            },
            "data": { CONFIG_KEY: yaml },
        });
        let key = OutputKey {
            kind: OutputKind::ConfigMap,
            namespace: id.namespace.clone(),
            name: workload.config_map_name.clone(),
        };
        Ok((key, Output::new(object, None)))
    });
    made.collect()
}

impl Output {
    /// Marks an object as ours, with the hash of what it says.
    #[must_use]
    pub fn new(mut object: Value, policy: Option<PolicyId>) -> Self {
        object["metadata"]["labels"][MANAGED_BY] = FIELD_MANAGER.into();
        let text = object.to_string();
        let hash: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        object["metadata"]["annotations"][APPLIED_ANNOTATION] = hash.clone().into();
        Self { object, hash, policy }
    }

    /// Marks a dynamic object as ours; None where it is of a kind or without a name that we can't apply.
    #[must_use]
    pub fn from_dynamic(object: &DynamicObject, policy: Option<PolicyId>) -> Option<(OutputKey, Self)> {
        let kind = OutputKind::of(object.types.as_ref()?)?;
        let key =
            OutputKey { kind, namespace: object.metadata.namespace.clone()?, name: object.metadata.name.clone()? };
        Some((key, Self::new(serde_json::to_value(object).ok()?, policy)))
    }
}

/// Whether all that is wanted stands. What stands may say more: defaults, and what others added.
#[must_use]
pub(super) fn stands(wanted: &Value, standing: &Value) -> bool {
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
        let object: DynamicObject = serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "shop", "name": "a"}}),
        )
        .unwrap();
        assert!(Output::from_dynamic(&object, None).is_none());
    }
}
