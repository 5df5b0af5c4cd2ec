//! The cluster of `make cluster`: it stays up until it is taken down, and there is at most one for each cache folder.
//!
//! Owns its folder, and knows its processes only from the records there. It must not end any process it has not started.
//! Records are pid and start time, so that a pid given to another program since is left alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use rustix::process::Signal;

use super::folder::ClusterFolder;
use super::parts::Listen;
use super::{Cluster, ClusterOptions, Controllers};
use crate::eventually::eventually;
use crate::identity::{self, Identity};
use crate::kubeconfig;
use crate::ports::Port;

/// etcd, kube-apiserver and kube-controller-manager.
const PROCESSES: usize = 3;
/// How long it may take to say whether it is ready.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const END_WITHIN: Duration = Duration::from_secs(10);

/// What there is of a cluster that stands by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Down,
    /// All processes live and the API server is ready; so is the node, where there is one.
    Up,
    /// Some processes are gone, or the API server does not answer, or the node is not Ready.
    Broken,
}

/// The standing cluster of one cache folder.
#[derive(Debug, Clone)]
pub struct StandingCluster {
    folder: PathBuf,
}

impl StandingCluster {
    /// The one in the cache folder.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn default_one() -> Result<Self> {
        Ok(Self::at(crate::cache::root()?.join("clusters/default")))
    }

    /// One in a folder of its own.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The kubeconfig with full rights.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Starts the cluster unless it is up; a broken one is taken down first. Says whether it had to be started.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn up(&self) -> Result<bool> {
        let _lock = self.lock()?;
        match self.status().await {
            Status::Up => return Ok(false),
            Status::Down => {}
            Status::Broken => self.end().await?,
        }
        let options = ClusterOptions { controllers: Controllers::All, ..ClusterOptions::default() };
        let cluster = Cluster::start_in(
            ClusterFolder::standing(self.folder.clone())?,
            options,
            Listen::Loopback(Port::reserve()?),
        )
        .await?;
        cluster.leave_running();
        Ok(true)
    }

    /// Ends the cluster's processes and removes its data. Says whether there was anything.
    ///
    /// # Errors
    /// When a process does not end, or the folder cannot be removed.
    pub async fn down(&self) -> Result<bool> {
        let _lock = self.lock()?;
        if !self.folder.exists() {
            return Ok(false);
        }
        self.end().await?;
        Ok(true)
    }

    /// Looks at the processes and asks the API server.
    pub async fn status(&self) -> Status {
        if !self.folder.exists() {
            return Status::Down;
        }
        let alive = self.processes().into_iter().filter(|process| process.is_alive()).count();
        let answer = tokio::time::timeout(ANSWER_WITHIN, is_ready(&self.kubeconfig_path())).await;
        if alive == PROCESSES && matches!(answer, Ok(Ok(()))) { Status::Up } else { Status::Broken }
    }

    fn processes(&self) -> Vec<Identity> {
        identity::recorded(&self.folder.join("processes"))
    }

    async fn end(&self) -> Result<()> {
        let processes = self.processes();
        for process in &processes {
            process.signal(Signal::KILL).with_context(|| format!("cannot end process {}", process.pid()))?;
        }
        eventually(END_WITHIN, "the cluster's processes end", async || {
            let left: Vec<i32> =
                processes.iter().filter(|process| process.is_alive()).map(|process| process.pid()).collect();
            ensure!(left.is_empty(), "still running: {left:?}");
            Ok(())
        })
        .await?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }

    /// One `up` or `down` at a time.
    fn lock(&self) -> Result<File> {
        let path = self.folder.with_added_extension("lock");
        let parent = path.parent().context("the cluster's folder has no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(lock)
    }
}

async fn is_ready(kubeconfig: &Path) -> Result<()> {
    let client = Client::try_from(kubeconfig::read(kubeconfig).await?)?;
    client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
    Ok(())
}
