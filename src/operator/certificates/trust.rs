//! Trust: the bundle as it was last read, and whether everybody has it.
//!
//! It is what those who read certificates and those who publish bundles know of each other. A bundle is given out for
//! publishing only while it was read a short time ago: an old one could lack the authority that signs meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::bundle::Bundle;
use super::rotation::Publication;

/// The bundle and its publication; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct Trust {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bundle: watch::Sender<Option<Bundle>>,
    read_at: Mutex<Option<Instant>>,
    fresh_for: Duration,
    published: watch::Sender<Option<Bundle>>,
}

impl Trust {
    /// Nothing is known yet; what will be known is published only for so long after it was read.
    #[must_use]
    pub fn new(fresh_for: Duration) -> Self {
        let (bundle, published) = (watch::Sender::new(None), watch::Sender::new(None));
        Self { shared: Arc::new(Shared { bundle, read_at: Mutex::new(None), fresh_for, published }) }
    }

    /// Takes what was read at this time.
    pub fn offer(&self, bundle: &Bundle, read_at: Instant) {
        *self.shared.read_at.lock() = Some(read_at);
        self.shared.bundle.send_if_modified(|known| {
            let changed = known.as_ref() != Some(bundle);
            *known = Some(bundle.clone());
            changed
        });
    }

    /// What was read last, whenever that was.
    #[must_use]
    pub fn known(&self) -> Option<Bundle> {
        self.shared.bundle.borrow().clone()
    }

    /// Tells of every change of the bundle.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Bundle>> {
        self.shared.bundle.subscribe()
    }

    /// Whether this bundle is what was read last, and that a short time before `now`.
    #[must_use]
    pub fn may_publish(&self, bundle: &Bundle, now: Instant) -> bool {
        let read_at = *self.shared.read_at.lock();
        let fresh = read_at.is_some_and(|at| now.saturating_duration_since(at) < self.shared.fresh_for);
        fresh && self.shared.bundle.borrow().as_ref() == Some(bundle)
    }

    /// Takes the bundle that everything holds which should; None where something does not.
    pub fn note_published(&self, bundle: Option<Bundle>) {
        self.shared.published.send_if_modified(|published| {
            let changed = *published != bundle;
            *published = bundle;
            changed
        });
    }

    /// Whether everything that should hold this bundle does.
    #[must_use]
    pub fn publication(&self, bundle: &Bundle) -> Publication {
        match self.shared.published.borrow().as_ref() == Some(bundle) {
            true => Publication::Complete,
            false => Publication::Incomplete,
        }
    }

    /// Tells of every change of what is published.
    #[must_use]
    pub fn publications(&self) -> watch::Receiver<Option<Bundle>> {
        self.shared.published.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::authority::Authority;
    use super::*;

    fn bundle() -> Bundle {
        let authority = Authority::generate(Duration::from_secs(3600), SystemTime::now()).unwrap();
        Bundle::new("test", [authority.certificate_pem()]).unwrap()
    }

    #[test]
    fn only_a_bundle_that_was_just_read_is_published() {
        let (trust, now) = (Trust::new(Duration::from_secs(60)), Instant::now());
        let (old, new) = (bundle(), bundle());
        assert!(!trust.may_publish(&old, now));
        trust.offer(&old, now);
        assert!(trust.may_publish(&old, now + Duration::from_secs(59)));
        assert!(!trust.may_publish(&old, now + Duration::from_secs(60)), "it was read too long ago");
        trust.offer(&new, now);
        assert!(!trust.may_publish(&old, now), "another was read since");
    }

    #[test]
    fn what_is_published_counts_for_that_bundle_alone() {
        let trust = Trust::new(Duration::from_secs(60));
        let (old, new) = (bundle(), bundle());
        trust.note_published(Some(old.clone()));
        assert_eq!(trust.publication(&old), Publication::Complete);
        assert_eq!(trust.publication(&new), Publication::Incomplete);
    }

    #[test]
    fn reading_the_same_again_wakes_nobody() {
        let trust = Trust::new(Duration::from_secs(60));
        let mut changes = trust.subscribe();
        let bundle = bundle();
        trust.offer(&bundle, Instant::now());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        trust.offer(&bundle, Instant::now());
        assert!(!changes.has_changed().unwrap());
    }
}
