//! Which workload a pod belongs to, from its metadata alone.
//!
//! Injector, operator and tests must come to the same answer without asking the API server,
//! because the name of the pod's ConfigMap hangs on it.

use fusebox_policy::config::WorkloadId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// The shortest suffix the CronJob controller gives a Job: minutes since the Unix epoch.
const CRON_SUFFIX_DIGITS: usize = 8;

/// The workload that a pod with this metadata belongs to; the pod itself where nothing known owns it.
#[must_use]
pub fn workload_of(metadata: &ObjectMeta) -> WorkloadId {
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let (kind, name) = match owner {
        Some(owner) => owner_workload(owner, metadata),
        None => ("Pod", metadata.name.clone().unwrap_or_default()),
    };
    WorkloadId { namespace, kind: kind.to_owned(), name }
}

fn owner_workload(owner: &OwnerReference, metadata: &ObjectMeta) -> (&'static str, String) {
    let group = owner.api_version.split('/').next().unwrap_or_default();
    match (group, owner.kind.as_str()) {
        ("apps", "ReplicaSet") => match deployment_name(owner, metadata) {
            Some(name) => ("Deployment", name),
            None => ("ReplicaSet", owner.name.clone()),
        },
        ("apps", "StatefulSet") => ("StatefulSet", owner.name.clone()),
        ("apps", "DaemonSet") => ("DaemonSet", owner.name.clone()),
        ("batch", "Job") => match cron_job_name(&owner.name) {
            Some(name) => ("CronJob", name),
            None => ("Job", owner.name.clone()),
        },
        _ => ("Pod", metadata.name.clone().unwrap_or_default()),
    }
}

fn deployment_name(owner: &OwnerReference, metadata: &ObjectMeta) -> Option<String> {
    let hash = metadata.labels.as_ref()?.get(TEMPLATE_HASH_LABEL)?;
    let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
    (!name.is_empty() && !hash.is_empty()).then(|| name.to_owned())
}

fn cron_job_name(job: &str) -> Option<String> {
    let (name, suffix) = job.rsplit_once('-')?;
    let numeric = suffix.len() >= CRON_SUFFIX_DIGITS && suffix.bytes().all(|byte| byte.is_ascii_digit());
    (numeric && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pod(api_version: &str, kind: &str, owner: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("shop".into()),
            name: Some("pod-1".into()),
            labels: Some(BTreeMap::from([(TEMPLATE_HASH_LABEL.into(), "6d4b75cb6d".into())])),
            owner_references: Some(vec![OwnerReference {
                api_version: api_version.into(),
                kind: kind.into(),
                name: owner.into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn the_workload_follows_from_the_owner() {
        for (api_version, kind, owner, expected) in [
            ("apps/v1", "ReplicaSet", "web-6d4b75cb6d", ("Deployment", "web")),
            ("apps/v1", "ReplicaSet", "web-other", ("ReplicaSet", "web-other")),
            ("apps/v1", "StatefulSet", "db", ("StatefulSet", "db")),
            ("apps/v1", "DaemonSet", "agent", ("DaemonSet", "agent")),
            ("batch/v1", "Job", "import", ("Job", "import")),
            ("batch/v1", "Job", "nightly-29384756", ("CronJob", "nightly")),
            ("batch/v1", "Job", "nightly-2938", ("Job", "nightly-2938")),
            ("example.com/v1", "Job", "nightly-29384756", ("Pod", "pod-1")),
        ] {
            let workload = workload_of(&pod(api_version, kind, owner));
            assert_eq!((workload.kind.as_str(), workload.name.as_str()), expected, "{kind} {owner}");
        }
    }

    #[test]
    fn an_owner_that_is_no_controller_does_not_count() {
        let mut metadata = pod("apps/v1", "StatefulSet", "db");
        metadata.owner_references.iter_mut().flatten().for_each(|owner| owner.controller = None);
        assert_eq!(workload_of(&metadata).kind, "Pod");
    }
}
