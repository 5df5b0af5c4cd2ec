//! The cluster's DNS: CoreDNS as a pod behind the Service `kube-dns`.
//!
//! Owns its objects, and waiting until it answers. It must not resolve names of the outside: tests stay on this machine.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;

use super::READY_WITHIN;
use super::addresses::{CLUSTER_DOMAIN, DNS};
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::images::DNS_IMAGE;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";
const PORT: u16 = 53;

/// Applies the objects and waits until the Service answers on this machine.
pub(super) async fn start(cluster: &Cluster) -> Result<()> {
    cluster.apply(&objects()).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await?, NAMESPACE);
    let ready = eventually(READY_WITHIN, "the cluster's DNS is ready", async || {
        let status = deployments.get(NAME).await?.status.context("it has no status")?;
        ensure!(status.ready_replicas == Some(1), "{:?} pods are ready", status.ready_replicas);
        // Through kube-proxy's rules, as the API server reaches webhooks and as pods reach everything.
        tokio::net::TcpStream::connect((DNS, PORT)).await.context("its Service does not answer")?;
        Ok(())
    });
    match ready.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let pods = cluster.kubectl_ok(&["describe", "pods", "--namespace", NAMESPACE]).await.unwrap_or_default();
            Err(error.context(format!("the pods of {NAMESPACE}:\n{pods}")))
        }
    }
}

fn objects() -> String {
    include_str!("dns.yaml")
        .replace("{image}", DNS_IMAGE)
        .replace("{domain}", CLUSTER_DOMAIN)
        .replace("{address}", &DNS.to_string())
}
