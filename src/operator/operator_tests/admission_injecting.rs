//! Injection through the real API server, with its validation and its Pod Security; and reviews that are none.

use std::time::Instant;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::admission_stage::{Served, Stage, ask, post, review};
use super::*;
use crate::admission::{INJECT_PATH, MAX_BODY, VALIDATE_PATH};

/// What an application must say to be admitted by Pod Security `restricted`.
fn restrict(pod: &mut Value) {
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
}

fn names(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str()).collect()
}

fn message(outcome: kube::Result<Value>) -> String {
    outcome.map_or_else(|error| error.to_string(), |pod| format!("was created: {pod}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_asks_is_injected_and_no_other_is_touched() -> Result<()> {
    let stage = Stage::new("inject", &[("fusebox.dev/inject", "enabled")]).await?;
    let served = Served::start(stage.cluster).await?;
    stage.register_injection(&served.url, &served.authority.certificate()).await?;
    let pod = stage.create("web", |_| ()).await?;
    assert_eq!(names(&pod), ["fusebox-proxy", "fusebox-redirect"]);
    assert_eq!(pod["metadata"]["labels"]["fusebox.dev/sidecar"], "injected");
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], "/probes/app/readiness");
    let disabled =
        stage.create("not", |pod| pod["metadata"]["labels"]["fusebox.dev/inject"] = json!("disabled")).await?;
    assert_eq!(names(&disabled), Vec::<&str>::new());
    let refused = stage.create("mesh", |pod| {
        pod["spec"]["initContainers"] = json!([{"name": "linkerd-proxy", "image": "linkerd"}]);
    });
    let refused = message(refused.await);
    assert!(refused.contains("two proxies would take each other's traffic"), "{refused}");

    stage.label_namespace(&json!({"fusebox.dev/inject": null})).await?;
    eventually(SOON, "pods that don't ask are not asked about", async || {
        let name = format!("plain-{:?}", Instant::now().elapsed().as_nanos());
        let pod = stage.create(&name, |_| ()).await?;
        ensure!(names(&pod).is_empty(), "still injected");
        Ok(())
    })
    .await?;
    let alone = stage.create("alone", ask).await?;
    assert_eq!(names(&alone), ["fusebox-proxy", "fusebox-redirect"], "the pod asks itself");
    stage.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn explicit_pods_pass_pod_security_restricted_and_transparent_ones_do_not() -> Result<()> {
    let labels = [("fusebox.dev/inject", "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")];
    let stage = Stage::new("restricted", &labels).await?;
    ServiceBuilder::cluster_ip(&stage.namespace, "payments").selector("app", "payments").create(&stage.client).await?;
    let served = Served::start(stage.cluster).await?;
    apply_policy(stage.cluster, &stage.namespace, "payments", "payments").await?;
    condition(&stage.client, &stage.namespace, "payments", ("Accepted", "True", "Accepted")).await?;
    stage.register_injection(&served.url, &served.authority.certificate()).await?;
    let pod = stage.create("web", restrict).await?;
    assert_eq!(names(&pod), ["fusebox-proxy"]);
    assert_eq!(pod["metadata"]["annotations"]["fusebox.dev/interception"], "explicit");
    assert_eq!(pod["spec"]["hostAliases"][0]["ip"], "127.15.0.1");
    assert_eq!(pod["spec"]["securityContext"]["sysctls"][0]["name"], "net.ipv4.ip_unprivileged_port_start");
    assert_eq!(pod["spec"]["initContainers"][0]["ports"][0]["name"], "http");
    let refused = stage.create("transparent", |pod| {
        restrict(pod);
        pod["metadata"]["annotations"] = json!({"fusebox.dev/interception": "transparent"});
    });
    let refused = message(refused.await);
    assert!(refused.contains("violates PodSecurity") && refused.contains("fusebox-redirect"), "{refused}");
    stage.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_answered_with_4xx() -> Result<()> {
    let stage = Stage::new("malformed", &[]).await?;
    let served = Served::start(stage.cluster).await?;
    let of = |api_version: &str, request: Value| {
        json!({"apiVersion": api_version, "kind": "AdmissionReview", "request": request}).to_string()
    };
    let bare = |method: Method, path: &str, content_type: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        request.header("content-type", content_type).body(Full::from("{}"))
    };
    let cases = [
        (post(INJECT_PATH, "")?, 400, "Empty"),
        (post(VALIDATE_PATH, "   ")?, 400, "Empty"),
        (post(INJECT_PATH, "{")?, 400, "Malformed"),
        (post(INJECT_PATH, "[1]")?, 400, "Malformed"),
        (post(INJECT_PATH, vec![0xff, 0xfe, 0x00])?, 400, "Malformed"),
        (post(INJECT_PATH, "[".repeat(100_000))?, 400, "Malformed"),
        (post(INJECT_PATH, of("admission.k8s.io/v1", Value::Null))?, 400, "NoRequest"),
        (post(INJECT_PATH, of("admission.k8s.io/v1", json!({"uid": ""})))?, 400, "NoRequest"),
        (post(INJECT_PATH, of("admission.k8s.io/v1", json!({"uid": 7})))?, 400, "Malformed"),
        (post(INJECT_PATH, of("admission.k8s.io/v1beta1", json!({"uid": "u"})))?, 400, "Version"),
        (post(VALIDATE_PATH, "{}")?, 400, "Version"),
        (post(INJECT_PATH, vec![b' '; MAX_BODY + 1])?, 413, "TooLarge"),
        (bare(Method::POST, INJECT_PATH, "text/plain")?, 415, "ContentType"),
        (bare(Method::GET, INJECT_PATH, "application/json")?, 405, "MethodNotAllowed"),
        (post("/admission/other", "{}")?, 404, "NotFound"),
    ];
    for (request, status, reason) in cases {
        let shown = format!("{} {reason}", request.uri());
        let (found, problem) = served.send(request).await.with_context(|| shown.clone())?;
        assert_eq!((found, problem["reason"].as_str()), (status, Some(reason)), "{shown}: {problem}");
    }
    let strange = json!({"metadata": 1, "spec": {"containers": "none"}});
    let (status, answer) = served.send(post(INJECT_PATH, review(&stage.namespace, &strange).to_string())?).await?;
    assert_eq!((status, answer["response"]["allowed"].as_bool()), (200, Some(false)), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reviews() -> Result<()> {
    let stage = Stage::new("many", &[("fusebox.dev/inject", "enabled")]).await?;
    let served = Served::start(stage.cluster).await?;
    let pod = json!({"metadata": {"generateName": "web-", "labels": {"app": "web"}}, "spec": {"containers": [
        {"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}],
         "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
         "livenessProbe": {"grpc": {"port": 9000}}}]}});
    let body = review(&stage.namespace, &pod).to_string();
    let mut requests = served.connect().await?;
    let mut taken = Vec::new();
    for _ in 0..1_000 {
        let begun = Instant::now();
        requests.ready().await?;
        let answer = requests.send_request(post(INJECT_PATH, body.clone())?).await?;
        let answer: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
        taken.push(begun.elapsed());
        ensure!(answer["response"]["patchType"] == "JSONPatch", "{answer}");
    }
    taken.sort();
    println!(
        "1,000 reviews of injection, one after the other: p50 {:?}, p99 {:?}, most {:?}",
        taken[499], taken[989], taken[999]
    );
    Ok(())
}
