//! Makes sure that everybody who meets our certificates knows their authorities, on the leader alone.
//!
//! The ConfigMaps that sidecars mount are outputs like others, and stand by the applier. The `caBundle`s belong to objects
//! of whoever installed the operator: only that field is written, at the version that was read, and nothing where it
//! stands. An object that is not installed needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::{Duration, Instant};

use fusebox_api::names::{CA_CONFIG_MAP, OPERATIONS_GROUP, VERSION};
use fusebox_compiler::Snapshot;
use fusebox_compiler::snapshot::{Namespace, Operator};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::rotation::Publication;
use super::trust::Trust;
use crate::apply::{Output, OutputKey, OutputKind, Outputs, stands};
use crate::health::{Component, Health, Status};
use crate::lease::{GuardedError, Leadership};
use crate::metrics::Metrics;
use crate::reconcile::Published;
use crate::stores::OutputStores;

/// The key of the ConfigMap under which the certificates stand.
pub const CERTIFICATE_KEY: &str = "ca.crt";

/// How often it is looked whether everything stands.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often while something is known not to.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long reading one object may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Names in a message, at most.
const MAX_NAMED: usize = 5;

/// An object with one or more `caBundle`s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    kind: &'static str,
    group: &'static str,
    plural: &'static str,
    name: String,
}

/// Keeps bundles published.
pub struct Publisher {
    /// The client for writes.
    pub client: Client,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// What to publish.
    pub trust: Trust,
    /// The objects whose `caBundle` is ours; none where somebody else injects it.
    pub targets: Vec<Target>,
    /// Which ConfigMaps should stand.
    pub published: Published,
    /// Which do.
    pub outputs: OutputStores,
    /// Where it is said what can't be written.
    pub health: Health,
    /// Where writes show.
    pub metrics: Metrics,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It holds the bundle, or it is not there.
    Holds,
    /// It does not, and this is why.
    Lacks(String),
}

impl Target {
    /// The objects that lead the API server to the operator: both webhook configurations of this name, and the APIService.
    #[must_use]
    pub fn all(webhook_configuration: &str) -> Vec<Self> {
        let admission = |kind, plural| Self {
            kind,
            group: "admissionregistration.k8s.io",
            plural,
            name: webhook_configuration.to_owned(),
        };
        vec![
            admission("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
            admission("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
            Self {
                kind: "APIService",
                group: "apiregistration.k8s.io",
                plural: "apiservices",
                name: format!("{VERSION}.{OPERATIONS_GROUP}"),
            },
        ]
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, "v1", self.kind), self.plural);
        Api::all_with(client.clone(), &resource)
    }

    /// What to patch into the object so that it holds the bundle; None where it does.
    fn patch(&self, object: &DynamicObject, bundle: &Bundle) -> Option<Value> {
        let wanted = Value::from(bundle.base64());
        // The version makes it a change of what was seen: a list can only be replaced whole.
        let metadata = json!({"resourceVersion": object.metadata.resource_version});
        if self.kind == "APIService" {
            let holds = object.data["spec"]["caBundle"] == wanted;
            return (!holds).then(|| json!({"metadata": metadata, "spec": {"caBundle": wanted}}));
        }
        let mut webhooks = object.data["webhooks"].as_array().cloned().unwrap_or_default();
        if webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == wanted) {
            return None;
        }
        for webhook in &mut webhooks {
            webhook["clientConfig"]["caBundle"] = wanted.clone();
        }
        Some(json!({"metadata": metadata, "webhooks": webhooks}))
    }
}

/// The namespaces that need the certificates: the operator's own, and those that ask for sidecars or have one.
#[must_use]
pub fn places(snapshot: &Snapshot, operator: &Operator) -> BTreeSet<String> {
    // What a namespace says counts by itself, before anything is in it.
    let inherits = |it: &&Namespace| operator.is_asked((&it.name, Some(*it)), &BTreeMap::new());
    let asks = |namespace: &str, labels: &BTreeMap<String, String>| operator.is_asked((namespace, None), labels);
    let namespaces = snapshot.namespaces.iter().filter(inherits).map(|it| &it.name);
    let pods = snapshot.pods.iter().filter(|pod| pod.sidecar || asks(&pod.namespace, &pod.labels));
    // A workload asks before its first pod does, so that the certificates are there when that starts.
    let workloads =
        snapshot.workloads.iter().filter(|it| asks(&it.id.namespace, &it.labels)).map(|it| &it.id.namespace);
    let named = namespaces.chain(pods.map(|pod| &pod.namespace)).chain(workloads);
    named.chain([&operator.namespace]).cloned().collect()
}

/// The ConfigMaps that sidecars mount.
#[must_use]
pub fn config_maps(bundle: &Bundle, places: &BTreeSet<String>) -> Outputs {
    let output = |namespace: &String| {
        let key =
            OutputKey { kind: OutputKind::ConfigMap, namespace: namespace.clone(), name: CA_CONFIG_MAP.to_owned() };
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": namespace, "name": CA_CONFIG_MAP},
            "data": {CERTIFICATE_KEY: bundle.pem()},
        });
        (key, Output::new(object, None))
    };
    places.iter().map(output).collect()
}

impl Publisher {
    /// Looks after the bundles until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let (mut roles, mut bundles) = (self.leadership.subscribe(), self.trust.subscribe());
        let mut published = self.published.clone();
        let mut asked_at = None;
        loop {
            let complete = self.round(&mut asked_at).await;
            let pause = if complete == Publication::Complete { LOOK_EVERY } else { LOOK_AGAIN };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = roles.changed() => {}
                Ok(()) = bundles.changed() => {}
                Ok(()) = published.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One look at everything. `asked_at` is when the applier was asked last.
    async fn round(&self, asked_at: &mut Option<Instant>) -> Publication {
        if !self.leadership.may_write(Instant::now()) {
            self.health.set(Component::Bundles, Status::healthy());
            self.trust.note_published(None);
            return Publication::Complete;
        }
        let Some(bundle) = self.trust.known().filter(|bundle| self.trust.may_publish(bundle, Instant::now())) else {
            self.trust.note_published(None);
            return Publication::Incomplete;
        };
        let (maps, mut lacking) = self.lacking_maps(&bundle);
        // What the applier gave up, as for a namespace that is going, is not asked for all the time.
        if !maps.is_empty() && asked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.outputs.changed().touch(maps);
            *asked_at = Some(Instant::now());
        }
        for target in &self.targets {
            if let Outcome::Lacks(why) = self.look_after(target, &bundle).await {
                lacking.push(why);
            }
        }
        self.health.set(Component::Bundles, status(&lacking));
        let complete = lacking.is_empty();
        self.trust.note_published(complete.then_some(bundle));
        if complete { Publication::Complete } else { Publication::Incomplete }
    }

    /// The ConfigMaps that do not hold the bundle yet, and what to say of them.
    fn lacking_maps(&self, bundle: &Bundle) -> (Vec<OutputKey>, Vec<String>) {
        let compiled = self.published.borrow().clone();
        let Some(compiled) = compiled.filter(|compiled| compiled.bundle.as_ref() == Some(bundle)) else {
            return (Vec::new(), vec!["the ConfigMaps are not compiled yet".to_owned()]);
        };
        if !self.outputs.is_listed(OutputKind::ConfigMap) {
            return (Vec::new(), vec!["the ConfigMaps are not listed yet".to_owned()]);
        }
        let wanted = compiled.outputs.iter().filter(|(key, _)| key.is_trust());
        let lacking: Vec<OutputKey> = wanted
            .filter(|(key, output)| !self.outputs.get(key).is_some_and(|it| stands(&output.object, &it.object)))
            .map(|(key, _)| key.clone())
            .collect();
        let told = lacking.iter().map(|key| format!("ConfigMap {}/{}", key.namespace, key.name)).collect();
        (lacking, told)
    }

    async fn look_after(&self, target: &Target, bundle: &Bundle) -> Outcome {
        let api = target.api(&self.client);
        let what = format!("{} {}", target.kind, target.name);
        let object = match read(api.get_opt(&target.name)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Outcome::Holds,
            Err(why) => return Outcome::Lacks(format!("{what} can't be read: {why}")),
        };
        let Some(patch) = target.patch(&object, bundle) else { return Outcome::Holds };
        let params = PatchParams { field_manager: Some("fusebox".to_owned()), ..PatchParams::default() };
        match self.leadership.guard(api.patch(&target.name, &params, &Patch::Merge(&patch))).await {
            Ok(_) => {
                self.metrics.applied.with_label_values(&[target.kind, "patch"]).inc();
                tracing::info!(kind = target.kind, name = target.name, "caBundle written");
                Outcome::Holds
            }
            Err(GuardedError::Failed(error)) => Outcome::Lacks(format!("{what} can't be written: {}", told(&error))),
            Err(error) => Outcome::Lacks(format!("{what}: {error}")),
        }
    }
}

async fn read<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(READ_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(format!("no answer within {READ_TIMEOUT:?}")),
    }
}

/// What the API server said, with the next step where it is known.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; grant it `get` and `patch` of that object, as config/rbac and the chart do", status.message)
        }
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

fn status(lacking: &[String]) -> Status {
    if lacking.is_empty() {
        return Status::healthy();
    }
    let more = lacking.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let named = lacking.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; ");
    Status::degraded(format!("not everybody knows the operator's certificate authority: {named}{more}"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use fusebox_api::names::INJECT_LABEL;
    use jiff::Timestamp;

    use super::super::authority::Authority;
    use super::*;

    fn bundle() -> Bundle {
        let authority = Authority::generate(Duration::from_secs(3600), SystemTime::now()).unwrap();
        Bundle::new("test", [authority.certificate_pem()]).unwrap()
    }

    fn object(data: Value) -> DynamicObject {
        let mut object = DynamicObject::new("fusebox", &ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()));
        object.metadata.resource_version = Some("7".to_owned());
        object.data = data;
        object
    }

    fn namespace(name: &str, label: Option<&str>) -> Namespace {
        let labels = label.map(|value| json!({ INJECT_LABEL: value })).unwrap_or_default();
        let object = json!({"metadata": {"name": name, "labels": labels}});
        Namespace::from(&serde_json::from_value::<k8s_openapi::api::core::v1::Namespace>(object).unwrap())
    }

    #[test]
    fn only_namespaces_that_ask_and_our_own_need_the_certificates() {
        let mut snapshot = Snapshot::empty(Timestamp::UNIX_EPOCH);
        snapshot.namespaces =
            vec![namespace("asks", Some("enabled")), namespace("declines", Some("disabled")), namespace("is", None)];
        snapshot.namespaces.push(namespace("kube-system", Some("enabled")));
        assert_eq!(places(&snapshot, &Operator::default()).into_iter().collect::<Vec<_>>(), ["asks", "fusebox-system"]);
    }

    #[test]
    fn every_webhook_gets_the_bundle_and_keeps_what_it_had() {
        let (bundle, target) = (bundle(), &Target::all("fusebox")[0]);
        let webhooks = json!([
            {"name": "a", "clientConfig": {"service": {"name": "fusebox-operator"}}, "sideEffects": "None"},
            {"name": "b", "clientConfig": {"caBundle": bundle.base64()}},
        ]);
        let patch = target.patch(&object(json!({"webhooks": webhooks})), &bundle).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["webhooks"][0]["sideEffects"], "None");
        assert_eq!(patch["webhooks"][0]["clientConfig"]["service"]["name"], "fusebox-operator");
        assert_eq!(patch["webhooks"][0]["clientConfig"]["caBundle"], bundle.base64().as_str());
        assert_eq!(target.patch(&object(json!({"webhooks": patch["webhooks"]})), &bundle), None, "it holds it now");
        assert_eq!(target.patch(&object(json!({"webhooks": []})), &bundle), None, "there is nothing to hold it");
    }

    #[test]
    fn the_api_service_gets_the_bundle() {
        let (bundle, target) = (bundle(), &Target::all("fusebox")[2]);
        assert_eq!(target.name, "v1alpha1.ops.fusebox.dev");
        let patch = target.patch(&object(json!({"spec": {"group": "ops.fusebox.dev"}})), &bundle).unwrap();
        assert_eq!(patch["spec"], json!({"caBundle": bundle.base64()}));
        assert_eq!(target.patch(&object(json!({"spec": {"caBundle": bundle.base64()}})), &bundle), None);
    }

    #[test]
    fn health_names_what_lacks_the_bundle_and_not_all_of_it() {
        let lacking: Vec<String> = (0..7).map(|number| format!("ConfigMap shop-{number}/fusebox-ca")).collect();
        let said = status(&lacking).message;
        assert!(said.contains("shop-0/fusebox-ca") && said.ends_with("; and 2 more"), "{said}");
        assert_eq!(status(&[]), Status::healthy());
    }
}
