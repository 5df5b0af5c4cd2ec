//! Who stands behind each Service: what the operator said last, and for how long that holds.
//!
//! It must not outlive the truth: when the operator has been away for too long, what it said counts for nothing and
//! calls go by the Service's own address, which the cluster itself keeps up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::ServiceId;
use fusebox_policy::stream::{MAX_ENDPOINTS, ServiceEndpoints};

use crate::options::{ServicePort, UpstreamSpec};
use crate::parse;

/// What is known of a Service's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nobody said who they are.
    #[default]
    Unknown,
    /// The command line said it, for good.
    Fixed,
    /// The operator said it, and is connected or was a moment ago.
    Fresh,
    /// The operator said it, but has been away for too long.
    Stale,
    /// They are more than one proxy keeps breakers for.
    TooMany,
}

/// What was said about endpoints.
#[derive(Debug)]
pub(crate) struct Directory {
    fixed: Vec<UpstreamSpec>,
    told: BTreeMap<ServicePort, Vec<Arc<str>>>,
    max_age: Duration,
    lost_since: Option<Instant>,
    stale: bool,
}

impl Known {
    /// Whether requests may go by it.
    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Self::Fixed | Self::Fresh)
    }

    /// The word for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Fixed => "Fixed",
            Self::Fresh => "Fresh",
            Self::Stale => "Stale",
            Self::TooMany => "TooMany",
        }
    }
}

impl Directory {
    /// Nothing was said yet but what the command line says. What the operator says holds for `max_age` after it is gone.
    pub(crate) fn new(fixed: &[UpstreamSpec], max_age: Duration) -> Self {
        Self { fixed: fixed.to_vec(), told: BTreeMap::new(), max_age, lost_since: None, stale: false }
    }

    /// The operator says who stands behind Services; this replaces all it said before. Addresses that can't be
    /// connected to, and those over the bound, are left out; returns how many.
    pub(crate) fn tell(&mut self, services: Vec<ServiceEndpoints>) -> usize {
        let mut left_out = 0;
        let mut told = BTreeMap::new();
        for ServiceEndpoints { service, port, addresses } in services {
            let count = addresses.len();
            let good = addresses.into_iter().filter(|address| parse::host_port(address).is_ok());
            let sorted: BTreeSet<Arc<str>> = good.map(Arc::from).collect();
            let bounded: Vec<_> = sorted.into_iter().take(MAX_ENDPOINTS).collect();
            left_out += count - bounded.len();
            told.insert(ServicePort { service, port }, bounded);
        }
        self.told = told;
        self.lost_since = None;
        self.stale = false;
        left_out
    }

    /// The stream on which it was said ended at `now`; another one may say it again.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.lost_since.get_or_insert(now);
    }

    /// Takes note of the time; true when what was said has just become too old.
    pub(crate) fn has_become_stale(&mut self, now: Instant) -> bool {
        let age = self.lost_since.map(|since| now.saturating_duration_since(since));
        let stale = !self.told.is_empty() && age.is_some_and(|age| age >= self.max_age);
        std::mem::replace(&mut self.stale, stale) != stale && stale
    }

    /// The endpoints of a Service's port, sorted, and what they are worth.
    pub(crate) fn of(&self, place: &ServicePort) -> (Vec<Arc<str>>, Known) {
        let fixed = fixed(&self.fixed, &place.service, place.port);
        if !fixed.is_empty() {
            let sorted: BTreeSet<Arc<str>> = fixed.into_iter().map(Arc::from).collect();
            return (sorted.into_iter().take(MAX_ENDPOINTS).collect(), Known::Fixed);
        }
        let known = if self.stale { Known::Stale } else { Known::Fresh };
        self.told.get(place).map_or((Vec::new(), Known::Unknown), |addresses| (addresses.clone(), known))
    }
}

/// The addresses that the command line gives for a Service's port, in its order; those for this very port beat those
/// for all.
pub(crate) fn fixed<'a>(upstreams: &'a [UpstreamSpec], service: &ServiceId, port: u16) -> Vec<&'a str> {
    let addresses = |wanted: Option<u16>| -> Vec<&str> {
        let named = upstreams.iter().filter(|upstream| upstream.service == *service && upstream.port == wanted);
        named.map(|upstream| upstream.address.as_str()).collect()
    };
    let exact = addresses(Some(port));
    if exact.is_empty() { addresses(None) } else { exact }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> ServicePort {
        ServicePort { service: ServiceId { namespace: "shop".into(), name: "payments".into() }, port: 80 }
    }

    fn told(addresses: &[&str]) -> Vec<ServiceEndpoints> {
        let ServicePort { service, port } = place();
        vec![ServiceEndpoints { service, port, addresses: addresses.iter().map(|&text| text.to_owned()).collect() }]
    }

    fn addresses(directory: &Directory) -> Vec<String> {
        directory.of(&place()).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_said_is_stale_once_the_operator_has_been_away_for_too_long_and_fresh_when_it_speaks_again() {
        let mut directory = Directory::new(&[], Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!(directory.of(&place()).1, Known::Unknown);
        directory.lost(now);
        assert!(!directory.has_become_stale(now + Duration::from_secs(3600)), "nothing was said that could grow old");
        directory.tell(told(&["10.0.0.1:80"]));
        assert!(!directory.has_become_stale(now + Duration::from_secs(3600)), "a connected operator's word holds");
        directory.lost(now);
        directory.lost(now + Duration::from_secs(59));
        assert!(!directory.has_become_stale(now + Duration::from_secs(59)));
        assert_eq!(directory.of(&place()).1, Known::Fresh);
        assert!(directory.has_become_stale(now + Duration::from_secs(60)));
        assert!(!directory.has_become_stale(now + Duration::from_secs(61)), "it is said once");
        assert_eq!(directory.of(&place()).1, Known::Stale);
        directory.tell(told(&["10.0.0.2:80"]));
        assert_eq!((addresses(&directory), directory.of(&place()).1), (vec!["10.0.0.2:80".into()], Known::Fresh));
    }

    #[test]
    fn addresses_are_sorted_and_unique_and_what_cannot_be_connected_to_is_left_out() {
        let mut directory = Directory::new(&[], Duration::from_secs(60));
        let left_out = directory.tell(told(&["10.0.0.2:80", "10.0.0.1:80", "nowhere", "10.0.0.2:80", "10.0.0.3:0"]));
        assert_eq!((addresses(&directory), left_out), (vec!["10.0.0.1:80".into(), "10.0.0.2:80".into()], 3));
    }

    #[test]
    fn endpoints_over_the_bound_are_left_out() {
        let many: Vec<_> = (0..=MAX_ENDPOINTS).map(|number| format!("10.0.0.1:{}", number + 1)).collect();
        let mut directory = Directory::new(&[], Duration::from_secs(60));
        let left_out = directory.tell(told(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!((addresses(&directory).len(), left_out), (MAX_ENDPOINTS, 1));
    }

    #[test]
    fn the_command_line_beats_the_operator_and_never_grows_old() {
        let specs = ["shop/payments=10.1.0.2:1", "shop/payments=10.1.0.1:1", "shop/payments:81=10.1.0.3:1"];
        let specs: Vec<UpstreamSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let mut directory = Directory::new(&specs, Duration::ZERO);
        directory.tell(told(&["10.0.0.1:80"]));
        directory.lost(Instant::now());
        directory.has_become_stale(Instant::now());
        assert_eq!(addresses(&directory), ["10.1.0.1:1", "10.1.0.2:1"]);
        assert_eq!(directory.of(&place()).1, Known::Fixed);
        let other = ServicePort { port: 81, ..place() };
        assert_eq!(directory.of(&other).0.len(), 1);
    }
}
