//! The chart's values: each with a schema and a comment, and refused where they are unknown or don't fit together.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::helm::{Rendering, documents, path};

#[test]
fn values_that_are_unknown_or_out_of_range_are_refused_by_name() -> Result<()> {
    let cases = [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("proxy.acessLog=all", "additional properties 'acessLog' not allowed"),
        ("proxy.interception=Transparent", "/proxy/interception"),
        ("replicas=0", "/replicas"),
        ("webhook.timeoutSeconds=31", "/webhook/timeoutSeconds"),
        ("proxy.drainTimeout=30", "/proxy/drainTimeout"),
        ("proxy.excludeInboundPorts={70000}", "/proxy/excludeInboundPorts/0"),
        ("image.digest=latest", "/image/digest"),
        ("podLabels.fusebox\\.dev/inject=enabled", "invalid propertyName 'fusebox.dev/inject'"),
        ("rbac.namespaces={Shop}", "/rbac/namespaces/0"),
    ];
    for (value, reason) in cases {
        let said =
            Rendering::of("defaults").with(value).text().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(reason), "{value}: {said}");
    }
    Ok(())
}

#[test]
fn values_that_do_not_fit_together_are_refused_with_the_fix() {
    let cases = [
        ("rbac.namespaces={shop}", "Set certManager.enabled=true, or webhook.enabled=false"),
        ("rbac.namespaces={fusebox-system},certManager.enabled=true", "own namespace never gets sidecars"),
    ];
    for (values, reason) in cases {
        let said =
            Rendering::of("defaults").with(values).text().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(reason), "{values}: {said}");
    }
}

#[test]
fn values_and_schema_name_the_same_things() -> Result<()> {
    let values = documents(&std::fs::read_to_string(path("charts/fusebox/values.yaml"))?)?;
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path("charts/fusebox/values.schema.json"))?)?;
    let (mut given, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys_of_values(&values[0], &schema, "", &mut given);
    keys_of_schema(&schema, "", &mut known);
    // Helm hands it to every chart; resources are those of Kubernetes, all optional.
    let known = known.into_iter().filter(|key| key != "global" && !key.ends_with(".claims")).collect();
    assert_eq!(given, known);
    Ok(())
}

#[test]
fn every_value_has_a_comment() -> Result<()> {
    let text = std::fs::read_to_string(path("charts/fusebox/values.yaml"))?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(':') else { continue };
        // Quantities and node labels speak for themselves; a group's values have their own comments.
        let plain = value.is_empty() || ["cpu", "memory", "kubernetes.io/os"].contains(&key);
        let commented = at > 0 && lines[at - 1].starts_with('#');
        assert!(plain || commented, "values.yaml:{}: {key} has no comment", at + 1);
    }
    Ok(())
}

/// The dotted names of all values whose schema lists them.
fn keys_of_values(values: &Value, schema: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in values.as_object().into_iter().flatten() {
        let name = format!("{prefix}{key}");
        keys.insert(name.clone());
        let schema = &schema["properties"][key];
        if schema["properties"].is_object() {
            keys_of_values(value, schema, &format!("{name}."), keys);
        }
    }
}

fn keys_of_schema(schema: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        let name = format!("{prefix}{key}");
        keys.insert(name.clone());
        keys_of_schema(schema, &format!("{name}."), keys);
    }
}
