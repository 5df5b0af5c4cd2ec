//! One proxy process with the pod it belongs to.
//!
//! Owns the files a kubelet would mount (token, certificate authority, ConfigMap) and the listeners' addresses. It must not
//! give the proxy anything that a pod would not have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fusebox_testkit::http::{Client, Response};
use fusebox_testkit::pods::TestPod;
use fusebox_testkit::process::{Process, ProcessBuilder};
use fusebox_testkit::{Port, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::fleet::{Fleet, PATIENCE};

/// What a proxy is told.
#[derive(Clone, Debug, Default)]
pub struct SidecarOptions {
    /// `NAMESPACE/SERVICE:PORT` of its outbound listener.
    pub destination: String,
    /// `NAMESPACE/SERVICE=ADDR` for it; when empty it goes where the configuration and the operator say.
    pub upstream: String,
    /// The application's address and container port for an inbound listener, as `ADDR/PORT`.
    pub application: Option<String>,
    /// Control URLs; all operators of the fleet when empty.
    pub control: Vec<String>,
    /// Another build of the proxy, such as the version before; this workspace's when absent.
    pub program: Option<PathBuf>,
}

/// A running `fusebox-proxy` and its pod.
pub struct Sidecar {
    /// The process, to be stopped, frozen or killed.
    pub process: Process,
    /// The pod.
    pub pod: TestPod,
    program: Option<PathBuf>,
    arguments: Vec<String>,
    folder: PathBuf,
    outbound: Port,
    inbound: Port,
    admin: Port,
    outbound_client: Client,
    inbound_client: Client,
    admin_client: Client,
}

impl Sidecar {
    /// Starts a proxy for the pod and waits until it is ready. Its configuration file is the pod's ConfigMap as it is now.
    ///
    /// # Errors
    /// When it isn't ready in time.
    pub async fn start(fleet: &Fleet, pod: TestPod, options: &SidecarOptions) -> Result<Self> {
        let folder = fusebox_testkit::scratch()?.join(format!("sidecar-{}", pod.uid()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("token"), pod.control_token().await?)?;
        std::fs::write(folder.join("ca.crt"), fleet.control_ca().await?)?;
        let (outbound, inbound, admin) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        let file = |name: &str| folder.join(name).display().to_string();
        let mut arguments = vec![
            format!("--outbound={}={}", outbound.address(), options.destination),
            format!("--admin={}", admin.address()),
            format!("--config={}", file("config.yaml")),
            format!("--control-ca={}", file("ca.crt")),
            format!("--token-file={}", file("token")),
        ];
        if !options.upstream.is_empty() {
            arguments.push(format!("--upstream={}", options.upstream));
        }
        let control = if options.control.is_empty() { fleet.control_urls() } else { options.control.clone() };
        arguments.extend(control.iter().map(|url| format!("--control={url}")));
        arguments.extend(options.application.iter().map(|app| format!("--inbound={}={app}", inbound.address())));
        let program = options.program.clone();
        let process = spawn(program.as_deref(), &arguments)?;
        let [outbound_client, inbound_client, admin_client] =
            [&outbound, &inbound, &admin].map(|port| Client::new(port.address()));
        let mut sidecar = Self {
            process,
            pod,
            program,
            arguments,
            folder,
            outbound,
            inbound,
            admin,
            outbound_client,
            inbound_client,
            admin_client,
        };
        sidecar.ready().await?;
        Ok(sidecar)
    }

    /// Starts the proxy again, with the same flags and files, after its process ended.
    ///
    /// # Errors
    /// When it isn't ready in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = spawn(self.program.as_deref(), &self.arguments)?;
        self.ready().await
    }

    /// Does what a kubelet does: brings the workload's ConfigMap into the mounted file, once it holds `policy`.
    ///
    /// # Errors
    /// When there is no such ConfigMap in time.
    pub async fn mount_config(&self, fleet: &Fleet, policy: &str) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(fleet.client.clone(), self.pod.namespace());
        let config = eventually(PATIENCE, "the workload's ConfigMap holds the policy", async || {
            let list = maps.list(&ListParams::default().labels("app.kubernetes.io/managed-by=fusebox")).await?;
            let names: Vec<String> = list.items.iter().map(ResourceExt::name_any).collect();
            let found = list
                .items
                .into_iter()
                .filter_map(|map| map.data?.remove("config.yaml"))
                .find(|text| text.contains(policy));
            found.with_context(|| format!("none of {names:?} holds {policy}"))
        })
        .await?;
        Ok(std::fs::write(self.folder.join("config.yaml"), config)?)
    }

    /// Does what a kubelet does: brings the operator's authorities into the mounted file, whole.
    ///
    /// # Errors
    /// When they can't be had or written.
    pub async fn mount_authorities(&self, fleet: &Fleet) -> Result<()> {
        let (file, next) = (self.folder.join("ca.crt"), self.folder.join("ca.crt.next"));
        std::fs::write(&next, fleet.control_ca().await?)?;
        Ok(std::fs::rename(next, file)?)
    }

    /// The outbound listener.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.outbound.address()
    }

    /// The inbound listener.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        self.inbound.address()
    }

    /// A GET through the outbound listener, over a kept connection.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub async fn get(&self, path: &str) -> Result<Response> {
        self.outbound_client.get(path).await
    }

    /// A GET through the inbound listener.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub async fn get_inbound(&self, path: &str) -> Result<Response> {
        self.inbound_client.get(path).await
    }

    /// A GET with these headers through the inbound listener.
    ///
    /// # Errors
    /// When there is no HTTP answer.
    pub async fn get_inbound_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        self.inbound_client.get_with(path, headers).await
    }

    /// What `/state` of the admin port says.
    ///
    /// # Errors
    /// When it doesn't answer with JSON.
    pub async fn state(&self) -> Result<Value> {
        self.admin_client.get("/state").await?.json().context("/state is no JSON")
    }

    /// Waits until the proxy enforces a policy of that name.
    ///
    /// # Errors
    /// When it doesn't in time.
    pub async fn enforces(&self, policy: &str) -> Result<()> {
        eventually(PATIENCE, &format!("the proxy of {} enforces {policy}", self.pod.name()), async || {
            let state = self.state().await?;
            anyhow::ensure!(state.to_string().contains(&format!("\"{policy}\"")), "it has {state}");
            Ok(())
        })
        .await
    }

    async fn ready(&mut self) -> Result<()> {
        self.process.wait_for_http(self.admin.address(), "/health/ready", PATIENCE).await
    }
}

fn spawn(program: Option<&Path>, arguments: &[String]) -> Result<Process> {
    let builder = match program {
        None => ProcessBuilder::binary("fusebox-proxy")?,
        Some(path) => ProcessBuilder::program("fusebox-proxy", path),
    };
    builder.args(arguments).start().context("cannot start a proxy")
}
