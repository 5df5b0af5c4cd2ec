//! A real node: this machine, with a control plane, on which pods run, Services lead to them and names resolve.
//!
//! Owns the order in which its parts start and end, and that there is one of them for each machine. It must not touch what it
//! has not made: other containers, other interfaces, other tables of the firewall. It is for tests that an API server alone
//! can't carry, where neither Docker nor an image registry can be reached.

mod addresses;
mod agents;
mod cleanup;
mod dns;
mod host;
mod machine;
mod network;
mod packages;
mod runtime;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use crate::binaries::NodePrograms;
use crate::child::KeptChild;
use crate::cluster::folder::ClusterFolder;
use crate::cluster::parts::{Listen, Parts};
use crate::cluster::standing::ANSWER_WITHIN;
use crate::cluster::{Cluster, ClusterOptions, Controllers};
use crate::eventually::eventually;
use crate::images::{self, Image};
use crate::progress::Progress;
use crate::{identity, kubeconfig};

pub use crate::cluster::standing::Status;
use addresses::{API_SERVER, NODE_NAME};
use machine::Machine;
use runtime::Runtime;

/// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet and containerd.
const PROCESSES: usize = 7;
/// How long the node may take until it is Ready, and the cluster's DNS until it answers.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// The node of this machine, with everything it keeps in one folder.
#[derive(Debug, Clone)]
pub struct StandingNode {
    folder: PathBuf,
}

impl StandingNode {
    /// The node that is up on this machine, or else one whose folder will be in the cache.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn of_this_machine() -> Result<Self> {
        match machine::recorded_folder() {
            Some(folder) => Ok(Self::at(folder)),
            None => Ok(Self::at(crate::cache::root()?.join("node"))),
        }
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

    /// The folder that holds everything of the node: logs, certificates, images, pods.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the node unless it is up; a broken one is taken down first. Says whether it had to be started.
    ///
    /// # Errors
    /// When this is not root, a package is missing and can't be installed, or a part does not become ready; nothing is left
    /// then, and the message holds the end of the part's log.
    pub async fn up(&self) -> Result<bool> {
        let machine = Machine::lock()?;
        machine.belongs_to(&self.folder)?;
        match self.status().await {
            Status::Up => return Ok(false),
            Status::Down => {}
            Status::Broken => cleanup::end(&self.folder).await?,
        }
        let progress = Progress::start("node");
        let (programs, images) = tokio::task::spawn_blocking(prepare).await.context("the preparation panicked")??;
        machine.record(&self.folder)?;
        let started = self.start(programs, &images, &progress).await;
        if started.is_err() {
            cleanup::end(&self.folder).await?;
            machine.forget()?;
        }
        started.map(|()| true)
    }

    /// Ends everything the node consists of, pods too, and removes its data. Says whether there was anything.
    ///
    /// # Errors
    /// When something can't be ended or removed.
    pub async fn down(&self) -> Result<bool> {
        let machine = Machine::lock()?;
        machine.belongs_to(&self.folder)?;
        if !self.folder.exists() {
            return Ok(false);
        }
        let progress = Progress::start("node");
        progress.phase("ending pods and processes");
        cleanup::end(&self.folder).await?;
        machine.forget()?;
        Ok(true)
    }

    /// Looks at the processes and asks the API server.
    pub async fn status(&self) -> Status {
        if !self.folder.exists() {
            return Status::Down;
        }
        let processes = identity::recorded(&self.folder.join("processes"));
        let alive = processes.iter().filter(|process| process.is_alive()).count();
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.is_ready()).await;
        if alive == PROCESSES && matches!(answer, Ok(Ok(()))) { Status::Up } else { Status::Broken }
    }

    /// Gives images to the node; pods use them with `imagePullPolicy: Never`.
    ///
    /// # Errors
    /// When containerd refuses an archive.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        archives.iter().try_for_each(|archive| Runtime::of(&self.folder).import(archive))
    }

    async fn start(&self, programs: NodePrograms, images: &[Image], progress: &Progress) -> Result<()> {
        progress.phase("network");
        network::up(&self.folder)?;
        progress.phase("etcd, kube-apiserver, kube-controller-manager");
        let cluster = Cluster::start_parts(self.control_plane(&programs)?).await?;
        progress.phase("containerd");
        let runtime = Runtime::of(&self.folder);
        let mut children = vec![runtime.start(cluster.parts()).await?];
        for image in images {
            runtime.import(&image.archive)?;
        }
        progress.phase("kubelet, kube-proxy, kube-scheduler");
        children.extend(agents::start(cluster.parts(), &programs)?);
        let client = cluster.client().await?;
        wait_for_node(&client, &mut children).await.with_context(|| cluster.parts().folder.log_end("kubelet"))?;
        progress.phase("cluster DNS");
        dns::start(&cluster).await?;
        children.into_iter().for_each(KeptChild::leave_running);
        cluster.leave_running();
        Ok(())
    }

    fn control_plane(&self, programs: &NodePrograms) -> Result<Parts> {
        let options = ClusterOptions {
            controllers: Controllers::AllWithNodes,
            api_server_flags: agents::api_server_flags(),
            ..ClusterOptions::default()
        };
        let folder = ClusterFolder::standing(self.folder.clone())?;
        let parts = Parts::prepare(folder, programs.plane.clone(), options, Listen::Address(API_SERVER))?;
        agents::write_certificates(&parts)?;
        Ok(parts)
    }

    async fn is_ready(&self) -> Result<()> {
        let client = Client::try_from(kubeconfig::read(&self.kubeconfig_path()).await?)?;
        node_is_ready(&client).await
    }
}

/// All that takes long and needs nothing running: packages, programs and images.
fn prepare() -> Result<(NodePrograms, Vec<Image>)> {
    packages::ensure_installed()?;
    Ok((NodePrograms::find_or_build()?, vec![images::pause()?, images::dns()?]))
}

async fn wait_for_node(client: &Client, children: &mut [KeptChild]) -> Result<()> {
    let ready = eventually(READY_WITHIN, "the node is Ready", async || {
        for child in &mut *children {
            if let Some(status) = child.exited()? {
                return Ok(Err(anyhow::anyhow!("a part of the node ended with {status}")));
            }
        }
        node_is_ready(client).await.map(Ok)
    });
    ready.await.flatten()
}

async fn node_is_ready(client: &Client) -> Result<()> {
    let node = Api::<Node>::all(client.clone()).get(NODE_NAME).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").context("it has no condition Ready")?;
    ensure!(ready.status == "True", "Ready is {}: {:?}", ready.status, ready.message);
    Ok(())
}
