//! The objects that a plan wants to stand in the cluster, ready to apply.
//!
//! `render` prints them and the operator applies them; both must take them from here, or what is shown before is not what
//! comes after. Owner references, hashes and field managers are the operator's.

use fusebox_api::names::{FIELD_MANAGER, GROUP};
use fusebox_policy::config::WorkloadId;
use fusebox_policy::seal;
use serde_json::{Value, json};

use crate::kind::PolicyKey;
use crate::monitoring::{self, MonitoringOptions};
use crate::plan::{Plan, WorkloadPlan};
use crate::snapshot::Prometheus;

/// The label of everything that Fusebox made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The key of a ConfigMap under which the configuration stands.
pub const CONFIG_KEY: &str = "config.yaml";

/// The annotation of a ConfigMap with its configuration's revision.
pub const REVISION_ANNOTATION: &str = "fusebox.dev/revision";

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The object, with apiVersion, kind, namespace and name.
    pub object: Value,
    /// The policy it belongs to, if to one.
    pub policy: Option<PolicyKey>,
}

/// Why an object can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Plain data that can't be written.
    #[error("the configuration of {} {}/{} can't be written as YAML", workload.kind, workload.namespace, workload.name)]
    Yaml {
        /// Whose configuration.
        workload: WorkloadId,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
    /// Plain data that can't be written.
    #[error("a monitoring object can't be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Every object of a plan; those of Prometheus only where it is installed.
///
/// # Errors
/// [`ObjectError`] where plain data can't be written, which it always can.
pub fn all(plan: &Plan, options: &MonitoringOptions) -> Result<Vec<Wanted>, ObjectError> {
    let mut objects = Vec::new();
    for (id, workload) in &plan.workloads {
        objects.push(Wanted { object: config_map(id, workload)?, policy: None });
    }
    let installed = plan.prometheus == Prometheus::Installed;
    for namespace in &plan.namespaces_with_sidecars {
        let service = serde_json::to_value(monitoring::proxies_service(namespace, options))?;
        objects.push(Wanted { object: service, policy: None });
        if installed {
            let monitor = serde_json::to_value(monitoring::service_monitor(namespace, options))?;
            objects.push(Wanted { object: monitor, policy: None });
        }
    }
    for (key, policy) in &plan.policies {
        if let Some(subject) = policy.alerts.as_ref().filter(|_| installed) {
            let rule = serde_json::to_value(monitoring::prometheus_rule(subject, options))?;
            objects.push(Wanted { object: rule, policy: Some(key.clone()) });
        }
    }
    Ok(objects)
}

fn config_map(id: &WorkloadId, plan: &WorkloadPlan) -> Result<Value, ObjectError> {
    let yaml =
        serde_yaml::to_string(&plan.config).map_err(|source| ObjectError::Yaml { workload: id.clone(), source })?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": id.namespace,
            "name": plan.config_map_name,
            "labels": { MANAGED_BY: FIELD_MANAGER },
            "annotations": {
                REVISION_ANNOTATION: plan.revision,
                format!("{GROUP}/workload"): format!("{}/{}", id.kind, id.name),
            },
        },
        "data": { CONFIG_KEY: seal::seal(&yaml) },
    }))
}
