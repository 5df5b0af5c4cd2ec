//! Buckets found by the first digits of a client's digest, over all nodes of a store.
//!
//! It must not hold the store up: it looks at so many keys at a time, and stops after so much time or so many of them, saying so.
//! Decisions never come through here; a person who lets a client go does.

use std::time::{Duration, Instant};

use futures::future::join_all;
use redis::Cmd;

use super::bucket::BucketName;
use super::connection::Connection;
use super::error::StoreLost;
use super::link::{Link, Nodes};

/// How long a search may take, so that its answer is there while the operator waits.
const SEARCH_TIME: Duration = Duration::from_millis(1_200);

/// Keys that one step looks at, during which the store does nothing else: about half a millisecond.
const KEYS_PER_STEP: usize = 500;

/// Keys that are looked at over all nodes.
const MAX_KEYS: usize = 2_000_000;

/// Buckets that are found, at most: sixteen digits name one client, who has one for each rule.
const MAX_FOUND: usize = 1_024;

/// The longest name of a bucket that is believed to be one.
const MAX_NAME: usize = 1_024;

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Keys whose names fit.
    pub(crate) buckets: Vec<BucketName>,
    /// Why not all keys were looked at; none where they were.
    pub(crate) cut_off: Option<CutOff>,
}

/// Why a search ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CutOff {
    /// Its time was over.
    #[error("the search in the store was cut off after {0:?}")]
    Time(Duration),
    /// There were too many keys.
    #[error("the search in the store was cut off after {0} keys")]
    Keys(usize),
    /// There were too many buckets.
    #[error("the search in the store was cut off after {0} buckets")]
    Buckets(usize),
    /// A node could not be asked.
    #[error("the store was not searched to its end: {0}")]
    Node(StoreLost),
    /// The store's ACL keeps us from looking.
    #[error("the store was not searched: its ACL lacks +scan")]
    NotAllowed,
}

/// How far the search of one node has come.
struct Search<'a> {
    connection: &'a Connection,
    pattern: &'a str,
    until: Instant,
    /// Keys that may still be looked at.
    left: usize,
    buckets: Vec<BucketName>,
}

/// Looks at the keys of all nodes at once.
pub(super) async fn search(link: &Link, pattern: &str) -> Found {
    let (connections, missing): (Vec<&Connection>, _) = match link {
        Link::Server(connection) => (vec![&**connection], None),
        Link::Cluster(Nodes { connections, missing, .. }) => {
            (connections.values().map(|connection| &**connection).collect(), missing.clone())
        }
    };
    let (until, left) = (Instant::now() + SEARCH_TIME, MAX_KEYS / connections.len().max(1));
    let nodes = connections.into_iter().map(|connection| {
        let search = Search { connection, pattern, until, left, buckets: Vec::new() };
        search.run()
    });
    let mut found = Found { buckets: Vec::new(), cut_off: missing.map(CutOff::Node) };
    for (buckets, cut_off) in join_all(nodes).await {
        found.buckets.extend(buckets);
        found.cut_off = found.cut_off.or(cut_off);
    }
    if found.buckets.len() > MAX_FOUND {
        found.buckets.truncate(MAX_FOUND);
        found.cut_off = Some(CutOff::Buckets(MAX_FOUND));
    }
    found
}

impl Search<'_> {
    async fn run(mut self) -> (Vec<BucketName>, Option<CutOff>) {
        let ended = self.all().await;
        (self.buckets, ended.err())
    }

    /// SCAN returns every key that is there from its beginning to its end at least once (Redis, SCAN guarantees).
    async fn all(&mut self) -> Result<(), CutOff> {
        let mut cursor = 0_u64;
        while self.buckets.len() <= MAX_FOUND {
            if Instant::now() >= self.until {
                return Err(CutOff::Time(SEARCH_TIME));
            }
            self.left = self.left.checked_sub(KEYS_PER_STEP).ok_or(CutOff::Keys(MAX_KEYS))?;
            let (next, keys) = self.step(cursor).await?;
            self.buckets.extend(keys.into_iter().filter(|key| key.len() <= MAX_NAME).map(BucketName));
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
        Err(CutOff::Buckets(MAX_FOUND))
    }

    async fn step(&self, cursor: u64) -> Result<(u64, Vec<String>), CutOff> {
        let mut command = Cmd::new();
        command.arg("SCAN").arg(cursor).arg("MATCH").arg(self.pattern).arg("COUNT").arg(KEYS_PER_STEP);
        let left = self.until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.connection.question(&command)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(StoreLost::Answered { code, .. })) if code == "NOPERM" => Err(CutOff::NotAllowed),
            Ok(Err(error)) => Err(CutOff::Node(error)),
            Err(_) => Err(CutOff::Time(SEARCH_TIME)),
        }
    }
}

/// Takes what stands there for itself alone in a pattern of Redis.
pub(super) fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_looks_like_a_pattern_stands_for_itself() {
        assert_eq!(literal("fusebox:shop:api"), "fusebox:shop:api");
        assert_eq!(literal(r"a*b?[c]\d"), r"a\*b\?\[c\]\\d");
    }
}
