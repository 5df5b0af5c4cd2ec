//! The operator's traces at a real receiver, and its ports as a monitoring system asks them.

use fusebox_testkit::otlp::{Receiver, Span};

use super::*;

fn child_of<'spans>(spans: &'spans [Span], parent: &Span, name: &str) -> Option<&'spans Span> {
    spans.iter().find(|span| {
        span.name == name && span.trace_id == parent.trace_id && span.parent_id.as_ref() == Some(&parent.span_id)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_with_parent_and_child_connected() -> Result<()> {
    let receiver = Receiver::start().await?;
    let cluster = cluster().await?;
    let (client, namespace, _pod) = shop(&cluster).await?;
    let settings = Settings::try_parse_from(["fusebox-operator", "--otlp-endpoint", &receiver.endpoint()])?;
    let telemetry = crate::telemetry::start(&settings, &Health::starting([]), &Metrics::new()?)?;
    let _operator = Running::start(&cluster, "traced", &[]).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    condition(&client, &namespace, "payments", ("Accepted", "True", "Accepted")).await?;
    eventually(SOON, "a whole trace arrives", async || {
        let spans = receiver.spans();
        let whole = spans.iter().filter(|span| span.name == "reconcile").find_map(|root| {
            child_of(&spans, root, "snapshot")?;
            child_of(&spans, root, "compile")?;
            let apply = child_of(&spans, root, "apply ConfigMap")?;
            child_of(&spans, apply, "kube request")?;
            Some(root)
        });
        let status = spans.iter().filter(|span| span.name == "status write");
        let written = status.filter(|write| child_of(&spans, write, "kube request").is_some()).count();
        let names: std::collections::BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        ensure!(whole.is_some() && written > 0, "{names:?}");
        Ok(())
    })
    .await?;
    tokio::task::spawn_blocking(move || telemetry.finish(Duration::from_secs(2))).await?;
    Ok(())
}
