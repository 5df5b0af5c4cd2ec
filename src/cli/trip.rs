//! `fusebox trip` and `fusebox release`: a person's word over all breakers of a policy.
//!
//! They ask the operator, which needs a right to force and none to write policies. Where it can't be asked they own
//! `spec.override` under a field manager of their own, so that others see who set it and are not undone unasked. They must not
//! say that a fleet obeys before its pods, or the policy's status, say so.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fusebox_api::CircuitBreakerPolicy;
use fusebox_api::circuit_breaker::ForcedState;
use fusebox_api::operations::{CircuitBreakerOverride, CircuitBreakerState};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};

use crate::arguments::{Forced, ReleaseArguments, TripArguments, WaitArguments};
use crate::cluster::{CLI_MANAGER, Session};
use crate::conditions;
use crate::operations::Operations;
use crate::refusal::{Role, explained};
use crate::terminal::{Exit, FAINT, GOOD, Styled, Terminal};

/// How often the pods are looked at while they are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Pods that are named while they are waited for, at most.
const MAX_NAMED: usize = 5;

/// What was written, and who can say that it is enforced.
struct Set<'a> {
    name: &'a str,
    generation: i64,
    witness: Witness,
}

/// Who says that the fleet obeys.
enum Witness {
    /// Each pod, through the operations API.
    Pods(Operations),
    /// The policy's status.
    Status,
}

/// Sets the override and waits for the fleet.
pub(crate) async fn trip(arguments: &TripArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let (until, set) = match session.operations(terminal).await? {
        Some(operations) => {
            let query = if arguments.take_over { "?force=true" } else { "" };
            let stands = operations.force(&arguments.name, &wish(arguments), query).await?;
            let until = stands.until.context("the operator did not say until when")?.0;
            (until, Set::new(&arguments.name, stands.generation, Witness::Pods(operations)))
        }
        None => {
            let (until, stands) = write(&session, arguments).await?;
            (until, Set::new(&arguments.name, stands.metadata.generation, Witness::Status))
        }
    };
    let (name, state) = (format!("{}/{}", session.namespace, arguments.name), arguments.state.as_str());
    writeln!(terminal.out, "{name}: {} until {until}: {}", Styled(GOOD, state), arguments.reason)?;
    if !arguments.wait.no_wait {
        writeln!(terminal.out, "{}", Styled(FAINT, format!("`fusebox release {}` ends it earlier", arguments.name)))?;
    }
    confirm(&session, &set, &arguments.wait, terminal).await
}

/// Clears the override, whoever set it, and waits for the fleet.
pub(crate) async fn release(arguments: &ReleaseArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let name = format!("{}/{}", session.namespace, arguments.name);
    let set = match session.operations(terminal).await? {
        Some(operations) => {
            let released = operations.release(&arguments.name).await?;
            let set = Set::new(&arguments.name, released.generation, Witness::Pods(operations));
            Some(set).filter(|_| released.was_set())
        }
        None => {
            let stands = clear(&session, &arguments.name).await?;
            stands.map(|stands| Set::new(&arguments.name, stands.metadata.generation, Witness::Status))
        }
    };
    let Some(set) = set else {
        writeln!(terminal.out, "{name}: no override is set; breakers decide by themselves")?;
        return Ok(Exit::Done);
    };
    writeln!(terminal.out, "{name}: {}; breakers decide by themselves", Styled(GOOD, "released"))?;
    confirm(&session, &set, &arguments.wait, terminal).await
}

impl<'a> Set<'a> {
    fn new(name: &'a str, generation: Option<i64>, witness: Witness) -> Self {
        Self { name, generation: generation.unwrap_or_default(), witness }
    }
}

fn wish(arguments: &TripArguments) -> CircuitBreakerOverride {
    CircuitBreakerOverride {
        api_version: None,
        kind: None,
        metadata: None,
        state: match arguments.state {
            Forced::ForcedOpen => ForcedState::ForcedOpen,
            Forced::ForcedClosed => ForcedState::ForcedClosed,
        },
        until: None,
        duration: Some(arguments.duration),
        reason: arguments.reason.clone(),
        generation: None,
    }
}

/// Writes the override into the policy.
async fn write(session: &Session, arguments: &TripArguments) -> Result<(Timestamp, CircuitBreakerPolicy)> {
    let policy = session.policy(&arguments.name).await?;
    let until = until(arguments)?;
    let mut params = PatchParams::apply(CLI_MANAGER);
    params.force = arguments.take_over;
    let patch = override_of(&policy, arguments, until);
    let set = session
        .policies()
        .patch(&arguments.name, &params, &Patch::Apply(&patch))
        .await
        .map_err(|error| explained(error, Role::Admin))?;
    Ok((until, set))
}

/// Clears the override in the policy; None where there is none.
async fn clear(session: &Session, name: &str) -> Result<Option<CircuitBreakerPolicy>> {
    let policy = session.policy(name).await?;
    if policy.spec.force.is_none() {
        return Ok(None);
    }
    let params = PatchParams { field_manager: Some(CLI_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = json!({ "spec": { "override": null } });
    session
        .policies()
        .patch(name, &params, &Patch::Merge(&patch))
        .await
        .map_err(|error| explained(error, Role::Admin))
        .map(Some)
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

/// Waits until every pod enforces what was set.
async fn confirm(session: &Session, set: &Set<'_>, wait: &WaitArguments, terminal: &mut Terminal) -> Result<Exit> {
    if wait.no_wait {
        return Ok(Exit::Done);
    }
    let (name, deadline) = (set.name, Duration::from_millis(wait.timeout.as_millis()));
    let enforced = async {
        match &set.witness {
            Witness::Pods(operations) => obeyed(operations, name, set.generation, terminal).await,
            Witness::Status => enforced(session, name, set.generation, terminal).await,
        }
    };
    match tokio::time::timeout(deadline, enforced).await {
        Ok(message) => {
            writeln!(terminal.out, "{}", message?)?;
            Ok(Exit::Done)
        }
        Err(_) => {
            terminal.error(&format!(
                "not confirmed within {}: it is set, and pods that connect later will obey; `fusebox status {name} -n {}` shows who does not yet",
                wait.timeout, session.namespace
            ));
            Ok(Exit::Unconfirmed)
        }
    }
}

/// Looks at the pods until every Ready one enforces this generation.
async fn obeyed(operations: &Operations, name: &str, generation: i64, terminal: &mut Terminal) -> Result<String> {
    let mut said = String::new();
    loop {
        let state: CircuitBreakerState =
            operations.state(name).await?.with_context(|| format!("policy {name} was deleted"))?;
        let (ready, waiting) = waiting_for(&state, generation);
        if state.generation >= generation && !state.enforcers.incomplete && waiting.is_empty() {
            return Ok(match ready {
                0 => "there is no Ready pod yet; those that come will obey".to_owned(),
                all => format!("{all}/{all} Ready pods obey"),
            });
        }
        let named = waiting.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let progress = format!("waiting: {}/{ready} Ready pods obey; not yet: {named}", ready - waiting.len());
        if state.generation >= generation && progress != said {
            said.clone_from(&progress);
            terminal.progress(progress)?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many Ready pods there are, and those of them that do not enforce this generation.
fn waiting_for(state: &CircuitBreakerState, generation: i64) -> (usize, Vec<String>) {
    let mut ready = 0;
    let mut waiting = Vec::new();
    for pod in state.enforcers.pods.iter().filter(|pod| pod.ready) {
        ready += 1;
        if pod.generation.is_none_or(|enforced| enforced < generation) {
            waiting.push(pod.name.clone());
        }
    }
    for elsewhere in &state.enforcers.elsewhere {
        let count = |number: i64| usize::try_from(number).unwrap_or_default();
        ready += count(elsewhere.ready);
        waiting.extend(
            (count(elsewhere.current)..count(elsewhere.ready)).map(|_| format!("one in {}", elsewhere.namespace)),
        );
    }
    (ready, waiting)
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
        let Some(programmed) = conditions::find(&status.conditions, "Programmed") else { continue };
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
