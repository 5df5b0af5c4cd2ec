//! `fusebox trip` and `fusebox release`: a person's word over all breakers of a policy.
//!
//! It owns `spec.override` under a field manager of its own, so that others see who set it and are not undone unasked. It
//! must not say that a fleet obeys before the policy's status says so.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use fusebox_api::CircuitBreakerPolicy;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};

use crate::arguments::{Forced, ReleaseArguments, TripArguments, WaitArguments};
use crate::cluster::{CLI_MANAGER, Session, explained};
use crate::status::condition;
use crate::terminal::{Exit, FAINT, GOOD, Styled, Terminal};

/// Sets the override and waits for the fleet.
pub(crate) async fn trip(arguments: &TripArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let policy = session.policy(&arguments.name).await?;
    let until = until(arguments)?;
    let mut params = PatchParams::apply(CLI_MANAGER);
    params.force = arguments.take_over;
    let patch = override_of(&policy, arguments, until);
    let set = session.policies().patch(&arguments.name, &params, &Patch::Apply(&patch)).await.map_err(explained)?;
    let name = format!("{}/{}", session.namespace, arguments.name);
    let state = arguments.state.as_str();
    writeln!(terminal.out, "{name}: {} until {until}: {}", Styled(GOOD, state), arguments.reason)?;
    if !arguments.wait.no_wait {
        writeln!(terminal.out, "{}", Styled(FAINT, format!("`fusebox release {}` ends it earlier", arguments.name)))?;
    }
    confirm(&session, &set, &arguments.wait, terminal).await
}

/// Clears the override, whoever set it, and waits for the fleet.
pub(crate) async fn release(arguments: &ReleaseArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let policy = session.policy(&arguments.name).await?;
    let name = format!("{}/{}", session.namespace, arguments.name);
    if policy.spec.force.is_none() {
        writeln!(terminal.out, "{name}: no override is set; breakers decide by themselves")?;
        return Ok(Exit::Done);
    }
    let params = PatchParams { field_manager: Some(CLI_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = json!({ "spec": { "override": null } });
    let set = session.policies().patch(&arguments.name, &params, &Patch::Merge(&patch)).await.map_err(explained)?;
    writeln!(terminal.out, "{name}: {}; breakers decide by themselves", Styled(GOOD, "released"))?;
    confirm(&session, &set, &arguments.wait, terminal).await
}

/// Whole seconds, so that what is written reads well.
fn until(arguments: &TripArguments) -> Result<Timestamp> {
    let millis = i64::try_from(arguments.duration.as_millis()).context("--for is too long")?;
    let end = Timestamp::now().checked_add(SignedDuration::from_millis(millis)).context("--for is too long")?;
    Ok(Timestamp::from_second(end.as_second())?)
}

/// Only the fields that this command owns.
fn override_of(policy: &CircuitBreakerPolicy, arguments: &TripArguments, until: Timestamp) -> Value {
    json!({
        "apiVersion": <CircuitBreakerPolicy as kube::Resource>::api_version(&()),
        "kind": <CircuitBreakerPolicy as kube::Resource>::kind(&()),
        "metadata": { "name": policy.name_any(), "namespace": policy.namespace() },
        "spec": { "override": { "state": arguments.state.as_str(), "until": until.to_string(), "reason": arguments.reason } },
    })
}

/// Waits until the status speaks of what was set and says that every pod enforces it.
async fn confirm(
    session: &Session,
    set: &CircuitBreakerPolicy,
    wait: &WaitArguments,
    terminal: &mut Terminal,
) -> Result<Exit> {
    if wait.no_wait {
        return Ok(Exit::Done);
    }
    let generation = set.metadata.generation.unwrap_or_default();
    let deadline = std::time::Duration::from_millis(wait.timeout.as_millis());
    match tokio::time::timeout(deadline, enforced(session, &set.name_any(), generation, terminal)).await {
        Ok(message) => {
            writeln!(terminal.out, "{}", message?)?;
            Ok(Exit::Done)
        }
        Err(_) => {
            terminal.error(&format!(
                "not confirmed within {}: it is set, and pods that connect later will obey; `fusebox status {} -n {}` shows who does not yet",
                wait.timeout,
                set.name_any(),
                session.namespace
            ));
            Ok(Exit::Unconfirmed)
        }
    }
}

/// Follows the policy until `Programmed` is true for this generation, and returns its message.
async fn enforced(session: &Session, name: &str, generation: i64, terminal: &mut Terminal) -> Result<String> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(session.policies(), config).default_backoff().applied_objects().boxed();
    let mut said = String::new();
    loop {
        let policy = match events.try_next().await {
            Ok(Some(policy)) => policy,
            Ok(None) => {
                anyhow::bail!("the watch on policy {name} ended; `fusebox status {name}` shows where it stands")
            }
            Err(error) => {
                terminal.progress(format_args!("waiting for the API server: {error}"))?;
                continue;
            }
        };
        let status = policy.status.unwrap_or_default();
        let Some(programmed) = condition(&status, "Programmed") else { continue };
        let current = programmed.observed_generation.is_some_and(|observed| observed >= generation);
        if current && programmed.status == "True" {
            return Ok(programmed.message.clone());
        }
        if current && programmed.message != said {
            said.clone_from(&programmed.message);
            terminal.progress(format_args!("waiting: {said}"))?;
        }
    }
}

impl Forced {
    fn as_str(self) -> &'static str {
        match self {
            Self::ForcedOpen => "ForcedOpen",
            Self::ForcedClosed => "ForcedClosed",
        }
    }
}
