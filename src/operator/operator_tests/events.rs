//! Events as people read them: whose they are, what they say, and that a policy that flaps has a bounded number.

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;

use super::*;
use crate::events::PER_POLICY;

/// More changes than a policy may have Events.
const CHANGES: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn transitions_are_told_as_events_of_the_policy_and_a_flapping_one_has_a_bounded_number() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, _pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    operator.leads().await?;
    let begun = std::time::Instant::now();
    for change in 0..CHANGES {
        let (target, reason) = [("payments", "Accepted"), ("nobody", "NotAccepted")][change % 2];
        let before = told(&operator, reason);
        apply_policy(&cluster, &namespace, "payments", target).await?;
        eventually(SOON, &format!("change {change} is told or counted"), async || {
            ensure!(told(&operator, reason) > before, "neither");
            Ok(())
        })
        .await?;
    }
    let dropped = operator.metrics.events_dropped.with_label_values(&["PolicyAllowance"]).get();
    assert!(dropped > 0, "the allowance was never used up, so this shows nothing");

    let events = Api::<Event>::namespaced(client.clone(), &namespace).list(&ListParams::default()).await?.items;
    let of_policy: Vec<&Event> = events.iter().filter(|event| is_regarding(event, "payments")).collect();
    let allowed = u64::from(PER_POLICY.burst) + begun.elapsed().as_secs() / PER_POLICY.every.as_secs() + 1;
    assert!(!of_policy.is_empty() && of_policy.len() as u64 <= allowed, "{} Events", of_policy.len());
    let policy = Api::<CircuitBreakerPolicy>::namespaced(client, &namespace).get("payments").await?;
    for event in &of_policy {
        let regarding = event.regarding.as_ref().context("regards nothing")?;
        assert_eq!(regarding.uid, policy.metadata.uid);
        assert_eq!(event.reporting_controller.as_deref(), Some("fusebox.dev/operator"));
    }
    for (reason, severity, part) in
        [("Accepted", "Normal", "Accepted: "), ("NotAccepted", "Warning", "TargetNotFound: ")]
    {
        let found = of_policy.iter().find(|event| event.reason.as_deref() == Some(reason)).context(reason)?;
        assert_eq!(found.type_.as_deref(), Some(severity));
        assert!(found.note.as_deref().unwrap_or_default().starts_with(part), "{found:?}");
    }
    let described =
        cluster.kubectl_ok(&["describe", "circuitbreakerpolicy", "payments", "--namespace", &namespace]).await?;
    assert!(described.contains("TargetNotFound: "), "kubectl describe shows them: {described}");
    Ok(())
}

/// Events with this reason that were written, and those of any that the policy's allowance did not cover.
fn told(operator: &Running, reason: &str) -> u64 {
    let metrics = &operator.metrics;
    metrics.events.with_label_values(&[reason]).get()
        + metrics.events_dropped.with_label_values(&["PolicyAllowance"]).get()
}

fn is_regarding(event: &Event, name: &str) -> bool {
    let wanted = (Some("CircuitBreakerPolicy"), Some(name));
    event.regarding.as_ref().is_some_and(|it| (it.kind.as_deref(), it.name.as_deref()) == wanted)
}
