//! Golden files of injection: `golden/X.in.yaml` holds a pod and what stands around it, `golden/X.out.yaml` what became of it.
//!
//! `UPDATE_GOLDEN=1` writes them anew; every one is also held to what must be true of any injection.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fusebox_policy::config::Probe;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::check::File;
use crate::snapshot::Operator;
use crate::{compile, manifest, yaml};

const NOW: &str = "2026-03-01T12:00:00Z";

/// The document of kind `Created`: what is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Created {
    #[serde(rename = "kind")]
    _kind: String,
    namespace: String,
    /// Namespaces that get no sidecars.
    #[serde(default)]
    excluded: BTreeSet<String>,
    #[serde(default)]
    options: Value,
    pod: Value,
}

struct Case {
    name: String,
    created: Created,
    options: InjectionOptions,
    text: String,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let documents = yaml::read(&text).unwrap();
        let created = documents.iter().map(yaml::Node::to_value).find(|value| value["kind"] == "Created").unwrap();
        let created: Created = serde_json::from_value(created).unwrap();
        let mut options = json!({
            "image": "fusebox/proxy:test", "controlUrls": ["https://fusebox-operator.fusebox-system.svc:9443"],
        });
        for (field, value) in created.options.as_object().into_iter().flatten() {
            options[field] = value.clone();
        }
        let options = InjectionOptions::parse(&options.to_string()).unwrap();
        Self { name: path.display().to_string(), created, options, text }
    }

    fn inject(&self, pod: &Value) -> Result<Injection, InjectionRefusal> {
        let file = [File { name: "in.yaml", text: &self.text }];
        let mut snapshot = manifest::load(&file, NOW.parse().unwrap()).unwrap();
        snapshot.operator.excluded = self.created.excluded.clone();
        let plan = compile(&snapshot);
        let facts = InjectionFacts::of(&self.created.namespace, &snapshot, &plan);
        inject(&InjectionRequest { namespace: &self.created.namespace, pod }, &facts, &self.options)
    }

    fn outcome(&self) -> String {
        let shown = match self.inject(&self.created.pod) {
            Ok(injection) => {
                let pod = if injection.patch.is_empty() { Value::Null } else { injection.pod };
                let version = format!("\"fusebox.dev/injected\":\"{INJECTOR_VERSION}\"");
                let text = pod.to_string().replace(&version, "\"fusebox.dev/injected\":\"VERSION\"");
                let pod: Value = serde_json::from_str(&text).unwrap();
                json!({"outcome": injection.outcome.reason(), "warnings": injection.warnings, "pod": pod})
            }
            Err(refusal) => json!({"refused": refusal.reason(), "message": refusal.to_string()}),
        };
        serde_yaml::to_string(&shown).unwrap()
    }
}

fn cases() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("injection/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(".in.yaml"));
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| Case::read(path)).collect()
}

/// What the API server makes of a patch.
fn patched(pod: &Value, patch: &[Operation]) -> Value {
    let mut pod = pod.clone();
    for operation in patch {
        let (Operation::Add { path, value } | Operation::Replace { path, value }) = operation;
        let (part, field) = path[1..].split_once('/').unwrap();
        let present = pod[part].get(field).is_some();
        assert_eq!(present, matches!(operation, Operation::Replace { .. }), "{path}");
        pod[part][field] = value.clone();
    }
    pod
}

#[test]
fn every_golden_file_is_as_it_was() {
    let mut differing = Vec::new();
    for case in cases() {
        let (found, path) = (case.outcome(), case.name.replace(".in.yaml", ".out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &found).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != found {
            differing.push(format!("{path}\n{found}"));
        }
    }
    assert!(differing.is_empty(), "UPDATE_GOLDEN=1 writes them anew; read the difference:\n{}", differing.join("\n"));
}

#[test]
fn the_patch_leads_to_the_pod_and_a_second_pass_changes_nothing() {
    for case in cases() {
        let Ok(injection) = case.inject(&case.created.pod) else { continue };
        assert_eq!(patched(&case.created.pod, &injection.patch), injection.pod, "{}", case.name);
        let again = case.inject(&injection.pod).unwrap();
        assert_eq!(again.patch, Vec::new(), "{}", case.name);
    }
}

#[test]
fn what_this_build_does_not_know_survives() {
    for case in cases().iter().filter(|case| case.inject(&case.created.pod).is_ok()) {
        let mut pod = case.created.pod.clone();
        pod["spec"]["fieldOfTomorrow"] = json!({"kept": [1, 2]});
        pod["spec"]["containers"][0]["fieldOfTomorrow"] = json!("kept");
        let injection = case.inject(&pod).unwrap();
        assert_eq!(injection.pod["spec"]["fieldOfTomorrow"], pod["spec"]["fieldOfTomorrow"], "{}", case.name);
        assert_eq!(injection.pod["spec"]["containers"][0]["fieldOfTomorrow"], "kept", "{}", case.name);
    }
}

/// What Pod Security `restricted` asks of a container (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).
#[test]
fn the_sidecar_is_restricted_and_the_first_init_container_in_every_case() {
    for case in cases() {
        let Ok(injection) = case.inject(&case.created.pod) else { continue };
        if injection.outcome != Outcome::Injected {
            continue;
        }
        let sidecar = &injection.pod["spec"]["initContainers"][0];
        let context = &sidecar["securityContext"];
        assert_eq!(
            (sidecar["name"].as_str(), sidecar["restartPolicy"].as_str()),
            (Some("fusebox-proxy"), Some("Always"))
        );
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let privileged = injection.pod["spec"]["initContainers"].as_array().unwrap().iter();
        let privileged = privileged.filter(|it| it["securityContext"]["capabilities"]["add"].is_array()).count();
        let transparent = injection.pod["metadata"]["annotations"]["fusebox.dev/interception"] == "transparent";
        assert_eq!(privileged, usize::from(transparent), "{}", case.name);
    }
}

#[test]
fn a_container_that_another_webhook_adds_later_is_taken_in() {
    let pod = json!({
        "metadata": {"name": "web", "labels": {"fusebox.dev/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}}}]},
    });
    let later = json!({"name": "later", "image": "later", "ports": [{"name": "grpc", "containerPort": 9000}],
        "livenessProbe": {"grpc": {"port": 9000}}});
    let options =
        InjectionOptions::parse("{image: proxy, controlUrls: [https://operator:9443], shutdownDelay: 4s}").unwrap();
    for (interception, sidecar) in [
        ("transparent", json!(["/probes/app/readiness", "/probes/later/liveness"])),
        ("explicit", json!(["http=15100", "grpc=15101"])),
    ] {
        let mut pod = pod.clone();
        pod["metadata"]["annotations"]["fusebox.dev/interception"] = json!(interception);
        let operator = Operator::default();
        let facts = facts(&operator);
        let first = inject(&InjectionRequest { namespace: "shop", pod: &pod }, &facts, &options).unwrap();
        let mut changed = first.pod;
        draft::push(&mut changed["spec"]["containers"], later.clone());
        let others_first = json!({"name": "prepended", "image": "other"});
        changed["spec"]["initContainers"].as_array_mut().unwrap().insert(0, others_first);
        let second = inject(&InjectionRequest { namespace: "shop", pod: &changed }, &facts, &options).unwrap();
        assert_eq!(second.outcome, Outcome::InjectedBefore);
        let found = &second.pod["spec"]["initContainers"][0];
        assert_eq!(found["name"], "fusebox-proxy", "first again");
        assert_eq!(second.pod["spec"]["containers"][1]["lifecycle"]["preStop"]["sleep"]["seconds"], 4);
        let shown = match interception {
            "transparent" => {
                let variable =
                    found["env"].as_array().unwrap().iter().find(|it| it["name"] == "FUSEBOX_PROBES").unwrap();
                let probes: Vec<Probe> = serde_json::from_str(variable["value"].as_str().unwrap()).unwrap();
                json!(probes.into_iter().map(|probe| probe.path).collect::<Vec<_>>())
            }
            _ => {
                let ports = found["ports"].as_array().unwrap().iter();
                let shown = |port: &Value| format!("{}={}", port["name"].as_str().unwrap(), port["containerPort"]);
                json!(ports.map(shown).collect::<Vec<_>>())
            }
        };
        assert_eq!(shown, sidecar);
        let third = inject(&InjectionRequest { namespace: "shop", pod: &second.pod }, &facts, &options).unwrap();
        assert_eq!(third.patch, Vec::new());
    }
}

fn facts(operator: &Operator) -> InjectionFacts<'_> {
    InjectionFacts { operator, namespace: None, inbound: Vec::new(), outbound: Vec::new() }
}

/// The containers' liveness probes after injection, and what the sidecar makes of them.
fn probed(pod: &Value) -> (Injection, Vec<Probe>) {
    let options = InjectionOptions::parse("{image: proxy, controlUrls: [https://operator:9443]}").unwrap();
    let request = InjectionRequest { namespace: "shop", pod };
    let injection = inject(&request, &facts(&Operator::default()), &options).unwrap();
    let variables = injection.pod["spec"]["initContainers"][0]["env"].as_array().unwrap();
    let found = variables.iter().find(|it| it["name"] == "FUSEBOX_PROBES").and_then(|it| it["value"].as_str());
    let probes = found.map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
    (injection, probes)
}

fn with_probes(probes: &[Value]) -> Value {
    let container =
        |(index, probe): (usize, &Value)| json!({"name": format!("c{index}"), "image": "app", "livenessProbe": probe});
    let containers: Vec<Value> = probes.iter().enumerate().map(container).collect();
    json!({
        "metadata": {"name": "web", "labels": {"fusebox.dev/inject": "enabled"},
            "annotations": {"fusebox.dev/interception": "transparent"}},
        "spec": {"containers": containers},
    })
}

#[test]
fn a_probe_that_another_webhook_writes_anew_is_made_once() {
    let (first, _) = probed(&with_probes(&[json!({"httpGet": {"path": "/old", "port": 80}})]));
    let mut changed = first.pod;
    changed["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/new", "port": 80}});
    let (_, probes) = probed(&changed);
    assert_eq!(probes.iter().map(|it| it.target.as_deref()).collect::<Vec<_>>(), [Some("/new")]);
}

#[test]
fn what_the_api_server_refuses_is_left_for_it_to_refuse() {
    for odd in [
        json!({"httpGet": {"path": "/", "port": 0}}),
        json!({"httpGet": {"path": "/", "port": 80, "scheme": "ftp"}}),
        json!({"tcpSocket": {"port": 70000}}),
        json!({"grpc": {"port": 0}}),
    ] {
        let (injection, probes) = probed(&with_probes(std::slice::from_ref(&odd)));
        assert_eq!(probes, Vec::new(), "{odd}");
        assert_eq!(injection.pod["spec"]["containers"][0]["livenessProbe"], odd);
    }
}

#[test]
fn probes_beyond_what_a_sidecar_makes_stay_as_they_are_with_a_warning() {
    let get = |path: &str| json!({"httpGet": {"path": path, "port": 80}});
    let (many, long) = (vec![get("/"); 257], vec![get(&format!("/{}", "a".repeat(40_000))); 2]);
    for (probes, made) in [(many, 256), (long, 1)] {
        let (injection, found) = probed(&with_probes(&probes));
        assert_eq!(found.len(), made);
        assert_eq!(injection.pod["spec"]["containers"][made]["livenessProbe"], probes[made]);
        let warning = format!("livenessProbe of container c{made} is one more than the sidecar makes");
        assert!(injection.warnings[0].starts_with(&warning), "{:?}", injection.warnings);
    }
}
