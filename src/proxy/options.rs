//! The command line, parsed into checked values.
//!
//! It must not open files or sockets: what can be wrong about an argument is said by clap, with the
//! argument's name, before anything starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fusebox_policy::config::ServiceId;

use crate::access_log::AccessLogMode;
use crate::listener::limits::Limits;
use crate::parse::{self, ArgumentError};
use crate::probes::Probes;

/// How long requests in flight may take after a termination signal, unless told otherwise.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long endpoints count after the operator is gone, unless told otherwise.
pub const DEFAULT_ENDPOINTS_MAX_AGE: Duration = Duration::from_secs(60);

/// How many client connections are held at once, unless told otherwise.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// Threads that carry traffic, unless told otherwise: a sidecar shares its node, and a pod's limit rarely shows in the number of cores.
const MAX_DEFAULT_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

const DEFAULT_POD_IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const EXAMPLES: &str = "Examples:
  In front of an application on port 8080, its own sidecar:
    fusebox-proxy --inbound 0.0.0.0:15006=127.0.0.1:8080

  For calls to the Service payments in namespace shop, without an operator:
    fusebox-proxy --outbound 127.0.0.1:15001=shop/payments:80 \\
      --upstream shop/payments=127.0.0.1:9000 --config /etc/fusebox/config.yaml

  With an operator:
    fusebox-proxy --outbound 127.0.0.1:15001=shop/payments:80 \\
      --control https://fusebox-operator.fusebox-system.svc:9443 \\
      --control-ca /var/run/fusebox/ca.crt --token-file /var/run/fusebox/token

  In a pod whose traffic `fusebox-proxy redirect` leads here:
    fusebox-proxy --transparent-inbound 0.0.0.0:15006 --transparent-outbound 127.0.0.1:15001 --config /etc/fusebox/config.yaml

  One listener for several Services, chosen by the Host header (payments.shop, ledger.shop.svc.cluster.local:80):
    fusebox-proxy --outbound 127.0.0.1:15001 --upstream shop/payments=127.0.0.1:9000 --upstream shop/ledger=127.0.0.1:9001";

/// What the proxy is told when it starts.
#[derive(Clone, Debug, Parser)]
#[command(name = "fusebox-proxy", version, about = "The sidecar that enforces Fusebox policies on traffic.", after_help = EXAMPLES)]
pub struct Options {
    /// A listener for traffic into the application. The container port, by which policies name it, is the
    /// port of APP unless /PORT says otherwise. 0.0.0.0 stands for IPv6 too, where there is any, and so it does in --outbound
    /// and --admin. Repeatable.
    #[arg(long, value_name = "LISTEN=APP[/PORT]", env = "FUSEBOX_INBOUND", value_delimiter = ',')]
    pub inbound: Vec<InboundSpec>,

    /// A listener for traffic out of the application to one port of a Service. Without a destination the
    /// Host header chooses among the Services that are configured. Repeatable.
    #[arg(long, value_name = "LISTEN[=NAMESPACE/SERVICE:PORT]", env = "FUSEBOX_OUTBOUND", value_delimiter = ',')]
    pub outbound: Vec<OutboundSpec>,

    /// A listener for all traffic into the pod, which nftables leads here (`fusebox-proxy redirect`): ports with a policy
    /// are enforced, the rest is passed on as bytes. 127.0.0.1 and 0.0.0.0 stand for IPv6 too, where there is any. Repeatable.
    #[arg(long, value_name = "ADDR", env = "FUSEBOX_TRANSPARENT_INBOUND", value_delimiter = ',', value_parser = parse::socket_address)]
    pub transparent_inbound: Vec<SocketAddr>,

    /// The same for all traffic out of the pod: a Service with a policy is known by the address that is called.
    #[arg(long, value_name = "ADDR", env = "FUSEBOX_TRANSPARENT_OUTBOUND", value_delimiter = ',', value_parser = parse::socket_address)]
    pub transparent_outbound: Vec<SocketAddr>,

    /// Where a Service is reached, whatever the configuration says. Repeatable: several for one Service are tried in
    /// order, or, where a policy has scope Endpoint, are its endpoints with a breaker each.
    #[arg(long, value_name = "NAMESPACE/SERVICE[:PORT]=ADDR", env = "FUSEBOX_UPSTREAM", value_delimiter = ',')]
    pub upstream: Vec<UpstreamSpec>,

    /// The configuration to start from (the ConfigMap's config.yaml). It may be missing.
    #[arg(long, value_name = "FILE", env = "FUSEBOX_CONFIG")]
    pub config: Option<PathBuf>,

    /// Where /metrics, /health and /probes answer everybody, and /state who calls from the same host or pod.
    #[arg(long, value_name = "ADDR", env = "FUSEBOX_ADMIN", default_value_t = DEFAULT_ADMIN)]
    pub admin: SocketAddr,

    /// The application's own probes, which the admin port does in the kubelet's place: a list of {path, port, kind, ...} as
    /// JSON.
    #[arg(long, value_name = "JSON", env = "FUSEBOX_PROBES", default_value = "[]")]
    pub probes: Probes,

    /// The pod's own address, at which probes reach the application.
    #[arg(long, value_name = "IP", env = "POD_IP", default_value_t = DEFAULT_POD_IP)]
    pub pod_ip: IpAddr,

    /// The operator's control port. Repeatable; tried in turn.
    #[arg(long, value_name = "URL", env = "FUSEBOX_CONTROL", value_delimiter = ',')]
    pub control: Vec<ControlUrl>,

    /// The certificate authority of the operator, as PEM. Read anew for each connection.
    #[arg(long, value_name = "FILE", env = "FUSEBOX_CONTROL_CA")]
    pub control_ca: Option<PathBuf>,

    /// The service-account token for the operator. Read anew for each connection.
    #[arg(long, value_name = "FILE", env = "FUSEBOX_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// How long what the operator said about endpoints counts after it is gone; then Services are reached by their own
    /// addresses.
    #[arg(long, value_name = "DURATION", env = "FUSEBOX_ENDPOINTS_MAX_AGE", default_value = "1m", value_parser = parse::duration)]
    pub endpoints_max_age: Duration,

    /// Where breakers' states are kept, so that they survive a restart: on a volume that outlives the container, such
    /// as an emptyDir. The file may be missing; one that is torn is not used.
    #[arg(long, value_name = "FILE", env = "FUSEBOX_STATE_FILE")]
    pub state_file: Option<PathBuf>,

    /// How long requests in flight may take after a termination signal, such as 30s or 1m30s.
    #[arg(long, value_name = "DURATION", env = "FUSEBOX_DRAIN_TIMEOUT", default_value = "30s", value_parser = parse::duration)]
    pub drain_timeout: Duration,

    /// How many client connections are held at once; more wait in the accept queue.
    #[arg(long, value_name = "COUNT", env = "FUSEBOX_MAX_CONNECTIONS", default_value_t = DEFAULT_MAX_CONNECTIONS)]
    pub max_connections: usize,

    /// Which requests are logged, a line of JSON for each on standard output: off, all, errors, or a share such as
    /// sampled:5 (percent). A request that has no sane x-request-id gets one where this is not off.
    #[arg(long, value_name = "off|all|errors|sampled:PERCENT", env = "FUSEBOX_ACCESS_LOG", default_value = "off")]
    pub access_log: AccessLogMode,

    /// Threads that carry traffic; absent is one for each core this process may use, up to 4.
    #[arg(long, value_name = "COUNT", env = "FUSEBOX_THREADS")]
    pub threads: Option<NonZeroUsize>,

    /// How log lines look; they go to standard error. RUST_LOG sets what is logged.
    #[arg(long, value_enum, env = "FUSEBOX_LOG_FORMAT", default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// For how long a client may hold what it was given. Not for the command line: the defaults hold for every proxy.
    #[arg(skip)]
    pub limits: Limits,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// A listener in front of the pod's own application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundSpec {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The application, as `host:port`.
    pub application: String,
    /// The container port by which policies name it.
    pub port: u16,
}

/// A listener for calls to other Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundSpec {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where all of its traffic goes; without it the Host header says.
    pub destination: Option<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The Service.
    pub service: ServiceId,
    /// Its port.
    pub port: u16,
}

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// The Service.
    pub service: ServiceId,
    /// The port meant; all of them when absent.
    pub port: Option<u16>,
    /// `host:port` to connect to.
    pub address: String,
}

/// One address of the operator's control port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlUrl {
    /// A name or an IP address; the certificate must be made for it.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Options {
    /// How many threads carry traffic.
    #[must_use]
    pub fn thread_count(&self) -> NonZeroUsize {
        let most = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).min(MAX_DEFAULT_THREADS);
        self.threads.unwrap_or_else(most)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inbound: Vec::new(),
            outbound: Vec::new(),
            transparent_inbound: Vec::new(),
            transparent_outbound: Vec::new(),
            upstream: Vec::new(),
            config: None,
            admin: DEFAULT_ADMIN,
            probes: Probes::default(),
            pod_ip: DEFAULT_POD_IP,
            control: Vec::new(),
            control_ca: None,
            token_file: None,
            endpoints_max_age: DEFAULT_ENDPOINTS_MAX_AGE,
            state_file: None,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            access_log: AccessLogMode::Off,
            threads: None,
            log_format: LogFormat::Json,
            limits: Limits::default(),
        }
    }
}

impl FromStr for InboundSpec {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (listen, application) = text
            .split_once('=')
            .ok_or(ArgumentError::Shape("LISTEN=APP[/PORT], such as 0.0.0.0:15006=127.0.0.1:8080"))?;
        let (address, named) = match application.split_once('/') {
            Some((address, port)) => (address, Some(parse::port(port)?)),
            None => (application, None),
        };
        let (application, own) = parse::dialable(address)?;
        Ok(Self { listen: parse::socket_address(listen)?, application, port: named.unwrap_or(own) })
    }
}

impl FromStr for OutboundSpec {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((listen, destination)) = text.split_once('=') else {
            return Ok(Self { listen: parse::socket_address(text)?, destination: None });
        };
        let (service, port) = parse::service(destination)?;
        let port = port.ok_or(ArgumentError::Shape("NAMESPACE/SERVICE:PORT, such as shop/payments:80"))?;
        Ok(Self { listen: parse::socket_address(listen)?, destination: Some(ServicePort { service, port }) })
    }
}

impl FromStr for UpstreamSpec {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (service, address) = text
            .split_once('=')
            .ok_or(ArgumentError::Shape("NAMESPACE/SERVICE[:PORT]=ADDR, such as shop/payments=127.0.0.1:9000"))?;
        let (service, port) = parse::service(service)?;
        let (address, _) = parse::dialable(address)?;
        Ok(Self { service, port, address })
    }
}

impl FromStr for ControlUrl {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text
            .strip_prefix("https://")
            .ok_or(ArgumentError::Shape("https://HOST:PORT; the control stream is always over TLS"))?;
        let (host, port) = parse::host_port(authority.trim_end_matches('/'))?;
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_port_is_the_applications_unless_named() {
        let plain: InboundSpec = "0.0.0.0:15006=127.0.0.1:8080".parse().unwrap();
        assert_eq!(plain.port, 8080);
        let named: InboundSpec = "0.0.0.0:15006=127.0.0.1:45678/8080".parse().unwrap();
        assert_eq!((named.application.as_str(), named.port), ("127.0.0.1:45678", 8080));
        // As injection writes it, for both families.
        let bracketed: InboundSpec = "0.0.0.0:15100=[10.244.0.36]:8080/8080".parse().unwrap();
        assert_eq!((bracketed.application.as_str(), bracketed.port), ("10.244.0.36:8080", 8080));
    }

    #[test]
    fn an_outbound_listener_may_leave_the_destination_to_the_host_header() {
        let open: OutboundSpec = "127.0.0.1:0".parse().unwrap();
        assert_eq!(open.destination, None);
        let fixed: OutboundSpec = "127.0.0.1:0=shop/payments:80".parse().unwrap();
        assert_eq!(fixed.destination.unwrap().port, 80);
    }

    #[test]
    fn arguments_of_the_wrong_shape_are_refused_with_an_example() {
        let refused = [
            "127.0.0.1:0=payments:80".parse::<OutboundSpec>().unwrap_err(),
            "127.0.0.1:0=shop/payments".parse::<OutboundSpec>().unwrap_err(),
            "127.0.0.1:0=shop/Payments:80".parse::<OutboundSpec>().unwrap_err(),
            "nonsense=shop/payments:80".parse::<OutboundSpec>().unwrap_err(),
        ];
        for error in refused {
            assert!(error.to_string().contains("such as"), "{error}");
        }
        assert!("http://operator:1".parse::<ControlUrl>().unwrap_err().to_string().contains("https://"));
    }

    #[test]
    fn an_upstream_may_name_one_port() {
        let all: UpstreamSpec = "shop/payments=127.0.0.1:9000".parse().unwrap();
        assert_eq!(all.port, None);
        let one: UpstreamSpec = "shop/payments:8443=[::1]:9000".parse().unwrap();
        assert_eq!((one.port, one.address.as_str()), (Some(8443), "[::1]:9000"));
    }
}
