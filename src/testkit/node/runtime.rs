//! containerd, with settings, data and socket of its own beside any other that runs here.
//!
//! Owns its configuration and what is said to it through `ctr`. It must not know which pods there are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::host::run;
use super::machine::STATE;
use super::packages;
use crate::child::KeptChild;
use crate::cluster::parts::Parts;
use crate::images::PAUSE_IMAGE;

/// The containerd namespace in which the kubelet's containers and images are.
const NAMESPACE: &str = "k8s.io";
/// How long one call of `ctr` may take.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// The node's containerd.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    folder: PathBuf,
}

impl Runtime {
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Short, because a socket's path may have 108 bytes.
    pub(super) fn socket() -> PathBuf {
        Path::new(STATE).join("containerd.sock")
    }

    /// Starts it and waits until it answers.
    pub(super) async fn start(&self, parts: &Parts) -> Result<KeptChild> {
        let configuration = parts.folder.write("containerd.toml", &self.configuration()?)?;
        let program = crate::binaries::in_path("containerd").context("containerd is not installed")?;
        let arguments = ["--config".to_owned(), configuration.display().to_string(), "--log-level=warn".to_owned()];
        let mut containerd = parts.start("containerd", &program, &arguments)?;
        parts.ready("containerd", &mut containerd, async || self.call(&["version"]).map(drop)).await?;
        Ok(containerd)
    }

    /// Takes an archive as `docker save` writes it, or an OCI archive.
    pub(super) fn import(&self, archive: &Path) -> Result<()> {
        let path = archive.to_str().context("the image's path is not UTF-8")?;
        self.call(&["images", "import", path]).map(drop).with_context(|| format!("cannot import {path}"))
    }

    /// The ids of all containers, sandboxes too.
    pub(super) fn containers(&self) -> Vec<String> {
        self.call(&["containers", "list", "--quiet"]).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Ends every container's processes, so that shims go by themselves and take their sockets and mounts with them.
    pub(super) fn end_tasks(&self) -> Result<()> {
        let listed = self.call(&["tasks", "list", "--quiet"])?;
        let mut arguments = vec!["tasks", "delete", "--force"];
        arguments.extend(listed.lines());
        if arguments.len() > 3 { self.call(&arguments).map(drop) } else { Ok(()) }
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        let (socket, limit) = (Self::socket().display().to_string(), CALL_WITHIN.as_secs().to_string());
        let mut all = vec![limit.as_str(), "ctr", "--address", &socket, "--namespace", NAMESPACE];
        all.extend(arguments);
        run("timeout", &all)
    }

    /// Version 2 is what containerd 1 reads and containerd 2 still understands.
    fn configuration(&self) -> Result<String> {
        let plugins = packages::plugins().context("the CNI plugins are not installed")?;
        let (root, socket) = (self.folder.join("containerd"), Self::socket());
        Ok(format!(
            r#"version = 2
root = "{root}"
state = "{STATE}/containerd"

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE_IMAGE}"
  # Not every kernel lets root make a process less likely to be ended for want of memory.
  restrict_oom_score_adj = true
  # Network namespaces are then below the node's own folder, and go with it.
  netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{cni}"
"#,
            root = root.display(),
            socket = socket.display(),
            cni = self.folder.join("cni").display(),
        ))
    }
}
