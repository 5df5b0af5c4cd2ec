//! The four proxies: what they are called, how each is started, and from which committed configuration.
//!
//! It must not measure. Everything in which they differ stands here and in `proxies/`, so that fairness can be read.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::programs::Programs;
use crate::scenario::Protocol;

/// One of the proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    Fusebox,
    Envoy,
    Nginx,
    Haproxy,
}

/// A proxy with one thing changed; ours, where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Variant {
    /// As it is compared with the others.
    #[default]
    Plain,
    /// With a line for every request in the access log.
    AccessLog,
    /// With a line for every tenth request.
    SampledAccessLog,
    /// With as many breakers as a configuration may have.
    ManyBreakers,
    /// With a limit for each client in front, which never refuses; of any proxy in [`Contender::LIMITED`].
    RateLimit,
    /// Our proxy on the way into the application.
    Inbound,
    /// [`Variant::Inbound`] with the same limit, kept in a Redis on this machine.
    SharedLimit,
}

/// Where one proxy runs.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// Where Redis listens, for [`Variant::SharedLimit`].
    pub(crate) store: SocketAddr,
    /// Its configuration, its log and whatever else it writes.
    pub(crate) folder: PathBuf,
}

/// The most routes that our proxy's configuration may have.
pub(crate) const MANY_BREAKERS: usize = 10_000;
/// What is added to our configuration for a limit, and what replaces those of others; HTTP/1.1 only.
const FUSEBOX_LIMIT: &str = "fusebox-limit.yaml";
const FUSEBOX_SHARED_LIMIT: &str = "fusebox-limit-shared.yaml";
const FUSEBOX_INBOUND: &str = "fusebox-inbound.yaml";
const ENVOY_LIMIT: &str = "envoy-http1-limit.yaml";
const NGINX_LIMIT: &str = "nginx-http1-limit.conf";
/// The option that turns our proxy's access log on.
pub(crate) const ACCESS_LOG: &str = "--access-log";

impl Contender {
    pub(crate) const ALL: [Self; 4] = [Self::Fusebox, Self::Envoy, Self::Nginx, Self::Haproxy];

    /// Those that are measured with a limit.
    pub(crate) const LIMITED: [Self; 3] = [Self::Fusebox, Self::Envoy, Self::Nginx];

    /// As tables and progress say it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Fusebox => "Fusebox",
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }

    /// Writes its configuration into the site's folder, and says how it is started.
    pub(crate) fn command(
        self,
        protocol: Protocol,
        variant: Variant,
        site: &Site,
        programs: &Programs,
    ) -> Result<Command> {
        let committed = |name: &str| read(&programs.configurations.join(name));
        let mut text = committed(if variant.is_inbound() { FUSEBOX_INBOUND } else { self.template(protocol) })?;
        match (variant, self) {
            (Variant::ManyBreakers, _) => text.push_str(&other_breakers(&committed("fusebox-other-breaker.yaml")?)),
            (Variant::RateLimit, Self::Fusebox) => text.push_str(&committed(FUSEBOX_LIMIT)?),
            (Variant::SharedLimit, Self::Fusebox) => text.push_str(&committed(FUSEBOX_SHARED_LIMIT)?),
            (Variant::RateLimit, Self::Envoy) => text = committed(ENVOY_LIMIT)?,
            (Variant::RateLimit, Self::Nginx) => text = committed(NGINX_LIMIT)?,
            (Variant::RateLimit | Variant::SharedLimit, _) => bail!("there is no {} with such a limit", self.label()),
            (Variant::Plain | Variant::AccessLog | Variant::SampledAccessLog | Variant::Inbound, _) => {}
        }
        let configuration = site.folder.join(self.template(protocol));
        fs::write(&configuration, site.fill(&text))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut command = programs.pinned(self)?;
        self.arguments(variant, &mut command, (&configuration, site));
        if let Some(logged) = variant.logged() {
            command.args([ACCESS_LOG, logged]);
        }
        Ok(command)
    }

    fn template(self, protocol: Protocol) -> &'static str {
        match (self, protocol) {
            (Self::Fusebox, _) => "fusebox.yaml",
            (Self::Envoy, Protocol::Http1) => "envoy-http1.yaml",
            (Self::Envoy, Protocol::Grpc) => "envoy-grpc.yaml",
            (Self::Nginx, Protocol::Http1) => "nginx-http1.conf",
            (Self::Nginx, Protocol::Grpc) => "nginx-grpc.conf",
            (Self::Haproxy, Protocol::Http1) => "haproxy-http1.cfg",
            (Self::Haproxy, Protocol::Grpc) => "haproxy-grpc.cfg",
        }
    }

    fn arguments(self, variant: Variant, command: &mut Command, (configuration, site): (&Path, &Site)) {
        match self {
            Self::Fusebox => {
                if variant.is_inbound() {
                    command.arg("--inbound").arg(format!("{}={}/8080", site.listen, site.upstream));
                } else {
                    command.arg("--outbound").arg(format!("{}=bench/upstream:80", site.listen));
                }
                command.arg("--admin").arg(site.admin.to_string());
                command.arg("--config").arg(configuration);
            }
            Self::Envoy => {
                command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]);
                command.arg(configuration);
            }
            Self::Nginx => {
                command.args(["-e", "stderr", "-p"]).arg(&site.folder).arg("-c").arg(configuration);
            }
            Self::Haproxy => {
                command.args(["-db", "-f"]).arg(configuration);
            }
        }
    }
}

impl Variant {
    /// What it is compared with.
    pub(crate) fn baseline(self) -> Self {
        if self == Self::SharedLimit { Self::Inbound } else { Self::Plain }
    }

    fn is_inbound(self) -> bool {
        matches!(self, Self::Inbound | Self::SharedLimit)
    }

    /// As progress and tables say it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Plain => "as above",
            Self::AccessLog => "access log of every request",
            Self::SampledAccessLog => "access log of every tenth request",
            Self::ManyBreakers => "10,000 breakers",
            Self::RateLimit => "a limit for each client",
            Self::Inbound => "on the way in",
            Self::SharedLimit => "the same limit in Redis",
        }
    }

    /// Which requests are logged.
    pub(crate) fn logged(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::ManyBreakers | Self::RateLimit | Self::Inbound | Self::SharedLimit => None,
            Self::AccessLog => Some("all"),
            Self::SampledAccessLog => Some("sampled:10"),
        }
    }
}

impl Site {
    /// Three free ports of the loopback, and `folder`.
    pub(crate) fn new(upstream: SocketAddr, folder: &Path) -> Result<Self> {
        let bind = || TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no free port");
        let (listen, admin, store) = (bind()?, bind()?, bind()?);
        let (listen, admin, store) = (listen.local_addr()?, admin.local_addr()?, store.local_addr()?);
        Ok(Self { listen, admin, upstream, store, folder: folder.to_owned() })
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("${LISTEN_PORT}", &self.listen.port().to_string())
            .replace("${ADMIN_PORT}", &self.admin.port().to_string())
            .replace("${STORE_PORT}", &self.store.port().to_string())
            .replace("${UPSTREAM_PORT}", &self.upstream.port().to_string())
            .replace("${FOLDER}", &self.folder.to_string_lossy())
    }
}

/// One route each, up to [`MANY_BREAKERS`] with the one that stands in the configuration already.
fn other_breakers(template: &str) -> String {
    (1..MANY_BREAKERS).map(|number| template.replace("${NUMBER}", &format!("{number:05}"))).collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}: run from the repository", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configurations() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies")
    }

    fn site() -> Site {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Site {
            listen: address(1),
            admin: address(2),
            upstream: address(3),
            store: address(4),
            folder: "/run/bench".into(),
        }
    }

    #[test]
    fn every_committed_configuration_has_all_its_places_filled() {
        for protocol in Protocol::ALL {
            for contender in Contender::ALL {
                let text = read(&configurations().join(contender.template(protocol))).unwrap();
                let filled = site().fill(&text);
                let left: Vec<_> = filled.lines().filter(|line| line.contains("${")).collect();
                assert!(left.is_empty(), "{contender:?}: {left:?}");
                assert!(text.contains("${UPSTREAM_PORT}"), "{contender:?}");
            }
        }
    }

    #[test]
    fn every_configuration_with_a_limit_has_the_same_limit_and_all_its_places_filled() {
        for name in [FUSEBOX_LIMIT, FUSEBOX_SHARED_LIMIT, ENVOY_LIMIT, NGINX_LIMIT] {
            let text = read(&configurations().join(name)).unwrap();
            assert!(!site().fill(&text).contains("${"), "{name}");
            assert!(text.contains("1000000"), "{name}");
        }
    }

    #[test]
    fn ten_thousand_breakers_are_ten_thousand_routes() {
        let text = other_breakers(&read(&configurations().join("fusebox-other-breaker.yaml")).unwrap());
        assert_eq!(
            text.lines().filter(|line| line.starts_with("  - service:") || line.starts_with("  - {")).count(),
            9_999
        );
        assert!(text.len() < 8 << 20, "the proxy refuses more: {}", text.len());
    }
}
