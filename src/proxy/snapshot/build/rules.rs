//! The rules of one policy on one route: matchers and breakers, the latter taken over where their parameters are the same.
//!
//! It must not look at other routes: a rule is known by its key alone, so that it keeps its state when routes come and go.

use std::sync::Arc;

use fusebox_policy::circuit_breaker::{FailureClassifier, MaxOpenPercent, Settings};
use fusebox_policy::config::{BreakerRule, CircuitBreaker, RequestMatch, ServiceId};
use fusebox_policy::matching::RequestMatcher;
use http::HeaderValue;

use super::{Builder, RoutePlan};
use crate::breakers::Tracked;
use crate::config_error::ConfigError;
use crate::endpoints::Group;
use crate::options::ServicePort;
use crate::series::SeriesLabels;
use crate::snapshot::fallback::Fallback;
use crate::snapshot::{Guard, Installed, RefusalHeaders, Rule, check};
use crate::upstream::Pool;

impl Builder<'_> {
    /// The rules of a route with a policy, each with its breakers.
    pub(super) fn rules(
        &mut self,
        plan: &RoutePlan<'_>,
        policy: &CircuitBreaker,
        upstream: (&Arc<[Arc<Pool>]>, &Arc<str>),
    ) -> Result<Vec<Arc<Rule>>, ConfigError> {
        let policy_field = format!("{}.circuitBreaker", plan.field);
        check::policy(&policy_field, policy, plan.side)?;
        let mut rules = Vec::with_capacity(policy.rules.len());
        for (index, rule) in policy.rules.iter().enumerate() {
            let field = format!("{policy_field}.rules[{index}]");
            let installed = self.install(&field, policy, (plan, rule))?;
            let (pools, target) = upstream;
            rules.push(Arc::new(Rule {
                matcher: matcher(&field, rule)?,
                timeout: check::timeout(&field, rule)?,
                pools: Arc::clone(pools),
                reach: plan.reach,
                target: Arc::clone(target),
                series: Arc::clone(&installed.own.series),
                guard: Some(guard((&policy_field, &field), policy, rule, &installed)?),
            }));
        }
        Ok(rules)
    }

    /// The breakers of a rule: those there were, unless their parameters changed.
    fn install(
        &mut self,
        field: &str,
        policy: &CircuitBreaker,
        place: (&RoutePlan<'_>, &BreakerRule),
    ) -> Result<Installed, ConfigError> {
        let (plan, rule) = place;
        let key = policy.key(plan.port, rule);
        let settings = Settings::try_from(&rule.breaker)
            .map_err(|error| ConfigError::new(format!("{field}.breaker.{}", error.field()), error))?;
        let before = self.around.previous.and_then(|previous| previous.breakers.get(&key));
        let kept = before.filter(|before| *before.parameters == rule.breaker);
        let parameters = kept.map_or_else(|| Arc::new(rule.breaker.clone()), |kept| Arc::clone(&kept.parameters));
        let series = self.series(policy_labels(policy, plan.port, rule));
        let own = kept.map_or_else(
            || {
                let breaker = self.around.maker.make(&key, &parameters, &settings);
                Arc::new(Tracked::of_rule(key.clone(), breaker, Arc::clone(&series)))
            },
            |kept| Arc::clone(&kept.own),
        );
        let group = |service: &ServiceId, most: MaxOpenPercent| {
            let known = kept.and_then(|kept| kept.endpoints.as_ref()).map(|(group, _)| Arc::clone(group));
            let place = ServicePort { service: service.clone(), port: plan.port };
            known.unwrap_or_else(|| Group::new(key.clone(), (place, series), most))
        };
        // The application behind a listener of its own pod is one endpoint already.
        let endpoints = max_open(policy, plan)?.zip(plan.service);
        let installed = Installed {
            own,
            parameters,
            settings,
            endpoints: endpoints.map(|(most, service)| (group(service, most), most)),
            mode: policy.mode,
            force: policy.force.clone(),
        };
        if self.breakers.insert(key, installed.clone()).is_some() {
            return Err(ConfigError::text(field, "is there twice: policy, target, side, port and rule name are equal"));
        }
        Ok(installed)
    }
}

/// With scope Endpoint, the share of endpoints that may be left out at once.
fn max_open(policy: &CircuitBreaker, plan: &RoutePlan<'_>) -> Result<Option<MaxOpenPercent>, ConfigError> {
    let refuse = |error| ConfigError::new(format!("{}.circuitBreaker.endpointScope.maxOpenPercent", plan.field), error);
    let scope = policy.endpoint_scope.as_ref();
    scope.map(|scope| MaxOpenPercent::try_from(scope.max_open_percent)).transpose().map_err(refuse)
}

fn matcher(field: &str, rule: &BreakerRule) -> Result<Option<RequestMatcher>, ConfigError> {
    let compile = |matches: &RequestMatch| {
        RequestMatcher::try_from(matches).map_err(|error| ConfigError::new(format!("{field}.{}", error.field()), error))
    };
    rule.matches.as_ref().map(compile).transpose()
}

fn guard(
    fields: (&str, &str),
    policy: &CircuitBreaker,
    rule: &BreakerRule,
    installed: &Installed,
) -> Result<Guard, ConfigError> {
    let (policy_field, field) = fields;
    let failures = FailureClassifier::try_from(&rule.failure_on)
        .map_err(|error| ConfigError::new(format!("{field}.{}", error.field()), error))?;
    let name = format!("{}/{}", policy.policy.namespace, policy.policy.name);
    let at = |name: &str| format!("{policy_field}.{name}");
    let header = |state: &str| {
        HeaderValue::try_from(format!("{name}; state={state}"))
            .map_err(|_| ConfigError::text(&at("policy"), "has characters that can't stand in a header"))
    };
    Ok(Guard {
        own: Arc::clone(&installed.own),
        endpoints: installed.endpoints.as_ref().map(|(group, _)| Arc::clone(group)),
        failures,
        mode: policy.mode,
        honors_retry_after: rule.breaker.open.honor_retry_after,
        fallback: policy.fallback.as_ref().map(|answer| Fallback::build(&at("fallback"), answer)).transpose()?,
        refusal: RefusalHeaders {
            open: header("open")?,
            half_open: header("half-open")?,
            recovering: header("recovering")?,
            forced: header("forced-open")?,
        },
        policy: name,
    })
}

fn policy_labels(policy: &CircuitBreaker, port: u16, rule: &BreakerRule) -> SeriesLabels {
    let target = &policy.target;
    SeriesLabels {
        policy_namespace: policy.policy.namespace.clone(),
        policy: policy.policy.name.clone(),
        target_namespace: target.namespace.clone(),
        target: target.name.clone(),
        side: policy.side,
        port,
        rule: rule.name.clone(),
    }
}
