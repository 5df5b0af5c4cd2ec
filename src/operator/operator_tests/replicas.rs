//! Two replicas: one writes, both compile, and the other takes over.

use super::*;

fn writers(cluster: &Cluster) -> Result<Vec<String>> {
    let writes = cluster.audit_events()?.into_iter().filter(is_write);
    let mut agents: Vec<String> = writes.map(|event| event.user_agent).collect();
    agents.sort();
    agents.dedup();
    Ok(agents)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_writes_and_the_other_takes_over() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, _pod) = shop(&cluster).await?;
    let times = ["--lease-duration", "3s", "--renew-interval", "500ms", "--renew-deadline", "2s"];
    let first = Running::start(&cluster, "first", &times).await?;
    first.leads().await?;
    let second = Running::start(&cluster, "second", &times).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    condition(&client, &namespace, "payments", ("Accepted", "True", "Accepted")).await?;
    eventually(SOON, "the follower compiled too", async || {
        ensure!(
            second
                .metrics
                .resource_generation
                .with_label_values(&["CircuitBreakerPolicy", &namespace, "payments"])
                .get()
                == 1,
            "not yet"
        );
        Ok(())
    })
    .await?;
    let agents = writers(&cluster)?;
    assert!(agents.iter().all(|agent| agent.ends_with(" first")), "{agents:?}");

    first.stop().await?;
    second.leads().await?;
    apply_policy(&cluster, &namespace, "lost", "nobody").await?;
    condition(&client, &namespace, "lost", ("Accepted", "False", "TargetNotFound")).await
}
