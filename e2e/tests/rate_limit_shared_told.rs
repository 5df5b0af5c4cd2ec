//! Limits of scope Shared as users have them: a RateLimit in a cluster, a Secret with credentials, an operator that tells the
//! sidecars of it, and a Redis that asks who they are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::replicas::{CLIENT_HEADER, Traffic, send};
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_policy::rate_limit::digest;
use fusebox_testkit::certificates::Authority;
use fusebox_testkit::{Redis, eventually};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::rate_limit_shared::{RATE, REPLICAS, TRAFFIC, assert_exact, most};

/// Who may do what the documentation says, and nothing else.
const ACL: &str =
    "user limits on >s3cret resetchannels -@all ~fusebox:* +evalsha +eval +get +set +del +time +ping +select";

/// A cluster with a RateLimit and the sidecars that enforce it.
struct Told {
    fleet: Fleet,
    shop: Shop,
    sidecars: Vec<Sidecar>,
}

impl Told {
    /// Has an operator tell so many sidecars of a limit that is counted in `redis`, and waits until all of them enforce it.
    async fn start(
        count: usize,
        (redis, authority): (Value, Option<&Authority>),
        (limit, on_store_failure): (Value, &str),
    ) -> Result<Self> {
        let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
        let shop = Shop::open(&fleet).await?;
        let sidecars = try_join_all((0..count).map(|_| shop.server(&fleet))).await?;
        let told = Self { fleet, shop, sidecars };
        told.credentials(authority).await?;
        let spec = json!({ "targetRefs": [{ "kind": "Service", "name": "payments" }], "limits": [limit],
            "store": { "redis": redis }, "onStoreFailure": on_store_failure });
        told.apply(json!({ "apiVersion": "fusebox.dev/v1alpha1", "kind": "RateLimit", "spec": spec,
            "metadata": { "name": "shared", "namespace": told.shop.namespace } }))
            .await?;
        told.condition("ResolvedRefs", "True").await?;
        told.condition("Programmed", "True").await?;
        told.every("is told of the limit and of all replicas, and has the store", |limit| {
            limit["replicas"] == count && limit.get("storeLostSinceUnixMs").is_none()
        })
        .await?;
        Ok(told)
    }

    /// What the policy names, and the operator's right to read this one Secret.
    async fn credentials(&self, authority: Option<&Authority>) -> Result<()> {
        let data = json!({ "ca.crt": authority.map(Authority::certificate).unwrap_or_default() });
        let metadata = json!({ "name": "redis-ca", "namespace": self.shop.namespace });
        self.apply(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data })).await?;
        let metadata = json!({ "name": "redis-login", "namespace": self.shop.namespace });
        let login = json!({ "username": "limits", "password": "s3cret" });
        self.apply(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": login })).await?;
        let group = "rbac.authorization.k8s.io";
        let rule = json!({ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["redis-login"],
            "verbs": ["get", "list", "watch"] });
        let role =
            json!({ "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata, "rules": [rule] });
        let subject = json!({ "kind": "Group", "apiGroup": group, "name": "fusebox-operators" });
        let binding = json!({ "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "redis-login" }, "subjects": [subject] });
        self.apply(role).await?;
        self.apply(binding).await
    }

    async fn apply(&self, object: Value) -> Result<()> {
        self.fleet.cluster.apply(&object.to_string()).await.map(drop)
    }

    async fn condition(&self, kind: &str, status: &str) -> Result<String> {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")]}}");
        let get = ["get", "ratelimit", "shared", "-n", &self.shop.namespace, "-o", &path];
        eventually(PATIENCE, &format!("{kind} of the policy is {status}"), async || {
            let seen: Value = serde_json::from_str(&self.fleet.kubectl(&get).await?).context("no such condition")?;
            ensure!(seen["status"] == status, "{seen}");
            Ok(seen["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Waits until this holds for the limit in `/state` of every sidecar.
    async fn every(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        for sidecar in &self.sidecars {
            eventually(PATIENCE, &format!("the proxy of {} {what}", sidecar.pod.name()), async || {
                let state = sidecar.state().await?;
                ensure!(state["limits"].get(0).is_some_and(&condition), "it has {}", state["limits"]);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.sidecars.iter().map(Sidecar::inbound).collect()
    }
}

/// The limit of the tests without an operator.
fn per_client() -> Value {
    json!({ "name": "per-client", "key": [{ "header": CLIENT_HEADER }], "onMissingKey": "Reject",
        "rate": { "requests": RATE.requests, "per": "1s", "burst": RATE.burst }, "scope": "Shared" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_sidecars_told_by_an_operator_pass_exactly_over_tls_as_a_user_of_an_acl() -> Result<()> {
    let authority = Authority::new("redis")?;
    let redis = Redis::builder().tls(&authority)?.reachable()?.setting(ACL).setting("user default off").start().await?;
    let store = json!({ "address": redis.outside()?.to_string(), "secretRef": { "name": "redis-login" }, "timeout": "1s",
        "tls": { "caFrom": { "configMapRef": { "name": "redis-ca", "key": "ca.crt" } } } });
    let told = Told::start(REPLICAS, (store, Some(&authority)), (per_client(), "Closed")).await?;
    assert_exact(&told.shop.upstream, &send(&told.addresses(), TRAFFIC).await?, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_sidecars_that_know_how_many_they_are_pass_no_more_than_the_limit_together() -> Result<()> {
    const SIDECARS: usize = 4;
    let mut redis = Redis::builder().reachable()?.setting(ACL).setting("user default off").start().await?;
    let store =
        json!({ "address": redis.outside()?.to_string(), "secretRef": { "name": "redis-login" }, "timeout": "200ms" });
    let told = Told::start(SIDECARS, (store, None), (per_client(), "LocalEstimate")).await?;
    redis.kill();
    told.every("knows that the store is lost", |limit| limit.get("storeLostSinceUnixMs").is_some()).await?;
    let away = send(&told.addresses(), Traffic { time: Duration::from_secs(4), rate: 400, clients: 1 }).await?;
    // Each has 100 / 4 = 25 requests a second and 40 / 4 = 10 at once, both without a rest: together exactly the limit.
    let bound = most(away.time);
    println!("{} of at most {bound} passed without the store; {:?}", away.allowed(), away.answers);
    ensure!(away.other_than(&[200, 429]) == 0, "{:?}", away.answers);
    ensure!(away.allowed() <= bound, "{} too many", away.allowed() - bound);
    ensure!(away.allowed() * 10 >= bound * 8, "only {} of {bound}", away.allowed());
    ensure!(told.shop.upstream.requests() == away.allowed(), "the application saw others");
    let message = told.condition("StoreReachable", "False").await?;
    ensure!(message.contains("4"), "{message}");
    redis.restart().await?;
    told.every("uses the store again", |limit| limit.get("storeLostSinceUnixMs").is_none()).await?;
    told.condition("StoreReachable", "True").await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_blocked_in_redis_whom_no_sidecar_remembers_is_let_go_by_sixteen_digits() -> Result<()> {
    let acl = format!("{ACL} +scan");
    let redis = Redis::builder().reachable()?.setting(acl).setting("user default off").start().await?;
    let store =
        json!({ "address": redis.outside()?.to_string(), "secretRef": { "name": "redis-login" }, "timeout": "1s" });
    let mut limit = per_client();
    limit["rate"] = json!({ "requests": 1, "per": "1s", "burst": 2 });
    limit["onExceed"] = json!({ "blockFor": "1h" });
    let mut told = Told::start(2, (store, None), (limit, "Closed")).await?;
    told.fleet.install_operations_api().await?;
    let headers = [(CLIENT_HEADER, "ada")];
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(told.sidecars[0].get_inbound_with("/", &headers).await?.status.as_u16());
    }
    ensure!(statuses == [200, 200, 429, 429], "{statuses:?}");
    for sidecar in &mut told.sidecars {
        sidecar.process.kill();
        sidecar.restart().await?;
    }
    told.every("has the store again", |limit| limit["replicas"] == 2 && limit.get("storeLostSinceUnixMs").is_none())
        .await?;
    let digits = digest(&[b"ada"]).short_hex();
    let unblock =
        ["limits", "unblock", "shared", "-n", &told.shop.namespace, "--digest", &digits, "--reason", "INC-42"];
    let said = eventually(PATIENCE, "both sidecars can be asked", async || told.fleet.fusebox(&unblock).await).await?;
    ensure!(said.contains("let go on 1 of 2 pods"), "{said}");
    for sidecar in &told.sidecars {
        let status = sidecar.get_inbound_with("/", &headers).await?.status;
        ensure!(status == 200, "{status} at {}", sidecar.pod.name());
    }
    Ok(())
}
