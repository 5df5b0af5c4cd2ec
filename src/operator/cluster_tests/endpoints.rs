//! Who stands behind a Service, from the EndpointSlices of a real controller to the stream that asked for it.

use std::net::SocketAddr;

use anyhow::Result;
use fusebox_policy::stream::ServiceEndpoints;
use fusebox_testkit::Cluster;
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::services::ServiceBuilder;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{Replica, Stream, config, pods, workload};
use crate::api_calls::{CallBudget, Clients};
use crate::control::PodDirectory;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::run::components;
use crate::stores::{Scope, Signal, Surroundings, Watches, spawn_endpoint_slices};
use crate::touched::Touched;

#[tokio::test]
async fn a_stream_is_told_who_stands_behind_a_service_and_of_every_change() -> Result<()> {
    let [caller] = pods().await?;
    let (client, namespace) = (Cluster::shared().await?.client().await?, caller.namespace().to_owned());
    ServiceBuilder::cluster_ip(&namespace, "payments").port_to_name("http", 80, "http").create(&client).await?;
    let replica = Replica::ready(&[&caller], &[]).await?;
    replica.control.source.publish([asking(&namespace)])?;
    follow_slices(&replica).await?;
    let mut stream = replica.greet(&caller).await?;
    stream.configuration().await?;

    let one = behind(&namespace, "payments-0", &client).await?;
    told(&mut stream, &[&one]).await?;
    let two = behind(&namespace, "payments-1", &client).await?;
    told(&mut stream, &[&one, &two]).await?;
    two.set_unready().await?;
    told(&mut stream, &[&one]).await?;
    one.delete().await?;
    told(&mut stream, &[]).await
}

#[tokio::test]
async fn a_slice_that_a_tenant_wrote_is_never_told() -> Result<()> {
    let [caller] = pods().await?;
    let (client, namespace) = (Cluster::shared().await?.client().await?, caller.namespace().to_owned());
    ServiceBuilder::cluster_ip(&namespace, "payments").port_to_name("http", 80, "http").create(&client).await?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "forged", "labels": {
            "kubernetes.io/service-name": "payments", "endpointslice.kubernetes.io/managed-by": "tenant.example.com",
        }},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 6443, "protocol": "TCP"}],
    }))?;
    Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &slice).await?;
    let replica = Replica::ready(&[&caller], &[]).await?;
    replica.control.source.publish([asking(&namespace)])?;
    follow_slices(&replica).await?;
    let mut stream = replica.greet(&caller).await?;
    let honest = behind(&namespace, "payments-0", &client).await?;
    told(&mut stream, &[&honest]).await
}

#[tokio::test]
async fn a_stream_whose_configuration_asks_for_none_is_told_of_none() -> Result<()> {
    let [caller] = pods().await?;
    let (client, namespace) = (Cluster::shared().await?.client().await?, caller.namespace().to_owned());
    ServiceBuilder::cluster_ip(&namespace, "payments").port_to_name("http", 80, "http").create(&client).await?;
    let replica = Replica::ready(&[&caller], &[]).await?;
    follow_slices(&replica).await?;
    let mut stream = replica.greet(&caller).await?;
    stream.configuration().await?;
    let one = behind(&namespace, "payments-0", &client).await?;
    replica.control.source.publish([asking(&namespace)])?;
    stream.configuration().await?;
    told(&mut stream, &[&one]).await?;
    replica.control.source.publish([config(&namespace, &["another"])])?;
    stream.configuration().await?;
    assert_eq!(stream.endpoints().await?, [], "what is no longer asked for is taken back");
    Ok(())
}

/// A configuration in which `payments` has scope Endpoint.
fn asking(namespace: &str) -> std::sync::Arc<fusebox_policy::config::ProxyConfig> {
    let route = json!({
        "service": {"namespace": namespace, "name": "payments"}, "port": 80, "portName": "http",
        "addresses": ["10.96.0.1:80"],
        "circuitBreaker": {
            "policy": {"namespace": namespace, "name": "payments"}, "side": "Client", "rules": [],
            "target": {"kind": "Service", "namespace": namespace, "name": "payments"},
            "endpointScope": {"maxOpenPercent": 50},
        },
    });
    let mut config = fusebox_policy::config::ProxyConfig::empty(workload(namespace));
    config.outbound.extend(serde_json::from_value(route));
    config.into()
}

/// A ready pod behind `payments`.
async fn behind(namespace: &str, name: &str, client: &Client) -> Result<TestPod> {
    PodBuilder::bare(namespace, name).label("app", "payments").port("http", 8080).create(client).await
}

/// Waits until the stream is told exactly these pods, which it must be before anything wrong.
async fn told(stream: &mut Stream, pods: &[&TestPod]) -> Result<()> {
    let mut wanted: Vec<String> = pods.iter().map(|pod| SocketAddr::new(pod.ip(), 8080).to_string()).collect();
    wanted.sort();
    loop {
        let services: Vec<ServiceEndpoints> = stream.endpoints().await?;
        assert_eq!(services.len(), 1, "{services:?}");
        assert!(!services[0].addresses.iter().any(|address| address.starts_with("10.9.9.9")), "{services:?}");
        let mut addresses = services[0].addresses.clone();
        addresses.sort();
        if addresses == wanted {
            return Ok(());
        }
    }
}

/// Has the replica watch the cluster's EndpointSlices, as the whole operator does.
async fn follow_slices(replica: &Replica) -> Result<()> {
    let config = Cluster::shared().await?.config().await?;
    let metrics = Metrics::new()?;
    let budget = CallBudget::new(Health::starting(components()), metrics.clone());
    spawn_endpoint_slices(&Surroundings {
        clients: Clients::new(&config, &budget, &replica.control.leadership)?,
        metrics,
        watches: Watches::default(),
        inputs: Signal::default(),
        statuses: Touched::default(),
        directory: PodDirectory::new(),
        endpoints: replica.control.endpoints.clone(),
        scope: Scope::default(),
        outputs_scope: Scope::default(),
        stop: replica.shutdown.clone(),
        tasks: TaskTracker::new(),
    });
    Ok(())
}
