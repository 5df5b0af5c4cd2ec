//! The Helm chart, as text: linted, rendered, and checked against the schemas of each Kubernetes version.
//!
//! What an API server makes of it stands in `chart_installed.rs`. `make chart` writes the goldens, and what is made from the
//! chart, anew; a change of either must be read as a difference of files.

#[path = "chart/helm.rs"]
pub(crate) mod helm;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/values.rs"]
mod values;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::helm::{KUBERNETES, kubeconform, schemas};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::serde::Deserialize as _;
use serde_json::Value;

use helm::{Rendering, documents, helm, path};

/// The renderings that goldens hold.
pub(crate) const CASES: [&str; 5] = ["defaults", "everything", "namespaced", "cert-manager", "bare"];

#[test]
fn the_chart_lints_strictly_with_each_set_of_values() -> Result<()> {
    for case in CASES {
        helm(&["lint", "--strict", &path("charts/fusebox"), "--values", &values_of(case)], "")?;
    }
    Ok(())
}

#[test]
fn renderings_are_what_the_goldens_say() -> Result<()> {
    let mut differing = Vec::new();
    for case in CASES {
        let rendered = Rendering::of(case).with("crds.install=false").text()?;
        same_or_written(&path(&format!("charts/golden/{case}.out.yaml")), &rendered, &mut differing)?;
    }
    ensure!(differing.is_empty(), "`make chart` writes them anew; read the difference:\n{}", differing.join("\n"));
    Ok(())
}

#[test]
fn dashboards_come_as_config_maps_that_grafana_finds() -> Result<()> {
    let rendering = Rendering::of("defaults").with("monitoring.dashboards.enabled=true").only("dashboards");
    let maps = documents(&rendering.text()?)?;
    ensure!(maps.len() >= 2, "only {} dashboards", maps.len());
    for map in &maps {
        ensure!(map["metadata"]["labels"]["grafana_dashboard"] == "1", "{}", map["metadata"]);
        let (name, text) = map["data"].as_object().and_then(|data| data.iter().next()).context("no data")?;
        let text = text.as_str().context("no text")?;
        let file = std::fs::read_to_string(path(&format!("charts/fusebox/files/dashboards/{name}")))?;
        ensure!(text.trim_end() == file.trim_end(), "{name} is not the file of that name");
        let model: Value = serde_json::from_str(text)?;
        ensure!(model["uid"] == name.trim_end_matches(".json"), "{name} has another uid");
    }
    Ok(())
}

#[test]
fn what_config_rbac_grants_is_what_the_chart_grants() -> Result<()> {
    let mut differing = Vec::new();
    for (file, template) in [("operator", "rbac-operator"), ("roles", "rbac-people")] {
        let text = rights::for_a_group(&Rendering::of("defaults").only(template).text()?);
        same_or_written(&path(&format!("config/rbac/{file}.yaml")), &rights::framed(file, &text), &mut differing)?;
    }
    ensure!(differing.is_empty(), "change the chart's rbac templates, then `make chart`:\n{}", differing.join("\n"));
    Ok(())
}

#[test]
fn the_charts_crds_are_the_generated_ones_with_its_labels() -> Result<()> {
    for (switch, kept) in [("crds.keep=true", true), ("crds.keep=false", false)] {
        let rendered = documents(&Rendering::of("defaults").with(switch).only("crds").text()?)?;
        let generated = Path::new(&path("crds")).read_dir()?.count();
        assert_eq!(rendered.len(), generated, "`make crds` brings both up to date");
        for crd in rendered {
            let name = crd["metadata"]["name"].as_str().context("a CRD has no name")?;
            let generated = documents(&std::fs::read_to_string(path(&format!("crds/{name}.yaml")))?)?.remove(0);
            assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", kept);
            // Typed, because 0 and 0.0 are the same bound.
            let specs =
                [&crd, &generated].map(|crd| Ok::<_, anyhow::Error>(CustomResourceDefinition::deserialize(crd)?.spec));
            let [rendered, generated] = specs;
            ensure!(rendered? == generated?, "{name}: `make crds` brings both up to date");
        }
    }
    assert!(!Rendering::of("defaults").with("crds.install=false").text()?.contains("CustomResourceDefinition"));
    Ok(())
}

#[test]
fn chart_images_and_programs_have_one_version() -> Result<()> {
    let chart = documents(&std::fs::read_to_string(path("charts/fusebox/Chart.yaml"))?)?;
    assert_eq!(chart[0]["version"], fusebox_testkit::release::VERSION);
    assert_eq!(chart[0]["appVersion"], fusebox_testkit::release::VERSION);
    Ok(())
}

#[test]
fn kubeconform_takes_every_rendering_for_each_kubernetes() -> Result<()> {
    for case in CASES {
        let rendered = Rendering::of(case).text()?;
        for version in KUBERNETES {
            conforms(&rendered, version).with_context(|| format!("{case} on {version}"))?;
        }
    }
    Ok(())
}

#[test]
fn kubeconform_refuses_a_field_that_kubernetes_does_not_know() -> Result<()> {
    let rendered = Rendering::of("defaults").text()?;
    for (right, wrong) in
        [("      enableServiceLinks:", "      enableServicesLinks:"), ("replicas: 2", "replicas: two")]
    {
        assert!(rendered.contains(right));
        let refused = conforms(&rendered.replace(right, wrong), KUBERNETES[0]);
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains("Deployment fusebox-operator is invalid"), "{said}");
    }
    Ok(())
}

#[test]
fn every_object_has_the_charts_labels_and_the_users() -> Result<()> {
    for object in documents(&Rendering::of("everything").text()?)? {
        let labels = &object["metadata"]["labels"];
        let name = &object["metadata"]["name"];
        assert_eq!(labels["team"], "platform", "{} {name}", object["kind"]);
        assert_eq!(labels["app.kubernetes.io/part-of"], "fusebox", "{} {name}", object["kind"]);
        let pods = &object["spec"]["template"]["metadata"]["labels"];
        assert!(pods.is_null() || pods["team"] == "platform");
    }
    Ok(())
}

#[test]
fn pods_are_what_pod_security_restricted_asks_for() -> Result<()> {
    for object in documents(&Rendering::of("everything").text()?)? {
        let pod = match object["kind"].as_str() {
            Some("Deployment" | "Job") => &object["spec"]["template"]["spec"],
            Some("Pod") => &object["spec"],
            _ => continue,
        };
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert!(container["resources"]["requests"].is_object() && container["resources"]["limits"].is_object());
    }
    Ok(())
}

#[test]
fn no_pod_of_the_system_or_of_the_operator_is_ever_asked_about() -> Result<()> {
    let rendered = documents(&Rendering::of("defaults").in_namespace("elsewhere").text()?)?;
    let mutating = rendered.iter().find(|object| object["kind"] == "MutatingWebhookConfiguration");
    let webhooks = mutating.and_then(|object| object["webhooks"].as_array()).context("no mutating webhook")?;
    let mut keys = BTreeSet::new();
    for webhook in webhooks {
        let excluded = &webhook["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(excluded["operator"], "NotIn");
        assert_eq!(excluded["values"], serde_json::json!(["kube-system", "elsewhere"]));
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert!(webhook["timeoutSeconds"].as_u64().is_some_and(|seconds| seconds <= 5));
        assert!(webhook["clientConfig"]["caBundle"].is_null(), "the operator's field");
        keys.insert(webhook["name"].to_string());
    }
    assert_eq!(keys.len(), 2);
    Ok(())
}

/// Of each webhook for pods: by which words of the namespace and of the pod it is asked.
#[test]
fn a_pods_own_word_wins_over_its_namespaces() -> Result<()> {
    let rendered = documents(&Rendering::of("defaults").text()?)?;
    let mutating = rendered.iter().find(|object| object["kind"] == "MutatingWebhookConfiguration");
    let webhooks = mutating.and_then(|object| object["webhooks"].as_array()).context("no mutating webhook")?;
    let passes = |selector: &serde_json::Value, word: Option<&str>| {
        let label = |it: &&serde_json::Value| it["key"] == "fusebox.dev/inject";
        selector["matchExpressions"].as_array().into_iter().flatten().filter(label).all(|it| {
            let listed =
                word.is_some_and(|word| it["values"].as_array().is_some_and(|values| values.contains(&word.into())));
            listed == (it["operator"] == "In")
        })
    };
    for (namespace, pod, asked) in [
        (None, None, 0),
        (Some("enabled"), None, 1),
        (Some("disabled"), None, 0),
        (None, Some("enabled"), 1),
        (Some("enabled"), Some("enabled"), 1),
        (Some("disabled"), Some("enabled"), 1),
        (Some("else"), Some("enabled"), 1),
        (None, Some("disabled"), 0),
        (Some("enabled"), Some("disabled"), 0),
        (Some("disabled"), Some("disabled"), 0),
    ] {
        let asks = |webhook: &&serde_json::Value| {
            passes(&webhook["namespaceSelector"], namespace) && passes(&webhook["objectSelector"], pod)
        };
        assert_eq!(webhooks.iter().filter(asks).count(), asked, "namespace {namespace:?}, pod {pod:?}");
    }
    Ok(())
}

/// Checks the text against the schemas of one version. The error holds what kubeconform says.
fn conforms(rendered: &str, version: &str) -> Result<()> {
    let folder = schemas()?.display().to_string();
    let arguments = ["-strict", "-kubernetes-version", version, "-schema-location", &folder];
    helm::run(&kubeconform()?, &arguments, rendered).map(drop)
}

/// Compares a file with what it should hold, or writes it where that is asked for.
pub(crate) fn same_or_written(file: &str, wanted: &str, differing: &mut Vec<String>) -> Result<()> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(file, wanted).with_context(|| format!("cannot write {file}"));
    }
    if std::fs::read_to_string(file).unwrap_or_default() != wanted {
        differing.push(file.to_owned());
    }
    Ok(())
}

fn values_of(case: &str) -> String {
    path(&format!("charts/golden/{case}.values.yaml"))
}

/// Every value of a kind in one rendering.
pub(crate) fn of_kind<'a>(rendered: &'a [Value], kind: &str) -> Vec<&'a Value> {
    rendered.iter().filter(|object| object["kind"] == kind).collect()
}
