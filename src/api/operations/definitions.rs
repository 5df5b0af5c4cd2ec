//! How the resources are called, and their schemas, as discovery and `kubectl explain` show them.
//!
//! The schemas are derived from the types, so that what is documented is what is sent. Which verbs there are is the server's.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::{CircuitBreakerOverride, CircuitBreakerState, Explanation, RateLimitState, RateLimitUnblock, State};

/// One resource.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its kind.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
    /// Its name for one object.
    pub singular: &'static str,
    /// Shorter names for kubectl.
    pub short_names: &'static [&'static str],
    /// Its schema.
    pub schema: Value,
    /// What stands under it.
    pub subresources: Vec<Subresource>,
}

/// A part of a resource with a path of its own.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Its kind.
    pub kind: &'static str,
    /// Its name in paths.
    pub name: &'static str,
    /// Its schema.
    pub schema: Value,
}

/// Every resource, in the order of their names.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    vec![
        Definition {
            kind: CircuitBreakerState::KIND,
            plural: CircuitBreakerState::PLURAL,
            singular: "circuitbreakerstate",
            short_names: &["cbs"],
            schema: schema::<CircuitBreakerState>(),
            subresources: vec![Subresource {
                kind: "CircuitBreakerOverride",
                name: "override",
                schema: schema::<CircuitBreakerOverride>(),
            }],
        },
        Definition {
            kind: "Explanation",
            plural: "explanations",
            singular: "explanation",
            short_names: &[],
            schema: schema::<Explanation>(),
            subresources: Vec::new(),
        },
        Definition {
            kind: RateLimitState::KIND,
            plural: RateLimitState::PLURAL,
            singular: "ratelimitstate",
            short_names: &["rls"],
            schema: schema::<RateLimitState>(),
            subresources: vec![Subresource {
                kind: "RateLimitUnblock",
                name: "unblock",
                schema: schema::<RateLimitUnblock>(),
            }],
        },
    ]
}

/// A type's schema in OpenAPI 3.0, without references.
fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut value = Schema::to_value(settings.into_generator().into_root_schema_for::<T>());
    tidy(&mut value);
    value
}

/// Makes documented enums plain, drops number formats that Kubernetes does not know, and our source's line breaks.
fn tidy(value: &mut Value) {
    if let Value::Object(schema) = value {
        schema.remove("title");
        schema.remove("nullable");
        let words: Option<Vec<Value>> = schema.get("oneOf").and_then(Value::as_array).and_then(|variants| {
            variants.iter().map(|variant| variant.get("enum")?.as_array()?.first().cloned()).collect()
        });
        if let Some(words) = words {
            schema.remove("oneOf");
            schema.insert("type".to_owned(), json!("string"));
            schema.insert("enum".to_owned(), json!(words));
        }
        if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            schema.remove("format");
        }
        if let Some(Value::String(description)) = schema.get_mut("description") {
            *description = description.replace('\n', " ");
        }
    }
    match value {
        Value::Object(schema) => schema.values_mut().for_each(tidy),
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_say_what_fields_mean_and_which_words_there_are() {
        let all = definitions();
        let breaker = &all[0].schema["properties"]["pods"]["items"]["properties"]["breakers"]["items"];
        let state = &breaker["properties"]["state"];
        assert_eq!(state["enum"], json!(["Unknown", "Closed", "HalfOpen", "Open"]), "{state}");
        assert_eq!(state["type"], "string");
        assert!(breaker["properties"]["nextProbe"]["description"].as_str().unwrap().contains("probe"), "{breaker}");
        assert!(!all[0].schema.to_string().contains("$ref"));
    }
}
