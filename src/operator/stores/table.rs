//! One kind's objects by name, replaced whole by a new list and changed one by one by a watch.
//!
//! It says exactly what became different. A list that is under way shows nothing until it is
//! complete: an interrupted one must never look like objects that were deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube_runtime::watcher::Event;
use parking_lot::RwLock;

/// An object's namespace (empty where it has none) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A value as kept: what of an object decides something.
pub trait Reduced: Send + Sync + 'static {
    /// Whether everything would be compiled alike with `other` in its place.
    fn decides_like(&self, other: &Self) -> bool;
}

/// One object that became different.
#[derive(Clone, Debug)]
pub struct Change<R> {
    /// Which.
    pub name: ObjectName,
    /// What it was.
    pub old: Option<Arc<R>>,
    /// What it is.
    pub new: Option<Arc<R>>,
}

/// The objects of one kind; cheap to clone, one shared content.
#[derive(Debug)]
pub struct Table<R> {
    objects: Arc<RwLock<Objects<R>>>,
}

type Objects<R> = BTreeMap<ObjectName, Arc<R>>;

/// Writes a table from a watch's events.
#[derive(Debug)]
pub(super) struct Writer<R> {
    table: Table<R>,
    listing: Objects<R>,
}

impl<R> Change<R> {
    /// Whether compiling again could give something else.
    #[must_use]
    pub fn decides(&self) -> bool
    where
        R: Reduced,
    {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => !old.decides_like(new),
            (None, None) => false,
            _ => true,
        }
    }
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { objects: Arc::clone(&self.objects) }
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { objects: Arc::new(RwLock::new(BTreeMap::new())) }
    }
}

impl<R> Table<R> {
    /// One object.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<Arc<R>> {
        self.objects.read().get(name).cloned()
    }

    /// All names.
    #[must_use]
    pub fn names(&self) -> Vec<ObjectName> {
        self.objects.read().keys().cloned().collect()
    }

    /// Something of each object, in the order of names.
    #[must_use]
    pub fn map<T>(&self, pick: impl Fn(&R) -> T) -> Vec<T> {
        self.objects.read().values().map(|object| pick(object)).collect()
    }

    /// All objects with their names.
    #[must_use]
    pub fn entries(&self) -> Vec<(ObjectName, Arc<R>)> {
        self.objects.read().iter().map(|(name, object)| (name.clone(), Arc::clone(object))).collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.read().is_empty()
    }

    pub(super) fn writer(&self) -> Writer<R> {
        Writer { table: self.clone(), listing: BTreeMap::new() }
    }
}

impl<R> Writer<R> {
    /// Takes an event of reduced objects (None where an object counts as absent), and returns what became different.
    pub(super) fn take(&mut self, event: Event<(ObjectName, Option<R>)>) -> Vec<Change<R>> {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply((name, value)) => {
                if let Some(value) = value {
                    self.listing.insert(name, Arc::new(value));
                }
            }
            Event::InitDone => return self.replace(),
            Event::Apply((name, value)) => return vec![self.put(name, value)],
            Event::Delete((name, _)) => return vec![self.put(name, None)],
        }
        Vec::new()
    }

    fn put(&self, name: ObjectName, value: Option<R>) -> Change<R> {
        let new = value.map(Arc::new);
        let mut objects = self.table.objects.write();
        let old = match &new {
            Some(new) => objects.insert(name.clone(), Arc::clone(new)),
            None => objects.remove(&name),
        };
        Change { name, old, new }
    }

    fn replace(&mut self) -> Vec<Change<R>> {
        let listed = std::mem::take(&mut self.listing);
        let mut old = std::mem::replace(&mut *self.table.objects.write(), listed.clone());
        let mut changes: Vec<Change<R>> =
            listed.into_iter().map(|(name, new)| Change { old: old.remove(&name), name, new: Some(new) }).collect();
        changes.extend(old.into_iter().map(|(name, old)| Change { name, old: Some(old), new: None }));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Reduced for u32 {
        fn decides_like(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "shop".into(), name: name.into() }
    }

    fn listed(writer: &mut Writer<u32>, objects: &[(&str, u32)]) -> Vec<String> {
        writer.take(Event::Init);
        for (object, value) in objects {
            writer.take(Event::InitApply((name(object), Some(*value))));
        }
        decisive(writer.take(Event::InitDone))
    }

    fn decisive(changes: Vec<Change<u32>>) -> Vec<String> {
        changes.into_iter().filter(Change::decides).map(|change| change.name.name).collect()
    }

    #[test]
    fn a_relist_tells_only_what_became_different() {
        let table = Table::default();
        let mut writer = table.writer();
        assert_eq!(listed(&mut writer, &[("a", 1), ("b", 1), ("c", 1)]), ["a", "b", "c"]);
        assert_eq!(listed(&mut writer, &[("a", 1), ("b", 2), ("d", 1)]), ["b", "d", "c"]);
        assert_eq!(table.names(), [name("a"), name("b"), name("d")]);
    }

    #[test]
    fn a_list_that_is_under_way_deletes_nothing() {
        let table = Table::default();
        let mut writer = table.writer();
        listed(&mut writer, &[("a", 1), ("b", 1)]);
        writer.take(Event::Init);
        writer.take(Event::InitApply((name("b"), Some(1))));
        assert_eq!(table.len(), 2);
        assert!(listed(&mut writer, &[("a", 1), ("b", 1)]).is_empty(), "a list that began anew forgets the broken one");
    }

    #[test]
    fn an_object_that_counts_as_absent_is_removed() {
        let table = Table::default();
        let mut writer = table.writer();
        listed(&mut writer, &[("a", 1)]);
        assert_eq!(decisive(writer.take(Event::Apply((name("a"), None)))), ["a"]);
        assert!(decisive(writer.take(Event::Apply((name("a"), None)))).is_empty());
        assert!(table.is_empty());
    }
}
