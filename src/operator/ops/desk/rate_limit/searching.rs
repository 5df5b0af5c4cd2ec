//! A client that nobody watches, looked for in the shared store by the first digits of its digest.
//!
//! One pod looks, because it costs the store a look at every key. It must have ended before the other pods are asked: what they
//! remember of the store's refusals would be there again at once while the store still refuses.

use std::time::Duration;

use fusebox_api::rate_limit::LimitScope;
use fusebox_compiler::PolicyPlan;
use fusebox_compiler::plan::Part;
use fusebox_policy::stream::{Answer, Search, Searched};

use super::{Desk, unblocking};
use crate::ops::rate_limit::Release;

/// Pods that are asked to search, one after another until one has.
const MAX_SEARCHERS: usize = 2;

/// How long they may take together.
const SEARCH_WITHIN: Duration = Duration::from_secs(4);

/// Digits that name a client in the store without a search.
const WHOLE_DIGITS: usize = 32;

/// What became of the search.
#[derive(Debug, Default)]
pub(super) struct Searching {
    /// Pods that found the client.
    pub(super) released: Vec<String>,
    /// Why it did not come to the store's end; none where it did, or was not needed.
    pub(super) unsearched: Option<String>,
}

impl Desk {
    /// Has a pod search the store where the digits alone don't say what to look for.
    pub(super) async fn search(&self, plan: &PolicyPlan, release: &Release) -> Searching {
        let is_shared = matches!(&plan.part, Part::RateLimit(part) if part.scopes.contains(&LimitScope::Shared));
        if !is_shared || release.digest.len() >= WHOLE_DIGITS {
            return Searching::default();
        }
        let mut searching = Searching::default();
        let searched = tokio::time::timeout(SEARCH_WITHIN, self.search_by_one(plan, release, &mut searching.released));
        let cut_off = searched.await.unwrap_or_else(|_| "no sidecar searched the store in time".to_owned());
        if !cut_off.is_empty() {
            searching.unsearched = Some(format!("{cut_off}; {WHOLE_DIGITS} digits or the key itself need no search"));
        }
        searching
    }

    /// Why the store was not searched to its end; empty where it was.
    async fn search_by_one(&self, plan: &PolicyPlan, release: &Release, released: &mut Vec<String>) -> String {
        let own = plan.pods.iter().filter(|(_, pod)| pod.namespace == plan.version.id.namespace);
        let connected = own.map(|(uid, _)| uid).filter(|uid| self.book.source(uid).is_some());
        let mut cut_off = "no sidecar that could search the store is connected".to_owned();
        for uid in connected.take(MAX_SEARCHERS) {
            match self.ask(uid, unblocking(release, Search::Store)).await {
                Ok(Answer::Unblocked { buckets, searched }) => {
                    if buckets > 0 {
                        released.push(uid.clone());
                    }
                    cut_off = match searched {
                        Some(Searched { cut_off }) => cut_off,
                        None => "its sidecar is of a version that does not search the store".to_owned(),
                    };
                }
                Ok(_) => "its sidecar answered something else".clone_into(&mut cut_off),
                Err(why) => cut_off = why,
            }
            if cut_off.is_empty() {
                break;
            }
        }
        cut_off
    }
}
