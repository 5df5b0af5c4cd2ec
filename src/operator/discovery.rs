//! What is installed in the cluster: the Prometheus CRDs, and whether our own are as new as we are.
//!
//! It looks now and then, and says what it found. A question that got no answer changes nothing: an
//! API server that is away must not look like CRDs that were removed.

use std::collections::BTreeSet;
use std::time::Duration;

use fusebox_api::crd;
use fusebox_compiler::snapshot::Prometheus;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::OutputKind;
use crate::health::{Component, Health, Status};
use crate::stores::{OutputStores, Surroundings};

const PROMETHEUS_GROUP: &str = "monitoring.coreos.com/v1";
const NEXT_STEP: &str = "run `kubectl apply --server-side -f crds/` from this operator's release";

/// Fields that a message lists, at most.
const MAX_LISTED: usize = 5;

/// What discovery works with.
pub struct Discovery {
    /// The client for questions.
    pub client: Client,
    /// How often to look.
    pub interval: Duration,
    /// Where it is said whether the Prometheus CRDs are there.
    pub prometheus: watch::Sender<Prometheus>,
    /// The stores that come and go with them.
    pub outputs: OutputStores,
    /// What new watches need.
    pub around: Surroundings,
    /// Where the CRDs' state shows.
    pub health: Health,
}

impl Discovery {
    /// Looks until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.look_for_prometheus().await;
            self.look_at_our_own().await;
        }
    }

    async fn look_for_prometheus(&self) {
        let found = match self.client.list_api_group_resources(PROMETHEUS_GROUP).await {
            Ok(list) => {
                let served: BTreeSet<&str> = list.resources.iter().map(|resource| resource.kind.as_str()).collect();
                let needed = OutputKind::ALL.into_iter().filter(|kind| kind.is_prometheus());
                if needed.into_iter().all(|kind| served.contains(kind.name())) {
                    Prometheus::Installed
                } else {
                    Prometheus::Missing
                }
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Prometheus::Missing,
            Err(error) => {
                tracing::debug!(%error, "could not look for the Prometheus CRDs");
                return;
            }
        };
        self.follow(found);
    }

    fn follow(&self, found: Prometheus) {
        let kinds = OutputKind::ALL.into_iter().filter(|kind| kind.is_prometheus());
        for kind in kinds {
            match found {
                Prometheus::Installed => self.outputs.watch(kind, &self.around),
                Prometheus::Missing => self.outputs.forget(kind, &self.around),
            }
        }
        let changed = self.prometheus.send_if_modified(|current| std::mem::replace(current, found) != found);
        if changed {
            tracing::info!(?found, "Prometheus CRDs");
        }
    }

    async fn look_at_our_own(&self) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut problems = Vec::new();
        for ours in crd::all() {
            match api.get_opt(&ours.name_any()).await {
                Ok(installed) => problems.extend(problem(&ours, installed.as_ref())),
                Err(error) => {
                    tracing::debug!(%error, "could not look at our own CRDs");
                    return;
                }
            }
        }
        let status = if problems.is_empty() {
            Status::healthy()
        } else {
            Status::degraded(format!("{}; {NEXT_STEP}", problems.join("; ")))
        };
        self.health.set(Component::Resources, status);
    }
}

/// What is wrong with an installed CRD, if anything.
fn problem(ours: &CustomResourceDefinition, installed: Option<&CustomResourceDefinition>) -> Option<String> {
    let name = ours.name_any();
    let Some(installed) = installed else {
        return Some(format!("the CRD {name} is not installed"));
    };
    let (Some(ours), Some(theirs)) = (crd::schema(ours), crd::schema(installed)) else {
        return Some(format!("the CRD {name} does not serve {}", fusebox_api::names::VERSION));
    };
    let missing = missing_fields(ours, theirs);
    if missing.is_empty() {
        return None;
    }
    let listed = missing.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    let more = missing.len().saturating_sub(MAX_LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("the CRD {name} is older than this operator: it lacks {listed}{more}"))
}

/// The fields of our schema that theirs has not, by path. What they have beyond ours is a newer release's.
fn missing_fields(ours: &JSONSchemaProps, theirs: &JSONSchemaProps) -> Vec<String> {
    let mut missing = Vec::new();
    collect_missing(ours, theirs, "", &mut missing);
    missing
}

fn collect_missing(ours: &JSONSchemaProps, theirs: &JSONSchemaProps, path: &str, missing: &mut Vec<String>) {
    for (name, property) in ours.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match theirs.properties.as_ref().and_then(|properties| properties.get(name)) {
            Some(other) => collect_missing(property, other, &path, missing),
            None => missing.push(path),
        }
    }
    if let (Some(ours), Some(theirs)) = (item(ours), item(theirs)) {
        collect_missing(ours, theirs, &format!("{path}[]"), missing);
    }
}

fn item(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray;
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(schema) => Some(schema),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(value: serde_json::Value) -> JSONSchemaProps {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_crd_of_this_build_is_not_older_than_itself() {
        for ours in crd::all() {
            assert_eq!(problem(&ours, Some(&ours)), None);
        }
    }

    #[test]
    fn an_absent_crd_is_named() {
        let ours = crd::circuit_breaker_policy();
        assert_eq!(
            problem(&ours, None).as_deref(),
            Some("the CRD circuitbreakerpolicies.fusebox.dev is not installed")
        );
    }

    #[test]
    fn fields_that_an_older_crd_lacks_are_named_and_newer_ones_are_not() {
        let ours = schema(serde_json::json!({"properties": {
            "a": {"properties": {"b": {}, "c": {}}}, "list": {"items": {"properties": {"d": {}}}}}}));
        let theirs = schema(serde_json::json!({"properties": {
            "a": {"properties": {"b": {}, "newer": {}}}, "list": {"items": {"properties": {}}}}}));
        assert_eq!(missing_fields(&ours, &theirs), ["a.c", "list[].d"]);
    }
}
