//! Condition ResolvedRefs: whether the Services that a policy targets, and the Secrets and ConfigMaps that it names, are there and
//! can be used.
//!
//! Each problem names the object and the command or the step that mends it. It must never show a part of a value.

use std::collections::BTreeMap;

use fusebox_policy::config::{Reference, ReferenceKind};

use super::{Draft, Input, MAX_PROXY_WORDS, Reason, limited, listed, refusals};
use crate::plan::{PolicyPlan, Refusal};
use crate::snapshot::ReferenceState;

const KIND: &str = "ResolvedRefs";

pub(super) fn resolved_refs(input: &Input<'_>) -> Draft {
    let plan = input.plan;
    let unresolved = refusals(plan, Refusal::is_unresolved);
    if let Some(first) = unresolved.first() {
        return Draft::no(KIND, first.reason(), listed(&unresolved));
    }
    if let Some(draft) = unread(plan) {
        return draft;
    }
    if let Some(draft) = unusable(input) {
        return draft;
    }
    let waiting = plan.references.iter().find(|(_, state)| **state == ReferenceState::Unread);
    if let Some((reference, _)) = waiting {
        return Draft::unknown(KIND, Reason::Pending, &format!("{} has not been read yet", object(reference)));
    }
    let message = match plan.references.len() {
        0 => "all references lead to a Service".to_owned(),
        _ => "all references lead to a Service, and all values that it names are there".to_owned(),
    };
    Draft::yes(KIND, Reason::ResolvedRefs, message)
}

/// Values that are not there, or that the operator may not read.
fn unread(plan: &PolicyPlan) -> Option<Draft> {
    let found = |reason: Reason| {
        let words = plan.references.iter().filter_map(move |(reference, state)| {
            let (why, words) = problem(reference, state, &plan.reader)?;
            (why == reason).then_some(words)
        });
        let mut words: Vec<String> = words.collect();
        words.dedup();
        words
    };
    [Reason::RefNotPermitted, Reason::RefNotFound, Reason::InvalidContent].into_iter().find_map(|reason| {
        let words = found(reason);
        (!words.is_empty()).then(|| Draft::no(KIND, reason.as_str(), limited(&words, "; ")))
    })
}

fn problem(reference: &Reference, state: &ReferenceState, reader: &str) -> Option<(Reason, String)> {
    let object = object(reference);
    match state {
        ReferenceState::Present { .. } | ReferenceState::Unread => None,
        ReferenceState::Missing => {
            Some((Reason::RefNotFound, format!("{object} does not exist: create it, or correct its name")))
        }
        ReferenceState::KeyMissing => {
            let words = format!("{object} has no key {:?}: add it, or correct the key's name", reference.key);
            Some((Reason::RefNotFound, words))
        }
        ReferenceState::Unusable { problem } => {
            let words = format!("key {:?} of {object} can't be used: {problem}", reference.key);
            Some((Reason::InvalidContent, words))
        }
        ReferenceState::NotPermitted => {
            let words = format!("the operator may not read {object}: {} grant it", commands(reference, reader));
            Some((Reason::RefNotPermitted, words))
        }
    }
}

/// What gives the operator the right to read one object and no other.
fn commands(Reference { kind, namespace, name, key: _ }: &Reference, reader: &str) -> String {
    let (word, resource) = match kind {
        ReferenceKind::ConfigMap => ("configmap", "configmaps"),
        ReferenceKind::Secret => ("secret", "secrets"),
    };
    let role = format!("fusebox-{word}-{name}");
    format!(
        "`kubectl create role {role} -n {namespace} --verb=get,list,watch --resource={resource} --resource-name={name}` and \
         `kubectl create rolebinding {role} -n {namespace} --role={role} --serviceaccount={reader}`"
    )
}

/// Values that sidecars can't use, by their own words.
fn unusable(input: &Input<'_>) -> Option<Draft> {
    let mut broken: BTreeMap<&Reference, (usize, &str)> = BTreeMap::new();
    for uid in input.plan.pods.keys() {
        let report = input.reports.pods.get(uid).filter(|report| report.counts_at(input.now));
        for told in report.into_iter().flat_map(|report| &report.broken_references) {
            if input.plan.references.contains_key(&told.reference) {
                broken.entry(&told.reference).or_insert((0, &told.problem)).0 += 1;
            }
        }
    }
    if broken.is_empty() {
        return None;
    }
    let words: Vec<String> = broken
        .into_iter()
        .map(|(reference, (pods, problem))| {
            let problem: String = problem.chars().filter(|letter| !letter.is_control()).take(MAX_PROXY_WORDS).collect();
            let (object, key) = (object(reference), &reference.key);
            format!("{pods} pods can't use key {key:?} of {object} and go on with what it held before: {problem}")
        })
        .collect();
    Some(Draft::no(KIND, Reason::InvalidContent.as_str(), limited(&words, "; ")))
}

fn object(Reference { kind, namespace, name, key: _ }: &Reference) -> String {
    let kind = match kind {
        ReferenceKind::ConfigMap => "ConfigMap",
        ReferenceKind::Secret => "Secret",
    };
    format!("{kind} {namespace}/{name}")
}
