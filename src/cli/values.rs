//! Values that policies name, from ConfigMap and Secret manifests among the files of `fusebox run`.
//!
//! In a cluster the operator sends them beside a configuration; here the files stand in for it. It must print no value.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use fusebox_compiler::yaml;
use fusebox_policy::config::{Reference, ReferenceKind};
use fusebox_policy::stream::ReferenceValue;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use serde_json::Value;

use crate::manifests::Source;

/// The namespace of a manifest that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Every entry of every ConfigMap and Secret, as text.
pub(crate) fn all(sources: &[Source]) -> Result<BTreeMap<Reference, String>> {
    let mut values = BTreeMap::new();
    for source in sources {
        let file = source.file();
        for document in yaml::read(file.text).with_context(|| file.name.to_owned())? {
            add(&mut values, document.to_value()).with_context(|| file.name.to_owned())?;
        }
    }
    Ok(values)
}

/// Those of them that are wanted, and the wanted ones that are not there.
pub(crate) fn wanted(
    mut values: BTreeMap<Reference, String>,
    references: &[Reference],
) -> (Vec<ReferenceValue>, Vec<&Reference>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in references {
        match values.remove(reference) {
            Some(value) => found.push(ReferenceValue { reference: reference.clone(), value }),
            None => missing.push(reference),
        }
    }
    (found, missing)
}

fn add(values: &mut BTreeMap<Reference, String>, document: Value) -> Result<()> {
    let word = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (word("apiVersion").as_str(), word("kind").as_str()) {
        (_, "List") => {
            let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            items.into_iter().try_for_each(|item| add(values, item))
        }
        ("v1", "ConfigMap") => {
            let object: ConfigMap = serde_json::from_value(document).context("a ConfigMap can't be read")?;
            let (namespace, name) = (object.namespace(), object.name_any());
            put(values, (ReferenceKind::ConfigMap, namespace, name), object.data.unwrap_or_default());
            Ok(())
        }
        ("v1", "Secret") => {
            // What serde says of it could repeat a part.
            let object: Secret = serde_json::from_value(document).ok().context("a Secret can't be read")?;
            let (namespace, name) = (object.namespace(), object.name_any());
            let data = object.data.unwrap_or_default().into_iter();
            let data = data.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
            let data = data.chain(object.string_data.unwrap_or_default()).collect();
            put(values, (ReferenceKind::Secret, namespace, name), data);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn put(
    values: &mut BTreeMap<Reference, String>,
    (kind, namespace, name): (ReferenceKind, Option<String>, String),
    data: BTreeMap<String, String>,
) {
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    for (key, value) in data {
        values.insert(Reference { kind, namespace: namespace.clone(), name: name.clone(), key }, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_config_maps_and_secrets_are_found_by_their_names() {
        let source = Source::named(
            "in.yaml",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: q, namespace: shop}, data: {file: one}}\n---\n\
             {apiVersion: v1, kind: Secret, metadata: {name: q, namespace: shop}, data: {file: dHdv}, stringData: {more: three}}\n",
        );
        let values = all(&[source]).unwrap();
        let reference =
            |kind, key: &str| Reference { kind, namespace: "shop".into(), name: "q".into(), key: key.into() };
        let asked = [
            reference(ReferenceKind::ConfigMap, "file"),
            reference(ReferenceKind::Secret, "file"),
            reference(ReferenceKind::Secret, "more"),
            reference(ReferenceKind::Secret, "absent"),
        ];
        let (found, missing) = wanted(values, &asked);
        assert_eq!(found.iter().map(|it| it.value.as_str()).collect::<Vec<_>>(), ["one", "two", "three"]);
        assert_eq!(missing, [&asked[3]]);
    }
}
