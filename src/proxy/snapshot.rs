//! A `ProxyConfig` made ready for requests: matchers compiled, breakers and pools at hand.
//!
//! It must be complete or not exist: everything that can be wrong is found while it is built, and the
//! error names the field. Breakers of the snapshot before are taken over by their key, so that a new
//! configuration does not forget what the old one learned.

mod aims;
mod build;
mod check;
mod fallback;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::circuit_breaker::{FailureClassifier, MaxOpenPercent, Settings};
use fusebox_policy::config::{
    BreakerKey, BreakerParameters, LimitKey, Mode, Override, PolicyVersion, Protocol, ProxyConfig, WorkloadId,
};
use fusebox_policy::matching::RequestMatcher;
use http::header::{self, HeaderMap, HeaderValue};

pub(crate) use self::aims::Aim;
use self::aims::Aims;
use self::fallback::Fallback;
use crate::breakers::{Maker, Tracked};
use crate::config_error::ConfigError;
use crate::endpoints::Group;
use crate::listener::limits::Limits;
use crate::options::{ServicePort, UpstreamSpec};
use crate::pipeline::hop::Direction;
use crate::rate_limit::references::References;
use crate::rate_limit::{self, Limiter, StoreAddresses};
use crate::series::{Series, SeriesLabels};
use crate::upstream::{Pool, Pools};

/// What this proxy was started with; a snapshot is built for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// Where each listener's traffic goes.
    pub(crate) listeners: Vec<Destination>,
    /// Addresses that beat those of the configuration.
    pub(crate) upstreams: Vec<UpstreamSpec>,
    /// For how long endpoints count after the operator is gone.
    pub(crate) endpoints_max_age: Duration,
    /// For how long clients may hold what they were given.
    pub(crate) limits: Limits,
    /// Where stores of limits may be.
    pub(crate) stores: StoreAddresses,
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
    /// Where each connection was going before it was redirected.
    Original(Direction),
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
    /// Routes by the destination that a redirected connection had.
    pub(crate) aims: Aims,
    /// The route that takes everything when it is the only one.
    pub(crate) sole: Option<Arc<Route>>,
    /// All breakers.
    pub(crate) breakers: BTreeMap<BreakerKey, Installed>,
    /// All rules of all limits.
    pub(crate) limits: BTreeMap<LimitKey, rate_limit::Installed>,
    /// All series.
    pub(crate) series: BTreeMap<SeriesLabels, Arc<Series>>,
}

/// Where one destination's requests go, and which rules they meet.
#[derive(Debug)]
pub(crate) struct Route {
    /// The port, as clients may name it in the Host header.
    pub(crate) port: u16,
    /// What is spoken there.
    pub(crate) protocol: Protocol,
    /// Tried in order; the last takes all.
    pub(crate) rules: Vec<Arc<Rule>>,
    /// Asked before any of them; none where nothing is limited.
    pub(crate) limiter: Option<Arc<Limiter>>,
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
    /// Whether they count for redirected connections too.
    pub(crate) reach: Reach,
    /// What the requests are for, such as `shop/payments:80`, for people.
    pub(crate) target: Arc<str>,
    /// Where requests are counted.
    pub(crate) series: Arc<Series>,
    /// The policy's part; none where no policy applies.
    pub(crate) guard: Option<Guard>,
}

/// Where redirected connections of a rule go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the rule's addresses.
    Addresses,
    /// Where they were going: to the pod's own port, or to what an external name was resolved to by the client.
    Aim,
    /// The same, and nothing is enforced.
    Untouched,
}

/// What a policy adds to a rule.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The rule's own breaker, kept over configuration changes. With scope Endpoint it is asked only while no
    /// endpoints are known.
    pub(crate) own: Arc<Tracked>,
    /// With scope Endpoint, the endpoints and their breakers.
    pub(crate) endpoints: Option<Arc<Group>>,
    /// What counts as a failure.
    pub(crate) failures: FailureClassifier,
    /// Whether the breaker's refusals are carried out.
    pub(crate) mode: Mode,
    /// Whether an upstream's Retry-After lengthens the open time.
    pub(crate) honors_retry_after: bool,
    /// What refused requests get instead of a problem document.
    pub(crate) fallback: Option<Fallback>,
    /// `namespace/name` of the policy.
    pub(crate) policy: String,
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
    /// While closed again, when traffic comes back little by little.
    pub(crate) recovering: HeaderValue,
    /// While forced open.
    pub(crate) forced: HeaderValue,
}

/// One rule's breakers and what they were made from.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// The rule's own breaker.
    pub(crate) own: Arc<Tracked>,
    /// What all of them were made from; another value makes other breakers.
    pub(crate) parameters: Arc<BreakerParameters>,
    /// The same in checked form.
    pub(crate) settings: Settings,
    /// With scope Endpoint, the endpoints, and the share of them that may be left out at once.
    pub(crate) endpoints: Option<(Arc<Group>, MaxOpenPercent)>,
    /// Whether it acts.
    pub(crate) mode: Mode,
    /// The override in the configuration.
    pub(crate) force: Option<Override>,
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
    /// Makes the breakers that are new.
    pub(crate) maker: Maker<'a>,
}

impl Rule {
    /// For what goes to `address` as it would without this proxy.
    pub(crate) fn untouched(address: SocketAddr, pool: Arc<Pool>, series: Arc<Series>) -> Self {
        let target = address.to_string().into();
        Self {
            matcher: None,
            timeout: None,
            pools: [pool].into(),
            reach: Reach::Untouched,
            target,
            series,
            guard: None,
        }
    }
}

impl Snapshot {
    /// What is in force before there is a configuration.
    pub(crate) fn empty(around: Surroundings<'_>) -> Result<Self, ConfigError> {
        build::assemble(None, around, &mut References::default())
    }

    /// Builds all of `config`, or says which field can't be enforced.
    pub(crate) fn build(
        config: &ProxyConfig,
        revision: &str,
        around: Surroundings<'_>,
        references: &mut References,
    ) -> Result<Self, ConfigError> {
        check::shape(config)?;
        build::assemble(Some((config, revision)), around, references)
    }

    /// Whether there is a breaker of this key, a rule's own or an endpoint's.
    pub(crate) fn has_breaker(&self, key: &BreakerKey) -> bool {
        if key.endpoint.is_empty() {
            return self.breakers.contains_key(key);
        }
        let rule = BreakerKey { endpoint: String::new(), ..key.clone() };
        let installed = self.breakers.get(&rule).and_then(|installed| installed.endpoints.as_ref());
        installed.is_some_and(|(group, _)| group.members().all.iter().any(|member| member.address() == key.endpoint))
    }

    /// What is spoken on listener `index`. Where the Host header chooses, only HTTP can be.
    pub(crate) fn protocol(&self, index: usize) -> Protocol {
        match self.by_listener.get(index) {
            Some(Some(route)) => route.protocol,
            _ => Protocol::Http,
        }
    }

    /// The rule for connections of listener `index` that are not HTTP: the one that takes all.
    pub(crate) fn fixed_rule(&self, index: usize) -> Option<Arc<Rule>> {
        self.by_listener.get(index)?.as_ref()?.rules.last().cloned()
    }

    /// The route of a request with `headers` on listener `index`.
    pub(crate) fn route(&self, index: usize, headers: &HeaderMap) -> Option<&Arc<Route>> {
        match self.by_listener.get(index) {
            Some(Some(route)) => Some(route),
            _ => self.sole.as_ref().or_else(|| self.by_name(headers.get(header::HOST)?.to_str().ok()?)),
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
}
