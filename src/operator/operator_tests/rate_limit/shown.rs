//! From `kubectl apply` to the columns of `kubectl get`, the conditions and the Events.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;

use super::super::operations::stage::authority;
use super::super::*;
use super::scene::{ALICE, Sidecar, apply, columns, condition, server, shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_carried_acknowledged_and_shown_with_the_clients_it_blocks() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    // A breaker of the same name is another policy.
    apply_policy(&cluster, &namespace, "limits", "payments").await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    operator.leads().await?;
    apply(&cluster, &namespace, ", key: [{apiKey: {}}], onExceed: {blockFor: 60s}").await?;
    condition(&client, &namespace, ("Programmed", "False", "Pending")).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    eventually(SOON, "the ConfigMap carries it", async || {
        let carried = maps.list(&ListParams::default()).await?.items;
        ensure!(carried.iter().flat_map(|map| map.data.iter().flatten()).any(|(_, text)| text.contains("per-key")));
        Ok(())
    })
    .await?;

    let sidecar = Sidecar::connect(operator.control, &authority(&cluster).await?, &pod).await?;
    condition(&client, &namespace, ("Programmed", "True", "Programmed")).await?;
    condition(&client, &namespace, ("Ready", "True", "Ready")).await?;
    super::super::condition(&client, &namespace, "limits", ("Accepted", "True", "Accepted")).await?;
    sidecar.report(vec![]).await?;
    condition(&client, &namespace, ("Limited", "True", "ClientsBlocked")).await?;
    eventually(SOON, "kubectl shows it", async || {
        let columns = columns(&cluster, &namespace).await?;
        let has = |name: &str, cell: &str| columns.iter().any(|it| it == &(name.to_owned(), cell.to_owned()));
        ensure!(has("TARGET", "payments") && has("LIMIT", "60/1m") && has("SCOPE", "Replica"), "{columns:?}");
        ensure!(has("LIMITED%", "7") && has("BLOCKED", "1") && has("READY", "True"), "{columns:?}");
        Ok(())
    })
    .await?;
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    eventually(SOON, "an Event tells of the client, by its digest", async || {
        let told = events.list(&ListParams::default()).await?.items;
        let blocked: Vec<&Event> =
            told.iter().filter(|event| event.reason.as_deref() == Some("ClientBlocked")).collect();
        ensure!(blocked.len() == 1, "{} Events", blocked.len());
        let (note, regarding) = (blocked[0].note.as_deref().unwrap_or_default(), &blocked[0].regarding);
        ensure!(note.contains(ALICE) && !note.contains("alice"), "{note}");
        ensure!(regarding.as_ref().and_then(|it| it.kind.as_deref()) == Some("RateLimit"), "{regarding:?}");
        Ok(())
    })
    .await?;
    let counted = || operator.metrics.resource_generation.with_label_values(&["RateLimit", &namespace, "limits"]).get();
    assert_eq!(counted(), 1);

    cluster.kubectl_ok(&["delete", "rl", "limits", "-n", &namespace]).await?;
    eventually(SOON, "the sidecar has no limit any more", async || {
        let seen = sidecar.seen.lock();
        let config = seen.config.as_ref().context("no configuration")?;
        ensure!(config.inbound.iter().all(|route| route.rate_limit.is_none()), "{config:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_limits_are_told_how_many_proxies_share_them() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    let shared = format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {{namespace: {namespace}, name: limits}}, \
         spec: {{targetRefs: [{{name: payments}}], store: {{redis: {{address: 'redis.{namespace}:6379'}}}}, \
         limits: [{{name: all, scope: Shared, rate: {{requests: 60, per: 1m}}}}]}}}}"
    );
    cluster.apply(&shared).await?;
    let sidecar = Sidecar::connect(operator.control, &authority(&cluster).await?, &pod).await?;
    let told = async |replicas: u32| {
        eventually(SOON, &format!("{replicas} proxies share the limits"), async || {
            let seen = sidecar.seen.lock();
            let counts: Vec<u32> = seen.replicas.iter().map(|it| it.replicas).collect();
            ensure!(counts == [replicas], "{counts:?} {:?}", seen.config);
            Ok(())
        })
        .await
    };
    told(1).await?;
    let another = server(&client, &namespace).await?;
    told(2).await?;
    another.set_unready().await?;
    told(1).await
}
