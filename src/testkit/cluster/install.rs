//! Puts CustomResourceDefinitions into a cluster and waits until they are served.
//!
//! It must not know which they are. Server-side apply, because the real Prometheus CRDs are too large for the annotation
//! that a client-side apply would write.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde::Deserialize as _;

use super::Cluster;
use crate::eventually::eventually;

const FIELD_MANAGER: &str = "fusebox-testkit";
const ESTABLISH_DEADLINE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Applies the CRDs in a YAML file, or in all `.yaml` files of a folder, and waits until each is established.
    ///
    /// # Errors
    /// When a file is not YAML, holds no CRD, or the API server refuses one.
    pub async fn install_crds(&self, path: &Path) -> Result<()> {
        let definitions = read_definitions(path)?;
        ensure!(!definitions.is_empty(), "no CustomResourceDefinition in {}", path.display());
        let api: Api<CustomResourceDefinition> = Api::all(self.client().await?);
        for definition in &definitions {
            let name = definition.name_any();
            let applied = api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(definition)).await;
            applied.with_context(|| format!("cannot apply the CRD {name}"))?;
        }
        for definition in &definitions {
            let name = definition.name_any();
            eventually(ESTABLISH_DEADLINE, &format!("the CRD {name} is established"), async || {
                ensure!(is_established(&api.get(&name).await?), "condition Established is not True");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Installs the CRDs of the Prometheus operator (ServiceMonitor, PodMonitor, PrometheusRule).
    ///
    /// # Errors
    /// When they cannot be downloaded, or the API server refuses one.
    pub async fn install_prometheus_crds(&self) -> Result<()> {
        let folder = tokio::task::spawn_blocking(crate::prometheus::crds).await.context("the download panicked")??;
        self.install_crds(&folder).await
    }
}

fn read_definitions(path: &Path) -> Result<Vec<CustomResourceDefinition>> {
    let mut definitions = Vec::new();
    for file in yaml_files(path)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value =
                serde_json::Value::deserialize(document).with_context(|| format!("{} is not YAML", file.display()))?;
            if value["kind"] == "CustomResourceDefinition" {
                let definition = serde_json::from_value(value);
                definitions.push(definition.with_context(|| format!("bad CRD in {}", file.display()))?);
            }
        }
    }
    Ok(definitions)
}

fn yaml_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    Ok(files)
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Established" && condition.status == "True")
}
