//! What people type and read.

use anyhow::Result;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_and_explain_read_well() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let _web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "").await?;
    shop.shows(&fleet, "payments", (".status.state", "Closed")).await?;

    for name in ["circuitbreakers", "circuitbreaker", "cb", "resilience", "circuitbreakerpolicies"] {
        let table = fleet.kubectl(&["get", name, "-n", &shop.namespace]).await?;
        let mut lines = table.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(
            header,
            ["NAME", "TARGET", "STATE", "OPEN", "FAIL%", "TRIPS", "LAST-TRIP", "READY", "AGE"],
            "{table}"
        );
        let row = lines.next().unwrap_or_default();
        assert!(
            row.contains("payments") && row.contains("Closed") && row.contains("0/1") && row.contains("True"),
            "{table}"
        );
    }
    let trip = fleet.kubectl(&["explain", "cb.spec.trip"]).await?;
    for field in ["consecutiveFailures", "failures", "failureRate"] {
        assert!(trip.contains(field), "{trip}");
    }
    assert!(trip.contains("DESCRIPTION"), "{trip}");
    let rate = fleet.kubectl(&["explain", "cb.spec.trip.failureRate.minRequests"]).await?;
    assert!(rate.to_lowercase().contains("default"), "{rate}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_say_the_next_step() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;

    shop.apply_policy(&fleet, "payments", "").await?;
    let message = shop.condition(&fleet, "payments", ("Programmed", "False", "NoSidecars")).await?;
    assert!(message.contains("fusebox.dev/inject=enabled"), "{message}");

    shop.apply_policy(&fleet, "second", "").await?;
    let message = shop.condition(&fleet, "second", ("Accepted", "False", "Conflicted")).await?;
    assert!(message.contains("payments"), "{message}");

    let missing = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: missing, namespace: {}}}, \
         spec: {{targetRefs: [{{kind: Service, name: nowhere}}]}}}}",
        shop.namespace
    );
    fleet.cluster.apply(&missing).await?;
    let message = shop.condition(&fleet, "missing", ("ResolvedRefs", "False", "TargetNotFound")).await?;
    assert!(message.contains("nowhere"), "{message}");

    let server = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: server, namespace: {}}}, \
         spec: {{side: Server, targetRefs: [{{kind: Service, name: payments}}]}}}}",
        shop.namespace
    );
    fleet.cluster.apply(&server).await?;
    let message = shop.condition(&fleet, "server", ("Programmed", "False", "NoSidecars")).await?;
    assert!(message.contains("fusebox.dev/inject"), "{message}");
    Ok(())
}
