//! How a connection comes to be: TCP, TLS, credentials, and the questions by which a server is verified.
//!
//! It must not let a server be used that would fail clients later: one that is too slow, closed to us or a replica shows here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::super::error::StoreLost;
use super::super::script::Decision;
use super::super::settings::{Credentials, Endpoint, StoreSettings};
use super::replies::error_of;
use super::stream::Bounded;
use super::{ATTEMPT, Arrival, Connection, Refusal};

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

impl Connection {
    /// Connects to a server and verifies that it can be used. The caller bounds the time.
    pub(in super::super) async fn open(
        settings: &StoreSettings,
        endpoint: &Endpoint,
        (duty, wake): (Duty, &Arc<Notify>),
    ) -> Result<Self, StoreLost> {
        let address = endpoint.to_string();
        let stream = dial(endpoint)
            .await
            .map_err(|error| StoreLost::Unreachable { address: address.clone(), problem: error.to_string() })?;
        let info = handshake_of(settings, duty);
        let (redis, driver) = match &settings.tls {
            None => handshake(&info, stream, &address).await?,
            Some(config) => {
                let tls = |problem: String| StoreLost::Tls { address: address.clone(), problem };
                let name = endpoint.server_name().map_err(|error| tls(error.to_string()))?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await.map_err(|error| tls(error.to_string()))?;
                handshake(&info, stream, &address).await?
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
            return Ok(());
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
                Ok(Ok(_) | Err(Refusal::Moved(_) | Refusal::Ask(_))) => {}
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

async fn dial(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn handshake<S>(
    info: &RedisConnectionInfo,
    stream: S,
    address: &str,
) -> Result<(MultiplexedConnection, Pin<Box<dyn Future<Output = ()> + Send>>), StoreLost>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let bounded = Bounded::new(stream);
    // Every wait here and later has its own bound.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let (redis, driver) = MultiplexedConnection::new_with_config(info, bounded, config)
        .await
        .map_err(|error| error_of(address, &error))?;
    Ok((redis, Box::pin(driver)))
}
