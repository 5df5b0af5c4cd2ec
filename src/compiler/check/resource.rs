//! One document: which resource it is, and what schema and compiler say of it.
//!
//! Documents of other groups are none of our business and pass, so that a directory with
//! Deployments and Services beside policies can be checked as it is.

use fusebox_api::CircuitBreakerPolicySpec;
use fusebox_api::names::{GROUP, VERSION};
use serde_json::Value;

use super::schema::Schema;
use super::{Found, Layer, Path, fields};
use crate::breaker_config;
use crate::plan::Refusal;

/// The kinds there are.
const KINDS: [&str; 1] = ["CircuitBreakerPolicy"];

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
    match (ours, KINDS.contains(&kind)) {
        (false, false) => Vec::new(),
        (true, true) if api_version == format!("{GROUP}/{VERSION}") => circuit_breaker(value),
        (_, true) => vec![
            Found::new(Layer::Syntax, Path::default().field("apiVersion"), format!("{api_version:?} has no {kind}"))
                .with_fix(format!("write {GROUP}/{VERSION}")),
        ],
        (true, false) => vec![unknown_kind(kind)],
    }
}

fn unknown_kind(kind: &str) -> Found {
    let fix = match fields::nearest(kind, KINDS.into_iter()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the kinds are {}", KINDS.join(", ")),
    };
    Found::new(Layer::Syntax, Path::default().field("kind"), format!("{kind:?} is no kind of {GROUP}")).with_fix(fix)
}

fn circuit_breaker(value: &Value) -> Vec<Found> {
    let mut found = name(value);
    let Some(schema) = Schema::circuit_breaker() else { return found };
    found.extend(schema.check(value));
    if found.is_empty() {
        found.extend(compiler(&schema.defaulted(value)));
    }
    found
}

/// What the compiler alone can tell.
fn compiler(defaulted: &Value) -> Option<Found> {
    let spec: CircuitBreakerPolicySpec = match serde_json::from_value(defaulted["spec"].clone()) {
        Ok(spec) => spec,
        Err(error) => return Some(Found::new(Layer::Compiler, Path::default().field("spec"), error.to_string())),
    };
    match breaker_config::breaker_rules(&spec) {
        Err(Refusal::InvalidSpec { field, problem }) => Some(Found::new(Layer::Compiler, Path::parse(&field), problem)),
        Err(refusal) => Some(Found::new(Layer::Compiler, Path::default().field("spec"), refusal.to_string())),
        Ok(_) => None,
    }
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
