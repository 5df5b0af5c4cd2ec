//! Tests of the definitions: no drift, and the words users type.

use std::path::PathBuf;

use super::*;

fn file_of(definition: &CustomResourceDefinition) -> PathBuf {
    let name = definition.metadata.name.as_deref().unwrap();
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../crds/{name}.yaml"))
}

#[test]
fn the_files_in_crds_are_what_the_types_say() {
    for definition in all() {
        let text = serde_yaml::to_string(&definition).unwrap();
        let file = file_of(&definition);
        assert_eq!(
            std::fs::read_to_string(&file).unwrap_or_default(),
            text,
            "{} is out of date: run `cargo run -p fusebox-api --example crdgen -- crds`",
            file.display()
        );
    }
}

#[test]
fn users_find_the_resource_by_all_its_names() {
    let names = circuit_breaker_policy().spec.names;
    assert_eq!(names.short_names.unwrap(), ["circuitbreakers", "circuitbreaker", "cb"]);
    assert_eq!(names.categories.unwrap(), ["resilience"]);
    assert_eq!(names.plural, "circuitbreakerpolicies");
    let names = rate_limit().spec.names;
    assert_eq!((names.plural.as_str(), names.short_names.unwrap()), ("ratelimits", vec!["rl".to_owned()]));
    assert_eq!(names.categories.unwrap(), ["resilience"]);
}

#[test]
fn a_minimal_policy_needs_only_targets() {
    let definition = circuit_breaker_policy();
    let root = schema(&definition).unwrap();
    let spec = &root.properties.as_ref().unwrap()["spec"];
    assert_eq!(spec.required.as_deref(), Some(&["targetRefs".to_owned()][..]));
}

#[test]
fn a_minimal_limit_needs_only_targets_and_a_named_rate() {
    let definition = rate_limit();
    let spec = &schema(&definition).unwrap().properties.as_ref().unwrap()["spec"];
    let required = |schema: &JSONSchemaProps| {
        let mut names = schema.required.clone().unwrap_or_default();
        names.sort();
        names
    };
    assert_eq!(required(spec), ["limits", "targetRefs"]);
    let Some(JSONSchemaPropsOrArray::Schema(limit)) = &spec.properties.as_ref().unwrap()["limits"].items else {
        panic!("limits is no list")
    };
    assert_eq!(required(limit), ["name", "rate"]);
    assert_eq!(required(&limit.properties.as_ref().unwrap()["rate"]), ["per", "requests"]);
}

#[test]
fn every_field_is_explained_and_bounded() {
    for definition in all() {
        let spec = &schema(&definition).unwrap().properties.as_ref().unwrap()["spec"];
        inspect("spec", spec);
    }
}

fn inspect(path: &str, schema: &JSONSchemaProps) {
    let bounded = match schema.type_.as_deref() {
        Some("array") => schema.max_items.is_some(),
        Some("string") => schema.max_length.is_some() || schema.enum_.is_some() || schema.format.is_some(),
        Some("integer") => schema.maximum.is_some() && schema.minimum.is_some(),
        _ => true,
    };
    assert!(bounded, "{path} has no bound");
    for (name, property) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(property.description.is_some(), "{path} has no description");
        inspect(&path, property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        inspect(&format!("{path}[]"), items);
    }
}
