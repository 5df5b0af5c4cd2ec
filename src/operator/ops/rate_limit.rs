//! `ratelimitstates`: the limits of each policy on each pod with the keys that are refused most, and the word that lets a client go.
//!
//! The leader answers, for only it hears every pod; for one policy it asks the pods themselves. A plain key that somebody sends is
//! made a digest here and goes no further: it must stand in no log, no answer and no command.

use fusebox_api::operations::{
    LimitState, LimitedKey, ListMetadata, PodLimits, RateLimitState, RateLimitUnblock, State,
};
use fusebox_compiler::age;
use fusebox_policy::config::PolicyId;
use fusebox_policy::rate_limit;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::Question;
use super::page::Page;
use super::refusal::Refusal;
use super::route::{Asked, BodyHead, Operation};
use super::table::{Column, Row, Table};

pub(crate) const RESOURCE: &str = RateLimitState::PLURAL;
const UNBLOCK_WORD: &str = "unblock";

/// One policy's limits, with what its pods answer.
pub(crate) const GET: Operation = Operation { resource: RESOURCE, subresource: "", verb: "get", read: get };
/// All policies' limits, of one namespace or of all, from what pods said last.
pub(crate) const LIST: Operation = Operation { resource: RESOURCE, subresource: "", verb: "list", read: list };
/// Lets a client go.
pub(crate) const UNBLOCK: Operation =
    Operation { resource: RESOURCE, subresource: UNBLOCK_WORD, verb: "create", read: unblock };

/// Parts of a key, at most: as many as a limit may have.
const MAX_PARTS: usize = 8;

/// The longest reason, in characters.
const MAX_REASON: usize = 256;

const COLUMNS: &[Column] = &[
    Column::new("Name", "The policy."),
    Column::new("Pod", "The pod whose sidecar enforces it."),
    Column::new("Target", "The Service that calls go to."),
    Column::new("Limit", "The limit."),
    Column::new("Rule", "The rule, or (rest) for what no rule takes."),
    Column::new("Allowed", "Requests that passed since the sidecar started."),
    Column::new("Limited", "Requests that were refused since the sidecar started."),
    Column::new("Blocked", "Clients that are refused for a time."),
    Column::new("Key", "A key that was refused, as the policy shows it; or why the pod did not answer."),
    Column::new("Refused", "Requests that the key was refused."),
    Column::new("Left", "What the key's bucket holds, in whole requests."),
    Column::new("Blocked-For", "How long the key is still refused for a time."),
    Column::wide("Digest", "What lets the key go: the first 16 digits of its SHA-256."),
    Column::wide("Keys", "Keys with a bucket of their own."),
    Column::wide("Delayed", "Requests that waited."),
    Column::wide("Port", "The Service's port, or the container's on side Server."),
    Column::wide("Connected", "For how long the sidecar has been connected to the operator."),
    Column::wide("Store", "Since when the store does not answer, and why."),
    Column::wide("Workload", "The pod's workload."),
    Column::wide("Current", "Whether the sidecar enforces the newest configuration."),
];

/// Which client is to be let go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) policy: PolicyId,
    pub(crate) digest: String,
    pub(crate) reason: String,
    /// Who: for the log and the Event.
    pub(crate) user: String,
}

fn get(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Ok(Question::Limits(asked.policy()))
}

fn list(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Page::read(asked).map(Question::AllLimits)
}

fn unblock(asked: &Asked<'_>) -> Result<Question, Refusal> {
    let wish: RateLimitUnblock = serde_json::from_slice(asked.body).map_err(|error| {
        // A serde error may repeat a part of the body, which may hold a key.
        Refusal::Malformed(format!(
            "the body is not a RateLimitUnblock {{key or digest, reason}}: mistake at line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    let RateLimitUnblock { api_version, kind, metadata, .. } = &wish;
    let policy = asked.policy_of_body("RateLimitUnblock", BodyHead { api_version, kind, metadata })?;
    let digest = digest(&wish)?;
    if !(1..=MAX_REASON).contains(&wish.reason.chars().count()) {
        return Err(Refusal::Invalid(format!("reason: must have 1 to {MAX_REASON} characters")));
    }
    Ok(Question::Unblock(Release { policy, digest, reason: wish.reason, user: asked.user.name.clone() }))
}

/// The digest of the client that is meant, in lower case.
fn digest(wish: &RateLimitUnblock) -> Result<String, Refusal> {
    match (wish.key.as_slice(), wish.digest.as_str()) {
        ([], "") => Err(Refusal::Malformed("say either key or digest".to_owned())),
        ([_, ..], said) if !said.is_empty() => Err(Refusal::Malformed("say either key or digest".to_owned())),
        (parts, "") if parts.len() > MAX_PARTS => Err(Refusal::Invalid(format!("key: has at most {MAX_PARTS} parts"))),
        (parts, "") => Ok(key_digest(parts)),
        ([], digest) if (16..=64).contains(&digest.len()) && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(digest.to_ascii_lowercase())
        }
        _ => Err(Refusal::Invalid("digest: must be 16 to 64 hexadecimal digits".to_owned())),
    }
}

/// The digest of a key with these parts.
fn key_digest(parts: &[String]) -> String {
    let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
    rate_limit::digest(&parts).hex()
}

/// One row for each key that was refused, one for a limit that has none, and one for a pod that has no limit.
pub(crate) fn table(list: &[RateLimitState], next: &ListMetadata, now: Timestamp) -> Table {
    Table::of_states(COLUMNS, (list, next), |state| {
        let pods = state.enforcers.pods.iter().flat_map(|pod| pod_rows(state, pod, now));
        let elsewhere = state
            .enforcers
            .elsewhere
            .iter()
            .map(|it| Row::elsewhere(&state.metadata, it, ["", "", "", "", &it.more.limited.to_string()]));
        pods.chain(elsewhere).collect()
    })
}

fn pod_rows(state: &RateLimitState, pod: &PodLimits, now: Timestamp) -> Vec<Row> {
    if pod.limits.is_empty() {
        return vec![Row::new(&state.metadata, [state.metadata.name.as_str(), &pod.name])];
    }
    let rows = pod.limits.iter().flat_map(|limit| {
        let keys: Vec<Option<&LimitedKey>> =
            if limit.keys.is_empty() { vec![None] } else { limit.keys.iter().map(Some).collect() };
        keys.into_iter().map(|key| row(state, (pod, limit), key, now)).collect::<Vec<_>>()
    });
    rows.collect()
}

fn row(
    state: &RateLimitState,
    (pod, limit): (&PodLimits, &LimitState),
    key: Option<&LimitedKey>,
    now: Timestamp,
) -> Row {
    let own = limit.target.namespace == state.metadata.namespace;
    let target = limit.target.to_string();
    let target = if own { target.split_once('/').map_or(target.as_str(), |(_, name)| name) } else { &target };
    let of = |text: &dyn Fn(&LimitedKey) -> Option<String>| key.and_then(text).unwrap_or_else(|| "-".to_owned());
    let unanswered = || if pod.unanswered.is_empty() { "-".to_owned() } else { format!("<{}>", pod.unanswered) };
    let left = |time: &Time| if time.0 > now { age(now, time.0) } else { "-".to_owned() };
    let cells = [
        state.metadata.name.clone(),
        pod.name.clone(),
        target.to_owned(),
        limit.limit.clone(),
        if limit.rule.is_empty() { "(rest)".to_owned() } else { limit.rule.clone() },
        limit.allowed.to_string(),
        limit.limited.to_string(),
        limit.blocked_clients.to_string(),
        key.map_or_else(unanswered, |key| key.key.clone()),
        of(&|key| Some(key.refused.to_string())),
        of(&|key| key.remaining.map(|remaining| remaining.to_string())),
        of(&|key| key.blocked_until.as_ref().map(left)),
        of(&|key| Some(key.digest.clone()).filter(|digest| !digest.is_empty())),
        limit.tracked_keys.to_string(),
        limit.delayed.to_string(),
        limit.port.to_string(),
        match &pod.connected_since {
            Some(Time(since)) => age(*since, now),
            None => "no".to_owned(),
        },
        match &limit.store_lost_since {
            Some(Time(since)) => format!("lost {} ago: {}", age(*since, now), limit.store_error),
            None => "-".to_owned(),
        },
        pod.workload.clone(),
        pod.current.to_string(),
    ];
    Row::new(&state.metadata, cells.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(key: &[&str], digest: &str) -> RateLimitUnblock {
        RateLimitUnblock {
            key: key.iter().map(|part| (*part).to_owned()).collect(),
            digest: digest.to_owned(),
            reason: "INC-42".to_owned(),
            ..RateLimitUnblock::default()
        }
    }

    #[test]
    fn a_client_is_named_by_its_key_or_its_digest_and_not_by_both() {
        // `printf alice | sha256sum`
        let alice = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
        assert_eq!(digest(&wish(&["alice"], "")).unwrap(), alice);
        assert_eq!(digest(&wish(&[], &alice[..16].to_uppercase())).unwrap(), alice[..16]);
        let two = digest(&wish(&["alice", "GET"], "")).unwrap();
        assert!(two.len() == 64 && two != digest(&wish(&["alic", "eGET"], "")).unwrap());
        for (wrong, why) in [
            (wish(&[], ""), "either key or digest"),
            (wish(&["alice"], alice), "either key or digest"),
            (wish(&[], &alice[..15]), "16 to 64"),
            (wish(&[], "0123456789abcdeg"), "hexadecimal"),
            (wish(&["a"; MAX_PARTS + 1], ""), "at most 8 parts"),
        ] {
            let refusal = digest(&wrong).unwrap_err();
            assert!(refusal.to_string().contains(why), "{refusal}");
        }
    }
}
