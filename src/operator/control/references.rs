//! The values of single ConfigMaps and Secrets, as streams get them; in memory only.
//!
//! The watches of `crate::references` write here, and each stream reads the entries that its own workload's configuration names,
//! of its own namespace alone. A value must never be logged or written anywhere; what is no longer wanted is overwritten.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fusebox_policy::config::{Reference, ReferenceKind};
use fusebox_policy::stream::{Down, MAX_LINE_DOWN, MAX_REFERENCE_BYTES, ReferenceValue, encode};
use parking_lot::RwLock;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::configurations::Configuration;

/// Lines that are kept for the pods of a workload to share, at most; beyond it all are made anew.
const MAX_LINES: usize = 64;

/// One ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Which kind of object.
    pub kind: ReferenceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The entries of one object that somebody wants.
pub type Entries = BTreeMap<String, Secret>;

/// A value that nobody sees and that is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

/// The values; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct ReferenceValues {
    shared: Arc<Shared>,
}

/// What is told to one workload's sidecars.
#[derive(Clone, Default)]
pub struct ToldReferences {
    /// The line; empty where no value is known.
    pub line: Bytes,
    /// Values that are left out because the line would be too long.
    pub left_out: usize,
}

#[derive(Debug)]
struct Shared {
    values: RwLock<Values>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Values {
    holders: BTreeMap<Holder, Entries>,
    /// Lines by what they tell, so that a workload's pods share one; forgotten when a value changes.
    lines: BTreeMap<Vec<Reference>, ToldReferences>,
}

impl Holder {
    /// The object that holds a reference's value.
    #[must_use]
    pub fn of(reference: &Reference) -> Self {
        Self { kind: reference.kind, namespace: reference.namespace.clone(), name: reference.name.clone() }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Secret {
    /// Hides a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

impl std::fmt::Debug for ToldReferences {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, left_out } = self;
        formatter.debug_struct("ToldReferences").field("bytes", &line.len()).field("left_out", left_out).finish()
    }
}

impl Default for ReferenceValues {
    fn default() -> Self {
        Self { shared: Arc::new(Shared { values: RwLock::default(), version: watch::Sender::new(0) }) }
    }
}

impl ReferenceValues {
    /// Takes the entries of one object; None where it is gone, or nobody wants it any more.
    pub fn set(&self, holder: &Holder, entries: Option<Entries>) {
        let mut values = self.shared.values.write();
        if values.holders.get(holder) == entries.as_ref() {
            return;
        }
        match entries {
            Some(entries) => values.holders.insert(holder.clone(), entries),
            None => values.holders.remove(holder),
        };
        values.lines.retain(|references, _| !references.iter().any(|reference| Holder::of(reference) == *holder));
        drop(values);
        self.shared.version.send_modify(|version| *version += 1);
    }

    /// What a workload with this configuration is told. Pods of one workload get the same bytes.
    ///
    /// # Errors
    /// When a value can't be written as JSON, which text always can.
    pub fn told(&self, configuration: &Configuration) -> Result<ToldReferences, serde_json::Error> {
        let wanted = configuration.references();
        if wanted.is_empty() {
            return Ok(ToldReferences::default());
        }
        if let Some(told) = self.shared.values.read().lines.get(wanted) {
            return Ok(told.clone());
        }
        let mut values = self.shared.values.write();
        let told = values.line(wanted)?;
        if values.lines.len() >= MAX_LINES {
            values.lines.clear();
        }
        values.lines.insert(wanted.to_vec(), told.clone());
        Ok(told)
    }

    /// Tells of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }
}

impl Values {
    fn get(&self, reference: &Reference) -> Option<&Secret> {
        self.holders.get(&Holder::of(reference))?.get(&reference.key)
    }

    /// The line that tells all values that are known, without the longest ones where it would be too long.
    fn line(&self, wanted: &[Reference]) -> Result<ToldReferences, serde_json::Error> {
        let known = wanted.iter().filter_map(|reference| Some((reference, self.get(reference)?)));
        let mut known: Vec<(&Reference, &Secret)> =
            known.filter(|(_, value)| value.len() <= MAX_REFERENCE_BYTES).collect();
        let mut left_out = 0;
        loop {
            let line = encoded(&known)?;
            if line.len() <= MAX_LINE_DOWN {
                return Ok(ToldReferences { line, left_out });
            }
            let longest = known.iter().enumerate().max_by_key(|(_, (_, value))| value.len()).map(|(index, _)| index);
            let Some(longest) = longest else { return Ok(ToldReferences { line: Bytes::new(), left_out }) };
            known.remove(longest);
            left_out += 1;
        }
    }
}

fn encoded(known: &[(&Reference, &Secret)]) -> Result<Bytes, serde_json::Error> {
    if known.is_empty() {
        return Ok(Bytes::new());
    }
    let value = |(reference, value): &(&Reference, &Secret)| ReferenceValue {
        reference: (*reference).clone(),
        value: value.0.as_str().to_owned(),
    };
    let mut down = Down::References { values: known.iter().map(value).collect() };
    let line = encode(&down);
    if let Down::References { values } = &mut down {
        values.iter_mut().for_each(|value| zeroize::Zeroize::zeroize(&mut value.value));
    }
    Ok(Bytes::from_owner(Zeroizing::new(line?)))
}

#[cfg(test)]
mod tests {
    use fusebox_policy::config::WorkloadId;
    use fusebox_policy::stream::Decoder;
    use serde_json::json;

    use super::*;

    fn reference(name: &str) -> Reference {
        Reference {
            kind: ReferenceKind::Secret,
            namespace: "shop".into(),
            name: name.into(),
            key: "quotas.yaml".into(),
        }
    }

    /// A configuration of a workload in `namespace`, by a policy of namespace shop that names these Secrets.
    fn configuration(namespace: &str, names: &[&str]) -> Configuration {
        let limits: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "rules": [], "quotas": {"source": reference(name)}}))
            .collect();
        let route = json!({"port": 8080, "rateLimit": {
            "policy": {"namespace": "shop", "name": "limits"}, "side": "Server", "limits": limits, "maxTrackedKeys": 1,
            "target": {"kind": "Service", "namespace": "shop", "name": "web"},
        }});
        let workload = WorkloadId { namespace: namespace.into(), kind: "Deployment".into(), name: "web".into() };
        let mut config = fusebox_policy::config::ProxyConfig::empty(workload);
        config.inbound.push(serde_json::from_value(route).unwrap());
        Configuration::new(Arc::new(config)).unwrap()
    }

    fn entries(value: &str) -> Option<Entries> {
        Some(Entries::from([("quotas.yaml".to_owned(), Secret::new(value.to_owned()))]))
    }

    fn told(values: &ReferenceValues, configuration: &Configuration) -> Vec<(String, String)> {
        let told = values.told(configuration).unwrap();
        let lines = Decoder::new(MAX_LINE_DOWN).push::<Down>(&told.line).unwrap();
        let all = lines.into_iter().flat_map(|line| match line {
            Down::References { values } => values,
            other => panic!("{other:?}"),
        });
        all.map(|value| (value.reference.name, value.value)).collect()
    }

    #[test]
    fn a_workload_is_told_the_values_that_its_own_configuration_names_and_no_others() {
        let values = ReferenceValues::default();
        for name in ["a", "b", "c"] {
            values.set(&Holder::of(&reference(name)), entries(name));
        }
        let asking = configuration("shop", &["a", "b", "absent"]);
        assert_eq!(told(&values, &asking), [("a".into(), "a".into()), ("b".into(), "b".into())]);
        assert_eq!(told(&values, &configuration("bank", &["a"])), [], "a pod of another namespace");
        values.set(&Holder::of(&reference("a")), entries("new"));
        assert_eq!(told(&values, &asking)[0].1, "new");
        values.set(&Holder::of(&reference("a")), None);
        assert_eq!(told(&values, &asking), [("b".into(), "b".into())]);
    }

    #[test]
    fn pods_of_a_workload_share_the_bytes_and_an_equal_value_wakes_nobody() {
        let values = ReferenceValues::default();
        values.set(&Holder::of(&reference("a")), entries("1"));
        let asking = configuration("shop", &["a"]);
        let first = values.told(&asking).unwrap().line;
        let mut changes = values.subscribe();
        changes.mark_unchanged();
        values.set(&Holder::of(&reference("a")), entries("1"));
        values.set(&Holder::of(&reference("other")), entries("1"));
        assert_eq!(values.told(&asking).unwrap().line.as_ptr(), first.as_ptr());
        changes.mark_unchanged();
        values.set(&Holder::of(&reference("a")), entries("1"));
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn a_line_that_would_be_too_long_goes_without_its_longest_values() {
        let values = ReferenceValues::default();
        // Each of these characters takes six bytes in JSON.
        let long = "\u{1}".repeat(MAX_REFERENCE_BYTES);
        for (name, value) in [("a", "short"), ("b", long.as_str()), ("c", long.as_str())] {
            values.set(&Holder::of(&reference(name)), entries(value));
        }
        let asking = configuration("shop", &["a", "b", "c"]);
        assert_eq!(values.told(&asking).unwrap().left_out, 1);
        assert_eq!(told(&values, &asking).len(), 2);
    }

    #[test]
    fn a_value_is_never_printed() {
        let values = ReferenceValues::default();
        values.set(&Holder::of(&reference("a")), entries("hunter2"));
        assert!(!format!("{values:?}").contains("hunter2"));
        values.told(&configuration("shop", &["a"])).unwrap();
        assert!(!format!("{values:?}").contains("hunter2"), "not the line either");
    }
}
