//! `fusebox status`: the breakers and rate limits of a cluster, as their policies' statuses say and, pod by pod, as the operator hears them.
//!
//! It must not work out states of its own: what it shows is what `kubectl get` shows, with the reasons beside it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use fusebox_api::operations::CircuitBreakerState;
use fusebox_api::status::{EndpointCounts, TargetStatus};
use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::arguments::{StatusArguments, StatusOutput as Output};
use crate::cluster::Session;
use crate::conditions;
use crate::operations::Operations;
use crate::pods;
use crate::rate_limits;
use crate::refusal::{Role, explained, is_forbidden};
use crate::sidecars;
use crate::table::{self, Cell};
use crate::terminal::{BAD, CARE, Exit, FAINT, GOOD, STRONG, Styled, Terminal, state_style};

/// Ages are drawn anew this often while nothing changes.
const REDRAW: Duration = Duration::from_secs(1);

/// Moves the cursor home and clears the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

type Policies = BTreeMap<(String, String), CircuitBreakerPolicy>;

/// The breakers on each pod, by policy; None where nobody asked, or nobody answers.
type Live = Option<BTreeMap<(String, String), CircuitBreakerState>>;

/// Shows the policies once, or as they change.
pub(crate) async fn status(arguments: &StatusArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let operations = if wants_pods(arguments) { session.operations(terminal).await? } else { None };
    if arguments.watch {
        tokio::select! {
            shown = watch(arguments, &session, operations.as_ref(), terminal) => return shown,
            ended = tokio::signal::ctrl_c() => ended?,
        }
        return Ok(Exit::Done);
    }
    let mut policies = Policies::new();
    let limits = rate_limits::list(arguments, &session.namespace, &session.client).await?;
    match &arguments.name {
        // A RateLimit may have the name, too, or alone.
        Some(name) => match session.policies().get_opt(name).await.map_err(|error| explained(error, Role::View))? {
            Some(policy) => insert(&mut policies, policy),
            None if limits.is_empty() => drop(session.policy(name).await?),
            None => {}
        },
        None => {
            let listed = scope(arguments, &session.client)
                .list(&ListParams::default())
                .await
                .map_err(|error| explained(error, Role::View))?;
            listed.items.into_iter().for_each(|policy| insert(&mut policies, policy));
        }
    }
    let live = live(arguments, operations.as_ref()).await?;
    print(arguments, (&policies, &limits), &live, terminal)?;
    Ok(Exit::Done)
}

/// One line for each policy needs nothing of its pods.
fn wants_pods(arguments: &StatusArguments) -> bool {
    arguments.name.is_some() || arguments.output != Output::Table
}

async fn live(arguments: &StatusArguments, operations: Option<&Operations>) -> Result<Live> {
    let Some(operations) = operations else { return Ok(None) };
    let states: Vec<CircuitBreakerState> = match &arguments.name {
        Some(name) => operations.state(name).await?.into_iter().collect(),
        None => operations.states(arguments.cluster.namespace.as_deref()).await?,
    };
    let keyed = |state: CircuitBreakerState| ((state.metadata.namespace.clone(), state.metadata.name.clone()), state);
    Ok(Some(states.into_iter().map(keyed).collect()))
}

/// Shows the policies again at each change, and on a screen every second for the ages.
async fn watch(
    arguments: &StatusArguments,
    session: &Session,
    operations: Option<&Operations>,
    terminal: &mut Terminal,
) -> Result<Exit> {
    let mut config = watcher::Config::default();
    if let Some(name) = &arguments.name {
        session.policy(name).await?;
        config = config.fields(&format!("metadata.name={name}"));
    }
    let api = if arguments.name.is_some() { session.policies() } else { scope(arguments, &session.client) };
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut policies = Policies::new();
    let mut listed = false;
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(event)) => {
                    listed |= matches!(event, watcher::Event::InitDone);
                    apply(&mut policies, event);
                }
                Ok(None) => return Ok(Exit::Done),
                Err(watcher::Error::InitialListFailed(error)) if is_forbidden(&error) => {
                    return Err(explained(error, Role::View));
                }
                Err(error) => terminal.progress(format_args!("waiting for the API server: {error}"))?,
            },
            _ = tick.tick() => if !terminal.redraws || arguments.output == Output::Json { continue },
        }
        if listed {
            let live = live(arguments, operations).await?;
            if terminal.redraws && arguments.output == Output::Table {
                write!(terminal.out, "{CLEAR}")?;
            }
            let limits = rate_limits::list(arguments, &session.namespace, &session.client).await?;
            print(arguments, (&policies, &limits), &live, terminal)?;
        }
    }
}

fn apply(policies: &mut Policies, event: watcher::Event<CircuitBreakerPolicy>) {
    match event {
        watcher::Event::Init => policies.clear(),
        watcher::Event::InitApply(policy) | watcher::Event::Apply(policy) => insert(policies, policy),
        watcher::Event::Delete(policy) => drop(policies.remove(&key(&policy))),
        watcher::Event::InitDone => {}
    }
}

fn scope(arguments: &StatusArguments, client: &Client) -> Api<CircuitBreakerPolicy> {
    match &arguments.cluster.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn insert(policies: &mut Policies, mut policy: CircuitBreakerPolicy) {
    policy.managed_fields_mut().clear();
    policies.insert(key(&policy), policy);
}

fn key(policy: &CircuitBreakerPolicy) -> (String, String) {
    (policy.namespace().unwrap_or_default(), policy.name_any())
}

fn print(
    arguments: &StatusArguments,
    (policies, limits): (&Policies, &[RateLimit]),
    live: &Live,
    terminal: &mut Terminal,
) -> Result<()> {
    let now = Timestamp::now();
    match (arguments.output, &arguments.name) {
        (Output::Json, _) => {
            let items = policies.iter().map(|(key, policy)| item(policy, live.as_ref().and_then(|live| live.get(key))));
            let mut items = items.collect::<Result<Vec<_>>>()?;
            for policy in limits {
                items.push(serde_json::to_value(policy)?);
            }
            serde_json::to_writer_pretty(
                &mut terminal.out,
                &json!({ "apiVersion": "v1", "kind": "List", "items": items }),
            )?;
            writeln!(terminal.out)?;
        }
        (Output::Table | Output::Wide, None) => {
            if !policies.is_empty() || limits.is_empty() {
                print_table(policies, now, &mut *terminal.out)?;
            }
            if !limits.is_empty() {
                rate_limits::print_table(limits, &mut *terminal.out)?;
            }
        }
        (Output::Table | Output::Wide, Some(_)) => {
            for policy in policies.values() {
                print_detail(policy, now, &mut *terminal.out)?;
            }
            for policy in limits {
                rate_limits::print_detail(policy, now, &mut *terminal.out)?;
            }
        }
    }
    if let (Some(live), Output::Table | Output::Wide) = (live, arguments.output)
        && !policies.is_empty()
    {
        pods::print(live.values(), arguments.output, now, &mut *terminal.out)?;
    }
    terminal.out.flush()?;
    Ok(())
}

/// A policy, with its pods under `live`.
fn item(policy: &CircuitBreakerPolicy, live: Option<&CircuitBreakerState>) -> Result<serde_json::Value> {
    let mut item = serde_json::to_value(policy)?;
    if let (Some(object), Some(live)) = (item.as_object_mut(), live) {
        object.insert("live".to_owned(), serde_json::to_value(live)?);
    }
    Ok(item)
}

/// One line for each policy.
pub(crate) fn print_table(policies: &Policies, now: Timestamp, out: &mut dyn Write) -> Result<()> {
    if policies.is_empty() {
        writeln!(out, "No CircuitBreakerPolicy here. `kubectl apply -f config/samples/` makes some.")?;
        return Ok(());
    }
    let rows: Vec<_> = policies.iter().map(|((namespace, name), policy)| row(namespace, name, policy, now)).collect();
    let headings = ["NAMESPACE", "NAME", "TARGET", "STATE", "OPEN", "FAIL%", "TRIPS", "LAST-TRIP", "READY", "OVERRIDE"];
    table::write(out, headings, &rows)?;
    for ((namespace, name), policy) in policies {
        for line in policy.status.iter().flat_map(sidecars::lines) {
            writeln!(out, "{namespace}/{name}: {}", Styled(CARE, line))?;
        }
    }
    Ok(())
}

fn row(namespace: &str, name: &str, policy: &CircuitBreakerPolicy, now: Timestamp) -> [Cell; 10] {
    let status = policy.status.clone().unwrap_or_default();
    let summary = status.summary.clone().unwrap_or_default();
    let state = status.state.unwrap_or_default();
    let ready = conditions::find(&status.conditions, "Ready");
    let (ready_text, ready_style) = match ready.map(|ready| ready.status.as_str()) {
        Some("True") => ("True".to_owned(), GOOD),
        Some(_) => (ready.map(|ready| ready.reason.clone()).unwrap_or_default(), BAD),
        None => ("Unknown".to_owned(), FAINT),
    };
    [
        namespace.into(),
        name.into(),
        summary.target.into(),
        Cell::styled(format!("{state:?}"), state_style(state)),
        summary.open.into(),
        summary.failure_percent.map_or_else(|| "-".to_owned(), |percent| percent.to_string()).into(),
        summary.trips.to_string().into(),
        summary.last_trip_time.map_or_else(|| "-".to_owned(), |time| table::age(time.0, now)).into(),
        Cell::styled(ready_text, ready_style),
        Cell::styled(override_text(policy, now), CARE),
    ]
}

/// The override in force, such as `ForcedOpen 12m left: INC-42`.
fn override_text(policy: &CircuitBreakerPolicy, now: Timestamp) -> String {
    match &policy.spec.force {
        Some(force) if force.until.0 > now => {
            format!("{:?} {} left: {}", force.state, table::age(now, force.until.0), force.reason)
        }
        _ => "-".to_owned(),
    }
}

fn print_detail(policy: &CircuitBreakerPolicy, now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let status = policy.status.clone().unwrap_or_default();
    let state = status.state.unwrap_or_default();
    let name = format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
    writeln!(
        out,
        "{} {}",
        Styled(STRONG, format!("CircuitBreakerPolicy {name}:")),
        Styled(state_style(state), format!("{state:?}"))
    )?;
    writeln!(
        out,
        "side {:?}, scope {:?}, mode {:?}, override {}\n",
        policy.spec.side,
        policy.spec.scope,
        policy.spec.mode,
        override_text(policy, now)
    )?;
    let rows: Vec<_> = status.targets.iter().map(|target| target_row(target, now)).collect();
    table::write(
        out,
        ["TARGET", "RULE", "STATE", "CLOSED", "HALF-OPEN", "OPEN", "REPORTING", "FAIL%", "TRIPS", "REASON", "CHANGED"],
        &rows,
    )?;
    for target in &status.targets {
        if let Some(endpoints) = &target.endpoints {
            writeln!(out, "{}: {}", target.reference.name, endpoints_text(endpoints))?;
        }
    }
    for target in status.targets.iter().filter(|target| !target.message.is_empty()) {
        writeln!(out, "{}: {}", target.reference.name, Styled(CARE, &target.message))?;
    }
    for line in sidecars::lines(&status) {
        writeln!(out, "{}", Styled(CARE, line))?;
    }
    writeln!(out)?;
    conditions::print(&status.conditions, now, out)
}

/// Such as `1 of 3 endpoints open (10.1.0.3:8080), 0 half-open`.
fn endpoints_text(endpoints: &EndpointCounts) -> String {
    let EndpointCounts { total, open, half_open, open_addresses } = endpoints;
    let all_named = i64::try_from(open_addresses.len()) == Ok(*open);
    let more = if all_named { "" } else { ", ..." };
    let named = match open_addresses.as_slice() {
        [] => String::new(),
        named => format!(" ({}{more})", named.join(", ")),
    };
    format!("{open} of {total} endpoints open{named}, {half_open} half-open")
}

fn target_row(target: &TargetStatus, now: Timestamp) -> [Cell; 11] {
    let reference = &target.reference;
    let section =
        if reference.section_name.is_empty() { String::new() } else { format!(":{}", reference.section_name) };
    let namespace = if reference.namespace.is_empty() { String::new() } else { format!("{}/", reference.namespace) };
    [
        format!("{namespace}{}{section}", reference.name).into(),
        if target.rule.is_empty() { "(rest)".into() } else { target.rule.clone().into() },
        Cell::styled(format!("{:?}", target.state), state_style(target.state)),
        target.pods.closed.to_string().into(),
        target.pods.half_open.to_string().into(),
        target.pods.open.to_string().into(),
        target.pods.reporting.to_string().into(),
        target.failure_percent.map_or_else(|| "-".to_owned(), |percent| percent.to_string()).into(),
        target.trips.to_string().into(),
        if target.reason.is_empty() { "-".into() } else { target.reason.clone().into() },
        target.last_transition_time.as_ref().map_or_else(|| "-".to_owned(), |time| table::age(time.0, now)).into(),
    ]
}
