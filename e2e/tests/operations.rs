//! The command's way to live breakers, overrides and explanations: through the API server, with roles, to real operators and proxies.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::operations::{API_SERVICE, Person};
use fusebox_e2e::{Fleet, OperatorOptions, Shop, Sidecar};
use fusebox_testkit::eventually;
use fusebox_testkit::pods::PodBuilder;
use http::StatusCode;
use serde_json::Value;

const QUICK: &str = "trip: {consecutiveFailures: 3}, open: {baseDuration: 5m, jitterPercent: 0}";

/// The row of one pod, by its columns.
fn row<'a>(table: &'a str, pod: &str) -> Result<Vec<&'a str>> {
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(pod));
    Ok(line.with_context(|| format!("no row of {pod} in:\n{table}"))?.split_whitespace().collect())
}

async fn is_refused(sidecar: &Sidecar) -> Result<()> {
    let answer = sidecar.get("/").await?;
    ensure!(answer.header("fusebox-error") == "circuit-open", "{answer:?}");
    Ok(())
}

/// Whom most tests ask: on call, with nothing but our two roles in the shop's namespace.
async fn on_call(fleet: &Fleet, shop: &Shop) -> Result<Person> {
    fleet.person("oncall", &["fusebox-view", "fusebox-operate"], &shop.namespace).await
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_each_pod_live() -> Result<()> {
    let fleet = Fleet::start(2, &OperatorOptions::short_lease()).await?;
    fleet.install_operations_api().await?;
    let shop = Shop::open(&fleet).await?;
    let (broken, well) = (shop.caller_with_sidecar(&fleet).await?, shop.caller_with_sidecar(&fleet).await?);
    shop.apply_policy(&fleet, "payments", QUICK).await?;
    well.enforces("payments").await?;
    broken.enforces("payments").await?;
    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..3 {
        broken.get("/").await?;
    }
    is_refused(&broken).await?;

    let (person, ns) = (on_call(&fleet, &shop).await?, shop.namespace.as_str());
    let service = format!("{ns}/payments");
    let narrow = eventually(PATIENCE, "status tells one pod's breaker from the other's", async || {
        let table = person.prints(&fleet, &["status", "payments", "-n", ns]).await?;
        let (open, closed) = (row(&table, broken.pod.name())?, row(&table, well.pod.name())?);
        ensure!(open[4] == "Open" && closed[4] == "Closed" && table.contains("PartiallyOpen"), "{table}");
        Ok(table)
    })
    .await?;
    let open = row(&narrow, broken.pod.name())?;
    ensure!(open[0] == service && open[2] == service && open[3] == "(rest)" && open[6] == "1", "{narrow}");
    ensure!(open[7] == "in" && narrow.contains("CONDITION"), "{narrow}");

    let wide = person.prints(&fleet, &["status", "-o", "wide", "-n", ns]).await?;
    let open = row(&wide, broken.pod.name())?.join(" ");
    ensure!(wide.contains("WORKLOAD") && wide.contains("REVISION"), "{wide}");
    ensure!(open.contains("ConsecutiveFailures") && open.contains("Deployment/web") && open.contains("true"), "{wide}");

    let json: Value = serde_json::from_str(&person.prints(&fleet, &["status", "-o", "json", "-n", ns]).await?)?;
    let pods = json["items"][0]["live"]["pods"].as_array().context("no pods")?.clone();
    let state = |name: &str| pods.iter().find(|pod| pod["name"] == name).map(|pod| &pod["breakers"][0]["state"]);
    ensure!(
        state(broken.pod.name()) == Some(&"Open".into()) && state(well.pod.name()) == Some(&"Closed".into()),
        "{json}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trip_and_release_are_done_when_every_pod_obeys() -> Result<()> {
    let fleet = Fleet::start(2, &OperatorOptions::short_lease()).await?;
    fleet.install_operations_api().await?;
    let shop = Shop::open(&fleet).await?;
    let web = [shop.caller_with_sidecar(&fleet).await?, shop.caller_with_sidecar(&fleet).await?];
    shop.apply_policy(&fleet, "payments", QUICK).await?;
    for sidecar in &web {
        sidecar.enforces("payments").await?;
        ensure!(sidecar.get("/").await?.status == 200);
    }
    let (person, ns) = (on_call(&fleet, &shop).await?, shop.namespace.as_str());

    let begun = Instant::now();
    let trip = ["trip", "payments", "-n", ns, "--for", "10m", "--reason", "INC-42"];
    let said = person.prints(&fleet, &trip).await?;
    println!("tripped and confirmed after {:?}", begun.elapsed());
    ensure!(
        said.contains("ForcedOpen until") && said.contains("INC-42") && said.contains("2/2 Ready pods obey"),
        "{said}"
    );
    for sidecar in &web {
        is_refused(sidecar).await.context("who is confirmed obeys at once")?;
    }
    let table = eventually(PATIENCE, "status shows the override", async || {
        let table = person.prints(&fleet, &["status", "payments", "-n", ns]).await?;
        ensure!(table.contains("ForcedOpen") && table.contains("INC-42"), "{table}");
        Ok(table)
    })
    .await?;
    ensure!(web.iter().all(|it| row(&table, it.pod.name()).is_ok_and(|row| row[4] == "Open")), "{table}");
    eventually(PATIENCE, "an Event says who forced it", async || {
        let events = fleet.kubectl(&["get", "events", "-n", ns, "-o", "json"]).await?;
        ensure!(events.contains("OverrideSet") && events.contains("oncall"), "{events}");
        Ok(())
    })
    .await?;

    let begun = Instant::now();
    let said = person.prints(&fleet, &["release", "payments", "-n", ns]).await?;
    println!("released and confirmed after {:?}", begun.elapsed());
    ensure!(said.contains("released") && said.contains("2/2 Ready pods obey"), "{said}");
    for sidecar in &web {
        ensure!(sidecar.get("/").await?.status == 200, "who is confirmed obeys at once");
    }
    let said = person.prints(&fleet, &["release", "payments", "-n", ns]).await?;
    ensure!(said.contains("no override is set"), "{said}");

    // A pod that does not answer is not waited for without end, and is named.
    web[1].process.pause().await?;
    let trip = ["trip", "payments", "-n", ns, "--for", "10m", "--reason", "INC-43", "--timeout", "2s"];
    let said = person.fusebox(&fleet, &trip).await?;
    web[1].process.resume()?;
    ensure!(said.code == 3 && said.err.contains("not confirmed within 2s"), "{said:?}");
    ensure!(said.err.contains(&format!("1/2 Ready pods obey; not yet: {}", web[1].pod.name())), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_which_role_helps() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    fleet.install_operations_api().await?;
    let shop = Shop::open(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "").await?;
    let ns = shop.namespace.as_str();
    let viewer = fleet.person("viewer", &["fusebox-view"], ns).await?;
    let nobody = fleet.person("nobody", &[], ns).await?;
    let trip = ["trip", "payments", "-n", ns, "--for", "10m", "--reason", "INC-42"];

    viewer.prints(&fleet, &["status", "payments", "-n", ns]).await?;
    for command in [&trip[..], &["release", "payments", "-n", ns]] {
        for person in [&viewer, &nobody] {
            let said = person.fusebox(&fleet, command).await?;
            let role = "ask for ClusterRole fusebox-operate in this namespace (it is part of edit)";
            ensure!(said.code == 1 && said.err.contains(role), "{command:?}: {said:?}");
            ensure!(said.err.contains("`kubectl create rolebinding fusebox-operate-"), "{command:?}: {said:?}");
        }
    }
    let explain = nobody.fusebox(&fleet, &["explain", "pod/any", "-n", ns]).await?;
    ensure!(explain.code == 1 && explain.err.contains("ClusterRole fusebox-view"), "{explain:?}");
    let status = nobody.fusebox(&fleet, &["status", "payments", "-n", ns]).await?;
    ensure!(status.code == 1 && status.err.contains("`kubectl create rolebinding fusebox-view-nobody"), "{status:?}");
    ensure!(!status.err.contains("Status {"), "in words: {status:?}");
    ensure!(shop.policy(&fleet, "payments").await?.spec.force.is_none(), "nobody forced it");

    let on_call = on_call(&fleet, &shop).await?;
    let absent = ["trip", "absent", "-n", ns, "--for", "10m", "--reason", "INC-42"];
    let said = on_call.fusebox(&fleet, &absent).await?;
    ensure!(said.code == 1 && said.err.contains("`fusebox status` lists all policies"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_applies_to_a_pod_and_what_does_not() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    fleet.install_operations_api().await?;
    let shop = Shop::open(&fleet).await?;
    let (web, ns) = (shop.caller(&fleet).await?, shop.namespace.as_str());
    let bare = PodBuilder::bare(ns, "bare").create(&fleet.client).await?;
    shop.apply_policy(&fleet, "payments", "").await?;
    shop.apply_policy(&fleet, "behind", "side: Server").await?;
    let viewer = fleet.person("viewer", &["fusebox-view"], ns).await?;

    let pod = format!("pod/{}", web.name());
    let said = eventually(PATIENCE, "the operator has seen pod and policies", async || {
        let said = viewer.prints(&fleet, &["explain", &pod, "-n", ns]).await?;
        ensure!(said.contains("Does not apply:"), "{said}");
        Ok(said)
    })
    .await?;
    let (applies, does_not) = said.split_once("Does not apply:").context("no second part")?;
    ensure!(applies.contains(&format!("{ns}/payments: ")) && applies.contains("side Client"), "{said}");
    ensure!(does_not.contains(&format!("{ns}/behind on ")), "{said}");
    let json: Value = serde_json::from_str(&viewer.prints(&fleet, &["explain", &pod, "-n", ns, "-o", "json"]).await?)?;
    ensure!(json["sidecar"] == true && json["applies"][0]["policy"]["name"] == "payments", "{json}");

    let said = viewer.prints(&fleet, &["explain", &format!("pod/{}", bare.name()), "-n", ns]).await?;
    ensure!(said.contains("It has no sidecar") && said.contains("fusebox.dev/inject=enabled"), "{said}");
    let said = viewer.fusebox(&fleet, &["explain", "pod/absent", "-n", ns]).await?;
    ensure!(said.code == 1 && said.err.contains("does not exist or has finished"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_the_policies_alone_are_worked_on_with_a_note() -> Result<()> {
    let mut fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "payments", QUICK).await?;
    web.enforces("payments").await?;
    let ns = shop.namespace.as_str();
    let owner = fleet.person("owner", &["fusebox-view", "fusebox-admin"], ns).await?;

    let absent = "note: the operations API is not installed";
    let said = owner.fusebox(&fleet, &["status", "payments", "-n", ns]).await?;
    ensure!(said.code == 0 && said.err.contains(absent) && said.out.contains("CONDITION"), "{said:?}");
    let trip = ["trip", "payments", "-n", ns, "--for", "10m", "--reason", "INC-42"];
    let said = owner.fusebox(&fleet, &trip).await?;
    ensure!(said.code == 0 && said.err.contains(absent) && said.out.contains("1/1"), "{said:?}");
    is_refused(&web).await?;
    let said = owner.fusebox(&fleet, &["release", "payments", "-n", ns]).await?;
    ensure!(said.code == 0 && said.out.contains("1/1"), "{said:?}");
    ensure!(web.get("/").await?.status == 200);

    // It is installed, and no operator answers: whoever may write policies still can.
    fleet.install_operations_api().await?;
    fleet.operators.clear();
    fleet.operations_api_is("False").await?;
    let begun = Instant::now();
    let said = owner.fusebox(&fleet, &["status", "payments", "-n", ns]).await?;
    println!("status without an operator took {:?}", begun.elapsed());
    ensure!(said.code == 0 && said.err.contains("note: the operations API does not answer"), "{said:?}");
    let trip = ["trip", "payments", "-n", ns, "--for", "10m", "--reason", "INC-43", "--timeout", "1s"];
    let said = owner.fusebox(&fleet, &trip).await?;
    ensure!(said.code == 3 && said.err.contains("it is set"), "{said:?}");
    ensure!(shop.policy(&fleet, "payments").await?.spec.force.is_some(), "it stands in the policy");
    Ok(())
}

/// What docs/operations.md says of namespaces that are deleted while no operator answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_waits_for_the_api_or_for_its_removal() -> Result<()> {
    let mut fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    fleet.install_operations_api().await?;
    let ns = fleet.cluster.unique_namespace("leaving").await?;
    let begun = Instant::now();
    fleet.kubectl(&["delete", "namespace", &ns, "--timeout=60s"]).await?;
    println!("with an operator the namespace is gone after {:?}", begun.elapsed());

    fleet.operators.clear();
    fleet.operations_api_is("False").await?;
    let ns = fleet.cluster.unique_namespace("leaving").await?;
    fleet.kubectl(&["create", "configmap", "left", "-n", &ns]).await?;
    let begun = Instant::now();
    fleet.kubectl(&["delete", "namespace", &ns, "--wait=false"]).await?;
    eventually(PATIENCE, "the namespace is empty and says what it waits for", async || {
        let told = fleet.kubectl(&["get", "namespace", &ns, "-o", "json"]).await?;
        ensure!(told.contains("DiscoveryFailed") && told.contains("ops.fusebox.dev"), "{told}");
        let left = fleet.kubectl(&["get", "configmaps", "-n", &ns, "-o", "name"]).await?;
        ensure!(!left.contains("left"), "{left}");
        Ok(())
    })
    .await?;
    println!("without an operator the namespace is empty and says why it stays after {:?}", begun.elapsed());
    let waiting = ["wait", "--for=delete", &format!("namespace/{ns}"), "--timeout=20s"];
    ensure!(!fleet.cluster.kubectl(&waiting).await?.status.success(), "it is gone without the API's answer");

    fleet.kubectl(&["delete", "apiservice", API_SERVICE]).await?;
    let removed = Instant::now();
    fleet.kubectl(&["wait", "--for=delete", &format!("namespace/{ns}"), "--timeout=120s"]).await?;
    println!("it is gone {:?} after the APIService, {:?} after its deletion", removed.elapsed(), begun.elapsed());
    Ok(())
}
