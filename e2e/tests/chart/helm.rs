//! How the tests of the chart speak to helm.
//!
//! It must not know what is tested. Helm gets folders of its own, so that nothing of the machine's user takes part.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The namespace that goldens are rendered for.
pub(crate) const NAMESPACE: &str = "fusebox-system";

/// The version of Kubernetes that goldens are rendered for.
const KUBE_VERSION: &str = "1.35.4";

/// One rendering of the chart.
pub(crate) struct Rendering {
    arguments: Vec<String>,
    namespace: String,
}

impl Rendering {
    /// With one set of values from charts/golden.
    pub(crate) fn of(case: &str) -> Self {
        let values = path(&format!("charts/golden/{case}.values.yaml"));
        Self { arguments: vec!["--values".to_owned(), values], namespace: NAMESPACE.to_owned() }
    }

    /// With one value more, as `key=value`.
    pub(crate) fn with(self, value: &str) -> Self {
        self.and("--set", value.to_owned())
    }

    /// One template alone.
    pub(crate) fn only(self, template: &str) -> Self {
        self.and("--show-only", format!("templates/{template}.yaml"))
    }

    /// In another namespace.
    pub(crate) fn in_namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// What helm says.
    pub(crate) fn text(self) -> Result<String> {
        let chart = path("charts/fusebox");
        let mut arguments = vec!["template", "fusebox", &chart, "--namespace", &self.namespace];
        arguments.extend(["--kube-version", KUBE_VERSION]);
        arguments.extend(self.arguments.iter().map(String::as_str));
        helm(&arguments, "")
    }

    fn and(mut self, flag: &str, value: String) -> Self {
        self.arguments.extend([flag.to_owned(), value]);
        self
    }
}

/// Runs helm and returns its standard output; an error holds its words.
pub(crate) fn helm(arguments: &[&str], kubeconfig: &str) -> Result<String> {
    run_with(&fusebox_testkit::helm::helm()?, arguments, "", kubeconfig)
}

/// Runs a program with text on its standard input; an error holds its words.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String> {
    run_with(program, arguments, input, "")
}

fn run_with(program: &Path, arguments: &[&str], input: &str, kubeconfig: &str) -> Result<String> {
    let home = tempfile::tempdir()?;
    std::fs::write(home.path().join("input"), input)?;
    let output = Command::new(program)
        .args(arguments)
        .env("HELM_CACHE_HOME", home.path())
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_DATA_HOME", home.path())
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::from(std::fs::File::open(home.path().join("input"))?))
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{} {} failed: {wrong}{said}", program.display(), arguments.join(" "));
    Ok(said.into_owned())
}

/// The documents of a YAML text that are not empty.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let parts = text.split("\n---").map(|part| part.strip_prefix("---").unwrap_or(part));
    let parsed: Result<Vec<Value>> = parts.map(|part| Ok(serde_yaml::from_str(part)?)).collect();
    Ok(parsed?.into_iter().filter(|document| !document.is_null()).collect())
}

/// A path of the repository.
pub(crate) fn path(name: &str) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).join(name).display().to_string()
}
