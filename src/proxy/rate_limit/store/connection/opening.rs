//! How a connection comes to be: TCP, TLS, credentials, and the questions by which a server is verified.
//!
//! It must not let a server be used that would fail clients later: one that is too slow, closed to us or a replica shows here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::super::error::StoreLost;
use super::super::script::Decision;
use super::super::settings::{Credentials, Endpoint, StoreSettings};
use super::replies::error_of;
use super::stream::{Bounded, LastWord};
use super::{ATTEMPT, Arrival, Connection, Refusal};

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Policies under which Redis never drops a key that has not expired.
const KEEPING_POLICY: &str = "noeviction";

/// Whom a connection is for: only a server that keeps buckets is verified for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Duty {
    /// Buckets.
    Keeps,
    /// Buckets; a server that may turn out to be a replica.
    KeepsAsPrimary,
    /// The name of the primary. It is asked without a password: a Sentinel has one of its own, or none.
    Guides,
    /// The same, of one that asks for a password.
    GuidesWithPassword,
}

/// What moves a connection's bytes.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a stream becomes a connection.
struct Handshake<'a> {
    info: RedisConnectionInfo,
    address: &'a str,
    last_word: &'a LastWord,
}

impl Connection {
    /// Connects to a server and verifies that it can be used. The caller bounds the time.
    pub(in super::super) async fn open(
        settings: &StoreSettings,
        endpoint: &Endpoint,
        (duty, wake): (Duty, &Arc<Notify>),
    ) -> Result<Self, StoreLost> {
        let last_word = LastWord::default();
        let opened = Self::connect(settings, endpoint, (duty, wake, &last_word)).await;
        opened.map_err(|error| certificate_problem(settings, endpoint, &last_word).unwrap_or(error))
    }

    async fn connect(
        settings: &StoreSettings,
        endpoint: &Endpoint,
        (duty, wake, last_word): (Duty, &Arc<Notify>, &LastWord),
    ) -> Result<Self, StoreLost> {
        let address = endpoint.to_string();
        let stream = dial(settings, endpoint).await?;
        let how = Handshake { info: handshake_of(settings, duty), address: &address, last_word };
        let (redis, driver) = match &settings.tls {
            None => how.shake(stream).await?,
            Some(config) => {
                let tls = |problem: String| StoreLost::Tls { address: address.clone(), problem };
                let name = endpoint.server_name().map_err(|error| tls(error.to_string()))?;
                let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                let stream = connected.map_err(|error| {
                    last_word.note(&error);
                    tls(error.to_string())
                })?;
                how.shake(stream).await?
            }
        };
        let ended = Arc::clone(wake);
        let driver = tokio::spawn(async move {
            driver.await;
            ended.notify_one();
        });
        let mut connection = Self {
            redis,
            address,
            failures: AtomicU32::new(0),
            wake: Arc::clone(wake),
            warning: String::new(),
            limit: settings.timeout,
            driver: AbortOnDropHandle::new(driver),
        };
        connection.verify(settings, duty).await?;
        Ok(connection)
    }

    async fn verify(&mut self, settings: &StoreSettings, duty: Duty) -> Result<(), StoreLost> {
        if matches!(duty, Duty::Guides | Duty::GuidesWithPassword) {
            // One that asks for a password is there too.
            return match self.ping(ATTEMPT).await {
                Ok(()) | Err(StoreLost::Answered { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        // A server that asks for a password says so only where the question is short.
        self.ping(ATTEMPT).await?;
        self.rehearse(settings).await?;
        if duty == Duty::KeepsAsPrimary && !self.is_primary().await? {
            return Err(StoreLost::NotPrimary { address: self.address.clone() });
        }
        if let Some(policy) = self.eviction_policy().await? {
            self.warning = format!(
                "{} may drop buckets when its memory is full, which gives clients fresh quota: maxmemory-policy is {policy}, \
                 and should be {KEEPING_POLICY}",
                self.address
            );
        }
        Ok(())
    }

    /// Makes a decision over a bucket that nobody uses, twice: the second one must be as fast as decisions have to be. A node of
    /// a cluster may say that the bucket is another's, which only a node that lets us in does.
    async fn rehearse(&self, settings: &StoreSettings) -> Result<(), StoreLost> {
        let demands = [settings.rehearsal()];
        let decision = Decision::new(&demands)?;
        for limit in [ATTEMPT, settings.timeout] {
            match tokio::time::timeout(limit, self.decide(&decision, Arrival::Settled)).await {
                Ok(Ok(_) | Err(Refusal::Moved(_) | Refusal::Ask(_) | Refusal::TryAgain)) => {}
                Ok(Err(Refusal::Lost(error))) => return Err(error),
                Ok(Err(Refusal::NoScript)) => return Err(StoreLost::Malformed { address: self.address.clone() }),
                Err(_) => return Err(StoreLost::Timeout { limit }),
            }
        }
        Ok(())
    }

    /// The policy by which the server drops keys; none where it doesn't, or doesn't say: an ACL for our keys alone needs
    /// neither CONFIG nor INFO.
    async fn eviction_policy(&self) -> Result<Option<String>, StoreLost> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("maxmemory-policy");
        let policy = match self.question::<Vec<String>>(&command).await {
            Ok(pair) => pair.into_iter().nth(1),
            Err(StoreLost::Answered { .. }) => match self.question::<String>(redis::cmd("INFO").arg("memory")).await {
                Ok(text) => text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::to_owned),
                Err(StoreLost::Answered { .. }) => None,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let known = |policy: &String| policy.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        Ok(policy.map(|policy| policy.trim().to_owned()).filter(known).filter(|policy| policy != KEEPING_POLICY))
    }
}

impl Handshake<'_> {
    /// Begins to speak Redis on a stream.
    async fn shake<S>(&self, stream: S) -> Result<(MultiplexedConnection, Driver), StoreLost>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let bounded = Bounded::new(stream, self.last_word.clone());
        // Every wait here and later has its own bound.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (redis, driver) = MultiplexedConnection::new_with_config(&self.info, bounded, config)
            .await
            .map_err(|error| error_of(self.address, &error))?;
        Ok((redis, Box::pin(driver)))
    }
}

fn handshake_of(settings: &StoreSettings, duty: Duty) -> RedisConnectionInfo {
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let Credentials { username, password } = &settings.credentials;
    let with_password = |info: RedisConnectionInfo| match (username, password) {
        (Some(username), Some(password)) => info.set_username(username).set_password(password),
        (None, Some(password)) => info.set_password(password),
        (_, None) => info,
    };
    match duty {
        Duty::Keeps | Duty::KeepsAsPrimary => with_password(info).set_db(i64::from(settings.database)),
        Duty::Guides => info,
        Duty::GuidesWithPassword => with_password(info),
    }
}

async fn dial(settings: &StoreSettings, endpoint: &Endpoint) -> Result<TcpStream, StoreLost> {
    let unreachable = |error: io::Error| {
        let (address, problem) = (endpoint.to_string(), error.to_string());
        StoreLost::Unreachable { address, problem }
    };
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(unreachable)?;
    let addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
    // One name that also leads back is as good as one that does nothing else: the next look-up may say that alone.
    if let Some(ip) = addresses.iter().map(SocketAddr::ip).find(|ip| settings.forbids(*ip)) {
        return Err(StoreLost::Forbidden { address: endpoint.to_string(), ip, field: settings.servers.field() });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

/// What the server thinks of our certificate, or of our having none.
fn certificate_problem(settings: &StoreSettings, endpoint: &Endpoint, last_word: &LastWord) -> Option<StoreLost> {
    use AlertDescription as Alert;
    let (alert, address) = (last_word.get()?, endpoint.to_string());
    let problem = match alert {
        // Before TLS 1.3 this is all that is said where a certificate is missing.
        Alert::CertificateRequired | Alert::HandshakeFailure if !settings.has_certificate() => {
            return Some(StoreLost::CertificateDemanded { address });
        }
        Alert::UnknownCA => "it does not know the authority that signed it",
        Alert::CertificateExpired => "it is not valid at this time",
        Alert::CertificateRevoked => "it was revoked",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::AccessDenied => {
            "it is not one that it takes"
        }
        _ => return None,
    };
    settings.has_certificate().then_some(StoreLost::CertificateRefused { address, problem })
}
