//! `make measure-pods`: what a pair of sidecars adds to a request, what injection adds to a pod, and how soon a sidecar is ready.
//!
//! Owns the rounds and the printed tables; it runs on the node of `make node-up`, since it sends its load from within the
//! clients' network namespaces. Nothing is asserted here: machines are noisy, and tests are never timed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fusebox_e2e::stage::{Sidecars, Stage, on_stage};
use fusebox_testkit::load::Load;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde::{Deserialize, Serialize};

/// Requests a second.
const RATE: u32 = 1_000;
/// How long each visit lasts, and the one before that nobody counts.
const VISIT: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(2);
/// Each scene is visited so often, in turn.
const ROUNDS: usize = 3;
/// Pods that are admitted, without being made.
const ADMISSIONS: usize = 1_000;
/// Pods that are made, one after the other.
const STARTS: usize = 10;
/// How many connections the load keeps.
const CONNECTIONS: usize = 16;
const SIDECAR: &str = "fusebox-proxy";

/// What one visit shows, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Visit {
    p50: u64,
    p99: u64,
    failed: u64,
}

/// A client from whose network the load is sent, and where to.
struct Caller {
    name: &'static str,
    process: u32,
    address: SocketAddr,
    visits: Vec<Visit>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["load", address] => load(address.parse().context("no address")?).await,
        [] => measure().await,
        _ => bail!("run it without arguments: `make measure-pods`"),
    }
}

/// Sends the load to `address` and prints a [`Visit`] as JSON.
async fn load(address: SocketAddr) -> Result<()> {
    let connections = CONNECTIONS;
    Load { connections, ..Load::new(address, RATE, WARM_UP) }.run().await?;
    let report = Load { connections, ..Load::new(address, RATE, VISIT) }.run().await?;
    let micros = |percent| u64::try_from(report.percentile(percent).as_micros()).unwrap_or(u64::MAX);
    let visit = Visit { p50: micros(50.0), p99: micros(99.0), failed: report.sent - report.count_of(200) };
    println!("{}", serde_json::to_string(&visit)?);
    Ok(())
}

async fn measure() -> Result<()> {
    on_stage("plain", Sidecars::None, async |plain| {
        on_stage("transparent", Sidecars::Transparent, async |transparent| {
            on_stage("explicit", Sidecars::Explicit, async |explicit| {
                latency([("none", plain), ("transparent", transparent), ("explicit", explicit)]).await?;
                admission(plain, transparent).await?;
                starts("transparent", transparent).await?;
                starts("explicit", explicit).await
            })
            .await
        })
        .await
    })
    .await
}

async fn latency(stages: [(&'static str, &Stage); 3]) -> Result<()> {
    let mut callers = Vec::new();
    for (name, stage) in stages {
        callers.push(caller(name, stage).await?);
    }
    for _ in 0..ROUNDS {
        for caller in &mut callers {
            caller.visits.push(visit(caller).await?);
        }
    }
    println!("\n| sidecars, {RATE} requests/s | p50, µs | p99, µs | failed |\n|---|---|---|---|");
    for Caller { name, visits, .. } in &callers {
        let [p50, p99] = [median(visits.iter().map(|it| it.p50)), median(visits.iter().map(|it| it.p99))];
        println!("| {name} | {p50} | {p99} | {} |", visits.iter().map(|it| it.failed).sum::<u64>());
    }
    Ok(())
}

/// Sets the scene: nginx, and a client whose network the load will use.
async fn caller(name: &'static str, stage: &Stage) -> Result<Caller> {
    stage.server("payments", 1).await?;
    if name != "none" {
        stage
            .protect("payments", "timeout: 5s, trip: {consecutiveFailures: 3, failureRate: {percent: 50, window: 10s}}")
            .await?;
    }
    stage.rolled_out("payments").await?;
    stage.client("web", (1, "http://payments")).await?;
    stage.rolled_out("web").await?;
    if name != "none" {
        stage.enforced("payments").await?;
    }
    stage.hears("web", (200, "")).await?;
    let pod = stage.pods("web").await?.pop().context("no client")?;
    // The client itself is quiet from now on: it would be in the way.
    let process = process_of(&container_id(&pod, "curl")?)?;
    Ok(Caller { name, process, address: address(stage, &pod).await?, visits: Vec::new() })
}

/// What a client that asks for `payments` connects to: the sidecar's loopback address where an alias says so, else the Service.
async fn address(stage: &Stage, pod: &Pod) -> Result<SocketAddr> {
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let mut alias =
        aliases.filter(|alias| alias.hostnames.iter().flatten().any(|name| name == "payments")).map(|it| it.ip.clone());
    let services: Api<Service> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let service = services.get("payments").await?.spec.and_then(|spec| spec.cluster_ip);
    let host = alias.next_back().or(service).context("payments has no address")?;
    Ok(SocketAddr::new(host.parse().with_context(|| format!("{host} is no address"))?, 80))
}

async fn visit(caller: &Caller) -> Result<Visit> {
    let mut command = tokio::process::Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", caller.process)).arg("--").arg(std::env::current_exe()?);
    let output = command.args(["load", &caller.address.to_string()]).stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "the load from {} failed", caller.name);
    serde_json::from_slice(&output.stdout).context("the load printed no figures")
}

/// The same pod is admitted, with a dry run, where no sidecar is asked for and where one is.
async fn admission(plain: &Stage, injected: &Stage) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ADMISSIONS {
        for (stage, times) in [plain, injected].into_iter().zip(&mut times) {
            let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
            let begun = Instant::now();
            pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &sleeper(round)?).await?;
            times.push(begun.elapsed());
        }
    }
    println!("\n| admission of a pod, {ADMISSIONS} times | p50, ms | p99, ms |\n|---|---|---|");
    for (name, mut times) in ["without injection", "with injection"].into_iter().zip(times) {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("| {name} | {:.2} | {:.2} |", at(50), at(99));
    }
    Ok(())
}

/// From the start of the sidecar's process to the start of the application's: what the pod waits for the sidecar.
async fn starts(name: &str, stage: &Stage) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let mut times = Vec::new();
    for round in 0..STARTS {
        let pod = pods.create(&PostParams::default(), &sleeper(round)?).await?;
        let name = pod.metadata.name.context("the pod has no name")?;
        let pod = running(&pods, &name).await?;
        let [proxy, application] =
            [SIDECAR, "sleep"].map(|it| container_id(&pod, it).and_then(|id| started(process_of(&id)?)));
        times.push(application? - proxy?);
        pods.delete(&name, &DeleteParams::default().grace_period(1)).await?;
    }
    times.sort_by(f64::total_cmp);
    println!("\nFrom the start of the sidecar to the start of the application, {name}, {STARTS} pods: ");
    println!("median {:.2} s, most {:.2} s", times[times.len() / 2], times.last().copied().unwrap_or_default());
    Ok(())
}

async fn running(pods: &Api<Pod>, name: &str) -> Result<Pod> {
    let running = kube::runtime::wait::await_condition(pods.clone(), name, kube::runtime::conditions::is_pod_running());
    let pod = tokio::time::timeout(fusebox_e2e::stage::PATIENCE, running).await.context("the pod does not run")??;
    pod.context("the pod is gone")
}

fn sleeper(round: usize) -> Result<Pod> {
    let restricted = serde_json::json!({
        "runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    Ok(serde_json::from_value(serde_json::json!({
        "metadata": {"name": format!("sleep-{round}"), "labels": {"app": "sleep"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "sleep", "image": fusebox_testkit::images::DEBIAN_IMAGE, "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "600"], "securityContext": restricted,
        }]},
    }))?)
}

fn container_id(pod: &Pod, container: &str) -> Result<String> {
    let status = pod.status.as_ref().context("the pod has no status")?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = all.filter(|it| it.name == container).find_map(|it| it.container_id.as_deref());
    let id =
        found.and_then(|id| id.strip_prefix("containerd://")).with_context(|| format!("no container {container}"))?;
    Ok(id.to_owned())
}

/// The first process of a container on this machine.
fn process_of(container: &str) -> Result<u32> {
    let mut found: Vec<u32> = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if std::fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(container)) {
            found.push(process);
        }
    }
    found.into_iter().min().with_context(|| format!("container {container} has no process on this machine"))
}

/// When a process began, in seconds since the machine did; to a hundredth.
fn started(process: u32) -> Result<f64> {
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = text.rsplit_once(')').context("an odd stat")?.1;
    let ticks: f64 = after_name.split_whitespace().nth(19).context("a short stat")?.parse()?;
    Ok(ticks / TICKS)
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
