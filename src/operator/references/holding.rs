//! What of a ConfigMap or Secret is kept: the entries that somebody names, as text.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_policy::stream::MAX_REFERENCE_BYTES;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

use super::State;
use crate::control::{self, Entries};

/// Why an entry is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoValue {
    /// There is none of this name.
    #[error("there is no such entry")]
    Absent,
    /// It is binary.
    #[error("it is not UTF-8 text")]
    NotText,
    /// It is longer than can be sent.
    #[error("it is longer than {MAX_REFERENCE_BYTES} bytes")]
    TooLong,
}

/// An object with entries.
pub(super) trait Holding:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Takes the entries out, so that nothing is left of them in the object.
    fn take_entries(&mut self) -> BTreeMap<String, Vec<u8>>;
}

impl Holding for ConfigMap {
    fn take_entries(&mut self) -> BTreeMap<String, Vec<u8>> {
        let binary = self.binary_data.take().unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        let text = self.data.take().unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        binary.chain(text).collect()
    }
}

impl Holding for Secret {
    fn take_entries(&mut self) -> BTreeMap<String, Vec<u8>> {
        self.data.take().unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

/// What is known of an object that is there, and the values of the entries that are wanted.
pub(super) fn there<K: Holding>(mut object: K, keys: &BTreeSet<String>) -> (State, Entries) {
    let mut all = object.take_entries();
    let (mut entries, mut without) = (Entries::new(), BTreeMap::new());
    for key in keys {
        match value(all.remove(key)) {
            Ok(value) => drop(entries.insert(key.clone(), control::Secret::new(value))),
            Err(why) => drop(without.insert(key.clone(), why)),
        }
    }
    all.values_mut().for_each(Zeroize::zeroize);
    (State::There { revision: object.resource_version().unwrap_or_default(), without }, entries)
}

fn value(bytes: Option<Vec<u8>>) -> Result<String, NoValue> {
    let mut bytes = bytes.ok_or(NoValue::Absent)?;
    if bytes.len() > MAX_REFERENCE_BYTES {
        bytes.zeroize();
        return Err(NoValue::TooLong);
    }
    String::from_utf8(bytes).map_err(|error| {
        error.into_bytes().zeroize();
        NoValue::NotText
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn only_entries_that_are_named_are_kept_and_what_is_no_text_is_said() {
        let data = [("a", b"one".to_vec()), ("b", vec![0xff]), ("c", vec![b'x'; MAX_REFERENCE_BYTES + 1])];
        let data = data.into_iter().chain([("unnamed", b"hidden".to_vec())]);
        let mut secret = Secret {
            data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value))).collect()),
            ..Secret::default()
        };
        secret.metadata.resource_version = Some("7".to_owned());
        let keys = ["a", "b", "c", "d"].map(str::to_owned).into();
        let (state, entries) = there(secret, &keys);
        assert_eq!(entries.into_keys().collect::<Vec<_>>(), ["a"]);
        let State::There { revision, without } = state else { panic!("{state:?}") };
        assert_eq!(revision, "7");
        let expected = [("b", NoValue::NotText), ("c", NoValue::TooLong), ("d", NoValue::Absent)];
        assert_eq!(without, expected.map(|(key, why)| (key.to_owned(), why)).into());
    }
}
