//! What the tests share: a shop whose server has a sidecar, policies for it, and a sidecar's end of the stream that answers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use fusebox_api::RateLimit;
use fusebox_policy::config::{LimitKey, ProxyConfig};
use fusebox_policy::report::{BlockedClient, BrokenReference, LimitReport, ProxyReport, RecentDecisions};
use fusebox_policy::stream::{Answer, Command, Down, LiveReplicas, ReferenceValue, Search, Searched, TopKey, Up};
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::services::ServiceBuilder;
use fusebox_testkit::{Cluster, Workload, eventually};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::SOON;
use crate::cluster_tests::Stream;

/// The digest of `alice`.
pub(super) const ALICE: &str = "2bd806c97f0e00af";

/// A namespace with the Service `payments` and one pod behind it that has a sidecar.
pub(super) async fn shop(cluster: &Cluster) -> Result<(Client, String, TestPod)> {
    let (client, namespace) = (cluster.client().await?, cluster.unique_namespace("shop").await?);
    ServiceBuilder::cluster_ip(&namespace, "payments").create(&client).await?;
    let pod = server(&client, &namespace).await?;
    Ok((client, namespace, pod))
}

/// One more pod behind `payments` that has a sidecar.
pub(super) async fn server(client: &Client, namespace: &str) -> Result<TestPod> {
    let workload = Workload::Deployment("payments".to_owned());
    PodBuilder::of(namespace, workload).label("app", "payments").with_sidecar().create(client).await
}

/// Applies a RateLimit for `payments`; `limit` is the rest of its one limit, as YAML flow fields.
pub(super) async fn apply(cluster: &Cluster, namespace: &str, limit: &str) -> Result<()> {
    let yaml = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {{namespace: {namespace}, name: limits}}, \
         spec: {{targetRefs: [{{name: payments}}], limits: [{{name: per-key, rate: {{requests: 60, per: 1m}}{limit}}}]}}}}"
    );
    cluster.apply(&yaml).await.map(drop)
}

/// Waits until a condition of the policy has this status and reason, and returns its message.
pub(super) async fn condition(client: &Client, namespace: &str, expected: (&str, &str, &str)) -> Result<String> {
    let api: Api<RateLimit> = Api::namespaced(client.clone(), namespace);
    let (kind, status, reason) = expected;
    // A refused Secret is looked at again after half a minute.
    eventually(SOON * 2, &format!("the policy is {kind}={status}, {reason}"), async || {
        let found = api.get("limits").await?.status.context("no status")?;
        let condition = found.conditions.iter().find(|it| it.type_ == kind).context("no such condition")?;
        ensure!((condition.status.as_str(), condition.reason.as_str()) == (status, reason), "{found:?}");
        Ok(condition.message.clone())
    })
    .await
}

/// A sidecar's end of the stream, which acknowledges every configuration and answers every command.
pub(super) struct Sidecar {
    pub(super) seen: Arc<Mutex<Seen>>,
    say: mpsc::Sender<Up>,
    task: JoinHandle<()>,
}

/// What it was sent.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) config: Option<ProxyConfig>,
    pub(super) values: Vec<ReferenceValue>,
    pub(super) replicas: Vec<LiveReplicas>,
    pub(super) unblocked: Vec<String>,
    /// What it says of its searches in the store; one of an older version where there is nothing.
    pub(super) searched: Option<Searched>,
    pub(super) searches: usize,
}

impl Sidecar {
    pub(super) async fn connect(address: SocketAddr, authority: &str, pod: &TestPod) -> Result<Self> {
        let mut stream = eventually(SOON, "the operator takes the stream", async || {
            Stream::to(address, authority, &pod.control_token().await?).await
        })
        .await?;
        stream.send(&Up::Hello { version: "9.9.9".into(), revision: None, policies: vec![] }).await?;
        let (seen, (say, said)) = (Arc::default(), mpsc::channel(8));
        let task = tokio::spawn(speak(stream, Arc::clone(&seen), said));
        Ok(Self { seen, say, task })
    }

    /// The keys of its limits, once it has some.
    pub(super) async fn limits(&self) -> Result<Vec<LimitKey>> {
        eventually(SOON, "the sidecar has limits", async || {
            let seen = self.seen.lock();
            let keys = keys(seen.config.as_ref().context("no configuration")?);
            ensure!(!keys.is_empty(), "{:?}", seen.config);
            Ok(keys)
        })
        .await
    }

    /// Waits until the one value that it was sent last is this.
    pub(super) async fn has_value(&self, expected: &str) -> Result<()> {
        eventually(SOON * 2, &format!("the sidecar has value {expected:?}"), async || {
            let values: Vec<String> = self.seen.lock().values.iter().map(|it| it.value.clone()).collect();
            ensure!(values == [expected], "{values:?}");
            Ok(())
        })
        .await
    }

    /// Reports that each of its limits blocks `alice`.
    pub(super) async fn report(&self, broken_references: Vec<BrokenReference>) -> Result<()> {
        let limits = self.limits().await?.into_iter().map(blocking).collect();
        let report = ProxyReport { full: true, limits, broken_references, ..ProxyReport::default() };
        Ok(self.say.send(Up::Report(report)).await?)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(mut stream: Stream, seen: Arc<Mutex<Seen>>, mut said: mpsc::Receiver<Up>) {
    loop {
        let answer = tokio::select! {
            line = stream.line() => match line {
                Ok(line) => heard(&seen, line),
                Err(_) => return,
            },
            Some(up) = said.recv() => Some(up),
        };
        if let Some(answer) = answer
            && stream.send(&answer).await.is_err()
        {
            return;
        }
    }
}

/// Takes a line, and says what is to be answered.
fn heard(seen: &Mutex<Seen>, line: Down) -> Option<Up> {
    let mut seen = seen.lock();
    match line {
        Down::Config { revision, config } => {
            let policies = config.policies.clone();
            seen.config = Some(config);
            Some(Up::Ack { revision, policies })
        }
        Down::References { values } => {
            seen.values = values;
            None
        }
        Down::Replicas { policies } => {
            seen.replicas = policies;
            None
        }
        Down::Command { id, command } => {
            let keys = seen.config.as_ref().map(keys).unwrap_or_default();
            let answer = match command {
                Command::TopKeys { .. } => Answer::TopKeys { keys: keys.into_iter().map(top).collect() },
                Command::Unblock { search: Search::Store, .. } => {
                    seen.searches += 1;
                    Answer::Unblocked { buckets: 1, searched: seen.searched.clone() }
                }
                Command::Unblock { key_digest, search: Search::Watched, .. } => {
                    seen.unblocked.push(key_digest);
                    Answer::Unblocked { buckets: 1, searched: None }
                }
                Command::Unknown => Answer::Failed { problem: "unknown".into() },
            };
            Some(Up::Answer { id, answer })
        }
        Down::Ping => Some(Up::Pong),
        Down::Endpoints { .. } | Down::Unknown => None,
    }
}

fn keys(config: &ProxyConfig) -> Vec<LimitKey> {
    let limits = config.inbound.iter().filter_map(|route| Some((route.port, route.rate_limit.as_ref()?)));
    let keys = limits.flat_map(|(port, it)| {
        let rules = it.limits.iter().flat_map(|limit| limit.rules.iter().map(move |rule| (limit, rule)));
        rules.map(move |part| it.key(port, part))
    });
    keys.collect()
}

fn blocking(key: LimitKey) -> LimitReport {
    let now = jiff::Timestamp::now().as_millisecond();
    let alice = BlockedClient { key: ALICE.into(), since_unix_ms: now, until_unix_ms: now + 3_600_000, refused: 7 };
    LimitReport {
        key,
        mode: fusebox_policy::config::Mode::Enforce,
        allowed: 93,
        limited: 7,
        delayed: 0,
        recent: Some(RecentDecisions { allowed: 93, limited: 7 }),
        last_limited_unix_ms: Some(now),
        tracked_keys: 4,
        blocked_clients: 1,
        top_blocked: vec![alice],
        store_lost_since_unix_ms: None,
        store_error: String::new(),
    }
}

fn top(limit: LimitKey) -> TopKey {
    TopKey {
        limit,
        key: ALICE.into(),
        digest: ALICE.into(),
        refused: 7,
        remaining: 0,
        blocked_until_unix_ms: Some(jiff::Timestamp::now().as_millisecond() + 3_600_000),
    }
}

/// What `kubectl get` prints of the policy, by column.
pub(super) async fn columns(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, String)>> {
    let printed = cluster.kubectl_ok(&["get", "rl", "limits", "-n", namespace]).await?;
    let mut lines = printed.lines().map(|line| line.split_whitespace().map(str::to_owned));
    let (names, cells) = (lines.next().context("no heading")?, lines.next().context("no row")?);
    Ok(names.zip(cells).collect())
}

/// The keys that an answer of the operations API shows, each with its pod.
pub(super) fn shown_keys(state: &Value) -> Vec<(String, String)> {
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut keys = Vec::new();
    for pod in all(&state["pods"]) {
        for limit in all(&pod["limits"]) {
            for key in all(&limit["keys"]) {
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                keys.push((word(&pod["name"]), word(&key["digest"])));
            }
        }
    }
    keys
}
