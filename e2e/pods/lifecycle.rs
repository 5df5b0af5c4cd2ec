//! A pod with a sidecar starts, is probed and ends as it did without one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::eventually;
use fusebox_testkit::images::DEBIAN_IMAGE;
use k8s_openapi::api::batch::v1::Job;
use kube::Api;

use fusebox_e2e::stage::{PATIENCE, RESTRICTED, Sidecars, Stage, on_stage};

/// How long a Job's pod may live on after its main container.
const AFTER_MAIN: Duration = Duration::from_secs(5);
/// Both ways in which traffic reaches sidecars.
const BOTH: [Sidecars; 2] = [Sidecars::Transparent, Sidecars::Explicit];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_job_completes_soon_after_its_main_container() -> Result<()> {
    for sidecars in BOTH {
        on_stage("job", sidecars, async |stage| {
            protected_server(stage).await?;
            let job = "curl --silent --fail --retry 5 --retry-all-errors http://payments";
            stage.apply(&job_manifest("batch", ("", job))).await?;
            completed(stage, "batch").await?;
            ended_soon(stage, "batch").await
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn an_init_container_has_network() -> Result<()> {
    for sidecars in BOTH {
        on_stage("init", sidecars, async |stage| {
            protected_server(stage).await?;
            // No retry: at the first try the sidecar must be there, and the policy's Service be reached by its name.
            let init = "curl --silent --show-error --fail http://payments";
            stage.apply(&job_manifest("first", (init, "exit 0"))).await?;
            completed(stage, "first").await
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn probes_of_each_kind_keep_saying_what_they_said() -> Result<()> {
    for sidecars in BOTH {
        on_stage("probes", sidecars, async |stage| {
            stage.server("payments", 1).await?;
            stage.kubectl(&["patch", "deployment", "payments", "--patch", PROBES]).await?;
            stage.rolled_out("payments").await?;
            let pod = stage.pod_names("payments").await?.pop().context("no pod")?;
            // The application alone decides: what makes it fail makes the probe fail.
            stage.break_pod(&pod).await?;
            ready_is(stage, "False").await?;
            stage.mend_pod(&pod).await?;
            ready_is(stage, "True").await?;
            let restarts = stage.pods("payments").await?[0].status.as_ref().and_then(|status| {
                status.container_statuses.as_ref().map(|all| all.iter().map(|one| one.restart_count).sum::<i32>())
            });
            ensure!(restarts == Some(0), "liveness probes failed: {restarts:?} restarts");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// HTTP for readiness (fails while nginx answers 503), TCP for liveness, a command for the start.
const PROBES: &str = r#"{"spec": {"template": {"spec": {"containers": [{"name": "nginx",
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2},
    "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    "startupProbe": {"exec": {"command": ["test", "-f", "/tmp/nginx.pid"]}, "periodSeconds": 1}}]}}}}"#;

/// `payments` with a policy, so that both kinds of interception lead callers to their sidecars.
async fn protected_server(stage: &Stage) -> Result<()> {
    stage.server("payments", 1).await?;
    stage.protect("payments", "timeout: 5s").await?;
    stage.rolled_out("payments").await
}

async fn ready_is(stage: &Stage, wanted: &str) -> Result<()> {
    eventually(PATIENCE, &format!("the pod's Ready is {wanted}"), async || {
        let pods = stage.pods("payments").await?;
        let conditions = pods.into_iter().find_map(|pod| pod.status?.conditions).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready").context("no condition Ready")?;
        ensure!(ready.status == wanted, "it is {}", ready.status);
        Ok(())
    })
    .await
}

/// A Job with an init container, if there is a command for it, and a main container.
fn job_manifest(name: &str, (init, main): (&str, &str)) -> String {
    let container = |name: &str, command: &str| {
        format!(
            "{{name: {name}, image: \"{DEBIAN_IMAGE}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"{command}\"], \
             securityContext: {RESTRICTED}}}"
        )
    };
    let init = if init.is_empty() { String::new() } else { container("before", init) };
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{backoffLimit: 0, template: {{\
         metadata: {{labels: {{app: {name}}}}}, spec: {{restartPolicy: Never, \
         initContainers: [{init}], containers: [{}]}}}}}}}}",
        container("main", main)
    )
}

async fn completed(stage: &Stage, name: &str) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(stage.client.clone(), &stage.namespace);
    eventually(PATIENCE, &format!("job {name} completes"), async || {
        let status = jobs.get(name).await?.status.unwrap_or_default();
        if status.failed.is_some_and(|failed| failed > 0) {
            return Ok(Err(anyhow::anyhow!("it failed")));
        }
        ensure!(status.completion_time.is_some(), "{:?} pods are active", status.active);
        Ok(Ok(()))
    })
    .await?
}

/// Compares the ends of the pod's containers: the sidecar's must follow the main one's at once.
async fn ended_soon(stage: &Stage, name: &str) -> Result<()> {
    let pod = stage.pods(name).await?.pop().context("the job has no pod")?;
    let status = pod.status.context("the pod has no status")?;
    let main = status.container_statuses.unwrap_or_default();
    let main = main.into_iter().find_map(|one| one.state?.terminated?.finished_at).context("main has not ended")?;
    let sidecars = status.init_container_statuses.unwrap_or_default();
    let last = sidecars.into_iter().filter_map(|one| one.state?.terminated?.finished_at).max();
    let last = last.context("the pod had no sidecar that ended")?;
    let took = last.0.duration_since(main.0);
    println!("the sidecar ended {took:#} after the main container");
    ensure!(took <= jiff::SignedDuration::try_from(AFTER_MAIN)?, "it took {took:#}");
    Ok(())
}
