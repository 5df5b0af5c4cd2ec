//! A set of keys that somebody must look at, and a wake-up.
//!
//! It stands where a channel would: a key that is touched a thousand times stands in it once, so its
//! size is bounded by the objects there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The set; cheap to clone, one shared content, one reader.
#[derive(Clone, Debug)]
pub struct Touched<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    keys: Mutex<BTreeSet<K>>,
    wake: Notify,
}

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self { shared: Arc::new(Shared { keys: Mutex::new(BTreeSet::new()), wake: Notify::new() }) }
    }
}

impl<K: Ord> Touched<K> {
    /// Adds keys and wakes the reader.
    pub fn touch(&self, keys: impl IntoIterator<Item = K>) {
        self.shared.keys.lock().extend(keys);
        self.shared.wake.notify_one();
    }

    /// Waits until a key was touched, and takes all. Nothing is lost when this is cancelled.
    pub async fn take(&self) -> BTreeSet<K> {
        loop {
            let keys = std::mem::take(&mut *self.shared.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            self.shared.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_touched_often_is_taken_once() {
        let touched = Touched::default();
        touched.touch(["a", "b"]);
        touched.touch(["a"]);
        assert_eq!(touched.take().await, BTreeSet::from(["a", "b"]));
        touched.touch([]);
        touched.touch(["c"]);
        assert_eq!(touched.take().await, BTreeSet::from(["c"]));
    }
}
