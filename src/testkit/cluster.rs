//! A real control plane for one test, or shared by the tests of one process.
//!
//! Owns the processes of etcd, kube-apiserver and kube-controller-manager, their certificates and their folder; dropping
//! it ends and removes all of that. There is no kubelet: Pods are objects whose status the tests set (see [`crate::pods`]).
//! Tests run against the real API server, because validation, server-side apply and tokens cannot be imitated faithfully.

pub(crate) mod folder;
mod install;
pub(crate) mod parts;
pub mod standing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, OnceCell};

use crate::audit::{AuditEvent, AuditLevel, AuditLog, AuditMark};
use crate::binaries::ControlPlane;
use crate::child::KeptChild;
use crate::eventually::eventually;
use crate::kubeconfig::{self, Credential};
use crate::ports::{Port, random};

use folder::ClusterFolder;
use parts::{Listen, Parts};

/// How long the API server may take until it is ready.
const START_DEADLINE: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const DAY_SECONDS: i64 = 86_400;

/// Which controllers of kube-controller-manager run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Controllers {
    /// No controller manager at all: fastest. Namespaces are not emptied, no EndpointSlices, no garbage collection.
    None,
    /// All but those that create or delete Pods for workloads, so that a test alone decides which Pods there are. The default.
    #[default]
    WithoutWorkloads,
    /// All of them: a Deployment gets its ReplicaSet and its (pending) Pods.
    All,
    /// All of them, and those that take a node for lost when its kubelet is silent: for clusters that have nodes.
    AllWithNodes,
}

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Which controllers run.
    pub controllers: Controllers,
    /// How much the audit log says.
    pub audit: AuditLevel,
    /// More flags for kube-apiserver, as in `--feature-gates=X=true`; the last one given counts.
    pub api_server_flags: Vec<String>,
}

/// A running control plane.
pub struct Cluster {
    // Dropped in this order: the controller manager first, the store and the folder last.
    controller_manager: Option<KeptChild>,
    api_server: Mutex<Option<KeptChild>>,
    etcd: KeptChild,
    parts: Parts,
}

impl Cluster {
    /// Starts a cluster of its own with the default options; about three seconds.
    ///
    /// # Errors
    /// When the binaries cannot be found or built, or do not become ready; the message holds the end of their logs.
    pub async fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default()).await
    }

    /// Starts a cluster of its own.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(options: ClusterOptions) -> Result<Self> {
        Self::start_in(ClusterFolder::scratch()?, options, Listen::Loopback(Port::reserve()?)).await
    }

    /// The one cluster that all tests of this process share, started by the first. Keep apart by [`Cluster::unique_namespace`].
    ///
    /// It ends with the process. Don't pause or stop its API server: other tests use it.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    async fn start_in(folder: ClusterFolder, options: ClusterOptions, listen: Listen) -> Result<Self> {
        let plane = tokio::task::spawn_blocking(ControlPlane::find_or_build).await.context("the build panicked")??;
        Self::start_parts(Parts::prepare(folder, plane, options, listen)?).await
    }

    /// Starts the control plane that was prepared.
    pub(crate) async fn start_parts(parts: Parts) -> Result<Self> {
        let etcd = parts.start_etcd().await?;
        let api_server = parts.start_api_server().await?;
        let mut cluster = Self { controller_manager: None, api_server: Mutex::new(Some(api_server)), etcd, parts };
        if cluster.parts.options.controllers != Controllers::None {
            cluster.controller_manager = Some(cluster.parts.start_controller_manager()?);
            cluster.service_accounts_work().await?;
        }
        Ok(cluster)
    }

    /// A client with full rights, for the runtime it is called in.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        self.client_from(&self.kubeconfig_path()).await
    }

    /// The configuration of [`Cluster::client`].
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn config(&self) -> Result<kube::Config> {
        kubeconfig::read(&self.kubeconfig_path()).await
    }

    /// The configuration of a kubeconfig made by one of the methods here.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn config_from(&self, kubeconfig: &Path) -> Result<kube::Config> {
        kubeconfig::read(kubeconfig).await
    }

    /// A client for a kubeconfig made by one of the methods here.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client_from(&self, kubeconfig: &Path) -> Result<Client> {
        Ok(Client::try_from(kubeconfig::read(kubeconfig).await?)?)
    }

    /// The kubeconfig with full rights.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.parts.folder.admin_kubeconfig()
    }

    /// The cluster's folder, for files a test wants removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.parts.folder.path()
    }

    /// The API server's address, `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.parts.url()
    }

    /// The paths of the programs in use.
    #[must_use]
    pub fn binaries(&self) -> &ControlPlane {
        &self.parts.plane
    }

    /// A kubeconfig for `user`, a member of `group` where one is given. It may do what RBAC grants the two: at first nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let signed = self.parts.authority.client(user, group)?;
        self.parts.write_kubeconfig(user, &Credential::Certificate(&signed))
    }

    /// A kubeconfig for a service account that exists, by a token for one day.
    ///
    /// # Errors
    /// When the service account does not exist, or the file cannot be written.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(DAY_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("no token for service account {namespace}/{name}"))?;
        let token = answer.status.context("the token request has no status")?.token;
        self.parts.write_kubeconfig(&format!("{namespace}-{name}"), &Credential::Token(&token))
    }

    /// Creates a namespace nobody else uses, with its default service account, and returns its name.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn unique_namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{:08x}", random() & 0xffff_ffff);
        let client = self.client().await?;
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let created = Api::all(client.clone()).create(&PostParams::default(), &namespace).await;
        created.with_context(|| format!("cannot create namespace {name}"))?;
        crate::pods::ensure_service_account(&client, &name, "default").await?;
        Ok(name)
    }

    /// Runs kubectl with full rights and returns what it did, whether it succeeded or not.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with_input(arguments, "").await
    }

    /// Runs kubectl and returns its standard output.
    ///
    /// # Errors
    /// When kubectl fails, with its standard error.
    pub async fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        succeeded(arguments, &self.kubectl(arguments).await?)
    }

    /// `kubectl apply` of YAML text.
    ///
    /// # Errors
    /// When an object is refused, with kubectl's standard error.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let arguments = ["apply", "--filename", "-"];
        succeeded(&arguments, &self.kubectl_with_input(&arguments, yaml).await?)
    }

    /// Runs kubectl with text on its standard input.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = tokio::process::Command::from(self.parts.kubectl())
            .args(arguments)
            .kill_on_drop(true)
            .spawn()
            .context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // kubectl may end without reading; what it says then is in the output.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        child.wait_with_output().await.context("cannot wait for kubectl")
    }

    /// Freezes the API server (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn pause_api_server(&self) -> Result<()> {
        let api_server = self.api_server.lock().await;
        api_server.as_ref().context("the API server is not running")?.pause().await
    }

    /// Lets a frozen API server go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub async fn resume_api_server(&self) -> Result<()> {
        let api_server = self.api_server.lock().await;
        api_server.as_ref().context("the API server is not running")?.signal(Signal::CONT)
    }

    /// Ends the API server at once, as a crash would. The store keeps running.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn stop_api_server(&self) -> Result<()> {
        let stopped = self.api_server.lock().await.take();
        stopped.map(drop).context("the API server is not running")
    }

    /// Starts a stopped API server again at the same address and waits until it is ready.
    ///
    /// # Errors
    /// When it is running, or does not become ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let mut api_server = self.api_server.lock().await;
        ensure!(api_server.is_none(), "the API server is running already");
        *api_server = Some(self.parts.start_api_server().await?);
        Ok(())
    }

    /// The audit log.
    #[must_use]
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::at(self.parts.folder.audit_log())
    }

    /// All events of the audit log so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit_events(&self) -> Result<Vec<AuditEvent>> {
        self.audit_log().events_since(AuditMark::default())
    }

    /// Waits for the first work of the controller manager, which shows that it runs.
    async fn service_accounts_work(&mut self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        let Some(manager) = self.controller_manager.as_mut() else { return Ok(()) };
        let folder = &self.parts.folder;
        let ready =
            eventually(START_DEADLINE, "the controller manager makes the default service account", async || {
                if let Some(status) = manager.exited()? {
                    return Ok(Err(anyhow!("it ended with {status}")));
                }
                accounts.get("default").await?;
                Ok(Ok(()))
            });
        ready.await.flatten().with_context(|| folder.log_end("kube-controller-manager"))
    }

    /// What the control plane was started from, for programs that join it.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Leaves everything running after this process.
    pub(crate) fn leave_running(self) {
        let Self { controller_manager, api_server, etcd, parts } = self;
        for child in controller_manager.into_iter().chain(api_server.into_inner()).chain([etcd]) {
            child.leave_running();
        }
        parts.folder.keep();
    }
}

fn succeeded(arguments: &[&str], output: &Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {} failed: {stderr}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
