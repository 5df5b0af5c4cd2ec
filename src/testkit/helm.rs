//! Helm and kubeconform, and the schemas that kubeconform checks by.
//!
//! Owns where they come from: a Go module that names both as its tools, built once; Kubernetes' own OpenAPI documents, from
//! its Go modules. It must not know our chart. Found programs are not used: goldens need one version.

mod schemas;

use std::path::PathBuf;

use anyhow::Result;

use crate::binaries::{GoBuilder, hash_of, module_folder};

pub use schemas::{KUBERNETES, cert_manager_crds, schemas};

/// The version of Helm that is built; go.mod has the same.
const HELM_VERSION: &str = "v4.3.1";

/// A tool's name, its package, and the linker's flags.
const HELM: Tool = ("helm", "helm.sh/helm/v4/cmd/helm", "-s -w -X helm.sh/helm/v4/internal/version.version=");
const KUBECONFORM: Tool = ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "-s -w -X main.version=");

type Tool = (&'static str, &'static str, &'static str);

/// The path of helm. Blocks while it is built, once.
///
/// # Errors
/// When neither Go nor Docker can build it.
pub fn helm() -> Result<PathBuf> {
    tool(HELM, HELM_VERSION)
}

/// The path of kubeconform. Blocks while it is built, once.
///
/// # Errors
/// When neither Go nor Docker can build it.
pub fn kubeconform() -> Result<PathBuf> {
    tool(KUBECONFORM, "built")
}

fn tool((name, package, flags): Tool, version: &str) -> Result<PathBuf> {
    let module = module_folder("helm");
    let entry = crate::cache::root()?.join(name).join(hash_of(&module, &["go.mod", "go.sum"])?);
    crate::cache::make_once(&entry, |draft| {
        GoBuilder::find()?.build_package(&module, &draft.join(name), &format!("{flags}{version}"), package)
    })?;
    Ok(entry.join(name))
}
