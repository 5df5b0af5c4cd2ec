//! Prometheus' own files for tests: the operator's real CRDs, and promtool.
//!
//! Owns where they come from: PATH, the cache, a download. It must not install anything into the system.
//! They are fetched rather than copied into the repository, so that a version is one constant and no copy goes stale.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::binaries::{GoBuilder, in_path};
use crate::debian::{self, Debian};
use crate::progress::Progress;

/// The version whose CRDs are installed.
pub const PROMETHEUS_OPERATOR_VERSION: &str = "v0.94.1";
const PROMETHEUS_OPERATOR_MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
const CRD_FOLDER: &str = "example/prometheus-operator-crd";
const CRD_KINDS: [&str; 3] = ["servicemonitors", "podmonitors", "prometheusrules"];

/// A folder with the CRDs of ServiceMonitor, PodMonitor and PrometheusRule. Blocks while it downloads.
///
/// # Errors
/// When neither Go nor Docker can fetch the module.
pub fn crds() -> Result<PathBuf> {
    let entry = crate::cache::root()?.join("prometheus-crds").join(PROMETHEUS_OPERATOR_VERSION);
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("Prometheus CRDs (once, kept in the cache)");
        progress.phase("downloading");
        let module =
            GoBuilder::find()?.download(&format!("{PROMETHEUS_OPERATOR_MODULE}@{PROMETHEUS_OPERATOR_VERSION}"))?;
        for kind in CRD_KINDS {
            let name = format!("monitoring.coreos.com_{kind}.yaml");
            let source = module.join(CRD_FOLDER).join(&name);
            let content = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
            fs::write(draft.join(name), content).context("cannot write to the cache")?;
        }
        Ok(())
    })?;
    Ok(entry)
}

/// The path of promtool: PATH, else the cache, else unpacked from Debian's package into the cache. Blocks while it downloads.
///
/// # Errors
/// When it is nowhere and this is not a Debian; the message says what to install.
pub fn promtool() -> Result<PathBuf> {
    if let Some(path) = in_path("promtool") {
        return Ok(path);
    }
    let entry = crate::cache::root()?.join("promtool");
    crate::cache::make_once(&entry, |draft| {
        let progress = Progress::start("promtool (once, kept in the cache)");
        progress.phase("downloading Debian's package");
        unpack_debian_package(draft).context("install promtool (part of https://prometheus.io/download) into PATH")
    })?;
    let promtool = entry.join("promtool");
    ensure!(promtool.is_file(), "{} is incomplete: remove that folder and try again", entry.display());
    Ok(promtool)
}

/// promtool is one static program, so that nothing of what the package needs besides is fetched.
fn unpack_debian_package(draft: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    Debian::fetch_lists()?.unpack(&["prometheus"], scratch.path())?;
    let promtool = scratch.path().join("usr/bin/promtool");
    fs::copy(promtool, draft.join("promtool")).context("the package holds no promtool")?;
    debian::run(Command::new(draft.join("promtool")).arg("--version"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promtool_accepts_a_good_rule_and_refuses_a_bad_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
        fs::write(&good, "groups: [{name: a, rules: [{alert: A, expr: up == 0, for: 1m}]}]")?;
        fs::write(&bad, "groups: [{name: a, rules: [{alert: A, expr: 'up ==', for: 1m}]}]")?;
        let check = |file: &Path| {
            Ok::<_, anyhow::Error>(Command::new(promtool()?).args(["check", "rules"]).arg(file).output()?)
        };
        assert!(check(&good)?.status.success());
        assert!(!check(&bad)?.status.success());
        Ok(())
    }

    #[test]
    fn the_crds_are_of_the_prometheus_operator() -> Result<()> {
        let folder = crds()?;
        for kind in CRD_KINDS {
            let text = fs::read_to_string(folder.join(format!("monitoring.coreos.com_{kind}.yaml")))?;
            assert!(text.contains(&format!("name: {kind}.monitoring.coreos.com")), "{kind}");
        }
        Ok(())
    }
}
