//! `fusebox limits`: who is limited now, and a client that is let go.
//!
//! What it shows comes from the sidecars themselves, through the operations API. A plain key must not leave this process: the
//! cluster is only ever told its digest.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Result, bail};
use fusebox_api::operations::{LimitedKey, PodLimits, RateLimitState, RateLimitUnblock, State as _, Target};
use fusebox_policy::rate_limit::digest;
use jiff::Timestamp;

use crate::arguments::{LimitsArguments, LimitsCommand, Output, ShowLimitsArguments, UnblockArguments};
use crate::pods::missing;
use crate::table::{self, Cell};
use crate::terminal::{BAD, CARE, Exit, FAINT, GOOD, Styled, Terminal};

/// Keys that are shown of one limit, at most.
const MAX_SHOWN: usize = 10;

/// One limit on all pods together.
#[derive(Default)]
struct Sum {
    pods: usize,
    allowed: u64,
    limited: u64,
    delayed: u64,
    blocked: u64,
    keys: BTreeMap<String, KeySum>,
}

/// One key on all pods together.
struct KeySum {
    key: LimitedKey,
    pods: usize,
}

type Place = (Target, String, String);

/// Shows limits, or lets a client go.
pub(crate) async fn limits(arguments: &LimitsArguments, terminal: &mut Terminal) -> Result<Exit> {
    match &arguments.command {
        None => show(&arguments.show, terminal).await,
        Some(LimitsCommand::Unblock(arguments)) => unblock(arguments, terminal).await,
    }
}

async fn show(arguments: &ShowLimitsArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let Some(operations) = session.operations(terminal).await? else { return without_operations() };
    let states: Vec<RateLimitState> = match &arguments.name {
        Some(name) => match operations.state(name).await? {
            Some(state) => vec![state],
            None => bail!(
                "RateLimit {}/{name} does not exist: `fusebox status` lists all, -n chooses the namespace",
                session.namespace
            ),
        },
        None => operations.states(arguments.cluster.namespace.as_deref()).await?,
    };
    match arguments.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.out, &states)?;
            writeln!(terminal.out)?;
        }
        Output::Table => print(&states, Timestamp::now(), &mut *terminal.out)?,
    }
    terminal.out.flush()?;
    Ok(Exit::Done)
}

fn without_operations() -> Result<Exit> {
    bail!(
        "limits are known to the sidecars alone, which only the operations API asks: `kubectl get ratelimits` shows what the policies' status says"
    )
}

async fn unblock(arguments: &UnblockArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let Some(operations) = session.operations(terminal).await? else { return without_operations() };
    let digest = match &arguments.digest {
        Some(digest) => digest.clone(),
        None => {
            let parts: Vec<&[u8]> = arguments.key.iter().map(String::as_bytes).collect();
            digest(&parts).hex()
        }
    };
    let wish = RateLimitUnblock { digest, reason: arguments.reason.clone(), ..RateLimitUnblock::default() };
    let done = operations.unblock(&arguments.name, &wish).await?;
    let name = format!("{}/{}", session.namespace, arguments.name);
    let (pods, released) = (done.pods.unwrap_or_default(), done.released.unwrap_or_default());
    let client = &done.digest[..done.digest.len().min(16)];
    let (style, word) = if released > 0 { (GOOD, "let go") } else { (CARE, "not known") };
    writeln!(terminal.out, "{name}: client {client} {} on {released} of {pods} pods", Styled(style, word))?;
    for silent in &done.unanswered {
        writeln!(terminal.err, "{}", Styled(CARE, format!("pod {}: {}", silent.pod, silent.problem)))?;
    }
    if let Some(why) = &done.unsearched {
        writeln!(terminal.err, "{}", Styled(CARE, why))?;
    }
    let is_certain = done.unanswered.is_empty() && done.unsearched.is_none();
    Ok(if is_certain { Exit::Done } else { Exit::Unconfirmed })
}

/// The limits over all pods, then the keys that were refused, then what pods did not say.
fn print(states: &[RateLimitState], now: Timestamp, out: &mut dyn Write) -> Result<()> {
    if states.is_empty() {
        writeln!(out, "No RateLimit here.")?;
        return Ok(());
    }
    let sums: Vec<(String, BTreeMap<Place, Sum>)> = states.iter().map(|state| (name(state), sums(state))).collect();
    let rows: Vec<_> = sums.iter().flat_map(|(name, limits)| limits.iter().map(|it| limit_row(name, it))).collect();
    let headings = ["POLICY", "TARGET", "LIMIT", "RULE", "ALLOWED", "LIMITED", "DELAYED", "BLOCKED", "PODS"];
    table::write(out, headings, &rows)?;
    let rows: Vec<_> =
        sums.iter().flat_map(|(name, limits)| limits.iter().flat_map(|it| key_rows(name, it, now))).collect();
    if !rows.is_empty() {
        writeln!(out)?;
        let headings = ["POLICY", "LIMIT", "RULE", "KEY", "REFUSED", "LEFT", "BLOCKED-FOR", "PODS", "DIGEST"];
        table::write(out, headings, &rows)?;
    }
    states.iter().try_for_each(|state| print_rest(state, now, out))
}

fn name(state: &RateLimitState) -> String {
    format!("{}/{}", state.metadata.namespace, state.metadata.name)
}

fn sums(state: &RateLimitState) -> BTreeMap<Place, Sum> {
    let mut sums: BTreeMap<Place, Sum> = BTreeMap::new();
    for limit in state.enforcers.pods.iter().flat_map(|pod| &pod.limits) {
        let sum = sums.entry((limit.target.clone(), limit.limit.clone(), limit.rule.clone())).or_default();
        sum.pods += usize::from(limit.reported);
        sum.allowed += limit.allowed;
        sum.limited += limit.limited;
        sum.delayed += limit.delayed;
        sum.blocked += limit.blocked_clients;
        limit.keys.iter().for_each(|key| sum.add(key));
    }
    sums
}

impl Sum {
    fn add(&mut self, key: &LimitedKey) {
        let name = if key.digest.is_empty() { &key.key } else { &key.digest };
        match self.keys.get_mut(name) {
            None => drop(self.keys.insert(name.clone(), KeySum { key: key.clone(), pods: 1 })),
            Some(KeySum { key: known, pods }) => {
                *pods += 1;
                known.refused += key.refused;
                known.remaining = known.remaining.min(key.remaining);
                known.blocked_until = known.blocked_until.take().max(key.blocked_until.clone());
            }
        }
    }
}

fn or_rest(rule: &str) -> String {
    if rule.is_empty() { "(rest)".to_owned() } else { rule.to_owned() }
}

fn limit_row(name: &str, ((target, limit, rule), sum): (&Place, &Sum)) -> [Cell; 9] {
    let style = if sum.limited > 0 { CARE } else { FAINT };
    [
        name.into(),
        target.to_string().into(),
        limit.clone().into(),
        or_rest(rule).into(),
        sum.allowed.to_string().into(),
        Cell::styled(sum.limited.to_string(), style),
        sum.delayed.to_string().into(),
        Cell::styled(sum.blocked.to_string(), if sum.blocked > 0 { BAD } else { FAINT }),
        sum.pods.to_string().into(),
    ]
}

fn key_rows(name: &str, ((_, limit, rule), sum): (&Place, &Sum), now: Timestamp) -> Vec<[Cell; 9]> {
    let mut keys: Vec<&KeySum> = sum.keys.values().collect();
    keys.sort_by_key(|it| std::cmp::Reverse(it.key.refused));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |KeySum { key, pods }: &KeySum| {
        let left = key.blocked_until.as_ref().filter(|until| until.0 > now).map(|until| table::age(now, until.0));
        let style = if left.is_some() { BAD } else { FAINT };
        [
            name.into(),
            limit.clone().into(),
            or_rest(rule).into(),
            key.key.clone().into(),
            key.refused.to_string().into(),
            or_dash(key.remaining.map(|remaining| remaining.to_string())).into(),
            Cell::styled(or_dash(left), style),
            pods.to_string().into(),
            or_dash(Some(key.digest.clone()).filter(|digest| !digest.is_empty())).into(),
        ]
    };
    keys.into_iter().take(MAX_SHOWN).map(row).collect()
}

/// What does not fit into lines.
fn print_rest(state: &RateLimitState, now: Timestamp, out: &mut dyn Write) -> Result<()> {
    let name = name(state);
    let mut care = |text: String| writeln!(out, "{name}: {}", Styled(CARE, text));
    for it in &state.enforcers.elsewhere {
        care(format!(
            "{} pods of namespace {} enforce it too, and refused {} requests",
            it.pods, it.namespace, it.more.limited
        ))?;
    }
    for pod in &state.enforcers.pods {
        pod_lines(pod, now).into_iter().try_for_each(&mut care)?;
    }
    missing(&state.enforcers, ("limits", RateLimitState::MOST)).try_for_each(&mut care)?;
    Ok(())
}

fn pod_lines(pod: &PodLimits, now: Timestamp) -> Vec<String> {
    let unanswered = (!pod.unanswered.is_empty()).then(|| format!("pod {}: {}", pod.name, pod.unanswered));
    let broken = pod.broken.iter().map(|it| format!("pod {} can't use {}: {}", pod.name, it.value, it.problem));
    let lost = pod.limits.iter().filter_map(|limit| {
        let since = table::age(limit.store_lost_since.as_ref()?.0, now);
        Some(format!(
            "pod {}: the store has not answered for {since} (limit {}): {}",
            pod.name, limit.limit, limit.store_error
        ))
    });
    unanswered.into_iter().chain(broken).chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_beyond_the_bound_of_an_answer_are_said_to_be_left_out() {
        let state = |truncated: bool| {
            let state = serde_json::json!({
                "apiVersion": "ops.fusebox.dev/v1alpha1", "kind": "RateLimitState", "metadata": {"namespace": "shop", "name": "limits"},
                "generation": 1, "side": "Server", "mode": "Enforce", "truncated": truncated, "pods": [],
            });
            serde_json::from_value::<RateLimitState>(state).unwrap()
        };
        let printed = |truncated: bool| {
            let mut out = Vec::new();
            print(&[state(truncated)], Timestamp::UNIX_EPOCH, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(printed(true).contains("not all limits are shown: an answer has room for 20000"), "{}", printed(true));
        assert!(!printed(false).contains("not all"), "{}", printed(false));
    }
}
