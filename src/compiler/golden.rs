//! Golden files: `golden/X.in.yaml` holds manifests (and reports), `golden/X.out.yaml` everything
//! that is made of them, conditions included.
//!
//! A change of any decision must show as a change of a file. `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fusebox_policy::config::Reference;
use fusebox_policy::report::{BreakerReport, BrokenReference, LimitReport};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::check::File;
use crate::compile;
use crate::kind::Kind;
use crate::plan::Plan;
use crate::snapshot::{Prometheus, ReferenceState};
use crate::status::{Completeness, Connection, Monitoring, Nack, PodReport, Reports, fold};
use crate::{manifest, yaml};

const NOW: &str = "2026-03-01T12:00:00Z";

/// What the pods of a golden file say: a document of kind `Reports`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Said {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    prometheus: bool,
    #[serde(default)]
    pods: BTreeMap<String, PodSaid>,
    /// The operator's version; that of this build where none is given.
    #[serde(default)]
    version: Option<String>,
    /// Since when pods are behind.
    #[serde(default)]
    behind: BTreeMap<String, Timestamp>,
    /// What is known of the values that policies name.
    #[serde(default)]
    references: Vec<ReferenceSaid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReferenceSaid {
    reference: Reference,
    state: StateSaid,
}

#[derive(Deserialize)]
enum StateSaid {
    Present,
    Missing,
    KeyMissing,
    NotPermitted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodSaid {
    #[serde(default)]
    lost_since: Option<Timestamp>,
    #[serde(default)]
    acked: bool,
    #[serde(default)]
    nack: Option<String>,
    #[serde(default)]
    breakers: Vec<BreakerReport>,
    #[serde(default)]
    limits: Vec<LimitReport>,
    #[serde(default)]
    broken: Vec<BrokenReference>,
}

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn outcome(text: &str) -> String {
    let mut snapshot = manifest::load(&[File { name: "in.yaml", text }], now()).unwrap();
    let documents = yaml::read(text).unwrap();
    let said = documents.iter().map(yaml::Node::to_value).find(|value| value["kind"] == "Reports");
    let said: Said = said.map(|value| serde_json::from_value(value).unwrap()).unwrap_or_default();
    if said.prometheus {
        snapshot.prometheus = Prometheus::Installed;
    }
    if let Some(version) = &said.version {
        snapshot.operator.version.clone_from(version);
    }
    for ReferenceSaid { reference, state } in &said.references {
        let state = match state {
            StateSaid::Present => ReferenceState::Present { revision: "r1".to_owned() },
            StateSaid::Missing => ReferenceState::Missing,
            StateSaid::KeyMissing => ReferenceState::KeyMissing,
            StateSaid::NotPermitted => ReferenceState::NotPermitted,
        };
        snapshot.references.insert(reference.clone(), state);
    }
    let plan = compile(&snapshot);
    let reports = reports(said, &plan);
    serde_yaml::to_string(&shown(&plan, &reports)).unwrap()
}

fn reports(said: Said, plan: &Plan) -> Reports {
    let bound: BTreeMap<_, _> = plan.policies.values().flat_map(|policy| &policy.pods).collect();
    let pods = said.pods.into_iter().map(|(uid, pod)| {
        let workload = bound.get(&uid).map(|bound| &plan.workloads[&bound.workload]);
        let acked = workload.filter(|_| pod.acked).map(|workload| workload.config.policies.clone());
        let nack = pod.nack.clone().map(|error| Nack { revision: workload.unwrap().revision.clone(), error });
        let connection = pod.lost_since.map_or(Connection::Connected, |since| Connection::Lost { since });
        let PodSaid { breakers, limits, broken: broken_references, .. } = pod;
        let acked = acked.unwrap_or_default();
        (uid, PodReport { connection, acked, nack, breakers, limits, broken_references })
    });
    let monitoring = plan.policies.keys().map(|id| (id.clone(), Monitoring::Applied)).collect();
    Reports { pods: pods.collect(), completeness: Completeness::Complete, monitoring, behind: said.behind }
}

fn shown(plan: &Plan, reports: &Reports) -> Value {
    let workloads: BTreeMap<String, Value> = plan
        .workloads
        .iter()
        .map(|(id, workload)| {
            let mut shown = json!({ "configMap": workload.config_map_name, "config": workload.config });
            add_some(&mut shown, "references", &workload.references);
            add_some(&mut shown, "replicas", &plan.replicas_for(id));
            (format!("{}/{}/{}", id.namespace, id.kind, id.name), shown)
        })
        .collect();
    let recompile_at = plan.recompile_at.map(|time| time.to_string());
    let policies = shown_policies(plan, reports, Kind::CircuitBreakerPolicy);
    let mut all = json!({ "workloads": workloads, "policies": policies, "recompileAt": recompile_at });
    let limits = shown_policies(plan, reports, Kind::RateLimit);
    if !limits.is_empty() {
        all["rateLimits"] = json!(limits);
    }
    let watched: Vec<&Reference> = plan.references.iter().collect();
    add_some(&mut all, "watched", &watched);
    all
}

fn shown_policies(plan: &Plan, reports: &Reports, kind: Kind) -> BTreeMap<String, Value> {
    let shown = plan.of_kind(kind, None).map(|(id, policy)| {
        let status = fold(policy, reports, now(), None);
        let pods: Vec<String> = policy.pods.values().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        (format!("{}/{}", id.namespace, id.name), json!({ "enforcedBy": pods, "status": status }))
    });
    shown.collect()
}

/// Adds a list where it is not empty, so that files of what has none stay as they are.
fn add_some<T: serde::Serialize>(shown: &mut Value, field: &str, list: &[T]) {
    if !list.is_empty() {
        shown[field] = json!(list);
    }
}

#[test]
fn every_golden_file_is_as_it_was() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.to_string_lossy().ends_with(".in.yaml"));
    names.sort();
    assert!(!names.is_empty());
    let mut differing = Vec::new();
    for path in names {
        let found = outcome(&std::fs::read_to_string(&path).unwrap());
        let expected_path = PathBuf::from(path.to_string_lossy().replace(".in.yaml", ".out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected_path, &found).unwrap();
        } else if std::fs::read_to_string(&expected_path).unwrap_or_default() != found {
            differing.push(format!("{}\n{found}", expected_path.display()));
        }
    }
    assert!(differing.is_empty(), "UPDATE_GOLDEN=1 writes them anew; read the difference:\n{}", differing.join("\n"));
}

#[test]
fn a_thousand_policies_and_two_hundred_pods_compile_in_seconds() {
    let mut text = String::from("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n");
    for index in 0..1_000 {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{index}, namespace: shop}}, spec: {{clusterIP: 10.0.0.1, selector: {{app: a{index}}}, ports: [{{port: 80}}]}}}}\n"
        );
        text += &format!(
            "---\n{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: p{index}, namespace: shop}}, spec: {{targetRefs: [{{name: s{index}}}]}}}}\n"
        );
    }
    for index in 0..200 {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web-{index}, namespace: shop, uid: u{index}, labels: {{pod-template-hash: abc, fusebox.dev/sidecar: injected}}, ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: r, controller: true}}]}}, spec: {{initContainers: [{{name: fusebox-proxy, restartPolicy: Always}}]}}}}\n"
        );
    }
    let snapshot = manifest::load(&[File { name: "in.yaml", text: &text }], now()).unwrap();
    let begun = std::time::Instant::now();
    let plan = compile(&snapshot);
    let taken = begun.elapsed();
    assert_eq!((plan.policies.len(), plan.workloads.len()), (1_000, 1));
    // A deadline and no measure, since other tests share the machine: what grows with the square takes minutes.
    assert!(taken < std::time::Duration::from_secs(60), "took {taken:?}");
    println!("compiled in {taken:?}");
}

#[test]
fn the_order_of_objects_decides_nothing() {
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".in.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let file = [File { name: "in.yaml", text: &text }];
        let forward = manifest::load(&file, now()).unwrap();
        let mut backward = forward.clone();
        backward.circuit_breakers.reverse();
        backward.rate_limits.reverse();
        backward.services.reverse();
        backward.pods.reverse();
        backward.workloads.reverse();
        backward.namespaces.reverse();
        assert_eq!(compile(&forward), compile(&backward), "{}", path.display());
    }
}
