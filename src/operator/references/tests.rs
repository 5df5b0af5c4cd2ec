//! The bound of watched objects, against a real API server.

use std::time::Duration;

use anyhow::{Result, ensure};
use fusebox_testkit::{Cluster, eventually};

use super::*;

/// The first looks at so many objects are paced.
const DEADLINE: Duration = Duration::from_secs(60);

fn quotas(namespace: &str, number: usize) -> Reference {
    let (kind, name) = (ReferenceKind::ConfigMap, format!("quotas-{number:03}"));
    Reference { kind, namespace: namespace.to_owned(), name, key: "quotas.yaml".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_more_than_may_be_watched_is_said_to_be_too_many_until_another_is_not_wanted() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.unique_namespace("shop").await?;
    let (metrics, stop) = (Metrics::new()?, CancellationToken::new());
    let _ended = stop.clone().drop_guard();
    let references = References::new(ReferenceSurroundings {
        client: cluster.client().await?,
        values: ReferenceValues::default(),
        inputs: Signal::default(),
        metrics: metrics.clone(),
        own_namespace: "fusebox-system".to_owned(),
        stop,
        tasks: TaskTracker::new(),
    });
    let mut wanted: BTreeSet<Reference> = (0..=MAX_WATCHED).map(|number| quotas(&namespace, number)).collect();
    references.want(&wanted);
    let last = quotas(&namespace, MAX_WATCHED);
    let Some(ReferenceState::Unusable { problem }) = references.all().remove(&last) else {
        panic!("{:?}", references.all().remove(&last))
    };
    assert!(problem.contains("more than 256") && problem.contains("fewer"), "{problem}");
    let counted = |state: &str| metrics.references.with_label_values(&[state]).get();
    assert_eq!((counted("Unknown"), counted("TooMany")), (256, 1));
    let missing = async |number: i64| {
        eventually(DEADLINE, "the API server says that they are not there", async || {
            ensure!(counted("Missing") == number, "{} of {number}", counted("Missing"));
            Ok(())
        })
        .await
    };
    missing(256).await?;
    let left_out = references.all().into_iter().filter(|(_, state)| matches!(state, ReferenceState::Unusable { .. }));
    assert!(left_out.map(|(reference, _)| reference).eq([last.clone()]), "only the last");

    wanted.remove(&quotas(&namespace, 0));
    references.want(&wanted);
    missing(256).await?;
    assert_eq!(counted("TooMany"), 0);
    assert_eq!(references.all()[&last], ReferenceState::Missing, "it is read now");
    Ok(())
}
