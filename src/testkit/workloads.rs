//! Workloads and the owners between them and their Pods, made as their controllers would make them.
//!
//! Owns the objects' form. It must not create Pods. The controllers themselves are off in tests by default (see
//! [`crate::Controllers`]), because they would delete Pods that a test made by hand.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

const TEMPLATE_HASH: &str = "5d4f8c7b96";

/// A workload that owns Pods, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// apps/v1, owning through a ReplicaSet with a pod-template-hash.
    Deployment(String),
    /// apps/v1.
    StatefulSet(String),
    /// apps/v1.
    DaemonSet(String),
    /// batch/v1.
    Job(String),
    /// batch/v1, owning through a Job.
    CronJob(String),
}

/// What a Pod of a workload gets from it.
pub(crate) struct Owned {
    pub(crate) owner_reference: Value,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) name_prefix: String,
}

/// One object to be created.
struct Link<'a> {
    kind: &'a str,
    api_version: &'a str,
    name: &'a str,
    spec: Value,
}

/// Creates the workload and what stands between it and its Pods, unless they are there.
///
/// # Errors
/// When the API server refuses.
pub(crate) async fn ensure(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    labels: &BTreeMap<String, String>,
) -> Result<Owned> {
    let name = workload.name();
    let mut labels = labels.clone();
    let app = labels.entry("app".to_owned()).or_insert_with(|| name.to_owned()).clone();
    let mut owner = None;
    let mut name_prefix = name.to_owned();
    for (kind, api_version) in workload.chain() {
        if owner.is_some() {
            name_prefix = format!("{name}-{TEMPLATE_HASH}");
        }
        if *kind == "ReplicaSet" {
            labels.insert("pod-template-hash".to_owned(), TEMPLATE_HASH.to_owned());
        }
        let spec = spec_of(kind, &app, &labels);
        let link = Link { kind, api_version, name: &name_prefix, spec };
        owner = Some(ensure_link(client, namespace, &link, owner).await?);
    }
    let owner_reference = owner.context("a workload has at least one object")?;
    Ok(Owned { owner_reference, labels, name_prefix })
}

impl Workload {
    /// The workload's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Deployment(name)
            | Self::StatefulSet(name)
            | Self::DaemonSet(name)
            | Self::Job(name)
            | Self::CronJob(name) => name,
        }
    }

    /// Kind and API version of each object from the workload down to the Pod's owner.
    fn chain(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Deployment(_) => &[("Deployment", "apps/v1"), ("ReplicaSet", "apps/v1")],
            Self::StatefulSet(_) => &[("StatefulSet", "apps/v1")],
            Self::DaemonSet(_) => &[("DaemonSet", "apps/v1")],
            Self::Job(_) => &[("Job", "batch/v1")],
            Self::CronJob(_) => &[("CronJob", "batch/v1"), ("Job", "batch/v1")],
        }
    }
}

fn spec_of(kind: &str, app: &str, labels: &BTreeMap<String, String>) -> Value {
    let restart_policy = if matches!(kind, "Job" | "CronJob") { "Never" } else { "Always" };
    let template = json!({
        "metadata": {"labels": labels},
        "spec": {"restartPolicy": restart_policy, "containers": [{"name": "app", "image": "example.invalid/app"}]},
    });
    let mut selector = json!({"matchLabels": {"app": app}});
    if kind == "ReplicaSet" {
        selector["matchLabels"]["pod-template-hash"] = TEMPLATE_HASH.into();
    }
    match kind {
        "Job" => json!({ "template": template }),
        "CronJob" => json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}),
        "StatefulSet" => json!({"serviceName": app, "replicas": 1, "selector": selector, "template": template}),
        "DaemonSet" => json!({"selector": selector, "template": template}),
        _ => json!({"replicas": 1, "selector": selector, "template": template}),
    }
}

/// Creates one object, or finds it, and returns the owner reference to it.
async fn ensure_link(client: &Client, namespace: &str, link: &Link<'_>, owner: Option<Value>) -> Result<Value> {
    let Link { kind, api_version, name, spec } = link;
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>()},
        "spec": spec,
    }))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: (*api_version).to_owned(),
        kind: (*kind).to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let made = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(error)) if error.is_already_exists() => api.get(name).await,
        other => other,
    };
    let made = made.with_context(|| format!("cannot create {kind} {namespace}/{name}"))?;
    let uid = made.uid().with_context(|| format!("{kind} {namespace}/{name} has no uid"))?;
    Ok(json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true}))
}
