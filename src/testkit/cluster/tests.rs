//! What a cluster promises to tests, tried on real ones.

use std::time::Instant;

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;

use super::*;

fn config_map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}

async fn write(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client().await?, namespace);
    api.create(&PostParams::default(), &config_map(name)).await?;
    Ok(())
}

#[tokio::test]
async fn two_clusters_at_once_do_not_see_each_other() -> Result<()> {
    let started = Instant::now();
    let options = || ClusterOptions { controllers: Controllers::None, ..ClusterOptions::default() };
    let (one, two) = tokio::try_join!(Cluster::start_with(options()), Cluster::start_with(options()))?;
    println!("two clusters after {:?}", started.elapsed());
    assert_ne!(one.url(), two.url());
    write(&one, "default", "mine").await?;
    let theirs: Api<ConfigMap> = Api::namespaced(two.client().await?, "default");
    assert!(theirs.get_opt("mine").await?.is_none());
    // A client of one is a stranger to the other.
    let mut stranger = one.config().await?;
    stranger.cluster_url = two.url().parse()?;
    assert!(Client::try_from(stranger)?.apiserver_version().await.is_err());
    Ok(())
}
