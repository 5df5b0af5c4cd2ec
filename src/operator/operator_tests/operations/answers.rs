//! That every replica answers alike, that kubectl finds its way, and that other APIs don't suffer from a lost operator.

use std::time::Instant;

use http::Method;
use serde_json::Value;

use super::super::*;
use super::stage::*;

/// What does not depend on when one asks.
fn settled(mut state: Value) -> Value {
    if let Some(state) = state.as_object_mut() {
        state.remove("incomplete");
    }
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_answers_like_the_leader_and_nobody_answers_without_one() -> Result<()> {
    let stage = Stage::new().await?;
    let follower = replica(&stage.cluster, "second").await?;
    let (_client, shop, pod) = shop(&stage.cluster).await?;
    apply_policy(&stage.cluster, &shop, "payments", "payments").await?;
    let _sidecar = open_sidecar(follower.control, &stage.authority, &pod).await?;

    let path = format!("{API}/namespaces/{shop}/circuitbreakerstates");
    let known = (&stage.cluster, stage.authority.as_str());
    let leaders = eventually(SOON, "the leader knows the follower's sidecar", async || {
        let told = as_front_proxy(known, stage.operator.operations, Method::GET, &path).await?;
        let breaker = &told.body["items"][0]["pods"][0]["breakers"][0];
        ensure!(told.code == 200 && breaker["state"] == "Open", "{told:?}");
        Ok(settled(told.body))
    })
    .await?;
    let told = as_front_proxy(known, follower.operations, Method::GET, &path).await?;
    assert_eq!((told.code, settled(told.body)), (200, leaders));

    // The leader goes: until the follower leads there is no answer, and then a whole one.
    let Stage { operator, authority, cluster } = stage;
    let (begun, mut refused) = (Instant::now(), 0);
    operator.stop().await?;
    eventually(SOON, "the follower leads and answers", async || {
        let told = as_front_proxy((&cluster, authority.as_str()), follower.operations, Method::GET, &path).await?;
        if told.code != 200 {
            refused += 1;
            ensure!(told.code == 503 && told.headers["retry-after"] == "1", "{told:?}");
            anyhow::bail!("no leader yet");
        }
        ensure!(told.body["items"][0]["pods"][0]["breakers"][0]["state"] == "Open", "{told:?}");
        Ok(())
    })
    .await?;
    println!("answered by the next leader after {:?}, {refused} refusals before", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_and_explains_it_and_other_apis_do_not_depend_on_it() -> Result<()> {
    let stage = Stage::new().await?;
    let (_client, shop, pod) = shop(&stage.cluster).await?;
    apply_policy(&stage.cluster, &shop, "payments", "payments").await?;
    let kubectl = async |arguments: &[&str]| stage.cluster.kubectl_ok(arguments).await;

    let listed = kubectl(&["api-resources", "--api-group=ops.fusebox.dev"]).await?;
    assert!(listed.contains("circuitbreakerstates") && listed.contains("explanations"), "{listed}");
    let policies = kubectl(&["get", "circuitbreakers", "-n", &shop]).await?;
    assert!(policies.contains("TARGET") && policies.contains("READY"), "still the policies: {policies}");
    let explained = eventually(SOON, "the API server has read the schemas", async || {
        kubectl(&["explain", "circuitbreakerstates.pods.breakers", "--api-version=ops.fusebox.dev/v1alpha1"]).await
    })
    .await?;
    assert!(explained.contains("nextProbe") && explained.contains("HalfOpen"), "{explained}");
    let why = kubectl(&["get", "explanations.ops.fusebox.dev", pod.name(), "-n", &shop]).await?;
    assert!(why.contains("out to") && why.contains("True"), "{why}");
    let states = kubectl(&["get", "cbs", "-A"]).await?;
    assert!(states.contains("NAMESPACE") && states.contains(&shop) && states.contains("Unknown"), "{states}");

    let Stage { operator, authority: _, cluster } = stage;
    operator.stop().await?;
    eventually(SOON, "the API server notices", async || {
        let output = cluster.kubectl(&["get", "cbs", "-n", &shop]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && !said.is_empty(), "{said}");
        let condition = cluster.kubectl_ok(&["get", "apiservice", "v1alpha1.ops.fusebox.dev"]).await?;
        ensure!(condition.contains("False"), "{condition}");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    cluster.kubectl_ok(&["get", "circuitbreakers", "-n", &shop]).await?;
    cluster.kubectl_ok(&["get", "pods", "-n", &shop]).await?;
    cluster.kubectl_ok(&["explain", "circuitbreakerpolicies.spec"]).await?;
    let all = cluster.kubectl(&["api-resources"]).await?;
    let (out, err) = (String::from_utf8_lossy(&all.stdout), String::from_utf8_lossy(&all.stderr));
    assert!(out.contains("deployments") && out.contains("circuitbreakerpolicies"), "{out}{err}");
    println!("four kubectl calls without the operator took {:?}; api-resources says: {err}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    Ok(())
}
