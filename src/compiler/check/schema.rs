//! A document against the definition's own schema, as the API server does it.
//!
//! Order matters: unknown fields, then types and bounds, then the rules, which are skipped where
//! the schema already refuses. Texts are ours; verdicts and paths are the schema's.

use std::sync::LazyLock;

use fusebox_api::{crd, duration};
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{ErrorKind, Validator as RuleValidator, apply_defaults};
use serde_json::{Map, Value};

use super::{Found, Layer, MAX_FINDINGS, Path, UNKNOWN_FIELD, fields};
use crate::kind::Kind;

/// Fields of every object that the definition's schema does not list.
const ROOT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fields of metadata.
const METADATA_FIELDS: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// How a duration is written.
const DURATION_FIX: &str = "write it like 5s, 250ms or 1m30s";

/// The schema of CircuitBreakerPolicy, made once.
static CIRCUIT_BREAKER: LazyLock<Option<Schema>> = LazyLock::new(|| Schema::new("cb", &crd::circuit_breaker_policy()));

/// The schema of RateLimit, made once.
static RATE_LIMIT: LazyLock<Option<Schema>> = LazyLock::new(|| Schema::new("rl", &crd::rate_limit()));

/// A schema, ready to check with.
pub(super) struct Schema {
    /// What `kubectl explain` knows the resource by.
    word: &'static str,
    raw: Value,
    compiled: jsonschema::Validator,
}

impl Schema {
    /// The schema of a kind; absent only if the definition were no schema, which a test excludes.
    pub(super) fn of(kind: Kind) -> Option<&'static Self> {
        match kind {
            Kind::CircuitBreakerPolicy => CIRCUIT_BREAKER.as_ref(),
            Kind::RateLimit => RATE_LIMIT.as_ref(),
        }
    }

    fn new(word: &'static str, definition: &CustomResourceDefinition) -> Option<Self> {
        let raw = serde_json::to_value(crd::schema(definition)?).ok()?;
        let compiled = jsonschema::options().should_validate_formats(true).build(&raw).ok()?;
        Some(Self { word, raw, compiled })
    }

    /// The document as the API server keeps it: without nulls, with defaults.
    pub(super) fn defaulted(&self, document: &Value) -> Value {
        apply_defaults(&self.raw, &without_nulls(document))
    }

    /// Everything the API server would refuse.
    pub(super) fn check(&self, document: &Value) -> Vec<Found> {
        let mut found = self.unknown_fields(document);
        let defaulted = self.defaulted(document);
        let refused: Vec<Found> =
            self.compiled.iter_errors(&defaulted).take(MAX_FINDINGS).map(|error| self.said(&error)).collect();
        let valid = refused.is_empty();
        found.extend(refused);
        if valid {
            let mut twice = Vec::new();
            duplicates(&self.raw, &defaulted, &Path::default(), &mut twice);
            let rules = if twice.is_empty() { self.rules(&defaulted) } else { Vec::new() };
            found.extend(twice);
            found.extend(rules);
        }
        found
    }

    fn rules(&self, defaulted: &Value) -> Vec<Found> {
        let errors = RuleValidator::new().validate(&self.raw, defaulted, None).err();
        let found = |error: kube::core::cel::ValidationError| {
            let message = match error.kind {
                ErrorKind::ValidationFailure => error.message,
                _ => format!("a rule could not be evaluated: {}", error.message),
            };
            Found::new(Layer::Rule, Path::parse(&error.field_path), message)
        };
        errors.into_iter().flatten().map(found).collect()
    }

    fn unknown_fields(&self, document: &Value) -> Vec<Found> {
        let mut found = Vec::new();
        let Value::Object(fields) = document else { return found };
        let mut rest = Map::new();
        for (name, value) in fields {
            if ROOT_FIELDS.contains(&name.as_str()) {
                continue;
            }
            rest.insert(name.clone(), value.clone());
        }
        self.unknown((&self.raw, &Value::Object(rest)), &Path::default(), &mut found);
        if let Some(Value::Object(metadata)) = fields.get("metadata") {
            let path = Path::default().field("metadata");
            for name in metadata.keys().filter(|name| !METADATA_FIELDS.contains(&name.as_str())) {
                found.push(self.unknown_field(&path, name, METADATA_FIELDS.into_iter()));
            }
        }
        found
    }

    fn unknown(&self, (schema, value): (&Value, &Value), path: &Path, found: &mut Vec<Found>) {
        match value {
            Value::Object(fields) => {
                let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
                for (name, value) in fields {
                    match properties.get(name) {
                        Some(schema) => self.unknown((schema, value), &path.field(name), found),
                        None => found.push(self.unknown_field(path, name, properties.keys().map(String::as_str))),
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.unknown((schema, item), &path.index(index), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn unknown_field<'a>(&self, path: &Path, name: &str, known: impl Iterator<Item = &'a str>) -> Found {
        let fix = match fields::nearest(name, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("remove it; `kubectl explain {}.spec` lists the fields", self.word),
        };
        Found::new(Layer::Schema, path.field(name), UNKNOWN_FIELD).with_fix(fix)
    }

    /// A refusal of the schema in words that say what to do.
    fn said(&self, error: &jsonschema::ValidationError<'_>) -> Found {
        let mut path = Path::default();
        for segment in error.instance_path().segments() {
            path = match segment {
                LocationSegment::Property(name) => path.field(&name),
                LocationSegment::Index(index) => path.index(index),
            };
        }
        let value = shortened(error.instance());
        let message = match error.kind() {
            ValidationErrorKind::Required { property } => {
                path = path.field(property.as_str().unwrap_or_default());
                "is required".to_owned()
            }
            ValidationErrorKind::Type { .. } | ValidationErrorKind::Pattern { .. } if self.wants_duration(error) => {
                return Found::new(Layer::Schema, path, format!("{value} is no duration")).with_fix(DURATION_FIX);
            }
            ValidationErrorKind::Type { .. } => format!("{value} has the wrong type: {error}"),
            ValidationErrorKind::Enum { options } => format!("{value} is not one of {options}"),
            ValidationErrorKind::Minimum { limit } => format!("{value} is too small: set {} at least", bound(limit)),
            ValidationErrorKind::Maximum { limit } => format!("{value} is too large: set {} at most", bound(limit)),
            ValidationErrorKind::MaxItems { limit } => format!("the list is too long: {limit} items at most"),
            ValidationErrorKind::MinItems { limit } => format!("the list is too short: {limit} items at least"),
            ValidationErrorKind::MaxLength { limit } => format!("{value} is too long: {limit} characters at most"),
            ValidationErrorKind::MinLength { limit } => format!("{value} is too short: {limit} characters at least"),
            ValidationErrorKind::Pattern { pattern } => format!("{value} does not match {pattern}"),
            ValidationErrorKind::Format { format } => format!("{value} is not a {format}"),
            _ => error.to_string(),
        };
        Found::new(Layer::Schema, path, message)
    }

    /// Whether the place of a refusal takes a duration, told by the one pattern that durations have.
    fn wants_duration(&self, error: &jsonschema::ValidationError<'_>) -> bool {
        let place = error.schema_path().as_str().rsplit_once('/').map_or("", |(place, _)| place);
        let pattern = self.raw.pointer(place).and_then(|schema| schema.get("pattern"));
        pattern.and_then(Value::as_str) == Some(duration::PATTERN)
    }
}

/// Items that stand twice in a list whose items are told apart by value or by keys.
fn duplicates(schema: &Value, value: &Value, path: &Path, found: &mut Vec<Found>) {
    match value {
        Value::Object(fields) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, value) in fields {
                if let Some(schema) = properties.get(name) {
                    duplicates(schema, value, &path.field(name), found);
                }
            }
        }
        Value::Array(items) => {
            let identities: Vec<Option<Value>> = items.iter().map(|item| identity(schema, item)).collect();
            for (index, item) in items.iter().enumerate() {
                let earlier =
                    identities[..index].iter().position(|other| other.is_some() && *other == identities[index]);
                if let Some(earlier) = earlier {
                    let message = format!("repeats item {earlier} of the list");
                    found.push(Found::new(Layer::Schema, path.index(index), message).with_fix("remove one of the two"));
                }
                if let Some(schema) = schema.get("items") {
                    duplicates(schema, item, &path.index(index), found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn identity(schema: &Value, item: &Value) -> Option<Value> {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => Some(item.clone()),
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys")?.as_array()?;
            let named = keys.iter().filter_map(Value::as_str);
            Some(Value::Array(named.map(|key| item.get(key).cloned().unwrap_or(Value::Null)).collect()))
        }
        _ => None,
    }
}

/// A bound without the `.0` that the validator's numbers carry.
fn bound(limit: &Value) -> String {
    let text = limit.to_string();
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn shortened(value: &Value) -> String {
    const MAX: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= MAX { text } else { format!("{}...", text.chars().take(MAX).collect::<String>()) }
}

/// The API server drops nulls of fields that may not be null before it fills in defaults.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
