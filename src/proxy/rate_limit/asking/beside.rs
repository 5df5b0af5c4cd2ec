//! What the store would say of a request in Shadow, found out beside it.
//!
//! It must not make a request wait, nor keep anything of it but digests and what the policy shows of its keys. What is decided
//! here only counts; a store that is slow or gone costs a bounded number of decisions that nobody waits for.

use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::config::ShowKeys;
use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::super::key::Subject;
use super::super::queue::Held;
use super::{Concerns, Later, Limiter, Shown};

impl Limiter {
    /// Has the store decide on its own limits, and returns those that the request still has to wait for: none.
    pub(super) fn beside(self: &Arc<Self>, shared: Concerns, subject: &Subject<'_>) -> Concerns {
        let Some(common) = self.common.as_ref().filter(|_| !shared.is_empty()) else { return shared };
        match (common.begin_beside(), Handle::try_current()) {
            (Some(under_way), Ok(runtime)) => {
                let shown = self.read(&shared, subject);
                let asking = Box::new(Later {
                    limiter: Arc::clone(self),
                    concerns: Concerns::new(),
                    verdicts: SmallVec::new(),
                    held: Held::default(),
                    shared,
                });
                runtime.spawn(async move {
                    // It is counted; the request has passed long since.
                    let _ = asking.settle_shown(Shown::Read(&shown), Instant::now()).await;
                    drop(under_way);
                });
            }
            _ => shared.iter().for_each(|concern| self.rule_of(concern).tracked.counts.skipped()),
        }
        Concerns::new()
    }

    /// The keys as the policy shows them, where only the request says.
    fn read(&self, shared: &Concerns, subject: &Subject<'_>) -> Vec<(usize, String)> {
        match self.show_keys {
            ShowKeys::Hashed => Vec::new(),
            ShowKeys::Redacted => {
                let read = shared.iter().map(|concern| (concern.limit, self.shown(concern, Shown::Of(subject))));
                read.collect()
            }
        }
    }
}
