//! What a person asks of a proxy's limits: whom they refuse most, and to let somebody go.
//!
//! It must answer in bounded time and size whatever is asked, and must not show more of a key than the policy allows.

use std::time::Instant;

use fusebox_policy::config::PolicyId;
use fusebox_policy::rate_limit::{KeyId, KeyPrefix, MAX_TOP_KEYS};
use fusebox_policy::stream::{Answer, Command, Search, Searched, TopKey};

use super::Installed;
use super::store::{DIGITS, StoreLost};
use crate::clock::Clock;
use crate::enforcer::Enforcer;

/// Keys in one answer, whatever number of limits they are of, so that its line stays within its bound.
pub(crate) const MAX_KEYS_ANSWERED: usize = 1_000;

/// Does what is asked, and says what came of it.
pub(crate) async fn answer(enforcer: &Enforcer, command: Command) -> Answer {
    match command {
        Command::TopKeys { policy, most } => top_keys(enforcer, &policy, most),
        Command::Unblock { policy, key_digest, search } => unblock(enforcer, &policy, (&key_digest, search)).await,
        Command::Unknown => failed("this proxy does not know the command: upgrade the proxy"),
    }
}

fn top_keys(enforcer: &Enforcer, policy: &PolicyId, most: u32) -> Answer {
    let Some(limits) = limits_of(enforcer, policy) else { return not_here(policy) };
    let most = usize::try_from(most).unwrap_or(MAX_TOP_KEYS).min(MAX_TOP_KEYS);
    let now = Instant::now();
    let keys = limits.iter().flat_map(|limit| limit.top_keys(most, (enforcer.clock(), now)));
    Answer::TopKeys { keys: keys.take(MAX_KEYS_ANSWERED).collect() }
}

async fn unblock(enforcer: &Enforcer, policy: &PolicyId, (digits, search): (&str, Search)) -> Answer {
    let Some(limits) = limits_of(enforcer, policy) else { return not_here(policy) };
    let client = match KeyPrefix::parse(digits) {
        Ok(client) => client,
        Err(error) => return failed(&format!("no client is named by {digits:?}: {error}")),
    };
    let (found, searched) = match search {
        Search::Store if digits.len() < DIGITS => in_store(&limits, digits).await,
        Search::Store | Search::Watched => (named(digits), None),
    };
    let mut buckets = 0;
    for limit in &limits {
        match limit.unblock(&client, &found).await {
            Ok(filled) => buckets += filled,
            Err(lost) => {
                return failed(&format!("clients of limit {} stay as they are: {lost}", limit.tracked.key.limit));
            }
        }
    }
    enforcer.limits_changed();
    Answer::Unblocked { buckets, searched }
}

/// The client that all digits name by which the store finds one.
fn named(digits: &str) -> Vec<KeyId> {
    let number = digits.get(..DIGITS).and_then(|digits| u128::from_str_radix(digits, 16).ok());
    number.map(KeyId::from).into_iter().collect()
}

/// Clients whose digest begins with these digits, as the store has them, and how the search ended. All shared limits of a policy
/// are in one store, and one look at it is enough for all of them.
async fn in_store(limits: &[Installed], digits: &str) -> (Vec<KeyId>, Option<Searched>) {
    let families: Vec<_> = limits.iter().filter_map(|limit| limit.shared.as_ref()).collect();
    let Some((common, family)) = families.first() else { return (Vec::new(), None) };
    let found = match common.search(&family.pattern(digits)).await {
        Ok(found) => found,
        Err(lost) => return (Vec::new(), Some(Searched { cut_off: lost.to_string() })),
    };
    let clients =
        found.buckets.iter().filter_map(|name| families.iter().find_map(|(_, family)| family.client_of(name)));
    let cut_off = found.cut_off.map(|why| why.to_string()).unwrap_or_default();
    (clients.collect(), Some(Searched { cut_off }))
}

impl Installed {
    fn top_keys(&self, most: usize, (clock, now): (&Clock, Instant)) -> Vec<TopKey> {
        let tracked = &self.tracked;
        let shown = |key: fusebox_policy::rate_limit::TopKey| TopKey {
            limit: tracked.key.clone(),
            remaining: tracked.buckets.remaining(key.digest.id(), &self.rate_of(key.digest.id()), now),
            digest: key.digest.short_hex(),
            refused: key.refused,
            blocked_until_unix_ms: key.blocked_until.filter(|until| *until > now).map(|until| clock.unix_ms(until)),
            key: key.shown,
        };
        tracked.top.top(most).into_iter().map(shown).collect()
    }

    /// Fills the client's buckets and ends its blocks; how many there were. The store finds clients by their whole digest: those
    /// that are watched, and those that were `found` otherwise.
    async fn unblock(&self, client: &KeyPrefix, found: &[KeyId]) -> Result<u32, StoreLost> {
        let tracked = &self.tracked;
        let watched = tracked.top.top(MAX_TOP_KEYS).into_iter().map(|key| key.digest.id());
        let mut clients: Vec<KeyId> = watched.filter(|key| client.matches(*key)).chain(found.iter().copied()).collect();
        clients.sort_unstable();
        clients.dedup();
        let mut filled = 0;
        if let Some((common, family)) = self.shared.as_ref().filter(|_| !clients.is_empty()) {
            filled = common.unblock(family, &clients).await?;
        }
        tracked.refused.forget(client);
        tracked.top.unblock(|digest| client.matches(digest.id()));
        Ok(filled + tracked.buckets.fill(client, Instant::now()))
    }
}

/// All limits of a policy; none where this proxy enforces none of it.
fn limits_of(enforcer: &Enforcer, policy: &PolicyId) -> Option<Vec<Installed>> {
    let snapshot = enforcer.snapshot();
    let limits: Vec<Installed> =
        snapshot.limits.values().filter(|limit| limit.tracked.key.policy == *policy).cloned().collect();
    (!limits.is_empty()).then_some(limits)
}

fn not_here(policy: &PolicyId) -> Answer {
    failed(&format!("this proxy enforces no RateLimit {}/{}", policy.namespace, policy.name))
}

fn failed(problem: &str) -> Answer {
    Answer::Failed { problem: problem.to_owned() }
}
