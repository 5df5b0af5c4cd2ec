//! How the store is reached: what a configuration says of it, with the values of its references.
//!
//! It must never show a secret: neither Debug nor an error holds one. A value that can't be used is named by its reference.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::config::{RedisStore, RedisTls, RedisTopology, Reference, leads_back};
use fusebox_policy::rate_limit::{Ask, Exceed, Rate};
use fusebox_policy::report::BrokenReference;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::bucket::{BucketName, SharedDemand};

/// The most servers, Sentinels or nodes that are named to begin with.
const MAX_SEEDS: usize = 16;

/// The longest time that a decision may be given, and the shortest.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// Redis' port where an address names none.
const DEFAULT_PORT: u16 = 6379;

/// All that is needed to connect.
#[derive(Clone)]
pub(crate) struct StoreSettings {
    pub(super) servers: Servers,
    pub(super) database: u32,
    pub(super) credentials: Credentials,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// How long a decision may take.
    pub(super) timeout: Duration,
    key_prefix: String,
    rehearsal: Rate,
    /// The values that `tls` was made of, by which settings are compared.
    certificates: [Option<String>; 3],
    addresses: StoreAddresses,
}

/// Which addresses a store may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StoreAddresses {
    /// Any: who started this proxy by hand may use a Redis of the same machine.
    #[default]
    Any,
    /// None that leads back into the pod or to the node's metadata, whatever name leads there: a policy is written by people
    /// who may not reach what the pod can.
    BeyondThePod,
}

/// Why there are no settings yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// The value of this reference has not come.
    Missing(Reference),
    /// It came, and can't be used.
    Broken(BrokenReference),
    /// The configuration names a server that can't be one.
    Address(String),
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    Single(Endpoint),
    Sentinel { sentinels: Vec<Endpoint>, primary: String },
    Cluster(Vec<Endpoint>),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

impl StoreSettings {
    /// What `store` says, with the values that `value` knows of its references.
    ///
    /// # Errors
    /// [`Unresolved`] with the first value that is missing or can't be used.
    pub(crate) fn resolve(
        store: &RedisStore,
        value: impl Fn(&Reference) -> Option<String>,
    ) -> Result<Self, Unresolved> {
        let RedisStore { topology, database, username, password, tls, key_prefix, timeout_ms } = store;
        let value_of = |reference: &Option<Reference>| {
            let Some(reference) = reference else { return Ok(None) };
            value(reference).map(Some).ok_or_else(|| Unresolved::Missing(reference.clone()))
        };
        // A line end is what an editor or `echo` left; no password has one.
        let word_of = |reference| Ok(value_of(reference)?.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()));
        let credentials = Credentials { username: word_of(username)?, password: word_of(password)? };
        let certificates = match tls {
            None => [None, None, None],
            Some(tls) => [value_of(&tls.authorities)?, value_of(&tls.certificate)?, value_of(&tls.private_key)?],
        };
        let client = tls.as_ref().map(|tls| client_config(tls, &certificates).map(Arc::new)).transpose()?;
        Ok(Self {
            servers: Servers::of(topology)?,
            database: *database,
            credentials,
            tls: client,
            timeout: Duration::from_millis(*timeout_ms).clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT),
            key_prefix: key_prefix.clone(),
            rehearsal: rehearsal_rate()?,
            certificates,
            addresses: StoreAddresses::default(),
        })
    }

    /// The same, with servers at these addresses alone.
    pub(crate) fn at(self, addresses: StoreAddresses) -> Self {
        Self { addresses, ..self }
    }

    /// Whether a server may not be at this address.
    pub(super) fn forbids(&self, ip: IpAddr) -> bool {
        self.addresses == StoreAddresses::BeyondThePod && leads_back(ip)
    }

    /// Whether there is a certificate to show to servers.
    pub(super) fn has_certificate(&self) -> bool {
        let [_, certificate, _] = &self.certificates;
        certificate.is_some()
    }

    /// A demand on a bucket that no client has, by which a server is tried.
    pub(super) fn rehearsal(&self) -> SharedDemand {
        let bucket = BucketName(format!("{}:{{rehearsal}}:rehearsal", self.key_prefix));
        SharedDemand { bucket, ask: Ask { rate: self.rehearsal, cost: 1, exceed: Exceed::Refuse } }
    }
}

impl PartialEq for StoreSettings {
    fn eq(&self, other: &Self) -> bool {
        // Destructured whole, so that a new field is compared too.
        let Self { servers, database, credentials, tls: _, timeout, key_prefix, rehearsal: _, certificates, addresses } =
            self;
        *servers == other.servers
            && *addresses == other.addresses
            && *database == other.database
            && *credentials == other.credentials
            && *timeout == other.timeout
            && *key_prefix == other.key_prefix
            && *certificates == other.certificates
            && self.tls.is_some() == other.tls.is_some()
    }
}

impl fmt::Debug for StoreSettings {
    /// Without credentials and certificates.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("StoreSettings");
        shown.field("servers", &self.servers).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(reference) => {
                let Reference { kind, namespace, name, key } = reference;
                write!(formatter, "{kind:?} {namespace}/{name} has sent no value for {key} yet")
            }
            Self::Broken(BrokenReference { reference, problem }) => {
                let Reference { kind, namespace, name, key } = reference;
                write!(formatter, "{key} of {kind:?} {namespace}/{name} can't be used: {problem}")
            }
            Self::Address(address) => write!(formatter, "{address:?} is no address of a server"),
        }
    }
}

impl Servers {
    /// The policy's field that names them.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Single(_) => "spec.store.redis.address",
            Self::Sentinel { .. } => "spec.store.redis.sentinel",
            Self::Cluster(_) => "spec.store.redis.cluster",
        }
    }

    fn of(topology: &RedisTopology) -> Result<Self, Unresolved> {
        let all = |addresses: &[String]| -> Result<Vec<Endpoint>, Unresolved> {
            addresses.iter().take(MAX_SEEDS).map(|address| configured(address)).collect()
        };
        Ok(match topology {
            RedisTopology::Single { address } => Self::Single(configured(address)?),
            RedisTopology::Sentinel { addresses, primary } => {
                Self::Sentinel { sentinels: all(addresses)?, primary: primary.clone() }
            }
            RedisTopology::Cluster { addresses } => Self::Cluster(all(addresses)?),
        })
    }
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address or without: servers write `::1:6379`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_' | b'%');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(is_name) {
            return None;
        }
        Some(Self { host: host.to_owned(), port: port.parse().ok().filter(|port| *port != 0)? })
    }

    pub(super) fn server_name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(self.host.clone())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(formatter, "[{host}]:{port}") } else { write!(formatter, "{host}:{port}") }
    }
}

impl fmt::Debug for Credentials {
    /// Nothing of them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// So much that all replicas together never use it up.
fn rehearsal_rate() -> Result<Rate, Unresolved> {
    Rate::new(1_000, Duration::from_secs(1), 1_000_000).map_err(|error| Unresolved::Address(error.to_string()))
}

fn configured(address: &str) -> Result<Endpoint, Unresolved> {
    let with_port = if address.contains(':') { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") };
    Endpoint::parse(&with_port).ok_or_else(|| Unresolved::Address(address.to_owned()))
}

/// TLS as the rest of the proxy speaks it, with the authorities and the certificate of the policy.
fn client_config(tls: &RedisTls, values: &[Option<String>; 3]) -> Result<ClientConfig, Unresolved> {
    let [authorities, certificate, private_key] = values;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(tls.authorities.as_ref(), error.to_string()))?
        .with_root_certificates(roots(tls.authorities.as_ref(), authorities.as_deref())?);
    let (Some(certificate), Some(private_key)) = (certificate, private_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates_in(certificate).map_err(|problem| broken(tls.certificate.as_ref(), problem))?;
    // What the library says of a private key is not shown.
    let key = PrivateKeyDer::from_pem_slice(private_key.as_bytes())
        .map_err(|_| broken(tls.private_key.as_ref(), "it is no private key in PEM".to_owned()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|_| broken(tls.private_key.as_ref(), "the private key does not belong to the certificate".to_owned()))
}

fn roots(reference: Option<&Reference>, authorities: Option<&str>) -> Result<RootCertStore, Unresolved> {
    let Some(text) = authorities else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(text).map_err(|problem| broken(reference, problem))? {
        roots.add(certificate).map_err(|error| broken(reference, error.to_string()))?;
    }
    Ok(roots)
}

fn certificates_in(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate in PEM".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

fn broken(reference: Option<&Reference>, problem: String) -> Unresolved {
    match reference {
        Some(reference) => Unresolved::Broken(BrokenReference { reference: reference.clone(), problem }),
        None => Unresolved::Address(problem),
    }
}
