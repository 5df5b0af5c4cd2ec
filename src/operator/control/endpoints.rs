//! Who stands behind Services now: the ready addresses of their EndpointSlices.
//!
//! The watch of EndpointSlices writes here, and each stream reads the Services that its own workload's
//! configuration names with scope Endpoint, and no others. It must not end up in a ConfigMap, because it
//! changes with every pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fusebox_policy::config::{OutboundRoute, ProxyConfig, ServiceId};
use fusebox_policy::stream::{MAX_ENDPOINTS, ServiceEndpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::RwLock;
use tokio::sync::watch;

/// The label that says which controller made a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The controller whose slices count: it makes them from a Service's selector and its pods. Others may be
/// written by anybody who may write slices.
pub const ENDPOINT_SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Selects the slices that count.
pub const ENDPOINT_SLICE_SELECTOR: &str = "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";

/// The label that names a slice's Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Addresses in one message, at most, so that its line stays far below its bound. Services beyond are left
/// out, and their callers use the Service's own address.
pub const MAX_ADDRESSES: usize = 50_000;

/// What of an EndpointSlice is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: ServiceId,
    /// The TCP ports behind the Service's ports, by the latter's names.
    pub ports: BTreeMap<String, u16>,
    /// The ready addresses, all of one family.
    pub addresses: BTreeSet<IpAddr>,
}

/// The slices by Service; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct EndpointDirectory {
    shared: Arc<Shared>,
}

/// What is told to one workload's sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Each Service port whose endpoints are known and not too many, sorted.
    pub services: Vec<ServiceEndpoints>,
    /// Service ports that are left out because there are too many endpoints.
    pub left_out: usize,
}

#[derive(Debug)]
struct Shared {
    services: RwLock<Option<Services>>,
    version: watch::Sender<u64>,
}

type Services = BTreeMap<ServiceId, BTreeMap<String, Arc<Slice>>>;

impl Slice {
    /// What counts of a slice; None for one that another controller made, or that is of no Service or not of IP addresses.
    #[must_use]
    pub fn from_object(object: &EndpointSlice) -> Option<Self> {
        let labels = object.metadata.labels.as_ref()?;
        let namespace = object.metadata.namespace.clone()?;
        let name = labels.get(SERVICE_LABEL)?.clone();
        if labels.get(MANAGED_BY_LABEL).is_none_or(|by| by != ENDPOINT_SLICE_CONTROLLER) {
            return None;
        }
        let ports = object.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|it| it == "TCP"));
        let ports = ports.filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|number| *number > 0)?;
            Some((port.name.clone().unwrap_or_default(), number))
        });
        let ready = object.endpoints.iter().filter(|endpoint| is_ready(endpoint));
        // All addresses of one entry are the same pod's; the first stands for it.
        let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        Some(Self { service: ServiceId { namespace, name }, ports: ports.collect(), addresses: addresses.collect() })
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    ready && !terminating
}

impl Default for EndpointDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl EndpointDirectory {
    /// A directory that says nothing until the first [`EndpointDirectory::replace`].
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { services: RwLock::new(None), version: watch::Sender::new(0) }) }
    }

    /// Takes a complete list of slices by name.
    pub fn replace(&self, slices: impl IntoIterator<Item = (String, Arc<Slice>)>) {
        let mut services = Services::new();
        for (name, slice) in slices {
            services.entry(slice.service.clone()).or_default().insert(name, slice);
        }
        *self.shared.services.write() = Some(services);
        self.announce();
    }

    /// Takes one slice's change. Before the first [`EndpointDirectory::replace`] it does nothing.
    pub fn change(&self, name: &str, old: Option<&Slice>, new: Option<Arc<Slice>>) {
        if old == new.as_deref() {
            return;
        }
        if let Some(services) = self.shared.services.write().as_mut() {
            if let Some(slices) = old.and_then(|old| services.get_mut(&old.service)) {
                slices.remove(name);
            }
            if let Some(new) = new {
                services.entry(new.service.clone()).or_default().insert(name.to_owned(), new);
            }
            services.retain(|_, slices| !slices.is_empty());
        }
        self.announce();
    }

    /// What a workload with this configuration is told; None before the first list.
    #[must_use]
    pub fn told(&self, config: &ProxyConfig) -> Option<Told> {
        let services = self.shared.services.read();
        let services = services.as_ref()?;
        let mut told = Told::default();
        let mut room = MAX_ADDRESSES;
        for route in config.outbound.iter().filter(|route| has_endpoint_scope(route)) {
            let addresses = addresses(route, services.get(&route.service));
            if addresses.len() > MAX_ENDPOINTS.min(room) {
                told.left_out += 1;
                continue;
            }
            room -= addresses.len();
            let addresses = addresses.iter().map(SocketAddr::to_string).collect();
            told.services.push(ServiceEndpoints { service: route.service.clone(), port: route.port, addresses });
        }
        told.services.sort();
        Some(told)
    }

    /// Tells of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    fn announce(&self) {
        self.shared.version.send_modify(|version| *version += 1);
    }
}

fn has_endpoint_scope(route: &OutboundRoute) -> bool {
    route.circuit_breaker.as_ref().is_some_and(|breaker| breaker.endpoint_scope.is_some())
}

/// The endpoints of a route, of the Service's first address family: with two families each pod stands in two slices.
fn addresses(route: &OutboundRoute, slices: Option<&BTreeMap<String, Arc<Slice>>>) -> BTreeSet<SocketAddr> {
    let six = route.addresses.first().is_some_and(|address| address.starts_with('['));
    let mut found = BTreeSet::new();
    for slice in slices.into_iter().flat_map(BTreeMap::values) {
        let Some(port) = slice.ports.get(&route.port_name) else { continue };
        let family = slice.addresses.iter().filter(|address| address.is_ipv6() == six);
        found.extend(family.map(|address| SocketAddr::new(*address, *port)));
    }
    found
}

#[cfg(test)]
mod tests {
    use fusebox_policy::config::WorkloadId;
    use serde_json::json;

    use super::*;

    fn slice(name: &str, managed_by: &str, addresses: &[&str]) -> EndpointSlice {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {
                SERVICE_LABEL: "payments", MANAGED_BY_LABEL: managed_by,
            }},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }))
        .unwrap()
    }

    fn own(name: &str, addresses: &[&str]) -> Arc<Slice> {
        Arc::new(Slice::from_object(&slice(name, ENDPOINT_SLICE_CONTROLLER, addresses)).unwrap())
    }

    /// A configuration with `payments` at this address, with or without scope Endpoint.
    fn config(address: &str, scope: &serde_json::Value) -> ProxyConfig {
        let breaker = json!({
            "policy": {"namespace": "shop", "name": "payments"}, "side": "Client", "rules": [], "endpointScope": scope,
            "target": {"kind": "Service", "namespace": "shop", "name": "payments"},
        });
        let route = json!({
            "service": {"namespace": "shop", "name": "payments"}, "port": 80, "portName": "http",
            "addresses": [address], "circuitBreaker": breaker,
        });
        let workload = WorkloadId { namespace: "shop".into(), kind: "Pod".into(), name: "web".into() };
        ProxyConfig { outbound: vec![serde_json::from_value(route).unwrap()], ..ProxyConfig::empty(workload) }
    }

    fn asked() -> ProxyConfig {
        config("10.96.0.1:80", &json!({"maxOpenPercent": 50}))
    }

    fn addresses_told(directory: &EndpointDirectory, config: &ProxyConfig) -> Vec<Vec<String>> {
        directory.told(config).unwrap().services.into_iter().map(|service| service.addresses).collect()
    }

    #[test]
    fn a_slice_of_another_controller_counts_for_nothing() {
        assert!(Slice::from_object(&slice("a", "endpointslicemirroring-controller.k8s.io", &["10.1.0.1"])).is_none());
        assert!(Slice::from_object(&slice("a", "", &["10.1.0.1"])).is_none());
        assert!(Slice::from_object(&slice("a", ENDPOINT_SLICE_CONTROLLER, &["10.1.0.1"])).is_some());
    }

    #[test]
    fn only_ready_endpoints_that_do_not_end_count() {
        let mut object = slice("a", ENDPOINT_SLICE_CONTROLLER, &["10.1.0.1", "10.1.0.2", "10.1.0.3", "no address"]);
        object.endpoints[0].conditions = serde_json::from_value(json!({"ready": false})).unwrap();
        object.endpoints[1].conditions = serde_json::from_value(json!({"ready": true, "terminating": true})).unwrap();
        let kept = Slice::from_object(&object).unwrap();
        assert_eq!(kept.addresses, BTreeSet::from(["10.1.0.3".parse().unwrap()]));
        assert_eq!(kept.ports, BTreeMap::from([("http".to_owned(), 8080)]), "UDP is nothing a breaker guards");
    }

    #[test]
    fn nothing_is_said_before_the_first_list() {
        let directory = EndpointDirectory::new();
        directory.change("a", None, Some(own("a", &["10.1.0.1"])));
        assert_eq!(directory.told(&asked()), None);
        directory.replace([]);
        assert_eq!(addresses_told(&directory, &asked()), [Vec::<String>::new()], "it is known that there are none");
    }

    #[test]
    fn a_workload_is_told_of_what_its_configuration_names_and_of_nothing_else() {
        let directory = EndpointDirectory::new();
        directory.replace([("a".to_owned(), own("a", &["10.1.0.2", "10.1.0.1"]))]);
        assert_eq!(addresses_told(&directory, &asked()), [["10.1.0.1:8080", "10.1.0.2:8080"]]);
        let without = config("10.96.0.1:80", &serde_json::Value::Null);
        assert_eq!(directory.told(&without), Some(Told::default()));
    }

    #[test]
    fn slices_of_one_service_add_up_and_go_one_by_one() {
        let directory = EndpointDirectory::new();
        let (one, two) = (own("a", &["10.1.0.1"]), own("b", &["10.1.0.2"]));
        directory.replace([("a".to_owned(), Arc::clone(&one)), ("b".to_owned(), two)]);
        assert_eq!(addresses_told(&directory, &asked())[0].len(), 2);
        directory.change("a", Some(&one), None);
        assert_eq!(addresses_told(&directory, &asked()), [["10.1.0.2:8080"]]);
    }

    #[test]
    fn an_equal_slice_wakes_nobody() {
        let directory = EndpointDirectory::new();
        let slice = own("a", &["10.1.0.1"]);
        directory.replace([("a".to_owned(), Arc::clone(&slice))]);
        let mut changes = directory.subscribe();
        changes.mark_unchanged();
        directory.change("a", Some(&slice), Some(own("a", &["10.1.0.1"])));
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn of_two_address_families_the_services_first_counts() {
        let directory = EndpointDirectory::new();
        let slices = [("four".to_owned(), own("a", &["10.1.0.1"])), ("six".to_owned(), own("b", &["fd00::1"]))];
        directory.replace(slices);
        assert_eq!(addresses_told(&directory, &asked()), [["10.1.0.1:8080"]]);
        let six = config("[fd00::99]:80", &json!({"maxOpenPercent": 50}));
        assert_eq!(addresses_told(&directory, &six), [["[fd00::1]:8080"]]);
    }

    #[test]
    fn a_service_with_too_many_endpoints_is_left_out_whole() {
        let many: Vec<String> = (0..=MAX_ENDPOINTS).map(|it| format!("10.1.{}.{}", it / 250, it % 250 + 1)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let directory = EndpointDirectory::new();
        directory.replace([("a".to_owned(), own("a", &many))]);
        assert_eq!(directory.told(&asked()), Some(Told { services: Vec::new(), left_out: 1 }));
        directory.replace([("a".to_owned(), own("a", &many[1..]))]);
        assert_eq!(addresses_told(&directory, &asked())[0].len(), MAX_ENDPOINTS);
    }
}
