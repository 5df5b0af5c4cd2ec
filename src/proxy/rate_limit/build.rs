//! Makes a route's limits from its configuration; buckets that were there are taken over by their key.
//!
//! It must change nothing that is in force: what it makes is thrown away when a later field is wrong. Rates that changed are
//! adopted only once the whole configuration is taken ([`Installed::adopt_rates`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::config::{self, KeyPart, LimitKey, LimitScope, RateLimit, RequestMatch, Side};
use fusebox_policy::matching::RequestMatcher;
use fusebox_policy::rate_limit::{
    Buckets, Exceed, LimitSettings, Rate, Recent, RefusedUntil, Settings, TopKeys, WaitingRoom,
};
use http::header::{HeaderName, HeaderValue};

use super::api_key::Places;
use super::counts::{Counts, Least};
use super::jwt::Verifier;
use super::key::{Part, Parts};
use super::queue::Queue;
use super::references::References;
use super::shared::Common;
use super::store::{BucketFamily, Tag};
use super::{Beyond, Installed, Limit, LimitRule, Limiter, Tracked, fields};
use crate::config_error::ConfigError;

/// Refusals of the store that are remembered for each rule; about 50 bytes each.
const REMEMBERED: usize = 8_192;

/// The longest name of a limit or a rule.
const MAX_NAME: usize = 63;

/// What making limits needs beside the configuration, and what comes of it.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    /// The limits whose buckets are taken over.
    pub(crate) previous: Option<&'a BTreeMap<LimitKey, Installed>>,
    /// Values that stand elsewhere.
    pub(crate) references: &'a mut References,
    /// The time.
    pub(crate) now: Instant,
    /// What was made.
    pub(crate) installed: BTreeMap<LimitKey, Installed>,
}

/// One limit on its way from the configuration.
#[derive(Clone, Copy)]
struct Plan<'a> {
    field: &'a str,
    policy: &'a RateLimit,
    port: u16,
    limit: &'a config::Limit,
    settings: &'a LimitSettings,
    /// Where it is kept with scope Shared.
    common: Option<&'a Common>,
}

/// The limits of `policy` on the route to `port`; `field` is its path.
pub(crate) fn limiter(
    field: &str,
    policy: &RateLimit,
    place: (Side, u16),
    making: &mut Making<'_>,
) -> Result<Limiter, ConfigError> {
    let (side, port) = place;
    if policy.side != side {
        return Err(ConfigError::text(&format!("{field}.side"), "does not fit the direction of the route"));
    }
    let name = format!("{}/{}", policy.policy.namespace, policy.policy.name);
    if HeaderValue::try_from(&name).is_err() {
        return Err(ConfigError::text(&format!("{field}.policy"), "has characters that can't stand in a header"));
    }
    let settings =
        Settings::try_from(policy).map_err(|error| ConfigError::new(format!("{field}.{}", error.field()), error))?;
    let is_shared = |limit: &&config::Limit| limit.scope == LimitScope::Shared;
    let common = policy.limits.iter().find(is_shared).and_then(|_| making.references.stores.common(policy, making.now));
    let mut limits = Vec::with_capacity(policy.limits.len());
    for (limit, settings) in policy.limits.iter().zip(&settings.limits) {
        let field = format!("{field}.limits[{}]", limit.name);
        let common = common.as_ref().filter(|_| is_shared(&limit));
        limits.push(Plan { field: &field, policy, port, limit, settings, common }.limit(making)?);
    }
    let (mode, headers, show_keys) = (policy.mode, policy.headers, policy.show_keys);
    Ok(Limiter { policy: name, mode, headers, show_keys, limits, common })
}

impl Plan<'_> {
    fn limit(&self, making: &mut Making<'_>) -> Result<Limit, ConfigError> {
        let Self { field, limit, .. } = *self;
        self.check_names()?;
        let rules = self.rules(making)?;
        let cost = |(index, cost): (usize, &config::Cost)| {
            Ok((matcher(&format!("{field}.costs[{index}].match"), &cost.matches)?, cost.cost))
        };
        Ok(Limit {
            name: limit.name.clone(),
            when: limit.when.as_ref().map(|when| matcher(&format!("{field}.when"), when)).transpose()?,
            key: self.parts(making.references)?,
            on_missing_key: limit.on_missing_key,
            rules,
            quotas: limit
                .quotas
                .as_ref()
                .map(|quotas| (making.references.quotas(&quotas.source), quotas.on_unknown_key)),
            costs: limit.costs.iter().enumerate().map(cost).collect::<Result<_, _>>()?,
            greatest_cost: self.settings.greatest_cost,
            beyond: self.beyond()?,
        })
    }

    /// Names stand in headers, metrics and logs, and the last rule takes all that is left.
    fn check_names(&self) -> Result<(), ConfigError> {
        let Self { field, limit, .. } = *self;
        if !is_name(&limit.name) {
            return Err(ConfigError::text(
                &format!("{field}.name"),
                "must be 1 to 63 letters, digits, '-', '_' or '.'",
            ));
        }
        let (last, named) = limit.rules.split_last().unzip();
        let ends = last.is_some_and(|last: &config::LimitRule| last.name.is_empty() && last.matches.is_none());
        if !ends || !named.unwrap_or_default().iter().all(|rule: &config::LimitRule| is_name(&rule.name)) {
            let rules = format!("{field}.rules");
            return Err(ConfigError::text(
                &rules,
                "must have names and end with a rule without name and match, which takes all that is left",
            ));
        }
        Ok(())
    }

    fn rules(&self, making: &mut Making<'_>) -> Result<Vec<LimitRule>, ConfigError> {
        let Self { field, policy, limit, settings, common, .. } = *self;
        let mut rules = Vec::with_capacity(limit.rules.len());
        let room = self.room(making);
        for (rule, rate) in limit.rules.iter().zip(&settings.rates) {
            let matches = rule.matches.as_ref();
            let matcher = matches.map(|found| matcher(&format!("{field}.rules[{}].match", rule.name), found));
            let tracked = self.tracked((rule, *rate), &room, making)?;
            // Named rules have one rate for all; a quota takes the place of the limit's own.
            let quotas = limit.quotas.as_ref().filter(|_| rule.name.is_empty());
            let quotas = quotas.map(|quotas| making.references.quotas(&quotas.source));
            let family = self.family(&tracked.key);
            let installed = Installed {
                shared: common.cloned().zip(family.clone()),
                tracked: Arc::clone(&tracked),
                mode: policy.mode,
                rate: *rate,
                quotas,
                max_tracked_keys: policy.max_tracked_keys as usize,
                max_queued: settings.max_queued.unwrap_or(1),
            };
            making.installed.insert(tracked.key.clone(), installed);
            rules.push(LimitRule {
                name: rule.name.clone(),
                matcher: matcher.transpose()?,
                rate: *rate,
                told: fields::policy(&limit.name, *rate),
                tracked,
                family,
            });
        }
        Ok(rules)
    }

    /// Where requests wait, whichever rule they are of: the room there was, if the limit was there. It is known by the last rule,
    /// which every limit has for as long as it is there.
    fn room(&self, making: &Making<'_>) -> Arc<WaitingRoom> {
        let Self { policy, port, limit, settings, .. } = *self;
        let before = limit.rules.last().and_then(|last| making.previous?.get(&policy.key(port, (limit, last))));
        before.map_or_else(
            || Arc::new(WaitingRoom::new(settings.max_queued.unwrap_or(1))),
            |before| Arc::clone(before.tracked.queue.room()),
        )
    }

    /// Its buckets in the store. Where several shared limits can act on one request one node must have them all.
    fn family(&self, key: &LimitKey) -> Option<BucketFamily> {
        let store = self.policy.store.as_ref().filter(|_| self.limit.scope == LimitScope::Shared)?;
        let shared = self.policy.limits.iter().filter(|limit| limit.scope == LimitScope::Shared).count();
        let tag = if shared > 1 { Tag::Policy } else { Tag::Client };
        Some(BucketFamily::new(&store.key_prefix, key, tag))
    }

    /// The buckets there were: to make other ones would hand out fresh quota.
    fn tracked(
        &self,
        (rule, rate): (&config::LimitRule, Rate),
        room: &Arc<WaitingRoom>,
        making: &Making<'_>,
    ) -> Result<Arc<Tracked>, ConfigError> {
        let Self { field, policy, port, limit, .. } = *self;
        let key = policy.key(port, (limit, rule));
        if making.installed.contains_key(&key) {
            return Err(ConfigError::text(
                field,
                "is there twice: policy, target, side, port, limit and rule name are equal",
            ));
        }
        let before = making.previous.and_then(|previous| previous.get(&key));
        if let Some(before) = before {
            return Ok(Arc::clone(&before.tracked));
        }
        let seed = seed(&key);
        Ok(Arc::new(Tracked {
            buckets: Buckets::new(rate, policy.max_tracked_keys as usize, seed, making.now),
            key,
            refused: RefusedUntil::new(if limit.scope == LimitScope::Shared { REMEMBERED } else { 1 }, seed),
            counts: Counts::default(),
            recent: Recent::default(),
            least: Least::default(),
            top: TopKeys::default(),
            queue: Queue::new(Arc::clone(room)),
        }))
    }

    fn parts(&self, references: &mut References) -> Result<Parts, ConfigError> {
        let Self { field, limit, .. } = *self;
        let part = |(index, part): (usize, &KeyPart)| {
            let at = |name: &str| format!("{field}.key[{index}].{name}");
            Ok(match part {
                KeyPart::Header(name) => Part::Header(header(&at("header"), name)?),
                KeyPart::ApiKey(wanted) => Part::ApiKey(Places::parse(wanted).map_err(|position| {
                    ConfigError::text(&at(&format!("apiKey.headers[{position}]")), "is no name of a header")
                })?),
                KeyPart::ClientIp(how) => Part::ClientIp(*how),
                KeyPart::JwtClaim(wanted) => {
                    let keys = references.keys(&wanted.keys);
                    let name = header(&at("jwtClaim.header"), &wanted.header)?;
                    Part::JwtClaim(name, Box::new(Verifier::new(wanted, keys)))
                }
                KeyPart::Path => Part::Path,
                KeyPart::Method => Part::Method,
            })
        };
        limit.key.iter().enumerate().map(part).collect::<Result<_, _>>().map(Parts::new)
    }

    fn beyond(&self) -> Result<Beyond, ConfigError> {
        let Self { field, limit, settings, .. } = *self;
        Ok(match settings.exceed {
            Exceed::Refuse => Beyond::Refuse,
            Exceed::Block(time) => Beyond::Block(time),
            Exceed::Delay(longest) => {
                let named = limit.on_exceed.delay.as_ref().and_then(|delay| delay.priority_header.as_ref());
                let path = format!("{field}.onExceed.delay.priorityHeader");
                Beyond::Delay(longest, named.map(|name| header(&path, name)).transpose()?)
            }
        })
    }
}

/// Another number for each limit and each process, which no client can know.
fn seed(key: &LimitKey) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(key)
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn header(field: &str, name: &str) -> Result<HeaderName, ConfigError> {
    HeaderName::try_from(name).map_err(|_| ConfigError::text(field, "is no name of a header"))
}

/// `field` is that of the match; errors name the field within it.
fn matcher(field: &str, matches: &RequestMatch) -> Result<RequestMatcher, ConfigError> {
    RequestMatcher::try_from(matches).map_err(|error| {
        let within = error.field().strip_prefix("match.").unwrap_or_default().to_owned();
        ConfigError::new(format!("{field}.{within}"), error)
    })
}
