//! Whether a limit concerns a request, whose bucket the request spends from, and how much.
//!
//! It must not look at any bucket: a request that lacks a key for one limit spends from none.

use std::time::Duration;

use fusebox_policy::config::{MissingKey, UnknownKey};
use fusebox_policy::matching::RequestMatcher;
use fusebox_policy::rate_limit::{Ask, Exceed, KeyDigest, MAX_PRIORITY, Rate};
use http::HeaderMap;
use http::header::HeaderValue;

use super::super::key::{Missing, Subject};
use super::super::{Beyond, Limit, LimitRule};
use super::{Concern, NoBucket, Why};

impl Limit {
    /// Whose bucket a request spends from and how much, if the limit concerns it.
    pub(super) fn concern(
        &self,
        subject: &Subject<'_>,
        (number, left): (usize, Option<Duration>),
    ) -> Result<Option<Concern>, NoBucket> {
        if !self.when.as_ref().is_none_or(|when| takes(when, subject)) {
            return Ok(None);
        }
        let matching = |rule: &LimitRule| rule.matcher.as_ref().is_none_or(|matcher| takes(matcher, subject));
        let Some(rule) = self.rules.iter().position(matching) else { return Ok(None) };
        let refuse = |why| NoBucket { limit: number, rule, why };
        let key = match (self.key.digest(subject), self.on_missing_key) {
            (Ok(key), _) => key,
            (Err(_), MissingKey::Skip) => return Ok(None),
            (Err(_), MissingKey::SharedBucket) => KeyDigest::MISSING_KEY,
            (Err(Missing::Token), MissingKey::Reject) => return Err(refuse(Why::NoToken)),
            (Err(Missing::Value), MissingKey::Reject) => return Err(refuse(Why::NoKey)),
        };
        let (key, own) = self.quota_of(key).ok_or_else(|| refuse(Why::UnknownKey))?;
        // Named rules have one rate for all.
        let own = own.filter(|_| self.rules[rule].name.is_empty());
        let cost = self.costs.iter().find(|(matcher, _)| takes(matcher, subject)).map_or(1, |(_, cost)| *cost);
        let ask = Ask { rate: own.unwrap_or(self.rules[rule].rate), cost, exceed: self.beyond.of(&key, left) };
        let priority = self.beyond.priority(subject.headers);
        let is_shared = self.rules[rule].family.is_some();
        if is_shared && cost == 0 {
            return Ok(None);
        }
        Ok(Some(Concern { limit: number, rule, key, ask, is_own_rate: own.is_some(), priority, is_shared }))
    }

    /// The key's bucket and its own rate; none where it has no quota, and such are refused. Before the file is known every
    /// key has the limit's rate.
    fn quota_of(&self, key: KeyDigest) -> Option<(KeyDigest, Option<Rate>)> {
        let Some((slot, on_unknown_key)) = self.quotas.as_ref().filter(|_| key != KeyDigest::MISSING_KEY) else {
            return Some((key, None));
        };
        let quotas = slot.load();
        let Some(quotas) = quotas.as_ref() else { return Some((key, None)) };
        match (quotas.rate(&key), on_unknown_key) {
            (Some(own), _) => Some((key, Some(own))),
            (None, UnknownKey::Default) => Some((key, None)),
            (None, UnknownKey::SharedBucket) => Some((KeyDigest::UNKNOWN_KEY, None)),
            (None, UnknownKey::Reject) => None,
        }
    }
}

impl Beyond {
    /// What becomes of a request with this key and so much time left. Those that share a bucket because they lack something
    /// are not blocked for each other's deeds.
    fn of(&self, key: &KeyDigest, left: Option<Duration>) -> Exceed {
        match self {
            Self::Refuse => Exceed::Refuse,
            Self::Block(_) if [KeyDigest::MISSING_KEY, KeyDigest::UNKNOWN_KEY].contains(key) => Exceed::Refuse,
            Self::Block(time) => Exceed::Block(*time),
            Self::Delay(longest, _) => Exceed::Delay(left.map_or(*longest, |left| left.min(*longest))),
        }
    }

    /// 0 where the header is absent or no whole number 0..=9.
    fn priority(&self, headers: &HeaderMap) -> u8 {
        let Self::Delay(_, Some(name)) = self else { return 0 };
        match headers.get(name).map(HeaderValue::as_bytes) {
            Some([digit @ b'0'..=b'9']) => (digit - b'0').min(MAX_PRIORITY),
            _ => 0,
        }
    }
}

fn takes(matcher: &RequestMatcher, subject: &Subject<'_>) -> bool {
    let values = |name: &str| subject.headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    matcher.matches(subject.method, subject.path, values)
}
