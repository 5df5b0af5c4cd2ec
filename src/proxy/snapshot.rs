//! A `ProxyConfig` made ready for requests: matchers compiled, breakers and pools at hand.
//!
//! It must be complete or not exist: everything that can be wrong is found while it is built, and the
//! error names the field. Breakers of the snapshot before are taken over by their key, so that a new
//! configuration does not forget what the old one learned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{FailureClassifier, Settings, SharedBreaker};
use fusebox_policy::config::{
    BreakerKey, BreakerParameters, BreakerRule, CircuitBreaker, FORMAT, InboundRoute, Mode, OutboundRoute,
    PolicyVersion, ProxyConfig, RequestMatch, ServiceId, Side, WorkloadId,
};
use fusebox_policy::matching::RequestMatcher;
use http::HeaderValue;

use crate::config_error::ConfigError;
use crate::options::{ServicePort, UpstreamSpec};
use crate::parse;
use crate::series::{Series, SeriesLabels};
use crate::upstream::{Pool, Pools};

/// The longest timeout a rule can have: an hour.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Routes, and rules in each, that one configuration can have.
pub(crate) const MAX_ROUTES: usize = 10_000;

/// Rules that one route can have, its last one included.
pub(crate) const MAX_RULES: usize = 65;

/// What this proxy was started with; a snapshot is built for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// Where each listener's traffic goes.
    pub(crate) listeners: Vec<Destination>,
    /// Addresses that beat those of the configuration.
    pub(crate) upstreams: Vec<UpstreamSpec>,
}

/// Where a listener's traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The pod's own application.
    Application {
        /// `host:port` of it.
        address: String,
        /// The container port by which policies name it.
        port: u16,
    },
    /// One port of a Service.
    Service(ServicePort),
    /// The Service that the Host header names.
    ByHost,
}

/// All that a request needs, behind one pointer.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The configuration's version; none before there was one.
    pub(crate) revision: Option<String>,
    /// Whose sidecar this is; none before there was a configuration.
    pub(crate) workload: Option<WorkloadId>,
    /// The policies it carries.
    pub(crate) policies: Vec<PolicyVersion>,
    /// The route of each listener, in the order of [`Topology::listeners`]; none where the Host header says.
    pub(crate) by_listener: Vec<Option<Arc<Route>>>,
    /// Routes for the Host header, by namespace and name.
    pub(crate) by_host: HashMap<String, HashMap<String, Vec<Arc<Route>>>>,
    /// The route that takes everything when it is the only one.
    pub(crate) sole: Option<Arc<Route>>,
    /// All breakers.
    pub(crate) breakers: BTreeMap<BreakerKey, Installed>,
    /// All series.
    pub(crate) series: BTreeMap<SeriesLabels, Arc<Series>>,
}

/// Where one destination's requests go, and which rules they meet.
#[derive(Debug)]
pub(crate) struct Route {
    /// The port, as clients may name it in the Host header.
    pub(crate) port: u16,
    /// Tried in order; the last takes all.
    pub(crate) rules: Vec<Arc<Rule>>,
}

/// One rule, ready for requests.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Which requests; absent matches all.
    pub(crate) matcher: Option<RequestMatcher>,
    /// Bound on the whole request.
    pub(crate) timeout: Option<Duration>,
    /// Addresses to send to, in order.
    pub(crate) pools: Arc<[Arc<Pool>]>,
    /// What the requests are for, such as `shop/payments:80`, for people.
    pub(crate) target: Arc<str>,
    /// Where requests are counted.
    pub(crate) series: Arc<Series>,
    /// The policy's part; none where no policy applies.
    pub(crate) guard: Option<Guard>,
}

/// What a policy adds to a rule.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The breaker, kept over configuration changes.
    pub(crate) breaker: Arc<SharedBreaker>,
    /// What counts as a failure.
    pub(crate) failures: FailureClassifier,
    /// Whether the breaker's refusals are carried out.
    pub(crate) mode: Mode,
    /// `namespace/name` of the policy.
    pub(crate) policy: String,
    /// Which breaker.
    pub(crate) key: BreakerKey,
    /// The header of refusals, by what refused.
    pub(crate) refusal: RefusalHeaders,
}

/// Ready values of the header `fusebox-policy`.
#[derive(Clone, Debug)]
pub(crate) struct RefusalHeaders {
    /// While open.
    pub(crate) open: HeaderValue,
    /// While half-open, when all probes are out.
    pub(crate) half_open: HeaderValue,
    /// While forced open.
    pub(crate) forced: HeaderValue,
}

/// One breaker and what it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// The breaker.
    pub(crate) breaker: Arc<SharedBreaker>,
    /// What it was made from; another value makes another breaker.
    pub(crate) parameters: BreakerParameters,
    /// Its series.
    pub(crate) series: Arc<Series>,
    /// Whether it acts.
    pub(crate) mode: Mode,
    /// The override in the configuration.
    pub(crate) force: Option<fusebox_policy::config::Override>,
}

/// What building needs beside the configuration.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// The proxy's listeners and upstreams.
    pub(crate) topology: &'a Topology,
    /// Connections, kept over configuration changes.
    pub(crate) pools: &'a Pools,
    /// The snapshot whose breakers are taken over.
    pub(crate) previous: Option<&'a Snapshot>,
    /// The time.
    pub(crate) now: Instant,
}

struct Builder<'a> {
    around: Surroundings<'a>,
    breakers: BTreeMap<BreakerKey, Installed>,
    series: BTreeMap<SeriesLabels, Arc<Series>>,
}

/// What a route is made from.
struct RoutePlan<'a> {
    field: String,
    side: Side,
    service: Option<&'a ServiceId>,
    port: u16,
    addresses: Vec<String>,
    policy: Option<&'a CircuitBreaker>,
}

impl Snapshot {
    /// What is in force before there is a configuration.
    pub(crate) fn empty(around: Surroundings<'_>) -> Result<Self, ConfigError> {
        Self::assemble(None, None, around)
    }

    /// Builds all of `config`, or says which field can't be enforced.
    pub(crate) fn build(config: &ProxyConfig, revision: &str, around: Surroundings<'_>) -> Result<Self, ConfigError> {
        check_shape(config)?;
        Self::assemble(Some(config), Some(revision), around)
    }

    /// The route of a request on listener `index`, whose Host header is `host`.
    pub(crate) fn route(&self, index: usize, host: &str) -> Option<&Arc<Route>> {
        match self.by_listener.get(index) {
            Some(Some(route)) => Some(route),
            _ => self.sole.as_ref().or_else(|| self.by_name(host)),
        }
    }

    fn by_name(&self, host: &str) -> Option<&Arc<Route>> {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, port.parse::<u16>().ok()),
            None => (host, None),
        };
        let name = name.strip_suffix(".cluster.local").unwrap_or(name);
        let name = name.strip_suffix(".svc").unwrap_or(name);
        let (service, namespace) = name.rsplit_once('.')?;
        let routes = self.by_host.get(namespace)?.get(service)?;
        let named = |wanted: u16| routes.iter().find(|route| route.port == wanted);
        match (port.and_then(named), routes.as_slice()) {
            (Some(route), _) | (None, [route]) => Some(route),
            (None, _) => named(80).filter(|_| port.is_none()),
        }
    }

    fn assemble(
        config: Option<&ProxyConfig>,
        revision: Option<&str>,
        around: Surroundings<'_>,
    ) -> Result<Self, ConfigError> {
        let topology = around.topology;
        let mut builder = Builder { around, breakers: BTreeMap::new(), series: BTreeMap::new() };
        let inbound = config.map_or(&[][..], |config| &config.inbound);
        let outbound = config.map_or(&[][..], |config| &config.outbound);
        // Routes without a listener are built too: a mistake in them is found, and their breakers are kept.
        let mut applications = HashMap::new();
        for (index, route) in inbound.iter().enumerate() {
            applications.insert(route.port, builder.inbound(index, route)?);
        }
        let mut services = BTreeMap::new();
        for (index, route) in outbound.iter().enumerate() {
            let place = ServicePort { service: route.service.clone(), port: route.port };
            services.insert(place, builder.outbound(index, route)?);
        }
        builder.unlisted_services(&mut services)?;
        let by_listener = topology
            .listeners
            .iter()
            .map(|destination| builder.listener(destination, &applications, &services))
            .collect::<Result<_, _>>()?;
        let sole = if services.len() == 1 { services.values().next().cloned() } else { None };
        let mut by_host: HashMap<String, HashMap<String, Vec<Arc<Route>>>> = HashMap::new();
        for (place, route) in services {
            let ServiceId { namespace, name } = place.service;
            by_host.entry(namespace).or_default().entry(name).or_default().push(route);
        }
        Ok(Self {
            revision: revision.map(str::to_owned),
            workload: config.map(|config| config.workload.clone()),
            policies: config.map(|config| config.policies.clone()).unwrap_or_default(),
            by_listener,
            by_host,
            sole,
            breakers: builder.breakers,
            series: builder.series,
        })
    }
}

impl Builder<'_> {
    fn inbound(&mut self, index: usize, route: &InboundRoute) -> Result<Arc<Route>, ConfigError> {
        let InboundRoute { port, circuit_breaker } = route;
        let listener = self.around.topology.listeners.iter().find_map(|destination| match destination {
            Destination::Application { address, port: own } if own == port => Some(address.clone()),
            _ => None,
        });
        self.route(&RoutePlan {
            field: format!("inbound[{index}]"),
            side: Side::Server,
            service: None,
            port: *port,
            addresses: listener.into_iter().collect(),
            policy: circuit_breaker.as_ref(),
        })
    }

    fn outbound(&mut self, index: usize, route: &OutboundRoute) -> Result<Arc<Route>, ConfigError> {
        let OutboundRoute { service, port, port_name: _, addresses, circuit_breaker } = route;
        let field = format!("outbound[{index}]");
        for (position, address) in addresses.iter().enumerate() {
            parse::host_port(address)
                .map_err(|error| ConfigError::new(format!("{field}.addresses[{position}]"), error))?;
        }
        self.route(&RoutePlan {
            field,
            side: Side::Client,
            service: Some(service),
            port: *port,
            addresses: self.told(service, *port).map_or_else(|| addresses.clone(), |address| vec![address]),
            policy: circuit_breaker.as_ref(),
        })
    }

    /// Services that only the command line knows, so that the Host header can name them.
    fn unlisted_services(&mut self, services: &mut BTreeMap<ServicePort, Arc<Route>>) -> Result<(), ConfigError> {
        for upstream in &self.around.topology.upstreams {
            let known = services
                .keys()
                .any(|place| place.service == upstream.service && upstream.port.is_none_or(|port| port == place.port));
            if !known {
                let place = ServicePort { service: upstream.service.clone(), port: upstream.port.unwrap_or(80) };
                let route = self.bare_service(&place)?;
                services.insert(place, route);
            }
        }
        Ok(())
    }

    fn listener(
        &mut self,
        destination: &Destination,
        applications: &HashMap<u16, Arc<Route>>,
        services: &BTreeMap<ServicePort, Arc<Route>>,
    ) -> Result<Option<Arc<Route>>, ConfigError> {
        match destination {
            Destination::Application { address, port } => match applications.get(port) {
                Some(route) => Ok(Some(Arc::clone(route))),
                None => self.bare_application(address, *port).map(Some),
            },
            Destination::Service(place) => match services.get(place) {
                Some(route) => Ok(Some(Arc::clone(route))),
                None => self.bare_service(place).map(Some),
            },
            Destination::ByHost => Ok(None),
        }
    }

    fn bare_application(&mut self, address: &str, port: u16) -> Result<Arc<Route>, ConfigError> {
        self.route(&RoutePlan {
            field: String::new(),
            side: Side::Server,
            service: None,
            port,
            addresses: vec![address.to_owned()],
            policy: None,
        })
    }

    fn bare_service(&mut self, place: &ServicePort) -> Result<Arc<Route>, ConfigError> {
        self.route(&RoutePlan {
            field: String::new(),
            side: Side::Client,
            service: Some(&place.service),
            port: place.port,
            addresses: self.told(&place.service, place.port).into_iter().collect(),
            policy: None,
        })
    }

    /// The address that the command line gives for a Service's port; one for this very port beats one for all.
    fn told(&self, service: &ServiceId, port: u16) -> Option<String> {
        let of_service = || self.around.topology.upstreams.iter().filter(|upstream| upstream.service == *service);
        of_service()
            .find(|upstream| upstream.port == Some(port))
            .or_else(|| of_service().find(|upstream| upstream.port.is_none()))
            .map(|upstream| upstream.address.clone())
    }

    fn route(&mut self, plan: &RoutePlan<'_>) -> Result<Arc<Route>, ConfigError> {
        let pools: Arc<[Arc<Pool>]> = plan.addresses.iter().map(|address| self.around.pools.get(address)).collect();
        let target: Arc<str> = match plan.service {
            Some(ServiceId { namespace, name }) => format!("{namespace}/{name}:{}", plan.port).into(),
            None => format!("port {}", plan.port).into(),
        };
        let rules = match plan.policy {
            Some(policy) => self.rules(plan, policy, (&pools, &target))?,
            None => {
                let series = self.series(bare_labels(plan));
                vec![Arc::new(Rule { matcher: None, timeout: None, pools, target, series, guard: None })]
            }
        };
        Ok(Arc::new(Route { port: plan.port, rules }))
    }

    fn rules(
        &mut self,
        plan: &RoutePlan<'_>,
        policy: &CircuitBreaker,
        upstream: (&Arc<[Arc<Pool>]>, &Arc<str>),
    ) -> Result<Vec<Arc<Rule>>, ConfigError> {
        let field = format!("{}.circuitBreaker", plan.field);
        check_policy(&field, policy, plan.side)?;
        let mut rules = Vec::with_capacity(policy.rules.len());
        for (index, rule) in policy.rules.iter().enumerate() {
            let field = format!("{field}.rules[{index}]");
            let installed = self.install(&field, policy, (plan.port, rule))?;
            let (pools, target) = upstream;
            rules.push(Arc::new(Rule {
                matcher: matcher(&field, rule)?,
                timeout: timeout(&field, rule)?,
                pools: Arc::clone(pools),
                target: Arc::clone(target),
                series: Arc::clone(&installed.series),
                guard: Some(guard(&field, policy, (plan.port, rule), &installed)?),
            }));
        }
        Ok(rules)
    }

    /// The breaker of a rule: the one there was, unless its parameters changed.
    fn install(
        &mut self,
        field: &str,
        policy: &CircuitBreaker,
        place: (u16, &BreakerRule),
    ) -> Result<Installed, ConfigError> {
        let (port, rule) = place;
        let key = policy.key(port, rule);
        let settings = Settings::try_from(&rule.breaker)
            .map_err(|error| ConfigError::new(format!("{field}.breaker.{}", error.field()), error))?;
        let kept = self.around.previous.and_then(|previous| previous.breakers.get(&key));
        let breaker = match kept {
            Some(kept) if kept.parameters == rule.breaker => Arc::clone(&kept.breaker),
            _ => SharedBreaker::new(settings, seed(&key), self.around.now),
        };
        let series = self.series(policy_labels(policy, port, rule));
        let installed = Installed {
            breaker,
            parameters: rule.breaker.clone(),
            series,
            mode: policy.mode,
            force: policy.force.clone(),
        };
        if self.breakers.insert(key, installed.clone()).is_some() {
            return Err(ConfigError::text(field, "is there twice: policy, target, side, port and rule name are equal"));
        }
        Ok(installed)
    }

    fn series(&mut self, labels: SeriesLabels) -> Arc<Series> {
        let known =
            self.series.get(&labels).or_else(|| self.around.previous.and_then(|previous| previous.series.get(&labels)));
        let series = known.cloned().unwrap_or_else(|| Arc::new(Series::new(labels.clone())));
        self.series.insert(labels, Arc::clone(&series));
        series
    }
}

fn check_shape(config: &ProxyConfig) -> Result<(), ConfigError> {
    if config.format > FORMAT {
        return Err(ConfigError::text(
            "format",
            &format!("is {}, but this proxy reads up to {FORMAT}: upgrade the proxy", config.format),
        ));
    }
    if config.format == 0 {
        return Err(ConfigError::text("format", "is 0; the first format is 1"));
    }
    for (field, count) in [("inbound", config.inbound.len()), ("outbound", config.outbound.len())] {
        if count > MAX_ROUTES {
            return Err(ConfigError::text(field, &format!("has {count} routes, at most {MAX_ROUTES} are accepted")));
        }
    }
    let mut ports = HashSet::new();
    if let Some(index) = config.inbound.iter().position(|route| !ports.insert(route.port)) {
        return Err(ConfigError::text(&format!("inbound[{index}].port"), "is there twice"));
    }
    let mut services = HashSet::new();
    if let Some(index) = config.outbound.iter().position(|route| !services.insert((&route.service, route.port))) {
        return Err(ConfigError::text(&format!("outbound[{index}]"), "names a Service's port that is there already"));
    }
    Ok(())
}

fn check_policy(field: &str, policy: &CircuitBreaker, side: Side) -> Result<(), ConfigError> {
    if policy.side != side {
        return Err(ConfigError::text(&format!("{field}.side"), "does not fit the direction of the route"));
    }
    if policy.rules.len() > MAX_RULES {
        return Err(ConfigError::text(&format!("{field}.rules"), &format!("has more than {MAX_RULES} entries")));
    }
    match policy.rules.last() {
        Some(last) if last.matches.is_none() && last.name.is_empty() => Ok(()),
        _ => Err(ConfigError::text(
            &format!("{field}.rules"),
            "must end with a rule without name and match, which takes all that is left",
        )),
    }
}

fn matcher(field: &str, rule: &BreakerRule) -> Result<Option<RequestMatcher>, ConfigError> {
    let compile = |matches: &RequestMatch| {
        RequestMatcher::try_from(matches).map_err(|error| ConfigError::new(format!("{field}.{}", error.field()), error))
    };
    rule.matches.as_ref().map(compile).transpose()
}

fn timeout(field: &str, rule: &BreakerRule) -> Result<Option<Duration>, ConfigError> {
    let Some(timeout_ms) = rule.timeout_ms else { return Ok(None) };
    let timeout = Duration::from_millis(timeout_ms);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        let limit_ms = MAX_TIMEOUT.as_millis();
        return Err(ConfigError::text(
            &format!("{field}.timeoutMs"),
            &format!("is {timeout_ms}, expected 1 to {limit_ms}"),
        ));
    }
    Ok(Some(timeout))
}

fn guard(
    field: &str,
    policy: &CircuitBreaker,
    place: (u16, &BreakerRule),
    installed: &Installed,
) -> Result<Guard, ConfigError> {
    let (port, rule) = place;
    let failures = FailureClassifier::try_from(&rule.failure_on)
        .map_err(|error| ConfigError::new(format!("{field}.{}", error.field()), error))?;
    let name = format!("{}/{}", policy.policy.namespace, policy.policy.name);
    let header = |state: &str| {
        HeaderValue::try_from(format!("{name}; state={state}"))
            .map_err(|_| ConfigError::text(&format!("{field}.policy"), "has characters that can't stand in a header"))
    };
    Ok(Guard {
        breaker: Arc::clone(&installed.breaker),
        failures,
        mode: policy.mode,
        key: policy.key(port, rule),
        refusal: RefusalHeaders {
            open: header("open")?,
            half_open: header("half-open")?,
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

fn bare_labels(plan: &RoutePlan<'_>) -> SeriesLabels {
    SeriesLabels {
        policy_namespace: String::new(),
        policy: String::new(),
        target_namespace: plan.service.map(|service| service.namespace.clone()).unwrap_or_default(),
        target: plan.service.map(|service| service.name.clone()).unwrap_or_default(),
        side: plan.side,
        port: plan.port,
        rule: String::new(),
    }
}

/// Another number for each breaker and each process, so that a fleet's open times are spread.
fn seed(key: &BreakerKey) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(key)
}
