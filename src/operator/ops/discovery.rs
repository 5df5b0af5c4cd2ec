//! What is served, as kubectl and the API server ask for it: groups, resources and their schemas.
//!
//! It is made from the types' own definitions and the table of operations, so that nothing can be announced that is not there.

use fusebox_api::names::{OPERATIONS_GROUP, VERSION};
use fusebox_api::operations::{Definition, definitions};
use serde_json::{Map, Value, json};

use super::route::OPERATIONS;

const API_VERSION: &str = fusebox_api::operations::API_VERSION;

/// `/apis/ops.fusebox.dev`.
pub(crate) fn group() -> Value {
    let mut group = group_entry();
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    group
}

/// `/apis`.
pub(crate) fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group_entry()] })
}

/// `/apis/ops.fusebox.dev/v1alpha1`.
pub(crate) fn resources() -> Value {
    let resources = definitions().into_iter().flat_map(|it| {
        let own = json!({
            "name": it.plural, "singularName": it.singular, "namespaced": true, "kind": it.kind,
            "verbs": verbs(it.plural, ""), "shortNames": it.short_names,
        });
        let subresources = it.subresources.iter().map(|sub| {
            json!({ "name": format!("{}/{}", it.plural, sub.name), "singularName": "", "namespaced": true,
                    "kind": sub.kind, "verbs": verbs(it.plural, sub.name) })
        });
        std::iter::once(own).chain(subresources).collect::<Vec<_>>()
    });
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
            "resources": resources.collect::<Vec<_>>() })
}

/// `/apis` with all resources, as newer API servers ask for it.
pub(crate) fn aggregated() -> Value {
    let kind = |kind: &str| json!({ "group": OPERATIONS_GROUP, "version": VERSION, "kind": kind });
    let resource = |it: Definition| {
        let subresources = it.subresources.iter().map(|sub| {
            json!({ "subresource": sub.name, "responseKind": kind(sub.kind), "verbs": verbs(it.plural, sub.name) })
        });
        json!({
            "resource": it.plural, "responseKind": kind(it.kind), "scope": "Namespaced", "singularResource": it.singular,
            "verbs": verbs(it.plural, ""), "shortNames": it.short_names,
            "subresources": subresources.collect::<Vec<_>>(),
        })
    };
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{
            "metadata": { "name": OPERATIONS_GROUP },
            "versions": [{ "version": VERSION, "freshness": "Current",
                           "resources": definitions().into_iter().map(resource).collect::<Vec<_>>() }],
        }],
    })
}

/// `/openapi/v2`: nothing that version 3 does not say better, but asked for all the same.
pub(crate) fn open_api_v2() -> Value {
    json!({ "swagger": "2.0", "info": { "title": "Fusebox operations", "version": VERSION }, "paths": {} })
}

/// `/openapi/v3`.
pub(crate) fn open_api_v3() -> Value {
    let path = format!("apis/{API_VERSION}");
    json!({ "paths": { path.as_str(): { "serverRelativeURL": format!("/openapi/v3/{path}") } } })
}

/// `/openapi/v3/apis/ops.fusebox.dev/v1alpha1`: what `kubectl explain` reads.
pub(crate) fn open_api_v3_document() -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for it in definitions() {
        let object = format!("/apis/{API_VERSION}/namespaces/{{namespace}}/{}/{{name}}", it.plural);
        for sub in &it.subresources {
            paths.insert(format!("{object}/{}", sub.name), path(sub.kind, &verbs(it.plural, sub.name)));
            schemas.insert(schema_name(sub.kind), schema(sub.kind, &sub.schema));
        }
        let verbs = verbs(it.plural, "");
        if verbs.contains(&"list") {
            paths.insert(format!("/apis/{API_VERSION}/{}", it.plural), path(it.kind, &["list"]));
            paths.insert(
                format!("/apis/{API_VERSION}/namespaces/{{namespace}}/{}", it.plural),
                path(it.kind, &["list"]),
            );
        }
        paths.insert(object, path(it.kind, &verbs));
        schemas.insert(schema_name(it.kind), schema(it.kind, &it.schema));
    }
    json!({
        "openapi": "3.0.0", "info": { "title": "Fusebox operations", "version": VERSION },
        "paths": paths, "components": { "schemas": schemas },
    })
}

fn group_entry() -> Value {
    let version = json!({ "groupVersion": API_VERSION, "version": VERSION });
    json!({ "name": OPERATIONS_GROUP, "versions": [version], "preferredVersion": version })
}

fn verbs(resource: &str, subresource: &str) -> Vec<&'static str> {
    let mut verbs: Vec<&str> = OPERATIONS
        .iter()
        .filter(|operation| operation.resource == resource && operation.subresource == subresource)
        .map(|operation| operation.verb)
        .collect();
    verbs.sort_unstable();
    verbs
}

fn schema_name(kind: &str) -> String {
    format!("dev.fusebox.ops.v1alpha1.{kind}")
}

fn schema(kind: &str, schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
    schema
}

fn group_version_kind(kind: &str) -> Value {
    json!({ "group": OPERATIONS_GROUP, "version": VERSION, "kind": kind })
}

fn path(kind: &str, verbs: &[&str]) -> Value {
    let reference = json!({ "$ref": format!("#/components/schemas/{}", schema_name(kind)) });
    let content = json!({ "application/json": { "schema": reference } });
    let operations: Map<String, Value> = verbs
        .iter()
        .map(|verb| {
            let method = match *verb {
                "create" => "post",
                "update" => "put",
                "delete" => "delete",
                _ => "get",
            };
            let operation = json!({
                "x-kubernetes-action": verb,
                "x-kubernetes-group-version-kind": group_version_kind(kind),
                "responses": { "200": { "description": "OK", "content": content } },
            });
            (method.to_owned(), operation)
        })
        .collect();
    Value::Object(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_announced_and_nothing_else() {
        let announced = resources();
        let mut found: Vec<String> = Vec::new();
        for resource in announced["resources"].as_array().unwrap() {
            for verb in resource["verbs"].as_array().unwrap() {
                found.push(format!("{} {}", verb.as_str().unwrap(), resource["name"].as_str().unwrap()));
            }
        }
        let name = |it: &super::super::route::Operation| match it.subresource {
            "" => format!("{} {}", it.verb, it.resource),
            sub => format!("{} {}/{sub}", it.verb, it.resource),
        };
        let mut expected: Vec<String> = OPERATIONS.iter().map(name).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_short_names_are_not_those_of_the_policy() {
        let definition = fusebox_api::crd::circuit_breaker_policy();
        let taken = definition.spec.names.short_names.unwrap();
        let own = definitions();
        assert!(own.iter().flat_map(|it| it.short_names).all(|name| !taken.iter().any(|taken| taken == name)));
    }

    #[test]
    fn schemas_are_found_by_their_kinds() {
        let document = open_api_v3_document();
        let schema = &document["components"]["schemas"]["dev.fusebox.ops.v1alpha1.CircuitBreakerState"];
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CircuitBreakerState");
        assert_eq!(schema["type"], "object");
    }
}
