//! Live limits and clients that are let go, through the API server, with and without rights, at either replica.

use fusebox_policy::stream::Searched;
use http::Method;
use serde_json::json;

use super::super::operations::stage::{API, Stage, as_front_proxy, replica};
use super::super::*;
use super::scene::{ALICE, Sidecar, apply, condition, server, shop, shown_keys};

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_pods_at_either_replica_are_shown_and_a_client_is_let_go_by_whoever_may() -> Result<()> {
    let stage = Stage::new().await?;
    let follower = replica(&stage.cluster, "second").await?;
    let (client, namespace, one) = shop(&stage.cluster).await?;
    let other = server(&client, &namespace).await?;
    apply(&stage.cluster, &namespace, ", key: [{apiKey: {}}], onExceed: {blockFor: 60s}").await?;
    let near = Sidecar::connect(stage.operator.control, &stage.authority, &one).await?;
    let far = Sidecar::connect(follower.control, &stage.authority, &other).await?;
    near.report(vec![]).await?;
    far.report(vec![]).await?;
    condition(&client, &namespace, ("Programmed", "True", "Programmed")).await?;
    for (user, role) in [("viewer", "view"), ("editor", "edit")] {
        stage.bind(user, role, &namespace).await?;
    }

    let path = format!("{API}/namespaces/{namespace}/ratelimitstates/limits");
    let mut expected: Vec<_> = [&one, &other].map(|pod| (pod.name().to_owned(), ALICE.to_owned())).into();
    expected.sort();
    for asked in [&stage.operator, &follower] {
        eventually(SOON, "both pods' keys are shown", async || {
            let known = (&stage.cluster, stage.authority.as_str());
            let told = as_front_proxy(known, asked.operations, Method::GET, &path).await?;
            ensure!(told.code == 200 && shown_keys(&told.body) == expected, "{told:?}");
            Ok(())
        })
        .await?;
    }
    let printed = stage.prints("viewer", &["get", "rls", "-n", &namespace]).await?;
    assert!(printed.contains(ALICE) && printed.contains("93") && printed.contains("per-key"), "{printed}");

    let unblock = format!("{path}/unblock");
    let create = ["create", "--raw", &unblock, "-f", "-"];
    let body = json!({ "key": ["alice"], "reason": "INC-42" }).to_string();
    for user in ["viewer", "nobody"] {
        let said = stage.fails(user, &create, &body).await?;
        assert!(said.contains("Forbidden") || said.contains("forbidden"), "{user}: {said}");
    }
    assert!(near.seen.lock().unblocked.is_empty() && far.seen.lock().unblocked.is_empty());
    let done = stage.kubectl("editor", &create, &body).await?;
    let answer: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    assert_eq!((&answer["pods"], &answer["released"]), (&json!(2), &json!(2)), "{answer}");
    assert!(answer.get("unanswered").is_none() && answer.get("key").is_none(), "{answer}");
    for sidecar in [&near, &far] {
        let unblocked = sidecar.seen.lock().unblocked.clone();
        assert!(unblocked.len() == 1 && unblocked[0].starts_with(ALICE), "{unblocked:?}");
    }
    eventually(SOON, "an Event says who", async || {
        let events = stage.cluster.kubectl_ok(&["get", "events.events.k8s.io", "-n", &namespace, "-o", "json"]).await?;
        ensure!(events.contains("editor let client 2bd806c97f0e00af go on 2 of 2 pods"), "{events}");
        ensure!(!events.contains("alice"), "a key stands in an Event");
        Ok(())
    })
    .await?;

    // What does not answer is said, and what was known before stands.
    drop(far);
    let state: serde_json::Value = eventually(SOON, "the lost pod is said", async || {
        let state = stage.prints("viewer", &["get", "rls", "limits", "-n", &namespace, "-o", "json"]).await?;
        let state: serde_json::Value = serde_json::from_str(&state)?;
        ensure!(state.to_string().contains("unanswered"), "{state}");
        Ok(state)
    })
    .await?;
    let silent = state["pods"].as_array().into_iter().flatten().find(|pod| pod["name"] == other.name());
    assert!(
        silent.is_some_and(|pod| pod["unanswered"].as_str().is_some_and(|why| why.contains("connected"))),
        "{state}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pod_searches_the_shared_store_where_sixteen_digits_are_given_and_what_it_left_out_is_said() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, namespace, one) = shop(&stage.cluster).await?;
    let other = server(&client, &namespace).await?;
    let shared = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {{namespace: {namespace}, name: limits}}, \
         spec: {{targetRefs: [{{name: payments}}], store: {{redis: {{address: \"redis.shop:6379\"}}}}, limits: [{{name: per-key, \
         key: [{{apiKey: {{}}}}], rate: {{requests: 60, per: 1m}}, scope: Shared}}]}}}}"
    );
    stage.cluster.apply(&shared).await?;
    let mut sidecars = Vec::new();
    for pod in [&one, &other] {
        let sidecar = Sidecar::connect(stage.operator.control, &stage.authority, pod).await?;
        sidecar.report(vec![]).await?;
        sidecars.push(sidecar);
    }
    condition(&client, &namespace, ("Programmed", "True", "Programmed")).await?;
    let path = format!("{API}/namespaces/{namespace}/ratelimitstates/limits/unblock");
    let create = ["create", "--raw", &path, "-f", "-"];
    let unblock = async |searched: Option<Searched>, digest: &str| -> Result<(serde_json::Value, usize)> {
        let before: usize = sidecars.iter().map(|it| it.seen.lock().searches).sum();
        sidecars.iter().for_each(|it| it.seen.lock().searched.clone_from(&searched));
        let body = json!({ "digest": digest, "reason": "INC-42" }).to_string();
        let output = stage.cluster.kubectl_with_input(&create, &body).await?;
        let after: usize = sidecars.iter().map(|it| it.seen.lock().searches).sum();
        Ok((serde_json::from_slice(&output.stdout)?, after - before))
    };

    let (whole, searches) = unblock(Some(Searched::default()), ALICE).await?;
    assert_eq!((searches, &whole["released"], &whole["unsearched"]), (1, &json!(2), &json!(null)), "{whole}");
    let (cut, searches) = unblock(Some(Searched { cut_off: "cut off after 5 keys".into() }), ALICE).await?;
    assert!(cut["unsearched"].as_str().is_some_and(|why| why.contains("cut off after 5 keys; 32 digits")), "{cut}");
    assert_eq!(searches, 2, "another pod may get further");
    let (older, _) = unblock(None, ALICE).await?;
    assert!(older["unsearched"].as_str().is_some_and(|why| why.contains("does not search")), "{older}");
    let (named, searches) = unblock(None, &ALICE.repeat(2)).await?;
    assert_eq!((searches, &named["unsearched"]), (0, &json!(null)), "{named}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_names_no_client_is_refused_without_its_words() -> Result<()> {
    let stage = Stage::new().await?;
    let (_client, namespace, _pod) = shop(&stage.cluster).await?;
    apply(&stage.cluster, &namespace, "").await?;
    let path = format!("{API}/namespaces/{namespace}/ratelimitstates/limits/unblock");
    let create = ["create", "--raw", &path, "-f", "-"];
    for (body, why) in [
        (json!({ "reason": "x" }), "either key or digest"),
        (json!({ "digest": "xyz", "reason": "x" }), "16 to 64 hexadecimal digits"),
        (json!({ "digest": ALICE, "reason": "" }), "1 to 256 characters"),
        (json!({ "key": "hunter2", "reason": "x" }), "not a RateLimitUnblock"),
    ] {
        let kubeconfig = stage.cluster.kubeconfig_path();
        let output = stage.cluster.kubectl_with_input(&create, &body.to_string()).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{kubeconfig:?} {body}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    Ok(())
}
