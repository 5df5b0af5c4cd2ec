//! `Settings`: what the operator is told at its start, by flags or `FUSEBOX_*` variables.
//!
//! It checks that the values fit together and must not act on them. Everything has a default that
//! works in a cluster, because an operator that needs a page of flags is installed wrongly.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fusebox_compiler::snapshot::Operator;

use crate::certificates::{Schedule, ScheduleError};
use crate::lease::{Timing, TimingError};

const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
const DEFAULT_NAMESPACE: &str = "fusebox-system";
/// The longest name of a namespace.
const MAX_NAMESPACE: usize = 63;
const MAX_DURATION: Duration = Duration::from_secs(3600);
const MAX_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const EXAMPLES: &str = "Examples:
  # In a cluster: the service account and the pod's name are found by themselves
  fusebox-operator --advertise $(POD_IP) --otlp-endpoint http://otel-collector:4317

  # On a workstation, against the cluster of the current kubeconfig
  KUBECONFIG=~/.kube/config fusebox-operator --namespace fusebox-system --advertise 127.0.0.1:9443 --san localhost

  # Every flag can be a variable
  FUSEBOX_LOG_FORMAT=text FUSEBOX_DEBOUNCE=50ms fusebox-operator";

/// The Fusebox operator: turns resilience policies into sidecar configurations, and what the
/// sidecars see into the policies' status. The cluster is that of KUBECONFIG, or the one it runs in.
#[derive(Clone, Debug, Parser)]
#[command(name = "fusebox-operator", version, after_help = EXAMPLES)]
pub struct Settings {
    /// The operator's own namespace: its lease and certificates stand here. Default: the service account's, else fusebox-system.
    #[arg(long, env = "FUSEBOX_NAMESPACE", default_value_t = own_namespace(), hide_default_value = true)]
    pub namespace: String,
    /// The namespaces to serve, separated by commas: policies, pods and sidecars of all others are passed over, and nothing is
    /// written there. It needs the right to read in the whole cluster, and to write in these and its own. Default: all.
    #[arg(long, env = "FUSEBOX_NAMESPACES", value_delimiter = ',', value_parser = parse_namespace)]
    pub namespaces: Vec<String>,
    /// The namespaces whose pods never get a sidecar, separated by commas, besides kube-system and the operator's own: what the
    /// webhooks' selectors leave out. Default: none.
    #[arg(long, env = "FUSEBOX_EXCLUDE_NAMESPACES", value_delimiter = ',', value_parser = parse_namespace)]
    pub exclude_namespaces: Vec<String>,
    /// This replica's name in the lease and in logs, unique among replicas. Default: the host's (pod's) name.
    #[arg(long, env = "FUSEBOX_IDENTITY", default_value_t = host_name(), hide_default_value = true)]
    pub identity: String,
    /// Where sidecars connect (TLS).
    #[arg(long, env = "FUSEBOX_CONTROL_LISTEN", default_value = "0.0.0.0:9443")]
    pub control_listen: SocketAddr,
    /// Where health and metrics are answered (plain HTTP).
    #[arg(long, env = "FUSEBOX_ADMIN_LISTEN", default_value = "0.0.0.0:9080")]
    pub admin_listen: SocketAddr,
    /// Where the API server asks about pods and policies (TLS).
    #[arg(long, env = "FUSEBOX_WEBHOOK_LISTEN", default_value = "0.0.0.0:9444")]
    pub webhook_listen: SocketAddr,
    /// What sidecars are made of, as YAML: image, controlUrls and more. Default: pods that ask for a sidecar are refused.
    #[arg(long, env = "FUSEBOX_INJECTION_CONFIG")]
    pub injection_config: Option<PathBuf>,
    /// Where the API server hands on calls of the operations API (TLS).
    #[arg(long, env = "FUSEBOX_OPS_LISTEN", default_value = "0.0.0.0:9445")]
    pub ops_listen: SocketAddr,
    /// HOST or HOST:PORT at which other replicas reach this one's control port; an IPv6 address without a port needs no
    /// brackets. Default: the control listener's own address, and its port.
    #[arg(long, env = "FUSEBOX_ADVERTISE", value_parser = parse_advertised)]
    pub advertise: Option<Advertised>,
    /// One more DNS name or IP address for the operator's own certificate; may be repeated.
    #[arg(long = "san", env = "FUSEBOX_SAN", value_delimiter = ',')]
    pub sans: Vec<String>,
    /// A directory with tls.crt, tls.key and ca.crt that somebody else keeps, such as cert-manager; it is read anew when it
    /// changes. Then no authority of our own is made, and no webhook's caBundle is written. Default: an own authority.
    #[arg(long, env = "FUSEBOX_TLS_DIR")]
    pub tls_dir: Option<PathBuf>,
    /// The name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration whose caBundles are kept right.
    #[arg(long, env = "FUSEBOX_WEBHOOK_CONFIGURATION", default_value = "fusebox")]
    pub webhook_configuration: String,
    /// How long an own authority is valid; it is replaced after two thirds of that.
    #[arg(long, env = "FUSEBOX_CA_VALIDITY", default_value = "8760h", value_parser = parse_validity)]
    pub ca_validity: Duration,
    /// How long a certificate that the own authority signs is valid; it is replaced after half of that.
    #[arg(long, env = "FUSEBOX_CERTIFICATE_VALIDITY", default_value = "24h", value_parser = parse_validity)]
    pub certificate_validity: Duration,
    /// After how long everybody knows a new own authority once it is published, before which it signs nothing: longer than
    /// kubelets take to bring a changed ConfigMap into running pods.
    #[arg(long, env = "FUSEBOX_CA_PROPAGATION", default_value = "10m", value_parser = parse_validity)]
    pub ca_propagation: Duration,
    /// How long a lease is valid after its last renewal.
    #[arg(long, env = "FUSEBOX_LEASE_DURATION", default_value = "15s", value_parser = parse_duration)]
    pub lease_duration: Duration,
    /// How often the leader renews.
    #[arg(long, env = "FUSEBOX_RENEW_INTERVAL", default_value = "5s", value_parser = parse_duration)]
    pub renew_interval: Duration,
    /// A leader that could not renew for this long stops writing; less than the lease's duration.
    #[arg(long, env = "FUSEBOX_RENEW_DEADLINE", default_value = "10s", value_parser = parse_duration)]
    pub renew_deadline: Duration,
    /// The OTLP (gRPC) endpoint for traces, such as `http://otel-collector:4317`. Default: no traces.
    #[arg(long, env = "FUSEBOX_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// How logs are written. Their level comes from RUST_LOG (default `info`).
    #[arg(long, env = "FUSEBOX_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// A label for generated ServiceMonitors and PrometheusRules, such as `release=prometheus`; may be repeated.
    #[arg(long = "service-monitor-label", env = "FUSEBOX_SERVICE_MONITOR_LABEL", value_delimiter = ',', value_parser = parse_label)]
    pub service_monitor_labels: Vec<(String, String)>,
    /// How long changes are collected before they are compiled; under constant change at most five times this.
    #[arg(long, env = "FUSEBOX_DEBOUNCE", default_value = "20ms", value_parser = parse_duration)]
    pub debounce: Duration,
    /// How often the operator looks whether the Prometheus CRDs and its own are there, at most 60s.
    #[arg(long, env = "FUSEBOX_DISCOVERY_INTERVAL", default_value = "20s", value_parser = parse_duration)]
    pub discovery_interval: Duration,
}

/// Where this replica is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// A name or an address, an IPv6 one in brackets.
    host: String,
    /// Its port; absent is that of the listener.
    port: Option<u16>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why settings don't fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// The lease's times leave no room.
    #[error("--lease-duration, --renew-interval and --renew-deadline don't fit together")]
    Timing(#[from] TimingError),
    /// The authority's times leave no room for its replacement.
    #[error("--ca-validity, --certificate-validity and --ca-propagation don't fit together")]
    Schedule(#[from] ScheduleError),
    /// A flag that must not be empty is.
    #[error("--{flag} must not be empty")]
    Empty {
        /// The flag.
        flag: &'static str,
    },
    /// Discovery is too rare to notice a CRD within a minute.
    #[error("--discovery-interval must be at most 60s")]
    DiscoveryTooRare,
}

impl Settings {
    /// Checks what one flag alone can't show, and gives the election's times.
    ///
    /// # Errors
    /// [`SettingsError`] naming the flags.
    pub fn check(&self) -> Result<Timing, SettingsError> {
        let named = [
            ("namespace", &self.namespace),
            ("identity", &self.identity),
            ("webhook-configuration", &self.webhook_configuration),
        ];
        for (flag, value) in named {
            if value.is_empty() {
                return Err(SettingsError::Empty { flag });
            }
        }
        if self.discovery_interval > Duration::from_secs(60) {
            return Err(SettingsError::DiscoveryTooRare);
        }
        self.schedule()?;
        Ok(Timing::new(self.lease_duration, self.renew_interval, self.renew_deadline)?)
    }

    /// What the compiler must know of this operator.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator {
            namespace: self.namespace.clone(),
            excluded: self.exclude_namespaces.iter().cloned().collect(),
            ..Operator::default()
        }
    }

    /// The own authority's times.
    ///
    /// # Errors
    /// When they leave no room for its replacement.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        Schedule::new(self.ca_validity, self.certificate_validity, self.ca_propagation)
    }
}

impl Advertised {
    /// HOST:PORT, with `port` where it names none.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(port))
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_bounded(text, MAX_DURATION)
}

fn parse_validity(text: &str) -> Result<Duration, String> {
    parse_bounded(text, MAX_VALIDITY)
}

fn parse_bounded(text: &str, longest: Duration) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| "write a duration such as 20ms, 5s or 1m".to_owned())?;
    match Duration::try_from(signed) {
        Ok(duration) if duration > Duration::ZERO && duration <= longest => Ok(duration),
        _ => Err(format!("must be more than 0s and at most {}s", longest.as_secs())),
    }
}

fn parse_advertised(text: &str) -> Result<Advertised, String> {
    // Kubernetes writes a pod's IPv6 address without brackets, and so it can't be told from a port with one behind it.
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(Advertised { host: format!("[{address}]"), port: None });
    }
    let fix = || "write HOST or HOST:PORT, such as 10.0.0.7:9443 or fd00::7".to_owned();
    let authority: http::uri::Authority = text.parse().map_err(|_| fix())?;
    let (host, port) = (authority.host(), authority.port_u16());
    // Whatever stands behind the host must be its port, in digits.
    let whole = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    if host.is_empty() || port == Some(0) || whole != text {
        return Err(fix());
    }
    Ok(Advertised { host: host.to_owned(), port })
}

fn parse_namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let valid = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    if name.is_empty() || name.len() > MAX_NAMESPACE || !name.bytes().all(valid) {
        return Err("write the names of namespaces, such as shop,bank; there is no wildcard".to_owned());
    }
    Ok(name.to_owned())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as release=prometheus".to_owned()),
    }
}

fn own_namespace() -> String {
    first_word(NAMESPACE_FILE).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

fn host_name() -> String {
    first_word(HOSTNAME_FILE).unwrap_or_default()
}

fn first_word(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, clap::Error> {
        Settings::try_parse_from(["fusebox-operator"].iter().chain(arguments))
    }

    #[test]
    fn defaults_fit_together() {
        let settings = parse(&[]).unwrap();
        assert!(settings.check().is_ok());
        assert_eq!((settings.debounce, settings.lease_duration), (Duration::from_millis(20), Duration::from_secs(15)));
    }

    #[test]
    fn a_renew_deadline_beyond_the_lease_is_refused() {
        let error = parse(&["--renew-deadline", "15s"]).unwrap().check().unwrap_err();
        assert!(matches!(error, SettingsError::Timing(TimingError::NoMargin { .. })), "{error}");
    }

    #[test]
    fn discovery_notices_within_a_minute() {
        let error = parse(&["--discovery-interval", "61s"]).unwrap().check().unwrap_err();
        assert_eq!(error, SettingsError::DiscoveryTooRare);
    }

    #[test]
    fn an_authority_without_time_to_be_replaced_is_refused() {
        let error = parse(&["--ca-validity", "48h"]).unwrap().check().unwrap_err();
        assert!(matches!(error, SettingsError::Schedule(ScheduleError::NoTime { .. })), "{error}");
        assert_eq!(parse(&[]).unwrap().schedule(), Ok(Schedule::default()));
    }

    #[test]
    fn durations_out_of_range_are_refused() {
        for bad in ["0s", "-1s", "5", "1y", "2h", ""] {
            assert!(parse(&["--debounce", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_advertised_address_is_a_host_with_or_without_a_port() {
        for (given, address) in [
            ("10.0.0.7:9443", "10.0.0.7:9443"),
            ("10.0.0.7", "10.0.0.7:1"),
            ("[::1]:9443", "[::1]:9443"),
            ("[fd00::7]", "[fd00::7]:1"),
            ("fd00::7", "[fd00::7]:1"),
            ("FD00:0::7", "[fd00::7]:1"),
            ("operator.shop.svc", "operator.shop.svc:1"),
        ] {
            let settings = parse(&["--advertise", given]).unwrap();
            assert_eq!(settings.advertise.unwrap().with_port(1), address, "{given}");
        }
        for bad in ["", ":9443", "host:", "host:0", "host:99999", "user@host:1", "http://host:1", "[::1", "fd00::7::1"]
        {
            assert!(parse(&["--advertise", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_that_are_left_out_are_known_to_the_compiler() {
        let operator = parse(&["--namespace", "own", "--exclude-namespaces", "gpu,legacy"]).unwrap().operator();
        for (namespace, exempt) in
            [("own", true), ("kube-system", true), ("gpu", true), ("legacy", true), ("shop", false)]
        {
            assert_eq!(operator.is_exempt(namespace), exempt, "{namespace}");
        }
        assert!(parse(&["--exclude-namespaces", "*"]).is_err());
    }

    #[test]
    fn namespaces_are_a_list_of_names_without_wildcard() {
        assert_eq!(parse(&["--namespaces", "shop, bank"]).unwrap().namespaces, ["shop", "bank"]);
        assert!(parse(&[]).unwrap().namespaces.is_empty());
        for bad in ["*", "shop,", "Shop", "shop/bank"] {
            assert!(parse(&["--namespaces", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_key_and_value() {
        let settings = parse(&["--service-monitor-label", "release=prometheus,team=a=b"]).unwrap();
        let expected =
            [("release", "prometheus"), ("team", "a=b")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(settings.service_monitor_labels, expected);
        assert!(parse(&["--service-monitor-label", "release"]).is_err());
    }
}
