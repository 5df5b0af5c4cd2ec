//! Where etcd, kube-apiserver, kube-controller-manager and kubectl come from.
//!
//! Owns the order of places: KUBEBUILDER_ASSETS, PATH, the cache, a build. It must not start any of them.
//! Whoever has the binaries waits for nothing; whoever has only Go or Docker gets the same versions with one wait.

mod go_build;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

pub(crate) use go_build::{GoBuilder, hash_of, module_folder};

/// The version that is built, and of which found binaries must be a patch release.
pub const KUBERNETES_VERSION: &str = "v1.35.4";
const KUBERNETES_MINOR: &str = "v1.35.";

const NAMES: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// What a node needs besides.
const NODE_NAMES: [&str; 3] = ["kube-scheduler", "kube-proxy", "kubelet"];

/// The programs of a control plane, and kubectl.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Garbage collection, namespaces, endpoints and service accounts.
    pub kube_controller_manager: PathBuf,
    /// The command line, of the same version as the server.
    pub kubectl: PathBuf,
}

/// The programs of a control plane with one node. Only the cache has all of them in one version.
#[derive(Debug, Clone)]
pub(crate) struct NodePrograms {
    pub(crate) plane: ControlPlane,
    pub(crate) kube_scheduler: PathBuf,
    pub(crate) kube_proxy: PathBuf,
    pub(crate) kubelet: PathBuf,
}

impl NodePrograms {
    /// Takes them from the cache, or builds them with Go or Docker. Blocks.
    pub(crate) fn find_or_build() -> Result<Self> {
        let plane = ControlPlane::from_cache()?;
        let [kube_scheduler, kube_proxy, kubelet] = NODE_NAMES.map(|name| plane.kube_apiserver.with_file_name(name));
        Ok(Self { plane, kube_scheduler, kube_proxy, kubelet })
    }
}

impl ControlPlane {
    /// Finds the programs, or builds them with Go or Docker (about four minutes, once). Blocks.
    ///
    /// # Errors
    /// When they are nowhere and neither Go nor Docker can build them; the message says what to install.
    pub fn find_or_build() -> Result<Self> {
        let places = [("KUBEBUILDER_ASSETS", from_assets()), ("PATH", from_path())];
        for (place, found) in places {
            let Some(found) = found else { continue };
            match version_of(&found.kube_apiserver) {
                Ok(version) if version.starts_with(KUBERNETES_MINOR) => return Ok(found),
                Ok(version) => eprintln!("{place} has kube-apiserver {version}, not {KUBERNETES_MINOR}x: not used"),
                Err(error) => eprintln!("{place}: {error:#}: not used"),
            }
        }
        Self::from_cache()
    }

    fn from_cache() -> Result<Self> {
        let module = module_folder("cluster");
        let hash = hash_of(&module, &["main.go", "go.mod", "go.sum"])?;
        let entry = crate::cache::root()?.join("cluster").join(hash);
        crate::cache::make_once(&entry, |draft| {
            GoBuilder::find()?.build(&module, &draft.join("cluster"), &version_flags())?;
            for name in NAMES.into_iter().chain(NODE_NAMES) {
                std::os::unix::fs::symlink("cluster", draft.join(name)).context("cannot link the built binary")?;
            }
            let version = version_of(&draft.join("kube-apiserver"))?;
            ensure!(version == KUBERNETES_VERSION, "the API server was built as {version}, not {KUBERNETES_VERSION}");
            Ok(())
        })?;
        all_in(&entry).with_context(|| format!("{} is incomplete: remove that folder and try again", entry.display()))
    }
}

/// The first file of that name in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn from_assets() -> Option<ControlPlane> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    let found = all_in(&folder);
    if found.is_none() {
        eprintln!("KUBEBUILDER_ASSETS={} lacks one of {}: not used", folder.display(), NAMES.join(", "));
    }
    found
}

fn from_path() -> Option<ControlPlane> {
    from_each(in_path)
}

fn all_in(folder: &Path) -> Option<ControlPlane> {
    from_each(|name| Some(folder.join(name)).filter(|path| path.is_file()))
}

fn from_each(find: impl Fn(&str) -> Option<PathBuf>) -> Option<ControlPlane> {
    let [etcd, kube_apiserver, kube_controller_manager, kubectl] = NAMES.map(find);
    Some(ControlPlane {
        etcd: etcd?,
        kube_apiserver: kube_apiserver?,
        kube_controller_manager: kube_controller_manager?,
        kubectl: kubectl?,
    })
}

/// "Kubernetes v1.35.4" without its first word.
fn version_of(kube_apiserver: &Path) -> Result<String> {
    let output = Command::new(kube_apiserver)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {} --version", kube_apiserver.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("Kubernetes ");
    Ok(version.with_context(|| format!("{} --version answered {text:?}", kube_apiserver.display()))?.to_owned())
}

/// Linker flags without which the server calls itself v0.0.0 and version checks of clients fail.
fn version_flags() -> String {
    let symbols = [
        ("k8s.io/component-base/version.gitVersion", KUBERNETES_VERSION),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "35"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
        ("k8s.io/client-go/pkg/version.gitVersion", KUBERNETES_VERSION),
    ];
    symbols.iter().fold("-s -w".to_owned(), |flags, (symbol, value)| format!("{flags} -X {symbol}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_lacks_one_program_is_not_used() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in &NAMES[1..] {
            std::fs::write(folder.path().join(name), "")?;
        }
        assert!(all_in(folder.path()).is_none());
        std::fs::write(folder.path().join(NAMES[0]), "")?;
        assert!(all_in(folder.path()).is_some());
        Ok(())
    }

    #[test]
    fn the_control_plane_has_the_pinned_version() -> Result<()> {
        let plane = ControlPlane::find_or_build()?;
        assert!(version_of(&plane.kube_apiserver)?.starts_with(KUBERNETES_MINOR));
        let kubectl = Command::new(&plane.kubectl).args(["version", "--client", "-o", "json"]).output()?;
        assert!(String::from_utf8_lossy(&kubectl.stdout).contains(KUBERNETES_MINOR));
        Ok(())
    }
}
