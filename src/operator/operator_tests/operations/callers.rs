//! Who is believed, who may do what, and what is answered to those who may not.

use bytes::Bytes;
use fusebox_testkit::certificates::Authority;
use http::Method;
use kube::ResourceExt as _;
use serde_json::json;

use super::super::*;
use super::stage::*;
use crate::ops::OVERRIDE_MANAGER;

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_own_roles_decide_who_sees_and_who_forces() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, shop, pod) = shop(&stage.cluster).await?;
    apply_policy(&stage.cluster, &shop, "payments", "payments").await?;
    let _sidecar = open_sidecar(stage.operator.control, &stage.authority, &pod).await?;
    let bank = stage.cluster.unique_namespace("bank").await?;
    for (user, role, namespace) in [("viewer", "view", &shop), ("editor", "edit", &shop), ("stranger", "view", &bank)] {
        stage.bind(user, role, namespace).await?;
    }

    let get = ["get", "circuitbreakerstates.ops.fusebox.dev", "-n", &shop];
    eventually(SOON, "kubectl shows the pod's breaker", async || {
        let printed = stage.prints("viewer", &get).await?;
        let row: Vec<&str> = printed.lines().nth(1).context("no row")?.split_whitespace().collect();
        ensure!(row.starts_with(&["payments", pod.name(), "payments", "(rest)", "Open", "88", "3"]), "{printed}");
        Ok(())
    })
    .await?;
    let wide = stage.prints("viewer", &[&get[..], &["-o", "wide"]].concat()).await?;
    assert!(wide.contains("ConsecutiveFailures") && wide.contains("Deployment/web"), "{wide}");

    for user in ["nobody", "stranger"] {
        let said = stage.fails(user, &get, "").await?;
        assert!(said.contains("Forbidden") && !said.contains("payments"), "{user}: {said}");
    }
    let everywhere = ["get", "circuitbreakerstates.ops.fusebox.dev", "-A"];
    assert!(stage.fails("viewer", &everywhere, "").await?.contains("Forbidden"));
    let own = stage.prints("stranger", &["get", "cbs", "-n", &bank, "-o", "json"]).await?;
    assert!(!own.contains("payments"), "{own}");

    let path = format!("{API}/namespaces/{shop}/circuitbreakerstates/payments/override");
    let create = ["create", "--raw", &path, "-f", "-"];
    let body = json!({ "state": "ForcedOpen", "for": "30m", "reason": "INC-42" }).to_string();
    for user in ["viewer", "stranger", "nobody"] {
        assert!(stage.fails(user, &create, &body).await?.contains("Forbidden"), "{user}");
    }
    let made = stage.kubectl("editor", &create, &body).await?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), &shop);
    let stands = policies.get("payments").await?;
    assert_eq!(stands.spec.force.as_ref().context("an override")?.reason, "INC-42");
    assert!(stands.managed_fields().iter().any(|it| it.manager.as_deref() == Some(OVERRIDE_MANAGER)));
    eventually(SOON, "an Event says who", async || {
        let events = stage.cluster.kubectl_ok(&["get", "events.events.k8s.io", "-n", &shop, "-o", "json"]).await?;
        ensure!(events.contains("editor forced ForcedOpen") && events.contains("INC-42"), "{events}");
        Ok(())
    })
    .await?;
    stage.prints("editor", &["delete", "--raw", &path]).await?;
    assert!(policies.get("payments").await?.spec.force.is_none());
    let again = stage.prints("editor", &["delete", "--raw", &path]).await?;
    assert!(again.contains("no override is set"), "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_front_proxy_is_believed() -> Result<()> {
    let stage = Stage::new().await?;
    let address = stage.operator.operations;
    let path = format!("{API}/circuitbreakerstates");
    let forged = [("x-remote-user", "system:admin"), ("x-remote-group", "system:masters")];
    let ask = || request(Method::GET, &path, &forged, Bytes::new());

    let told = call(address, &stage.authority, None, ask()?).await?;
    assert_eq!((told.code, told.body["message"].as_str()), (401, Some("Unauthorized")), "{told:?}");
    assert_eq!(told.headers["connection"], "close");
    let told = call(address, &stage.authority, None, request(Method::GET, "/healthz", &[], Bytes::new())?).await?;
    assert_eq!(told.code, 401, "not even what is there");

    let stranger = Authority::new("stranger")?.client("front-proxy-client", None)?;
    let refused = call(address, &stage.authority, Some(&stranger), ask()?).await;
    assert!(refused.is_err(), "the handshake itself fails: {refused:?}");

    let rightful = front_proxy(&stage.cluster)?;
    let unnamed = request(Method::GET, &path, &[], Bytes::new())?;
    assert_eq!(call(address, &stage.authority, Some(&rightful), unnamed).await?.code, 401);
    assert_eq!(call(address, &stage.authority, Some(&rightful), ask()?).await?.code, 200);
    let powerless = request(Method::GET, &path, &[("x-remote-user", "nobody")], Bytes::new())?;
    let told = call(address, &stage.authority, Some(&rightful), powerless).await?;
    let message = told.body["message"].as_str().unwrap_or_default();
    assert!(told.code == 403 && message.contains("ask for ClusterRole fusebox-view"), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_named_and_change_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, shop, _pod) = shop(&stage.cluster).await?;
    apply_policy(&stage.cluster, &shop, "payments", "payments").await?;
    let path = format!("{API}/namespaces/{shop}/circuitbreakerstates/payments/override");
    let rightful = front_proxy(&stage.cluster)?;
    let admin = [("x-remote-user", "system:admin"), ("x-remote-group", "system:masters")];
    let tell = async |method: Method, path: &str, body: Bytes| {
        let request = request(method, path, &admin, body)?;
        call(stage.operator.operations, &stage.authority, Some(&rightful), request).await
    };

    let reason = "x".repeat(257);
    let cases = [
        ("nonsense".to_owned(), 400, "not a CircuitBreakerOverride"),
        (json!({ "state": "Ajar", "for": "1m", "reason": "x" }).to_string(), 400, "Ajar"),
        (json!({ "state": "ForcedOpen", "for": "1m", "reason": "x", "more": 1 }).to_string(), 400, "more"),
        (json!({ "state": "ForcedOpen", "reason": "x" }).to_string(), 400, "either for or until"),
        (json!({ "state": "ForcedOpen", "for": "25h", "reason": "x" }).to_string(), 422, "over 24 hours"),
        (json!({ "state": "ForcedOpen", "for": "1m", "reason": "" }).to_string(), 422, "spec.override.reason"),
        (json!({ "state": "ForcedOpen", "for": "1m", "reason": reason }).to_string(), 422, "spec.override.reason"),
        (
            json!({ "kind": "Eviction", "state": "ForcedOpen", "for": "1m", "reason": "x" }).to_string(),
            400,
            "is not an",
        ),
        ("x".repeat(70_000), 413, "longer than 65536"),
    ];
    for (body, code, expected) in cases {
        let told = tell(Method::POST, &path, body.clone().into()).await?;
        let message = told.body["message"].as_str().unwrap_or_default();
        assert!(told.code == code && message.contains(expected), "{}: {told:?}", &body[..body.len().min(80)]);
        assert_eq!(told.body["kind"], "Status");
    }
    for (method, path, code) in [
        (Method::GET, format!("{API}/namespaces/{shop}/circuitbreakerstates/absent"), 404),
        (Method::GET, format!("{API}/namespaces/{shop}/circuitbreakerstates?labelSelector=a%3Db"), 400),
        (Method::GET, format!("{API}/circuitbreakerstates?watch=true"), 405),
        (Method::PATCH, path.clone(), 405),
        (Method::DELETE, format!("{API}/namespaces/{shop}/circuitbreakerstates/payments"), 405),
        (Method::GET, format!("{API}/namespaces/{shop}/explanations/absent"), 404),
        (Method::GET, format!("{API}/namespaces/{shop}/pods/absent"), 404),
    ] {
        let told = tell(method.clone(), &path, Bytes::new()).await?;
        assert_eq!(told.code, code, "{method} {path}: {told:?}");
    }
    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client, &shop);
    assert!(policies.get("payments").await?.spec.force.is_none());

    // What somebody else manages is not taken unasked.
    let theirs = json!({ "apiVersion": "fusebox.dev/v1alpha1", "kind": "CircuitBreakerPolicy",
        "metadata": { "name": "payments", "namespace": shop },
        "spec": { "targetRefs": [{ "name": "payments" }],
                  "override": { "state": "ForcedClosed", "until": "2100-01-01T00:00:00Z", "reason": "theirs" } } });
    stage.cluster.apply(&theirs.to_string()).await?;
    let body = Bytes::from(json!({ "state": "ForcedOpen", "for": "1m", "reason": "ours" }).to_string());
    let told = tell(Method::PUT, &path, body.clone()).await?;
    assert!(told.code == 409 && told.body["message"].as_str().unwrap_or_default().contains("force=true"), "{told:?}");
    assert_eq!(tell(Method::PUT, &format!("{path}?force=true"), body).await?.code, 200);
    Ok(())
}
