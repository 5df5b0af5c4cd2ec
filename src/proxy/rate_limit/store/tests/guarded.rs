//! Who may be a store, and who may ask one: client certificates, and names that lead back into the pod.

use fusebox_policy::config::{RedisTls, Reference, ReferenceKind};
use fusebox_testkit::certificates::{Authority, Signed};

use super::*;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

fn reference(key: &str) -> Option<Reference> {
    let (namespace, name) = ("shop".to_owned(), "redis".to_owned());
    Some(Reference { kind: ReferenceKind::Secret, namespace, name, key: key.to_owned() })
}

/// A store over TLS, whose clients show this certificate.
fn over_tls(redis: &Redis, authority: &Authority, own: Option<&Signed>) -> Result<SharedStore> {
    let named = |key: &str| own.and_then(|_| reference(key));
    let tls = RedisTls { authorities: reference("ca.crt"), certificate: named("crt"), private_key: named("key") };
    let store = RedisStore { tls: Some(tls), ..single(redis.address()) };
    let settings = StoreSettings::resolve(&store, |wanted| match (wanted.key.as_str(), own) {
        ("ca.crt", _) => Some(authority.certificate()),
        ("crt", Some(own)) => Some(own.certificate.clone()),
        ("key", Some(own)) => Some(own.key.clone()),
        _ => None,
    });
    let shared = SharedStore::start();
    shared.configure(settings.map_err(|unresolved| anyhow::anyhow!("{unresolved}"))?);
    Ok(shared)
}

#[tokio::test]
async fn a_redis_that_demands_certificates_is_used_with_one_and_names_the_field_without() -> Result {
    let authority = Authority::new("redis")?;
    for protocols in ["TLSv1.3", "TLSv1.2"] {
        let setting = format!("tls-protocols \"{protocols}\"");
        let redis = Redis::builder().mutual_tls(&authority)?.setting(setting).start().await?;
        let own = authority.client("proxy", None)?;
        let with = over_tls(&redis, &authority, Some(&own))?;
        is_connected(&with).await?;
        assert!(passes(&with, &hourly("a", 1)).await);

        let error = is_lost(&over_tls(&redis, &authority, None)?).await?;
        assert!(error.contains("demands a client certificate"), "{protocols}: {error}");
        assert!(error.contains("spec.store.redis.tls.certificateFrom"), "{protocols}: {error}");

        let foreign = Authority::new("other")?.client("proxy", None)?;
        let error = is_lost(&over_tls(&redis, &authority, Some(&foreign))?).await?;
        let refused = error.contains("refuses the client certificate of spec.store.redis.tls.certificateFrom");
        assert!(refused && error.contains("authority"), "{protocols}: {error}");
    }
    Ok(())
}

fn at(store: &RedisStore, addresses: StoreAddresses) -> SharedStore {
    let shared = SharedStore::start();
    shared.configure(settings(store).at(addresses));
    shared
}

#[tokio::test]
async fn a_name_that_leads_back_into_the_pod_is_refused_in_a_cluster_and_used_by_a_proxy_started_by_hand() -> Result {
    let redis = Redis::start().await?;
    let port = redis.address().port();
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"] {
        let address = format!("{host}:{port}");
        let error = is_lost(&at(&single(&address), StoreAddresses::BeyondThePod)).await?;
        let named = error.contains("leads back into the pod") && error.contains("spec.store.redis.address");
        assert!(named && error.contains(&address), "{error}");
    }
    let local = at(&single(format!("localhost:{port}")), StoreAddresses::Any);
    is_connected(&local).await?;
    assert!(passes(&local, &hourly("a", 1)).await);
    Ok(())
}

#[tokio::test]
async fn servers_that_sentinels_and_clusters_name_must_not_lead_back_either() -> Result {
    let back = vec!["localhost:1".to_owned()];
    let primary = "mymaster".to_owned();
    for (topology, field) in [
        (RedisTopology::Sentinel { addresses: back.clone(), primary }, "spec.store.redis.sentinel"),
        (RedisTopology::Cluster { addresses: back }, "spec.store.redis.cluster"),
    ] {
        let error = is_lost(&at(&plain(topology), StoreAddresses::BeyondThePod)).await?;
        assert!(error.contains("leads back into the pod") && error.contains(field), "{error}");
    }
    // One node of a cluster, reached from outside, that says that it is on loopback.
    let builder = Redis::builder().reachable()?.setting("protected-mode no").setting("cluster-enabled yes");
    let redis = builder.setting("cluster-announce-ip 127.0.0.1").start().await?;
    redis.command(&["cluster", "addslotsrange", "0", "16383"]).await?;
    let topology = RedisTopology::Cluster { addresses: vec![redis.outside()?.to_string()] };
    let store = at(&plain(topology), StoreAddresses::BeyondThePod);
    // It takes the node a moment to find that it has all slots.
    eventually(PATIENCE, "the node's own word for its address is refused", async || {
        let error = is_lost(&store).await?;
        anyhow::ensure!(error.contains("127.0.0.1") && error.contains("spec.store.redis.cluster"), "{error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_redis_of_another_machine_is_used_in_a_cluster() -> Result {
    let redis = Redis::builder().reachable()?.setting("protected-mode no").start().await?;
    let store = at(&single(redis.outside()?), StoreAddresses::BeyondThePod);
    is_connected(&store).await?;
    assert!(passes(&store, &hourly("a", 1)).await);
    Ok(())
}
