//! One document: which resource it is, and what schema and compiler say of it.
//!
//! Documents of other groups are none of our business and pass, so that a directory with
//! Deployments and Services beside policies can be checked as it is.

use std::collections::BTreeMap;

use fusebox_api::names::{GROUP, VERSION};
use fusebox_api::{CircuitBreakerPolicySpec, RateLimitSpec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::schema::Schema;
use super::{Found, Layer, Path, fields};
use crate::kind::Kind;
use crate::plan::Refusal;
use crate::snapshot::Policy;
use crate::{breaker_config, rate_limit_config};

/// The longest name of an object.
const MAX_NAME: usize = 253;

pub(super) fn check(value: &Value) -> Vec<Found> {
    if !value.is_object() {
        return vec![Found::new(
            Layer::Syntax,
            Path::default(),
            "the document is no resource: it must be a mapping with apiVersion and kind",
        )];
    }
    let (Some(api_version), Some(kind)) = (text(value, "apiVersion"), text(value, "kind")) else {
        let missing = if text(value, "kind").is_none() { "kind" } else { "apiVersion" };
        return vec![Found::new(Layer::Syntax, Path::default().field(missing), "is required")];
    };
    let ours = api_version.split('/').next() == Some(GROUP);
    match (ours, Kind::named(kind)) {
        (false, None) => Vec::new(),
        (true, Some(kind)) if api_version == format!("{GROUP}/{VERSION}") => policy(kind, value),
        (_, Some(_)) => vec![
            Found::new(Layer::Syntax, Path::default().field("apiVersion"), format!("{api_version:?} has no {kind}"))
                .with_fix(format!("write {GROUP}/{VERSION}")),
        ],
        (true, None) => vec![unknown_kind(kind)],
    }
}

fn unknown_kind(kind: &str) -> Found {
    let kinds = Kind::ALL.map(Kind::as_str);
    let fix = match fields::nearest(kind, kinds.into_iter()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the kinds are {}", kinds.join(", ")),
    };
    Found::new(Layer::Syntax, Path::default().field("kind"), format!("{kind:?} is no kind of {GROUP}")).with_fix(fix)
}

fn policy(kind: Kind, value: &Value) -> Vec<Found> {
    let mut found = name(value);
    let Some(schema) = Schema::of(kind) else { return found };
    found.extend(schema.check(value));
    if found.is_empty() {
        let spec = &schema.defaulted(value)["spec"];
        found.extend(match kind {
            Kind::CircuitBreakerPolicy => compiler(spec, breakers_refusal),
            Kind::RateLimit => compiler(spec, limits_refusal),
        });
    }
    found
}

/// What the compiler alone can tell.
fn compiler<S: DeserializeOwned>(spec: &Value, refusal: impl Fn(S) -> Option<Refusal>) -> Option<Found> {
    let spec: S = match serde_json::from_value(spec.clone()) {
        Ok(spec) => spec,
        Err(error) => return Some(Found::new(Layer::Compiler, Path::default().field("spec"), error.to_string())),
    };
    match refusal(spec)? {
        Refusal::InvalidSpec { field, problem } => Some(Found::new(Layer::Compiler, Path::parse(&field), problem)),
        refusal => Some(Found::new(Layer::Compiler, Path::default().field("spec"), refusal.to_string())),
    }
}

// It takes the spec as the other one does.
#[allow(clippy::needless_pass_by_value)]
fn breakers_refusal(spec: CircuitBreakerPolicySpec) -> Option<Refusal> {
    breaker_config::breaker_rules(&spec).err()
}

fn limits_refusal(spec: RateLimitSpec) -> Option<Refusal> {
    rate_limit_config::limits(&Policy::draft(spec), &BTreeMap::new()).err()
}

fn name(value: &Value) -> Vec<Found> {
    let path = Path::default().field("metadata").field("name");
    let metadata = &value["metadata"];
    match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
        (Some(name), _) if is_subdomain(name) => Vec::new(),
        (Some(name), _) => {
            let shown: String = name.chars().take(MAX_NAME).collect();
            let message = format!(
                "{shown:?} is no name: lower case letters, digits, dashes and dots, {MAX_NAME} characters at most"
            );
            vec![Found::new(Layer::Schema, path, message)]
        }
        (None, Some(_)) => Vec::new(),
        (None, None) => vec![Found::new(Layer::Schema, path, "is required")],
    }
}

fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let alphanumeric = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.into_iter().all(|end| end.is_some_and(alphanumeric))
            && label.bytes().all(|it| alphanumeric(it) || it == b'-')
    };
    name.len() <= MAX_NAME && name.split('.').all(label)
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}
