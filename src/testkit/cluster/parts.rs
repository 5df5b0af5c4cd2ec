//! How each program of the control plane is called.
//!
//! Owns the flags, the certificates the programs need, and waiting until each is ready. It must not keep the processes.
//! etcd listens on sockets in the cluster's folder, so that the API server's port is the only one a cluster needs.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};
use kube::Client;

use super::folder::{ClusterFolder, Lifetime};
use super::{ClusterOptions, Controllers, REQUEST_TIMEOUT, START_DEADLINE};
use crate::audit;
use crate::binaries::ControlPlane;
use crate::certificates::{Authority, service_account_keys};
use crate::child::KeptChild;
use crate::eventually::eventually;
use crate::kubeconfig::{self, Credential};
use crate::ports::Port;

/// Names relative to the cluster's folder, in the host:port form etcd insists on: the file is called `client:1`.
const ETCD_CLIENT: &str = "unix://client:1";
const ETCD_PEER: &str = "unix://peer:1";
const ETCD_CLIENT_SOCKET: &str = "client:1";

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const SERVER_NAMES: [&str; 5] =
    ["localhost", "10.96.0.1", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

/// Controllers that create and delete Pods of workloads.
const WORKLOAD_CONTROLLERS: [&str; 7] = [
    "deployment-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "statefulset-controller",
    "daemonset-controller",
    "job-controller",
    "cronjob-controller",
];

/// The one client whose word about a user's identity extension servers and the API server itself take.
const FRONT_PROXY: &str = "front-proxy-client";

/// Where the API server listens.
pub(crate) enum Listen {
    /// On loopback: for tests that need no pods.
    Loopback(Port),
    /// On an address of this machine that pods reach too.
    Address(SocketAddr),
}

impl Listen {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Loopback(port) => port.address(),
            Self::Address(address) => *address,
        }
    }
}

/// Everything the programs are started from.
pub(crate) struct Parts {
    pub(crate) plane: ControlPlane,
    pub(crate) options: ClusterOptions,
    pub(crate) authority: Authority,
    pub(crate) folder: ClusterFolder,
    listen: Listen,
}

impl Parts {
    /// Writes certificates, keys, the audit policy and the administrator's kubeconfig.
    pub(crate) fn prepare(
        folder: ClusterFolder,
        plane: ControlPlane,
        options: ClusterOptions,
        listen: Listen,
    ) -> Result<Self> {
        let authority = Authority::new("fusebox-test-cluster")?;
        let parts = Self { plane, options, authority, folder, listen };
        let address = parts.listen.address().ip().to_string();
        let mut names = vec![address.as_str()];
        names.extend(SERVER_NAMES);
        let server = parts.authority.server(&names)?;
        let (token_key, token_public_key) = service_account_keys()?;
        parts.folder.write("certificates/authority.crt", &parts.authority.certificate())?;
        parts.folder.write("certificates/server.crt", &server.certificate)?;
        parts.folder.write("certificates/server.key", &server.key)?;
        parts.folder.write("certificates/tokens.key", &token_key)?;
        parts.folder.write("certificates/tokens.pub", &token_public_key)?;
        parts.folder.write("audit-policy.json", &audit::policy(parts.options.audit).to_string())?;
        parts.write_front_proxy()?;
        let admin = parts.authority.client("fusebox-test-admin", Some("system:masters"))?;
        let path = parts.folder.admin_kubeconfig();
        kubeconfig::write(&path, &parts.url(), &parts.authority.certificate(), &Credential::Certificate(&admin))?;
        Ok(parts)
    }

    /// API aggregation: the API server shows extension servers this certificate, of an authority that signs nothing else.
    fn write_front_proxy(&self) -> Result<()> {
        let authority = Authority::new("fusebox-test-front-proxy")?;
        let client = authority.client(FRONT_PROXY, None)?;
        self.folder.write("certificates/front-proxy-authority.crt", &authority.certificate())?;
        self.folder.write("certificates/front-proxy.crt", &client.certificate)?;
        self.folder.write("certificates/front-proxy.key", &client.key)?;
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.listen.address())
    }

    pub(crate) fn write_kubeconfig(&self, name: &str, credential: &Credential<'_>) -> Result<PathBuf> {
        let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = self.folder.file(&format!("kubeconfigs/{file}"));
        kubeconfig::write(&path, &self.url(), &self.authority.certificate(), credential)?;
        Ok(path)
    }

    /// kubectl with full rights, its caches in the cluster's folder and its three streams piped.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.plane.kubectl);
        command
            .env("KUBECONFIG", self.folder.admin_kubeconfig())
            .env("KUBECACHEDIR", self.folder.file("kubectl-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) async fn start_etcd(&self) -> Result<KeptChild> {
        let peers = format!("test={ETCD_PEER}");
        let arguments = [
            "--name=test",
            "--data-dir=etcd",
            &format!("--listen-client-urls={ETCD_CLIENT}"),
            &format!("--advertise-client-urls={ETCD_CLIENT}"),
            &format!("--listen-peer-urls={ETCD_PEER}"),
            &format!("--initial-advertise-peer-urls={ETCD_PEER}"),
            &format!("--initial-cluster={peers}"),
            // A test's data need not survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ];
        let mut etcd = self.start("etcd", &self.plane.etcd, &arguments.map(str::to_owned))?;
        let socket = self.folder.file(ETCD_CLIENT_SOCKET);
        self.ready("etcd", &mut etcd, async || {
            tokio::net::UnixStream::connect(&socket).await.context("etcd does not listen yet")?;
            Ok(())
        })
        .await?;
        Ok(etcd)
    }

    pub(crate) async fn start_api_server(&self) -> Result<KeptChild> {
        let mut api_server = self.start("kube-apiserver", &self.plane.kube_apiserver, &self.api_server_flags())?;
        let mut config = kubeconfig::read(&self.folder.admin_kubeconfig()).await?;
        config.connect_timeout = Some(REQUEST_TIMEOUT);
        config.read_timeout = Some(REQUEST_TIMEOUT);
        let client = Client::try_from(config)?;
        self.ready("kube-apiserver", &mut api_server, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await.context("/readyz fails")?;
            Ok(())
        })
        .await?;
        Ok(api_server)
    }

    pub(crate) fn start_controller_manager(&self) -> Result<KeptChild> {
        let disabled = match self.options.controllers {
            Controllers::WithoutWorkloads => WORKLOAD_CONTROLLERS.map(|name| format!(",-{name}")).concat(),
            Controllers::None | Controllers::All | Controllers::AllWithNodes => String::new(),
        };
        let nodes = match self.options.controllers {
            Controllers::AllWithNodes => "",
            // No kubelet renews a node's lease, so this one would take every Pod for lost after a minute.
            Controllers::None | Controllers::WithoutWorkloads | Controllers::All => ",-node-lifecycle-controller",
        };
        let arguments = [
            "--kubeconfig=kubeconfig".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            format!("--controllers=*{nodes}{disabled}"),
            "--service-account-private-key-file=certificates/tokens.key".to_owned(),
            "--root-ca-file=certificates/authority.crt".to_owned(),
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ];
        self.start("kube-controller-manager", &self.plane.kube_controller_manager, &arguments)
    }

    fn api_server_flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = [
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--cert-dir=certificates",
            "--client-ca-file=certificates/authority.crt",
            "--tls-cert-file=certificates/server.crt",
            "--tls-private-key-file=certificates/server.key",
            "--service-account-key-file=certificates/tokens.pub",
            "--service-account-signing-key-file=certificates/tokens.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--requestheader-client-ca-file=certificates/front-proxy-authority.crt",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--proxy-client-cert-file=certificates/front-proxy.crt",
            "--proxy-client-key-file=certificates/front-proxy.key",
            // Webhooks and extension servers behind a Service are reached at its endpoints, also where no kube-proxy runs.
            "--enable-aggregator-routing=true",
            "--audit-policy-file=audit-policy.json",
            "--audit-log-path=logs/audit.log",
            // Megabytes; a rotated log would lose events that a test counts.
            "--audit-log-maxsize=100000",
        ]
        .map(str::to_owned)
        .to_vec();
        flags.push(format!("--etcd-servers={ETCD_CLIENT}"));
        flags.push(format!("--requestheader-allowed-names={FRONT_PROXY}"));
        flags.push(format!("--bind-address={}", self.listen.address().ip()));
        flags.push(format!("--secure-port={}", self.listen.address().port()));
        flags.push(format!("--service-account-issuer={ISSUER}"));
        flags.push(format!("--service-account-jwks-uri={}/openid/v1/jwks", self.url()));
        flags.extend(self.options.api_server_flags.iter().cloned());
        flags
    }

    /// Starts a program in the cluster's folder, with its output in a log there.
    pub(crate) fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<KeptChild> {
        let path = self.folder.log(name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot create {}", path.display()))?;
        let mut command = match self.folder.lifetime() {
            Lifetime::Handle => crate::lifeline::command(program),
            Lifetime::Standing => Command::new(program),
        };
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log);
        let started = match self.folder.lifetime() {
            Lifetime::Handle => KeptChild::spawn(command),
            Lifetime::Standing => KeptChild::spawn_standing(command, &self.folder.file("processes")),
        };
        started.with_context(|| format!("cannot start {}", program.display()))
    }

    /// Waits for `condition`; fails at once, with the end of the log, when the program has ended.
    pub(crate) async fn ready(
        &self,
        name: &str,
        child: &mut KeptChild,
        mut condition: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let waited = eventually(START_DEADLINE, &format!("{name} is ready"), async || match child.exited()? {
            Some(status) => Ok(Err(anyhow!("it ended with {status}"))),
            None => condition().await.map(Ok),
        })
        .await;
        waited.flatten().with_context(|| self.folder.log_end(name))
    }
}
