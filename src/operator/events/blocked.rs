//! Clients that were blocked for the first time: told once each, several at once, and never so often that it becomes a flood.
//!
//! Pure: time is an argument. A client is named only as its policy shows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fusebox_api::RateLimitStatus;

use super::{Happening, Severity};
use crate::bucket::{Allowance, Bucket};

/// Events on blocked clients of one policy.
const EVENTS: Allowance = Allowance { burst: 3, every: Duration::from_secs(60) };

/// A client that was not blocked for this long is told of again.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// Clients of one policy that are remembered, at most; beyond it the one that was seen least lately is forgotten.
const MAX_REMEMBERED: usize = 256;

/// Clients that one Event names, at most.
const MAX_NAMED: usize = 3;

/// Who was told of, of one policy.
#[derive(Debug)]
pub struct ToldBlocked {
    events: Bucket,
    /// When each was seen blocked last, by limit and key.
    seen: BTreeMap<(String, String), Instant>,
}

impl ToldBlocked {
    /// Nobody yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { events: Bucket::new(EVENTS, now), seen: BTreeMap::new() }
    }

    /// What is to be told of a status; `standing` is what a former leader told of.
    pub fn happening(
        &mut self,
        standing: Option<&RateLimitStatus>,
        status: &RateLimitStatus,
        now: Instant,
    ) -> Option<Happening> {
        self.seen.retain(|_, seen| now.saturating_duration_since(*seen) < REMEMBERED);
        if self.seen.is_empty() {
            self.seen.extend(standing.into_iter().flat_map(blocked).map(|(client, _)| (client, now)));
        }
        let mut new: Vec<((String, String), String)> = Vec::new();
        for (client, until) in blocked(status) {
            match self.seen.get_mut(&client) {
                Some(seen) => *seen = now,
                None => new.push((client, until)),
            }
        }
        if new.is_empty() || !self.events.take(now) {
            return None;
        }
        let happening = told(&new);
        for (client, _) in new {
            self.remember(client, now);
        }
        Some(happening)
    }

    fn remember(&mut self, client: (String, String), now: Instant) {
        if self.seen.len() >= MAX_REMEMBERED {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| **seen).map(|(client, _)| client.clone());
            oldest.map(|oldest| self.seen.remove(&oldest));
        }
        self.seen.insert(client, now);
    }
}

/// The clients that a status names, each with its limit, and until when.
fn blocked(status: &RateLimitStatus) -> impl Iterator<Item = ((String, String), String)> {
    status.targets.iter().flat_map(|target| {
        let client = |it: &fusebox_api::rate_limit::BlockedClient| {
            ((target.limit.clone(), it.key.clone()), it.until.0.to_string())
        };
        target.top_blocked.iter().map(client)
    })
}

fn told(new: &[((String, String), String)]) -> Happening {
    let named: Vec<String> = new
        .iter()
        .take(MAX_NAMED)
        .map(|((limit, key), until)| format!("{key} until {until} (limit {limit})"))
        .collect();
    let more = new.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let note = format!("blocked for the first time: {}{more}; `fusebox limits` shows them", named.join(", "));
    Happening { severity: Severity::Warning, reason: "ClientBlocked".to_owned(), note }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(clients: &[&str]) -> RateLimitStatus {
        let blocked =
            |key: &&str| json!({"key": key, "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:01:00Z"});
        let blocked: Vec<_> = clients.iter().map(blocked).collect();
        let target = json!({"ref": {"name": "payments"}, "limit": "per-key", "topBlocked": blocked});
        serde_json::from_value(json!({"targets": [target]})).unwrap()
    }

    #[test]
    fn a_client_is_told_of_once_and_again_only_after_a_long_time() {
        let start = Instant::now();
        let mut told = ToldBlocked::new(start);
        let note = told.happening(None, &status(&["a", "b"]), start).unwrap().note;
        assert!(note.contains("a until 2026-01-01T00:01:00Z (limit per-key), b until"), "{note}");
        assert_eq!(told.happening(None, &status(&["a"]), start + Duration::from_secs(1)), None);
        assert_eq!(told.happening(None, &status(&[]), start + Duration::from_secs(2)), None);
        assert_eq!(told.happening(None, &status(&["b"]), start + Duration::from_secs(3)), None, "not its first time");
        assert!(told.happening(None, &status(&["b"]), start + REMEMBERED + Duration::from_secs(4)).is_some());
    }

    #[test]
    fn whom_a_former_leader_told_of_is_not_told_of_again() {
        let start = Instant::now();
        let mut told = ToldBlocked::new(start);
        assert_eq!(told.happening(Some(&status(&["a"])), &status(&["a"]), start), None);
        assert!(told.happening(Some(&status(&["a"])), &status(&["a", "b"]), start).is_some());
    }

    #[test]
    fn an_attack_by_many_clients_is_a_few_events_and_a_bounded_memory() {
        let start = Instant::now();
        let mut told = ToldBlocked::new(start);
        let events = (0..600_u64).filter(|second| {
            let clients: Vec<String> = (0..10).map(|number| format!("{second}-{number}")).collect();
            let clients: Vec<&str> = clients.iter().map(String::as_str).collect();
            told.happening(None, &status(&clients), start + Duration::from_secs(*second)).is_some()
        });
        assert_eq!(events.count(), 3 + 600 / 60 - 1);
        assert!(told.seen.len() <= MAX_REMEMBERED);
    }
}
