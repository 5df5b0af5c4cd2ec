//! The players of most tests: nginx behind a Service, curl in a loop that calls it by its name, and a policy between them.
//!
//! Owns their manifests, which fit Pod Security `restricted`, and how their logs are read. It must not know Fusebox beyond
//! the policy and the header of a refusal: the programs are what anybody would run.

use anyhow::{Context as _, Result, bail, ensure};
use fusebox_testkit::eventually;
use fusebox_testkit::images::DEBIAN_IMAGE;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::{PATIENCE, Stage};

/// Whose existence makes a server answer 503.
const FAIL: &str = "/tmp/fail";
/// What a container may do in a namespace that enforces `restricted`.
pub const RESTRICTED: &str = "{runAsUser: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false, \
     capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";
/// How many of a client's last answers say how it fares now.
const LAST: usize = 5;

/// One line of a client's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, or 0 where there was no answer.
    pub status: u16,
    /// The sidecar's own reason, or curl's, or nothing.
    pub reason: String,
}

impl Answer {
    fn parse(line: &str) -> Option<Self> {
        let (status, reason) = line.split_once(' ').unwrap_or((line, ""));
        Some(Self { status: status.parse().ok()?, reason: reason.trim().to_owned() })
    }
}

impl Stage {
    /// The scene of most tests: `payments`, its policy of the same name with these fields, and `web`, which calls it.
    ///
    /// # Errors
    /// As [`Stage::called`].
    pub async fn payments(&self, (servers, clients): (u32, u32), policy: &str) -> Result<()> {
        self.server("payments", servers).await?;
        self.protect("payments", policy).await?;
        self.called(clients).await
    }

    /// `web` calls the `payments` that there is; returns once its policy is enforced and every client is answered.
    ///
    /// # Errors
    /// When an object is refused, or it is not so within [`PATIENCE`].
    pub async fn called(&self, clients: u32) -> Result<()> {
        self.rolled_out("payments").await?;
        self.client("web", (clients, "http://payments")).await?;
        self.rolled_out("web").await?;
        self.enforced("payments").await?;
        self.hears("web", (200, "")).await
    }

    /// Deployment and Service `name`, port 80 to nginx's 8080, which answers 200 with the pod's name.
    ///
    /// # Errors
    /// When an object is refused.
    pub async fn server(&self, name: &str, replicas: u32) -> Result<()> {
        let manifest = include_str!("server.yaml")
            .replace("{name}", name)
            .replace("{replicas}", &replicas.to_string())
            .replace("{image}", DEBIAN_IMAGE)
            .replace("{restricted}", RESTRICTED);
        self.apply(&manifest).await
    }

    /// Deployment `name`: curl calls `url` ten times a second and logs each answer.
    ///
    /// # Errors
    /// When an object is refused.
    pub async fn client(&self, name: &str, (replicas, url): (u32, &str)) -> Result<()> {
        let manifest = include_str!("client.yaml")
            .replace("{name}", name)
            .replace("{replicas}", &replicas.to_string())
            .replace("{url}", url)
            .replace("{image}", DEBIAN_IMAGE)
            .replace("{restricted}", RESTRICTED);
        self.apply(&manifest).await
    }

    /// A policy of the same name as the Service it is for; `spec` is the rest of its spec, as YAML flow fields.
    ///
    /// # Errors
    /// When the policy is refused.
    pub async fn protect(&self, service: &str, spec: &str) -> Result<()> {
        self.apply(&format!(
            "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: {service}}}, \
             spec: {{targetRefs: [{{kind: Service, name: {service}}}], {spec}}}}}"
        ))
        .await
    }

    /// Lets a server's pod fail from now on.
    ///
    /// # Errors
    /// When the pod can't be reached.
    pub async fn break_pod(&self, pod: &str) -> Result<()> {
        self.exec(pod, "nginx", &["touch", FAIL]).await.map(drop)
    }

    /// Lets a server's pod work again.
    ///
    /// # Errors
    /// When the pod can't be reached, or worked.
    pub async fn mend_pod(&self, pod: &str) -> Result<()> {
        self.exec(pod, "nginx", &["rm", FAIL]).await.map(drop)
    }

    /// All answers that a client's pod has logged.
    ///
    /// # Errors
    /// When there is no log.
    pub async fn answers(&self, pod: &str) -> Result<Vec<Answer>> {
        let text = self.log(pod, "curl").await?;
        Ok(text.lines().filter_map(Answer::parse).collect())
    }

    /// How often a server's pod was called, probes left out.
    ///
    /// # Errors
    /// When there is no log.
    pub async fn calls(&self, pod: &str) -> Result<usize> {
        Ok(self.log(pod, "nginx").await?.lines().filter(|line| line.starts_with("call ")).count())
    }

    /// A container's log.
    ///
    /// # Errors
    /// When there is none.
    pub async fn log(&self, pod: &str, container: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let wanted = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        pods.logs(pod, &wanted).await.with_context(|| format!("no log of {pod}/{container}"))
    }

    /// Waits until the last answers of each of a client's pods have this status and reason.
    ///
    /// # Errors
    /// When they don't within [`PATIENCE`](super::PATIENCE); the message says what was last heard.
    pub async fn hears(&self, client: &str, (status, reason): (u16, &str)) -> Result<()> {
        let pods = self.pod_names(client).await?;
        ensure!(!pods.is_empty(), "{client} has no pods");
        for pod in pods {
            eventually(PATIENCE, &format!("{pod} hears {status} {reason:?}"), async || {
                let answers = self.answers(&pod).await?;
                let last = &answers[answers.len().saturating_sub(LAST)..];
                let wanted = Answer { status, reason: reason.to_owned() };
                ensure!(last.len() == LAST && last.iter().all(|answer| *answer == wanted), "{last:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Fails if one of a client's answers, from the `first` on, is not 200; says how many there were.
    ///
    /// # Errors
    /// With the number of the others, and the first of them.
    pub async fn all_well(&self, pod: &str, first: usize) -> Result<usize> {
        let answers = self.answers(pod).await?;
        let since = answers.get(first..).unwrap_or_default();
        let bad: Vec<&Answer> = since.iter().filter(|answer| answer.status != 200).collect();
        match bad.first() {
            None => Ok(since.len()),
            Some(one) => bail!("{pod}: {} of {} answers were no 200, the first: {one:?}", bad.len(), since.len()),
        }
    }

    /// Waits until a client's pod has logged so many more answers than `before`.
    ///
    /// # Errors
    /// When it has not within [`PATIENCE`](super::PATIENCE).
    pub async fn goes_on(&self, pod: &str, (before, more): (usize, usize)) -> Result<()> {
        eventually(PATIENCE, &format!("{pod} hears {more} more answers"), async || {
            let heard = self.answers(pod).await?.len();
            ensure!(heard >= before + more, "{} so far", heard.saturating_sub(before));
            Ok(())
        })
        .await
    }
}
