//! Values that policies refer to and that never stand in a configuration: keys of tokens, quotas, credentials.
//!
//! It must never lose a value that works: one that can't be used leaves the one before it in use, and what is wrong is told.
//! Values may be secrets, so that none is ever shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use fusebox_policy::config::Reference;
use fusebox_policy::rate_limit::{KeyDigest, KeyId, QuotaFile, Rate};
use fusebox_policy::report::BrokenReference;
use fusebox_policy::stream::{MAX_REFERENCE_BYTES, ReferenceValue};

use super::jwt::{KeySet, KeySlot};
use super::shared::Stores;

/// References whose values are kept.
pub(crate) const MAX_REFERENCES: usize = 1_000;

/// Quotas that can be replaced while they are in use; none before they were told.
pub(crate) type QuotaSlot = Arc<ArcSwapOption<Quotas>>;

/// Rates of named keys.
#[derive(Debug)]
pub(crate) struct Quotas(QuotaFile);

/// What is known of all values.
#[derive(Default)]
pub(crate) struct References {
    values: BTreeMap<Reference, String>,
    keys: BTreeMap<Reference, KeySlot>,
    quotas: BTreeMap<Reference, QuotaSlot>,
    broken: BTreeMap<Reference, String>,
    /// What the configuration refers to.
    wanted: BTreeSet<Reference>,
    /// Stores, which are reached with some of the values.
    pub(crate) stores: Stores,
    broken_stores: Vec<BrokenReference>,
}

impl Quotas {
    /// The rate of a key.
    pub(crate) fn rate(&self, key: &KeyDigest) -> Option<Rate> {
        self.0.lookup(key).copied()
    }

    /// The rate of a key of which half of the digest is known.
    pub(crate) fn rate_by_id(&self, key: KeyId) -> Option<Rate> {
        self.0.lookup_id(key).copied()
    }
}

impl References {
    /// No values yet, and no stores.
    pub(crate) fn new(stores: Stores) -> Self {
        Self { stores, ..Self::default() }
    }

    /// Tells stores how they are reached.
    pub(crate) fn configure_stores(&mut self, now: Instant) {
        let Self { values, stores, broken_stores, .. } = self;
        *broken_stores = stores.configure(|reference| values.get(reference).cloned(), now);
    }

    /// The keys of tokens that stand there.
    pub(crate) fn keys(&mut self, reference: &Reference) -> KeySlot {
        if let Some(slot) = self.keys.get(reference) {
            return Arc::clone(slot);
        }
        let slot = KeySlot::default();
        self.keys.insert(reference.clone(), Arc::clone(&slot));
        self.read(reference);
        slot
    }

    /// The quotas that stand there.
    pub(crate) fn quotas(&mut self, reference: &Reference) -> QuotaSlot {
        if let Some(slot) = self.quotas.get(reference) {
            return Arc::clone(slot);
        }
        let slot = QuotaSlot::default();
        self.quotas.insert(reference.clone(), Arc::clone(&slot));
        self.read(reference);
        slot
    }

    /// Takes the values that are known now. What is not among them keeps its value while the configuration refers to it.
    pub(crate) fn tell(&mut self, told: Vec<ReferenceValue>) {
        let known: BTreeSet<&Reference> = told.iter().map(|value| &value.reference).collect();
        self.values.retain(|reference, _| known.contains(reference) || self.wanted.contains(reference));
        for ReferenceValue { reference, value } in told {
            let is_new = self.values.get(&reference) != Some(&value);
            if is_new && (self.values.len() < MAX_REFERENCES || self.values.contains_key(&reference)) {
                self.values.insert(reference.clone(), value);
                self.read(&reference);
            }
        }
    }

    /// Forgets values that nothing refers to any more.
    pub(crate) fn keep_only(&mut self, refers_to: BTreeSet<Reference>) {
        let Self { values, keys, quotas, broken, wanted, stores: _, broken_stores: _ } = self;
        *wanted = refers_to;
        values.retain(|reference, _| wanted.contains(reference));
        keys.retain(|reference, _| wanted.contains(reference));
        quotas.retain(|reference, _| wanted.contains(reference));
        broken.retain(|reference, _| wanted.contains(reference));
    }

    /// Values that can't be used, each with the reason.
    pub(crate) fn broken(&self) -> Vec<BrokenReference> {
        let broken = |(reference, problem): (&Reference, &String)| BrokenReference {
            reference: reference.clone(),
            problem: problem.clone(),
        };
        let mut all: Vec<_> = self.broken.iter().map(broken).chain(self.broken_stores.iter().cloned()).collect();
        all.sort_by(|one, other| one.reference.cmp(&other.reference));
        all.dedup();
        all
    }

    fn read(&mut self, reference: &Reference) {
        let Some(value) = self.values.get(reference) else { return };
        let problem = self.use_value(reference, value).err();
        match problem {
            Some(problem) => {
                tracing::warn!(?reference, problem, "value can't be used; the one before stays in use");
                self.broken.insert(reference.clone(), problem);
            }
            None => {
                self.broken.remove(reference);
            }
        }
    }

    fn use_value(&self, reference: &Reference, value: &str) -> Result<(), String> {
        if value.len() > MAX_REFERENCE_BYTES {
            return Err(format!("is longer than {MAX_REFERENCE_BYTES} bytes"));
        }
        if let Some(slot) = self.keys.get(reference) {
            let keys = KeySet::parse(value, reference.kind).map_err(|error| format!("{}: {error}", error.reason()))?;
            slot.store(Some(Arc::new(keys)));
        }
        if let Some(slot) = self.quotas.get(reference) {
            let quotas = QuotaFile::parse(value).map_err(|error| format!("{}: {error}", error.reason()))?;
            slot.store(Some(Arc::new(Quotas(quotas))));
        }
        Ok(())
    }
}

impl fmt::Debug for References {
    /// Without any value.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use fusebox_policy::config::ReferenceKind;

    use super::*;

    fn reference(name: &str) -> Reference {
        Reference { kind: ReferenceKind::ConfigMap, namespace: "shop".into(), name: name.into(), key: "data".into() }
    }

    fn value(name: &str, value: &str) -> ReferenceValue {
        ReferenceValue { reference: reference(name), value: value.into() }
    }

    fn quota(requests: u32) -> String {
        format!("quotas:\n  {}: {{requests: {requests}, per: 1m}}\n", "ab".repeat(32))
    }

    fn rate(slot: &QuotaSlot) -> Option<u32> {
        let key = KeyDigest::parse(&"ab".repeat(32)).unwrap();
        Some(slot.load_full()?.rate(&key)?.requests())
    }

    #[test]
    fn a_value_is_used_whether_it_comes_before_or_after_what_refers_to_it() {
        let mut references = References::default();
        references.tell(vec![value("early", &quota(1))]);
        references.keep_only([reference("early"), reference("late")].into());
        let (early, late) = (references.quotas(&reference("early")), references.quotas(&reference("late")));
        assert_eq!((rate(&early), rate(&late)), (Some(1), None));
        references.tell(vec![value("late", &quota(2))]);
        assert_eq!((rate(&early), rate(&late)), (Some(1), Some(2)), "what is not repeated stays");
    }

    #[test]
    fn a_broken_value_leaves_the_one_before_in_use_and_is_told_of_until_it_is_mended() {
        let mut references = References::default();
        let slot = references.quotas(&reference("quotas"));
        references.tell(vec![value("quotas", &quota(1))]);
        references.tell(vec![value("quotas", "quotas: secret")]);
        assert_eq!(rate(&slot), Some(1));
        let broken = references.broken();
        assert_eq!((broken.len(), &broken[0].reference), (1, &reference("quotas")));
        assert!(broken[0].problem.starts_with("Malformed: ") && !broken[0].problem.contains("secret"));
        references.tell(vec![value("quotas", &quota(3))]);
        assert_eq!((rate(&slot), references.broken().len()), (Some(3), 0));
    }

    #[test]
    fn what_nothing_refers_to_is_forgotten() {
        let mut references = References::default();
        references.quotas(&reference("quotas"));
        references.tell(vec![value("quotas", "broken"), value("other", "x")]);
        references.keep_only(BTreeSet::new());
        assert!(references.values.is_empty() && references.broken().is_empty());
    }

    #[test]
    fn values_are_bounded_and_never_shown() {
        let mut references = References::default();
        references.quotas(&reference("quotas"));
        references.tell(vec![value("quotas", &"s3cret".repeat(MAX_REFERENCE_BYTES))]);
        assert_eq!(references.broken().len(), 1);
        let many = (0..MAX_REFERENCES * 2).map(|number| value(&number.to_string(), "s3cret")).collect();
        references.tell(many);
        assert_eq!(references.values.len(), MAX_REFERENCES);
        assert!(!format!("{references:?}").contains("s3cret"));
    }
}
