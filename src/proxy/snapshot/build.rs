//! Builds a snapshot: one route after the other, breakers and series taken over where they can be.
//!
//! It must change nothing that is in force: what it makes is thrown away when a later field is wrong.

mod rules;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use fusebox_policy::config::{
    BreakerKey, CircuitBreaker, InboundRoute, OutboundRoute, Protocol, ProxyConfig, RateLimit, ServiceId, Side,
};

use super::aims::Aims;
use super::{Destination, Installed, Reach, Route, Rule, Snapshot, Surroundings};
use crate::config_error::ConfigError;
use crate::endpoints;
use crate::options::ServicePort;
use crate::parse;
use crate::rate_limit::references::References;
use crate::rate_limit::{self, Limiter, Making};
use crate::series::{Series, SeriesLabels};
use crate::upstream::Pool;

struct Builder<'a> {
    around: Surroundings<'a>,
    limits: Making<'a>,
    breakers: BTreeMap<BreakerKey, Installed>,
    series: BTreeMap<SeriesLabels, Arc<Series>>,
}

/// What a route is made from.
struct RoutePlan<'a> {
    field: String,
    side: Side,
    service: Option<&'a ServiceId>,
    port: u16,
    protocol: Protocol,
    addresses: Vec<String>,
    reach: Reach,
    policy: Option<&'a CircuitBreaker>,
    rate_limit: Option<&'a RateLimit>,
}

/// Builds everything, from `config` and what the command line says.
pub(super) fn assemble(
    wanted: Option<(&ProxyConfig, &str)>,
    around: Surroundings<'_>,
    references: &mut References,
) -> Result<Snapshot, ConfigError> {
    let (config, revision) = wanted.unzip();
    let topology = around.topology;
    let limits = Making {
        previous: around.previous.map(|previous| &previous.limits),
        references,
        now: around.maker.now,
        installed: BTreeMap::new(),
    };
    let mut builder = Builder { around, limits, breakers: BTreeMap::new(), series: BTreeMap::new() };
    let inbound = config.map_or(&[][..], |config| &config.inbound);
    let outbound = config.map_or(&[][..], |config| &config.outbound);
    // Routes without a listener are built too: a mistake in them is found, and their breakers are kept.
    let mut applications = HashMap::new();
    for (index, route) in inbound.iter().enumerate() {
        applications.insert(route.port, builder.inbound(index, route)?);
    }
    let mut aims = Aims::new(applications.clone(), [Side::Server, Side::Client].map(|side| builder.untouched(side)));
    let home = config.map_or("", |config| &config.workload.namespace);
    let mut services = BTreeMap::new();
    for (index, plan) in outbound.iter().enumerate() {
        let place = ServicePort { service: plan.service.clone(), port: plan.port };
        let route = builder.outbound(index, plan)?;
        aims.add(plan, &route, home);
        services.insert(place, route);
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
    Ok(Snapshot {
        revision: revision.map(str::to_owned),
        workload: config.map(|config| config.workload.clone()),
        policies: config.map(|config| config.policies.clone()).unwrap_or_default(),
        by_listener,
        by_host,
        aims,
        sole,
        breakers: builder.breakers,
        limits: builder.limits.installed,
        series: builder.series,
    })
}

impl Builder<'_> {
    fn inbound(&mut self, index: usize, route: &InboundRoute) -> Result<Arc<Route>, ConfigError> {
        let InboundRoute { port, protocol, circuit_breaker, rate_limit } = route;
        let listener = self.around.topology.listeners.iter().find_map(|destination| match destination {
            Destination::Application { address, port: own } if own == port => Some(address.clone()),
            _ => None,
        });
        self.route(&RoutePlan {
            field: format!("inbound[{index}]"),
            side: Side::Server,
            service: None,
            port: *port,
            protocol: *protocol,
            addresses: listener.into_iter().collect(),
            reach: Reach::Aim,
            policy: circuit_breaker.as_ref(),
            rate_limit: rate_limit.as_ref(),
        })
    }

    fn outbound(&mut self, index: usize, route: &OutboundRoute) -> Result<Arc<Route>, ConfigError> {
        let OutboundRoute { service, port, port_name: _, protocol, addresses, circuit_breaker, rate_limit } = route;
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
            protocol: *protocol,
            addresses: Some(self.fixed(service, *port)).filter(|fixed| !fixed.is_empty()).unwrap_or(addresses.clone()),
            reach: if addresses.iter().any(|address| address.parse::<SocketAddr>().is_ok()) {
                Reach::Addresses
            } else {
                Reach::Aim
            },
            policy: circuit_breaker.as_ref(),
            rate_limit: rate_limit.as_ref(),
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
            Destination::ByHost | Destination::Original(_) => Ok(None),
        }
    }

    fn bare_application(&mut self, address: &str, port: u16) -> Result<Arc<Route>, ConfigError> {
        self.route(&RoutePlan {
            field: String::new(),
            side: Side::Server,
            service: None,
            port,
            protocol: Protocol::Detect,
            addresses: vec![address.to_owned()],
            reach: Reach::Addresses,
            policy: None,
            rate_limit: None,
        })
    }

    fn bare_service(&mut self, place: &ServicePort) -> Result<Arc<Route>, ConfigError> {
        self.route(&RoutePlan {
            field: String::new(),
            side: Side::Client,
            service: Some(&place.service),
            port: place.port,
            protocol: Protocol::Detect,
            addresses: self.fixed(&place.service, place.port),
            reach: Reach::Addresses,
            policy: None,
            rate_limit: None,
        })
    }

    /// The addresses that the command line gives for a Service's port.
    fn fixed(&self, service: &ServiceId, port: u16) -> Vec<String> {
        endpoints::fixed(&self.around.topology.upstreams, service, port).into_iter().map(str::to_owned).collect()
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
                vec![Arc::new(Rule {
                    matcher: None,
                    timeout: None,
                    pools,
                    reach: plan.reach,
                    target,
                    series,
                    guard: None,
                })]
            }
        };
        Ok(Arc::new(Route { port: plan.port, protocol: plan.protocol, rules, limiter: self.limiter(plan)? }))
    }

    fn limiter(&mut self, plan: &RoutePlan<'_>) -> Result<Option<Arc<Limiter>>, ConfigError> {
        let Some(policy) = plan.rate_limit else { return Ok(None) };
        let field = format!("{}.rateLimit", plan.field);
        rate_limit::limiter(&field, policy, (plan.side, plan.port), &mut self.limits).map(Arc::new).map(Some)
    }

    /// Where what meets no route counts: under no name, and port 0. Only where anything is redirected.
    fn untouched(&mut self, side: Side) -> Arc<Series> {
        let labels = SeriesLabels {
            policy_namespace: String::new(),
            policy: String::new(),
            target_namespace: String::new(),
            target: String::new(),
            side,
            port: 0,
            rule: String::new(),
        };
        let redirects = |one: &Destination| matches!(one, Destination::Original(_));
        if self.around.topology.listeners.iter().any(redirects) {
            return self.series(labels);
        }
        Arc::new(Series::new(labels))
    }

    fn series(&mut self, labels: SeriesLabels) -> Arc<Series> {
        let known =
            self.series.get(&labels).or_else(|| self.around.previous.and_then(|previous| previous.series.get(&labels)));
        let series = known.cloned().unwrap_or_else(|| Arc::new(Series::new(labels.clone())));
        self.series.insert(labels, Arc::clone(&series));
        series
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
