//! The folder of one cluster: where each of its files lies, and that it goes away with the cluster.
//!
//! It must not start processes. One folder for everything means that removing it is the whole clean-up.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::ports::random;

/// How much of a log is shown when a part does not start.
const SHOWN_LOG_LINES: usize = 15;

/// A cluster's folder.
#[derive(Debug)]
pub(crate) struct ClusterFolder {
    path: PathBuf,
    lifetime: Lifetime,
}

/// How long a cluster lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as its handle, and no longer than this process.
    Handle,
    /// Until somebody ends it by its recorded processes.
    Standing,
}

impl ClusterFolder {
    /// A new folder in this process's scratch folder.
    pub(crate) fn scratch() -> Result<Self> {
        let path = crate::lifeline::scratch()?.join(format!("cluster-{:016x}", random()));
        Self::create(path, Lifetime::Handle)
    }

    /// A new folder at `path` for a cluster that outlives this process.
    pub(crate) fn standing(path: PathBuf) -> Result<Self> {
        Self::create(path, Lifetime::Standing)
    }

    fn create(path: PathBuf, lifetime: Lifetime) -> Result<Self> {
        for name in ["", "etcd", "certificates", "kubeconfigs", "logs", "processes"] {
            let folder = path.join(name);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { path, lifetime })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.path.join("logs").join(format!("{program}.log"))
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.file("logs/audit.log")
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// Writes a file of text and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The last lines of a program's log, for an error message.
    pub(crate) fn log_end(&self, program: &str) -> String {
        let text = fs::read_to_string(self.log(program)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines.len().saturating_sub(SHOWN_LOG_LINES);
        format!("{program} did not start; its log ends with:\n{}\n", lines[shown..].join("\n"))
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for ClusterFolder {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}
