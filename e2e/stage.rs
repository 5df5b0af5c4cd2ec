//! A namespace for one test on real pods, and what every test says to the cluster.
//!
//! Owns the namespace's life: it is made for the test, told about when the test fails, and removed unless it is to be kept.
//! It must not know what runs in it. With FUSEBOX_E2E_KEEP=1 the namespace stays, for a look by hand.

mod players;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use fusebox_api::CircuitBreakerPolicy;
use fusebox_testkit::{ControlPlane, eventually};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::io::AsyncWriteExt as _;

pub use players::{Answer, RESTRICTED};

/// How long anything may take before a test gives up: far more than it should, for machines are noisy.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The namespace that the chart is installed into.
pub const SYSTEM_NAMESPACE: &str = "fusebox-system";
const KEEP: &str = "FUSEBOX_E2E_KEEP";

/// How traffic reaches the sidecars of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecars {
    /// The namespace does not ask for any.
    None,
    /// Redirected.
    Transparent,
    /// By names and aliases: the namespace enforces Pod Security `restricted`, so that it is chosen by itself.
    Explicit,
}

impl Sidecars {
    fn labels(self) -> &'static str {
        match self {
            Self::None => "{}",
            Self::Transparent => "{fusebox.dev/inject: enabled}",
            Self::Explicit => "{fusebox.dev/inject: enabled, pod-security.kubernetes.io/enforce: restricted}",
        }
    }
}

/// A namespace of its own.
pub struct Stage {
    /// The namespace's name.
    pub namespace: String,
    /// A client with the rights of KUBECONFIG.
    pub client: Client,
    kubectl: PathBuf,
}

/// Runs a test in a namespace of its own, tells what is in it if the test fails, and removes it.
///
/// # Errors
/// When the test fails, or the cluster does not take the namespace.
pub async fn on_stage(name: &str, sidecars: Sidecars, test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    let stage = Stage::open(name, sidecars).await?;
    let outcome = AssertUnwindSafe(test(&stage)).catch_unwind().await.unwrap_or_else(|_| Err(anyhow!("it panicked")));
    if outcome.is_err() {
        println!("{}", stage.dump().await);
    }
    if std::env::var_os(KEEP).is_some() {
        println!("{KEEP}: namespace {} stays", stage.namespace);
    } else {
        stage.kubectl(&["delete", "namespace", &stage.namespace, "--wait=false"]).await?;
    }
    outcome
}

impl Stage {
    async fn open(name: &str, sidecars: Sidecars) -> Result<Self> {
        ensure!(std::env::var_os("KUBECONFIG").is_some(), "KUBECONFIG names no cluster: `make e2e` brings one");
        let plane = tokio::task::spawn_blocking(ControlPlane::find_or_build).await.context("the build panicked")??;
        let client = Client::try_default().await.context("KUBECONFIG is not usable")?;
        let namespace = format!("{name}-{:06x}", jiff::Timestamp::now().as_millisecond() & 0xff_ffff);
        let stage = Self { namespace, client, kubectl: plane.kubectl };
        let object = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}, labels: {}}}}}",
            stage.namespace,
            sidecars.labels()
        );
        stage.apply(&object).await?;
        Ok(stage)
    }

    /// Runs kubectl, in the test's namespace unless the arguments name another, and returns its standard output.
    ///
    /// # Errors
    /// When kubectl fails, with its standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "").await
    }

    /// `kubectl apply` of YAML text.
    ///
    /// # Errors
    /// When an object is refused, with kubectl's standard error.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with_input(&["apply", "--filename", "-"], yaml).await.map(drop)
    }

    /// A command in a container, and its standard output.
    ///
    /// # Errors
    /// When the command fails, with its standard error.
    pub async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["exec", pod, "--container", container, "--"];
        arguments.extend(command);
        self.kubectl(&arguments).await
    }

    /// The pods of a Deployment or Job that are not on their way out.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn pods(&self, app: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut found = pods.list(&ListParams::default().labels(&format!("app={app}"))).await?.items;
        found.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(found)
    }

    /// The names of [`Stage::pods`].
    ///
    /// # Errors
    /// As [`Stage::pods`].
    pub async fn pod_names(&self, app: &str) -> Result<Vec<String>> {
        Ok(self.pods(app).await?.into_iter().filter_map(|pod| pod.metadata.name).collect())
    }

    /// Waits until a Deployment is wholly rolled out.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub async fn rolled_out(&self, deployment: &str) -> Result<()> {
        let target = format!("deployment/{deployment}");
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", &target, &limit]).await.map(drop)
    }

    /// A policy as the API server has it.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn policy(&self, name: &str) -> Result<CircuitBreakerPolicy> {
        Ok(Api::namespaced(self.client.clone(), &self.namespace).get(name).await?)
    }

    /// Waits until a policy's status has this state and these open ones, such as `2/2`.
    ///
    /// # Errors
    /// When it doesn't within [`PATIENCE`]; the message says what was last seen.
    pub async fn shows(&self, policy: &str, (state, open): (&str, &str)) -> Result<()> {
        eventually(PATIENCE, &format!("cb/{policy} shows {state}, {open}"), async || {
            let status = self.policy(policy).await?.status.context("no status yet")?;
            let seen = status.state.map(|state| format!("{state:?}")).unwrap_or_default();
            let summary = status.summary.unwrap_or_default();
            ensure!(seen == state && summary.open == open, "it shows {seen}, {}", summary.open);
            Ok(())
        })
        .await
    }

    /// Waits until a policy is enforced by all pods it applies to.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`]; the message says why.
    pub async fn enforced(&self, policy: &str) -> Result<()> {
        eventually(PATIENCE, &format!("cb/{policy} is Ready"), async || {
            let conditions = self.policy(policy).await?.status.map(|status| status.conditions).unwrap_or_default();
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready").context("no condition Ready")?;
            ensure!(ready.status == "True", "{}: {}", ready.reason, ready.message);
            Ok(())
        })
        .await
    }

    async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.kubectl);
        if !arguments.contains(&"--namespace") {
            command.args(["--namespace", &self.namespace]);
        }
        let streams = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.kill_on_drop(true).spawn().context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // kubectl may end without reading; what it says then is in the output.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        let output = child.wait_with_output().await.context("cannot wait for kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All that helps to see why a test failed.
    async fn dump(&self) -> String {
        let looks: [&[&str]; 6] = [
            &["get", "pods,services,endpointslices,circuitbreakerpolicies", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods"],
            &["get", "circuitbreakerpolicies", "--output=yaml"],
            &["get", "pods", "--namespace", SYSTEM_NAMESPACE, "--output=wide"],
            &[
                "logs",
                "--namespace",
                SYSTEM_NAMESPACE,
                "--selector=app.kubernetes.io/name=fusebox-operator",
                "--prefix",
                "--tail=60",
            ],
        ];
        let mut text = String::new();
        for look in looks {
            text += &self.told(look).await;
        }
        let names = self.kubectl(&["get", "pods", "--output=jsonpath={.items[*].metadata.name}"]).await;
        for name in names.unwrap_or_default().split_whitespace() {
            text += &self.told(&["logs", name, "--all-containers", "--prefix", "--tail=40"]).await;
        }
        text
    }

    async fn told(&self, look: &[&str]) -> String {
        let answer = self.kubectl(look).await.unwrap_or_else(|error| format!("{error:#}"));
        format!("--- kubectl {}\n{answer}\n", look.join(" "))
    }
}
