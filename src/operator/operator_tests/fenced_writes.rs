//! A write that an API server reads only after it was given up is not carried out.

use fusebox_testkit::audit::AuditMark;
use fusebox_testkit::consistently;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};

use super::*;
use crate::api_calls::{CallBudget, Clients};
use crate::lease::{GuardedError, Leadership, Timing};

/// Writes of each kind that are on their way when the API server freezes.
const WRITES: usize = 20;

const QUIET: Duration = Duration::from_secs(2);

fn map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..ConfigMap::default() }
}

fn clients(config: &kube::Config, leadership: &Leadership) -> Result<Clients> {
    let budget = CallBudget::new(Health::starting(components()), Metrics::new()?);
    Ok(Clients::new(config, &budget, leadership)?)
}

async fn held() -> Result<Leadership> {
    let timing = Timing::new(Duration::from_secs(4), Duration::from_millis(500), Duration::from_secs(2))?;
    Ok(Leadership::held(&timing, std::time::Instant::now() + Duration::from_secs(600)))
}

/// Creates ConfigMaps all at once, each under the guard, and returns why each failed.
async fn create(api: &Api<ConfigMap>, leadership: &Leadership, prefix: &str) -> Vec<GuardedError<kube::Error>> {
    let writes = (0..WRITES).map(async |number| {
        let (parameters, object) = (PostParams::default(), map(&format!("{prefix}-{number}")));
        leadership.guard(api.create(&parameters, &object)).await
    });
    join_all(writes).await.into_iter().filter_map(Result::err).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_write_passes_and_a_refusal_is_told() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.unique_namespace("fence").await?;
    let api: Api<ConfigMap> = Api::namespaced(clients(&cluster.config().await?, &held().await?)?.write, &namespace);
    api.create(&PostParams::default(), &map("one")).await?;
    let again = api.create(&PostParams::default(), &map("one")).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.code == 409));
    api.patch("one", &PatchParams::apply("fence-test").force(), &Patch::Apply(&map("one"))).await?;
    api.delete("one", &DeleteParams::default()).await?;
    assert!(api.get_opt("one").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_api_server_carries_out_no_write_that_was_given_up() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (namespace, leadership) = (cluster.unique_namespace("fence").await?, held().await?);
    let clients = clients(&cluster.config().await?, &leadership)?;
    let fenced: Api<ConfigMap> = Api::namespaced(clients.write, &namespace);
    let unfenced: Api<ConfigMap> = Api::namespaced(clients.call, &namespace);
    for (api, prefix) in [(&fenced, "before-fenced"), (&unfenced, "before-unfenced")] {
        let failed = create(api, &leadership, prefix).await;
        ensure!(failed.is_empty(), "a server that answers carries out all: {failed:?}");
    }

    cluster.pause_api_server().await?;
    let (stopped, given_up) =
        tokio::join!(create(&fenced, &leadership, "fenced"), create(&unfenced, &leadership, "unfenced"));
    let mark = cluster.audit_log().mark()?;
    cluster.resume_api_server().await?;
    assert!(stopped.len() == WRITES && stopped.iter().all(was_not_asked_for), "{stopped:?}");
    assert!(given_up.len() == WRITES && given_up.iter().all(|error| matches!(error, GuardedError::TimedOut(_))));

    eventually(SOON, "the server has read what was in its sockets", async || {
        let creates = creates_since(&cluster, mark, &namespace)?;
        let without_body = creates.iter().filter(|event| event.object.name.is_empty()).count();
        // Not all: some connections were still shaking hands when the server froze.
        ensure!(without_body > 0 && creates.len() > without_body, "{without_body} of {}", creates.len());
        Ok(())
    })
    .await?;
    consistently(QUIET, "no given up write is carried out", async || {
        let late: Vec<AuditEvent> = creates_since(&cluster, mark, &namespace)?
            .into_iter()
            .filter(|event| event.succeeded() && !event.object.name.starts_with("unfenced"))
            .collect();
        ensure!(late.is_empty(), "{late:?}");
        Ok(())
    })
    .await?;
    for number in 0..WRITES {
        ensure!(fenced.get_opt(&format!("fenced-{number}")).await?.is_none(), "fenced-{number} exists");
    }
    Ok(())
}

fn was_not_asked_for(error: &GuardedError<kube::Error>) -> bool {
    matches!(error, GuardedError::Failed(error) if error.to_string().contains("did not ask for the body"))
}

/// Creations of ConfigMaps that ended since; one whose body was not read has no name.
fn creates_since(cluster: &Cluster, mark: AuditMark, namespace: &str) -> Result<Vec<AuditEvent>> {
    let mut events = cluster.audit_log().events_since(mark)?;
    events.retain(|event| {
        let object = &event.object;
        event.verb == "create" && object.resource == "configmaps" && object.namespace == namespace
    });
    Ok(events)
}
