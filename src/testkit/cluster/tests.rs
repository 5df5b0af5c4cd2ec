//! What a cluster promises to tests, tried on real ones.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, PostParams};

use super::standing::{StandingCluster, Status};
use super::*;
use crate::identity::{self, Identity};
use crate::pods::{CONTROL_AUDIENCE, PodBuilder};
use crate::process::ProcessBuilder;
use crate::services::ServiceBuilder;
use crate::workloads::Workload;

const DEADLINE: Duration = Duration::from_secs(20);

/// Set in the process that [`a_killed_owner_leaves_nothing`] starts and kills.
const OWNER_ROLE: &str = "FUSEBOX_TESTKIT_OWNER";

fn bare_options() -> ClusterOptions {
    ClusterOptions { controllers: Controllers::None, ..ClusterOptions::default() }
}

async fn write(client: &Client, name: &str) -> Result<()> {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    Api::namespaced(client.clone(), "default").create(&PostParams::default(), &map).await?;
    Ok(())
}

fn pids(cluster: &Cluster) -> Result<Vec<Identity>> {
    let folder = cluster.folder().to_string_lossy().into_owned();
    let all = identity::recorded(&crate::lifeline::records()?);
    let of_cluster = |process: &Identity| {
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid()));
        cwd.is_ok_and(|cwd| cwd.to_string_lossy() == folder)
    };
    Ok(all.into_iter().filter(of_cluster).collect())
}

async fn review(client: &Client, token: &str, audience: &str) -> Result<TokenReview> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    Ok(Api::all(client.clone()).create(&PostParams::default(), &review).await?)
}

fn expect(holds: bool, seen: &'static str) -> Result<()> {
    ensure!(holds, seen);
    Ok(())
}

fn is_authenticated(review: &TokenReview) -> bool {
    review.status.as_ref().and_then(|status| status.authenticated).unwrap_or(false)
}

#[tokio::test]
async fn two_clusters_at_once_do_not_see_each_other() -> Result<()> {
    let started = Instant::now();
    let (one, two) = tokio::try_join!(Cluster::start_with(bare_options()), Cluster::start_with(bare_options()))?;
    println!("two clusters after {:?}", started.elapsed());
    assert_ne!(one.url(), two.url());
    write(&one.client().await?, "mine").await?;
    let theirs: Api<ConfigMap> = Api::namespaced(two.client().await?, "default");
    assert!(theirs.get_opt("mine").await?.is_none());
    // A client of one is a stranger to the other.
    let mut stranger = one.config().await?;
    stranger.cluster_url = two.url().parse()?;
    assert!(Client::try_from(stranger)?.apiserver_version().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_panicking_test_leaves_no_process_and_no_folder() -> Result<()> {
    let mut left = (Vec::new(), PathBuf::new());
    let test = async {
        let cluster = Cluster::start_with(bare_options()).await.unwrap();
        left = (pids(&cluster).unwrap(), cluster.folder().to_owned());
        cluster.pause_api_server().await.unwrap();
        panic!("the test fails");
    };
    assert!(AssertUnwindSafe(test).catch_unwind().await.is_err());
    let (processes, folder) = left;
    assert_eq!(processes.len(), 2, "etcd and the API server were running");
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_killed_owner_leaves_nothing() -> Result<()> {
    if std::env::var_os(OWNER_ROLE).is_some() {
        let cluster = Cluster::start_with(bare_options()).await?;
        let ids: Vec<String> = pids(&cluster)?.into_iter().map(Identity::to_name).collect();
        println!("\nowner holds {} {}", crate::scratch()?.display(), ids.join(" "));
        return std::future::pending().await;
    }
    let own = std::env::current_exe()?;
    let arguments = ["--exact", "--nocapture", "cluster::tests::a_killed_owner_leaves_nothing"];
    let mut owner = ProcessBuilder::program("owner", &own).args(arguments).env(OWNER_ROLE, "1").start()?;
    let line = owner.wait_for_line("owner holds ", Duration::from_secs(60)).await?;
    let mut words = line.split_whitespace().skip(2);
    let folder = PathBuf::from(words.next().context("the folder is named")?);
    let processes: Vec<Identity> = words.filter_map(Identity::parse).collect();
    assert!(processes.len() == 2 && processes.iter().all(|process| process.is_alive()) && folder.exists());
    owner.kill();
    eventually(DEADLINE, "processes and folder go with their owner", async || {
        ensure!(processes.iter().all(|process| !process.is_alive()), "processes live on");
        ensure!(!folder.exists(), "{} is left", folder.display());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_frozen_or_stopped_api_server_comes_back_with_its_data() -> Result<()> {
    let cluster = Cluster::start_with(bare_options()).await?;
    let client = cluster.client().await?;
    write(&client, "kept").await?;
    cluster.pause_api_server().await?;
    let frozen = tokio::time::timeout(Duration::from_millis(500), client.apiserver_version()).await;
    assert!(frozen.is_err(), "a frozen server does not answer");
    cluster.resume_api_server().await?;
    client.apiserver_version().await?;
    cluster.stop_api_server().await?;
    assert!(client.apiserver_version().await.is_err());
    cluster.start_api_server().await?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await?, "default");
    assert!(maps.get_opt("kept").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_token_is_bound_to_its_pod_and_audience() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.unique_namespace("tokens").await?;
    let pod = PodBuilder::bare(&namespace, "payments").with_sidecar().create(&client).await?;
    let token = pod.control_token().await?;
    let good = review(&client, &token, CONTROL_AUDIENCE).await?;
    assert!(is_authenticated(&good));
    let extra = good.status.and_then(|status| status.user).and_then(|user| user.extra).unwrap_or_default();
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], [pod.uid()]);
    assert!(!is_authenticated(&review(&client, &token, "another-audience").await?));
    assert!(pod.token(CONTROL_AUDIENCE, 10).await.is_err(), "shorter than the API server grants");
    pod.delete().await?;
    assert!(pod.control_token().await.is_err(), "no token for a deleted pod");
    Ok(())
}

#[tokio::test]
async fn ready_pods_get_into_the_endpoints_of_their_service() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.unique_namespace("endpoints").await?;
    ServiceBuilder::cluster_ip(&namespace, "payments").port_to_name("http", 80, "web").create(&client).await?;
    let pod = PodBuilder::of(&namespace, Workload::Deployment("payments".to_owned())).port("web", 8_080);
    let pod = pod.create(&client).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &namespace);
    let ready = async || {
        let slices = slices.list(&ListParams::default()).await?;
        let endpoints: Vec<_> = slices.items.iter().flat_map(|slice| &slice.endpoints).collect();
        let endpoint = endpoints.first().context("no endpoint")?;
        ensure!(endpoint.addresses == [pod.ip().to_string()], "addresses {:?}", endpoint.addresses);
        Ok(endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or_default())
    };
    eventually(DEADLINE, "the pod is a ready endpoint", async || expect(ready().await?, "not ready")).await?;
    pod.set_unready().await?;
    eventually(DEADLINE, "the pod is no ready endpoint", async || expect(!ready().await?, "ready")).await
}

#[tokio::test]
async fn a_pod_of_each_workload_has_its_whole_chain_of_owners() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.unique_namespace("owners").await?;
    let name = "shop".to_owned();
    let expected = [
        (Workload::Deployment(name.clone()), "ReplicaSet"),
        (Workload::StatefulSet(name.clone()), "StatefulSet"),
        (Workload::DaemonSet(name.clone()), "DaemonSet"),
        (Workload::Job(name.clone()), "Job"),
        (Workload::CronJob(name.clone()), "Job"),
    ];
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for (workload, kind) in expected {
        let created = PodBuilder::of(&namespace, workload.clone()).create(&client).await?;
        // A second one finds the workload there.
        PodBuilder::of(&namespace, workload.clone()).create(&client).await?;
        let metadata = pods.get(created.name()).await?.metadata;
        let owners = metadata.owner_references.unwrap_or_default();
        assert_eq!(owners.iter().map(|owner| owner.kind.as_str()).collect::<Vec<_>>(), [kind], "{workload:?}");
        let has_hash = metadata.labels.unwrap_or_default().contains_key("pod-template-hash");
        assert_eq!(has_hash, kind == "ReplicaSet", "{workload:?}");
    }
    let path = "jsonpath={.items[*].metadata.ownerReferences[*].kind}";
    let owner = cluster.kubectl_ok(&["-n", &namespace, "get", "rs", "-o", path]).await?;
    assert_eq!(owner, "Deployment");
    Ok(())
}

#[tokio::test]
async fn users_and_service_accounts_may_do_what_rbac_grants() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.unique_namespace("rbac").await?;
    let account = cluster.kubeconfig_for_service_account(&namespace, "default").await?;
    let user = cluster.kubeconfig_for_user("jane", Some("developers"))?;
    for (kubeconfig, subject) in
        [(account, format!("--serviceaccount={namespace}:default")), (user, "--group=developers".to_owned())]
    {
        let client = cluster.client_from(&kubeconfig).await?;
        let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
        assert!(maps.list(&ListParams::default()).await.is_err(), "nothing is granted yet");
        let name = format!("view-{}", subject.len());
        cluster.kubectl_ok(&["-n", &namespace, "create", "rolebinding", &name, "--clusterrole=view", &subject]).await?;
        eventually(DEADLINE, "the role works", async || Ok(maps.list(&ListParams::default()).await.map(drop)?)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_log_tells_who_wrote_what() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.unique_namespace("audit").await?;
    let mark = cluster.audit_log().mark()?;
    cluster.kubectl_ok(&["-n", &namespace, "create", "configmap", "written"]).await?;
    assert!(!cluster.kubectl(&["-n", &namespace, "create", "configmap", "written"]).await?.status.success());
    let events = eventually(DEADLINE, "both writes are logged", async || {
        let mut events = cluster.audit_log().events_since(mark)?;
        events.retain(|event| {
            event.is_write() && event.object.namespace == namespace && event.object.resource == "configmaps"
        });
        // The controllers are the same user, and put a ConfigMap of their own into every namespace.
        events.retain(|event| event.user_agent.starts_with("kubectl"));
        ensure!(events.len() == 2, "{events:?}");
        ensure!(events.iter().all(|event| event.user.username == "fusebox-test-admin"), "{events:?}");
        Ok(events)
    })
    .await?;
    let codes: Vec<u16> = events.iter().map(|event| event.response_status.code).collect();
    assert!(codes.contains(&201) && codes.contains(&409), "{codes:?}");
    Ok(())
}

#[tokio::test]
async fn the_real_prometheus_crds_are_served() -> Result<()> {
    let cluster = Cluster::start_with(bare_options()).await?;
    cluster.install_prometheus_crds().await?;
    let rule = "{apiVersion: monitoring.coreos.com/v1, kind: PrometheusRule, metadata: {name: a, namespace: default}, \
                spec: {groups: [{name: a, rules: [{alert: A, expr: up == 0, for: SOON}]}]}}";
    let refused = cluster.apply(rule).await.map_err(|error| error.to_string());
    assert!(refused.unwrap_err().contains("spec.groups[0].rules[0].for"), "the real schema is in force");
    cluster.apply(&rule.replace("SOON", "1m")).await?;
    Ok(())
}

#[tokio::test]
async fn a_standing_cluster_is_started_once_and_ended_wholly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = StandingCluster::at(folder.path().join("default"));
    assert_eq!(cluster.status().await, Status::Down);
    assert!(cluster.up().await? && !cluster.up().await?);
    let processes = identity::recorded(&folder.path().join("default/processes"));
    assert_eq!(processes.len(), 3);
    // One process short is broken, and `up` mends it.
    processes[0].signal(Signal::KILL)?;
    eventually(DEADLINE, "it is broken", async || expect(cluster.status().await == Status::Broken, "up")).await?;
    assert!(cluster.up().await?);
    let later = identity::recorded(&folder.path().join("default/processes"));
    assert!(cluster.down().await? && !cluster.down().await?);
    assert!(processes.iter().chain(&later).all(|process| !process.is_alive()));
    assert!(!folder.path().join("default").exists());
    Ok(())
}

#[tokio::test]
async fn labels_are_set_and_removed() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let client = cluster.client().await?;
    let namespace = cluster.unique_namespace("labels").await?;
    let pod = PodBuilder::bare(&namespace, "payments").label("app", "payments").create(&client).await?;
    pod.set_labels(&BTreeMap::from([("app", None), ("tier", Some("back"))])).await?;
    let labels = Api::<Pod>::namespaced(client, &namespace).get("payments").await?.metadata.labels;
    assert_eq!(labels, Some(BTreeMap::from([("tier".to_owned(), "back".to_owned())])));
    Ok(())
}
