//! The resources' definitions as they are installed: derived from the types, then tidied.
//!
//! `crds/` is written from here and nowhere else. Tidying must not change what is accepted
//! beyond what it says, because the offline check and the API server read the same schema.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::core::CustomResourceExt;

use crate::circuit_breaker::CircuitBreakerPolicy;
use crate::rate_limit::RateLimit;

/// Every resource's definition, in the order of their names.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![circuit_breaker_policy(), rate_limit()]
}

/// The definition of CircuitBreakerPolicy.
#[must_use]
pub fn circuit_breaker_policy() -> CustomResourceDefinition {
    tidied(CircuitBreakerPolicy::crd())
}

/// The definition of RateLimit.
#[must_use]
pub fn rate_limit() -> CustomResourceDefinition {
    tidied(RateLimit::crd())
}

/// The schema that objects of a definition's first version are held to.
#[must_use]
pub fn schema(definition: &CustomResourceDefinition) -> Option<&JSONSchemaProps> {
    definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn tidied(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for CustomResourceDefinitionVersion { schema, .. } in &mut definition.spec.versions {
        if let Some(root) = schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(root);
        }
    }
    definition
}

/// Drops `nullable` (the API server then treats null as absent), number formats that Kubernetes does not know, and
/// the line breaks of our source, which `kubectl explain` would keep.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(description) = &mut schema.description {
        *description = description.replace('\n', " ");
    }
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        tidy(items);
    }
}

#[cfg(test)]
mod tests;
