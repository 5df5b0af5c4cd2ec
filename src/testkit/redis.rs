//! Real Redis servers: one alone, a primary with Sentinels, a cluster.
//!
//! Owns their processes, folders and configurations. It must not know what is kept in them. They are Debian's own programs:
//! what a script, a failover or an ACL does is Redis' to say, and no imitation of it would be believed.

mod cluster;
mod program;
mod sentinels;

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub use self::cluster::RedisCluster;
pub use self::program::server_program;
pub use self::sentinels::{PRIMARY, RedisSentinels};
use crate::certificates::{Authority, Signed};
use crate::faketime::WallClock;
use crate::ports::{Port, machine_address, random};
use crate::process::{Process, ProcessBuilder};

/// How long a server, a replica or a cluster may take to be of use.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a command of [`Redis::command`] may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// What is said once connections are accepted.
const READY: &str = "Ready to accept connections";

/// How a server is to be started.
#[derive(Debug, Default)]
pub struct RedisBuilder {
    settings: Vec<String>,
    tls: Option<Tls>,
    port: Option<Port>,
    environment: Environment,
    outside: Option<IpAddr>,
}

/// A running Redis on a port of loopback. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: Port,
    folder: PathBuf,
    tls: Option<Tls>,
    role: Role,
    environment: Environment,
    outside: Option<IpAddr>,
}

/// What a server proves itself with, and what it asks of clients.
#[derive(Clone, Debug)]
struct Tls {
    authority: String,
    server: Signed,
    clients: Clients,
}

/// Whether clients must prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    /// They may.
    Anybody,
    /// They must.
    Certified,
}

/// Variables of a server's environment.
type Environment = Vec<(&'static str, OsString)>;

/// A Sentinel is the same program with another flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Sentinel,
}

impl RedisBuilder {
    /// Adds a line of `redis.conf`, as in `maxmemory-policy allkeys-lru`.
    #[must_use]
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// TLS alone on its port, with a certificate for 127.0.0.1 and the machine's own address; clients may show one of the same
    /// authority.
    ///
    /// # Errors
    /// When the certificate can't be signed.
    pub fn tls(self, authority: &Authority) -> Result<Self> {
        self.guarded(authority, Clients::Anybody)
    }

    /// The same, and clients must show one of the same authority.
    ///
    /// # Errors
    /// When the certificate can't be signed.
    pub fn mutual_tls(self, authority: &Authority) -> Result<Self> {
        self.guarded(authority, Clients::Certified)
    }

    fn guarded(mut self, authority: &Authority, clients: Clients) -> Result<Self> {
        let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        names.extend(machine_address().ok().map(|address| address.to_string()));
        // redis-cli shows it too.
        let server = authority.server_and_client(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.tls = Some(Tls { authority: authority.certificate(), server, clients });
        Ok(self)
    }

    /// Listens on the machine's own address too: [`Redis::outside`]. There a server without a password refuses everybody.
    ///
    /// # Errors
    /// When the machine has no address but loopback.
    pub fn reachable(mut self) -> Result<Self> {
        let address = machine_address()?;
        self.outside = Some(address);
        Ok(self.setting(format!("bind 127.0.0.1 {address}")))
    }

    /// Runs by a clock that the test sets.
    #[must_use]
    pub fn clock(mut self, clock: &WallClock) -> Self {
        self.environment = clock.environment();
        // Redis' own allocator asks for the time while the clock's library begins, which itself allocates: libc's does not.
        for (name, value) in &mut self.environment {
            if *name == "LD_PRELOAD" {
                value.push(":libc.so.6");
            }
        }
        self
    }

    /// Starts it, and waits until it accepts connections.
    ///
    /// # Errors
    /// When Redis can't be had, or doesn't start in time.
    pub async fn start(self) -> Result<Redis> {
        let port = match self.port {
            Some(port) => port,
            None => Port::reserve()?,
        };
        let settings = common_settings(&port).into_iter().chain(self.settings).collect();
        let Self { tls, environment, outside, .. } = self;
        Redis::in_new_folder(Role::Server, port, Configured { settings, tls, environment, outside }).await
    }

    fn at(port: Port) -> Self {
        Self { port: Some(port), ..Self::default() }
    }
}

/// Settings with the certificates they may need.
#[derive(Default)]
struct Configured {
    settings: Vec<String>,
    tls: Option<Tls>,
    environment: Environment,
    outside: Option<IpAddr>,
}

impl Redis {
    /// One server in plain text, without a password, that keeps nothing on disk.
    ///
    /// # Errors
    /// When Redis can't be had, or doesn't start in time.
    pub async fn start() -> Result<Self> {
        RedisBuilder::default().start().await
    }

    /// A server with settings of its own.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where it listens on the machine's own address.
    ///
    /// # Errors
    /// When it was not started so.
    pub fn outside(&self) -> Result<SocketAddr> {
        let address = self.outside.context("this Redis listens on loopback alone")?;
        Ok(SocketAddr::new(address, self.port.number()))
    }

    /// Runs a command, as in `["get", "key"]`, with redis-cli, and returns what it answered.
    ///
    /// # Errors
    /// When it doesn't answer, or answers with an error.
    pub async fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.cli()?;
        command.args(arguments);
        run(command).await
    }

    /// Ends it at once, as a crash would; what it held in memory is gone. Its port stays reserved.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its port after [`Self::kill`].
    ///
    /// # Errors
    /// When it doesn't start in time.
    pub async fn restart(&mut self) -> Result<()> {
        let mut process = program::start(&self.folder, self.role, &self.environment)?;
        process.wait_for_line(if self.role == Role::Server { READY } else { "Sentinel ID is" }, START_DEADLINE).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Freezes it: connections are accepted by the kernel, and nothing is answered.
    ///
    /// # Errors
    /// When it doesn't run.
    pub async fn pause(&self) -> Result<()> {
        self.process.as_ref().context("this Redis was killed")?.pause().await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("this Redis was killed")?.resume()
    }

    async fn in_new_folder(role: Role, port: Port, configured: Configured) -> Result<Self> {
        let folder =
            crate::lifeline::scratch()?.join(format!("redis-{}-{:08x}", port.number(), random() & 0xffff_ffff));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let Configured { mut settings, tls, environment, outside } = configured;
        settings.push(format!("dir {}", folder.display()));
        if let Some(tls) = &tls {
            settings.extend(write_tls(&folder, tls, &port)?);
        }
        fs::write(folder.join(program::CONFIGURATION), settings.join("\n") + "\n")
            .context("cannot write redis.conf")?;
        let mut redis = Self { process: None, port, folder, tls, role, environment, outside };
        redis.restart().await?;
        Ok(redis)
    }

    fn cli(&self) -> Result<Command> {
        let mut command = program::cli()?;
        command.args(["-h", "127.0.0.1", "-p", &self.port.number().to_string(), "--no-auth-warning", "-e"]);
        if self.tls.is_some() {
            command.arg("--tls");
            for (flag, file) in [("--cacert", "authority.crt"), ("--cert", "server.crt"), ("--key", "server.key")] {
                command.arg(flag).arg(self.folder.join(file));
            }
        }
        Ok(command)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process = None;
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// On loopback alone, in memory alone; a replica is served at once.
fn common_settings(port: &Port) -> Vec<String> {
    let plain = format!("port {}", port.number());
    [&plain, "bind 127.0.0.1", "save \"\"", "appendonly no", "repl-diskless-sync-delay 0"].map(str::to_owned).to_vec()
}

/// Settings later in the file win: the plain port is closed.
fn write_tls(folder: &Path, tls: &Tls, port: &Port) -> Result<Vec<String>> {
    let files = [
        ("authority.crt", "tls-ca-cert-file", &tls.authority),
        ("server.crt", "tls-cert-file", &tls.server.certificate),
        ("server.key", "tls-key-file", &tls.server.key),
    ];
    let clients = if tls.clients == Clients::Certified { "yes" } else { "optional" };
    let mut settings =
        vec!["port 0".to_owned(), format!("tls-port {}", port.number()), format!("tls-auth-clients {clients}")];
    for (name, setting, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        settings.push(format!("{setting} {}", path.display()));
    }
    Ok(settings)
}

async fn run(command: Command) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    let asked = tokio::time::timeout(ANSWER_DEADLINE, command.kill_on_drop(true).output()).await;
    let output = asked.with_context(|| format!("redis-cli had no answer within {ANSWER_DEADLINE:?}"))??;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let complained = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "redis-cli failed: {said} {complained}");
    Ok(said)
}

#[cfg(test)]
mod tests;
