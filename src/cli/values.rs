//! Values that policies name, from ConfigMap and Secret manifests among the files of `fusebox render` and `fusebox run`.
//!
//! In a cluster the operator reads the objects and sends the values beside a configuration; here the files stand in for both, by
//! the same rules. It must print no value.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use fusebox_compiler::snapshot::ReferenceState;
use fusebox_compiler::{Snapshot, compile, yaml};
use fusebox_policy::config::{Reference, ReferenceKind};
use fusebox_policy::stream::{MAX_REFERENCE_BYTES, ReferenceValue};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use serde_json::Value;

use crate::manifests::Source;

/// The namespace of a manifest that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The objects with their entries, as the API server would hold them; of two manifests of one object the later one counts.
#[derive(Debug, Default)]
pub(crate) struct Values(BTreeMap<Object, BTreeMap<String, Vec<u8>>>);

type Object = (ReferenceKind, String, String);

impl Values {
    /// Every ConfigMap and Secret of the files.
    pub(crate) fn read(sources: &[Source]) -> Result<Self> {
        let mut values = Self::default();
        for source in sources {
            let file = source.file();
            for document in yaml::read(file.text).with_context(|| file.name.to_owned())? {
                values.add(document.to_value()).with_context(|| file.name.to_owned())?;
            }
        }
        Ok(values)
    }

    /// Says in the snapshot what there is of the values that its policies name.
    pub(crate) fn resolve(&self, snapshot: &mut Snapshot) {
        // Which these are is the compiler's word, whatever is known of them.
        let named = compile(snapshot).references;
        snapshot.references = named.into_iter().map(|named| (named.clone(), self.state(&named))).collect();
    }

    /// Those of these references that there is a value of, and the others, each with what is wrong.
    pub(crate) fn wanted<'a>(
        &self,
        references: &'a [Reference],
    ) -> (Vec<ReferenceValue>, Vec<(&'a Reference, String)>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for reference in references {
            match self.value(reference) {
                Ok(value) => found.push(ReferenceValue { reference: reference.clone(), value: value.to_owned() }),
                Err(state) => missing.push((reference, words(&state))),
            }
        }
        (found, missing)
    }

    fn state(&self, reference: &Reference) -> ReferenceState {
        match self.value(reference) {
            Ok(_) => ReferenceState::Present { revision: String::new() },
            Err(state) => state,
        }
    }

    /// The value as the operator would send it; else what it would say of it.
    fn value(&self, Reference { kind, namespace, name, key }: &Reference) -> Result<&str, ReferenceState> {
        let entries = self.0.get(&(*kind, namespace.clone(), name.clone())).ok_or(ReferenceState::Missing)?;
        let bytes = entries.get(key).ok_or(ReferenceState::KeyMissing)?;
        if bytes.len() > MAX_REFERENCE_BYTES {
            let problem = format!("it is longer than {MAX_REFERENCE_BYTES} bytes");
            return Err(ReferenceState::Unusable { problem });
        }
        let problem = || "it is not UTF-8 text".to_owned();
        std::str::from_utf8(bytes).map_err(|_| ReferenceState::Unusable { problem: problem() })
    }

    fn add(&mut self, document: Value) -> Result<()> {
        let word = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        match (word("apiVersion").as_str(), word("kind").as_str()) {
            (_, "List") => {
                let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                return items.into_iter().try_for_each(|item| self.add(item));
            }
            ("v1", "ConfigMap") => {
                let object: ConfigMap = serde_json::from_value(document).context("a ConfigMap can't be read")?;
                let name = (ReferenceKind::ConfigMap, object.namespace(), object.name_any());
                let binary = object.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                let text = object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                self.put(name, binary.chain(text).collect());
            }
            ("v1", "Secret") => {
                // What serde says of it could repeat a part.
                let object: Secret = serde_json::from_value(document).ok().context("a Secret can't be read")?;
                let name = (ReferenceKind::Secret, object.namespace(), object.name_any());
                let data = object.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                let text = object.string_data.unwrap_or_default().into_iter();
                self.put(name, data.chain(text.map(|(key, value)| (key, value.into_bytes()))).collect());
            }
            _ => {}
        }
        Ok(())
    }

    fn put(
        &mut self,
        (kind, namespace, name): (ReferenceKind, Option<String>, String),
        entries: BTreeMap<String, Vec<u8>>,
    ) {
        let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        self.0.insert((kind, namespace, name), entries);
    }
}

/// What is wrong, for people who have files.
fn words(state: &ReferenceState) -> String {
    match state {
        ReferenceState::KeyMissing => "the object in the files has no such key".to_owned(),
        ReferenceState::Unusable { problem } => problem.clone(),
        ReferenceState::Missing
        | ReferenceState::Present { .. }
        | ReferenceState::NotPermitted
        | ReferenceState::Unread => "not in the files".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(kind: ReferenceKind, name: &str, key: &str) -> Reference {
        Reference { kind, namespace: "shop".into(), name: name.into(), key: key.into() }
    }

    fn values(text: &str) -> Values {
        Values::read(&[Source::named("in.yaml", text)]).unwrap()
    }

    #[test]
    fn values_of_config_maps_and_secrets_are_found_by_their_names() {
        let values = values(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: q, namespace: shop}, data: {file: one}, binaryData: {more: dHdv}}\n---\n\
             {apiVersion: v1, kind: Secret, metadata: {name: q, namespace: shop}, data: {file: dHdv, both: eA==}, stringData: {both: three}}\n",
        );
        let asked = [
            reference(ReferenceKind::ConfigMap, "q", "file"),
            reference(ReferenceKind::ConfigMap, "q", "more"),
            reference(ReferenceKind::Secret, "q", "file"),
            reference(ReferenceKind::Secret, "q", "both"),
            reference(ReferenceKind::Secret, "q", "absent"),
            reference(ReferenceKind::Secret, "absent", "file"),
        ];
        let (found, missing) = values.wanted(&asked);
        assert_eq!(found.iter().map(|it| it.value.as_str()).collect::<Vec<_>>(), ["one", "two", "two", "three"]);
        let missing: Vec<(&str, &str)> = missing.iter().map(|(it, why)| (it.name.as_str(), why.as_str())).collect();
        assert_eq!(missing, [("q", "the object in the files has no such key"), ("absent", "not in the files")]);
    }

    #[test]
    fn what_the_operator_would_not_send_is_no_value() {
        let long = "x".repeat(MAX_REFERENCE_BYTES + 1);
        let values = values(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: q, namespace: shop}}, data: {{binary: /w==}}, stringData: {{long: {long}}}}}"
        ));
        let state = |key: &str| values.state(&reference(ReferenceKind::Secret, "q", key));
        for (key, wanted) in [("binary", "UTF-8"), ("long", "longer than")] {
            let ReferenceState::Unusable { problem } = state(key) else { panic!("{key}: {:?}", state(key)) };
            assert!(problem.contains(wanted), "{problem}");
        }
        assert_eq!(state("absent"), ReferenceState::KeyMissing);
        assert_eq!(values.state(&reference(ReferenceKind::ConfigMap, "q", "binary")), ReferenceState::Missing);
    }

    #[test]
    fn of_two_manifests_of_one_object_the_later_one_counts() {
        let values = values(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: q, namespace: shop}, data: {old: one, file: one}}\n---\n\
             {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: q, namespace: shop}, data: {file: two}}]}\n",
        );
        let of = |key: &str| values.value(&reference(ReferenceKind::ConfigMap, "q", key)).ok();
        assert_eq!(
            (of("old"), of("file")),
            (None, Some("two")),
            "applying it would have taken the first one's entries out"
        );
    }
}
