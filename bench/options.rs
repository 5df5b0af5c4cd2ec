//! The command line of `make bench`.
//!
//! It must not open files or start anything. What is measured depends on these arguments alone, never on the environment.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::contender::Contender;
use crate::scenario::Protocol;

/// Fewer rounds have no median worth printing, so they are never written into the documentation.
pub(crate) const LEAST_ROUNDS: usize = 3;

const EXAMPLES: &str = "Examples:
  Everything, three rounds; writes docs/benchmarks.md and docs/images/bench.svg:
    make bench

  A first look in under two minutes; only prints:
    make bench ARGS=--quick

  Our proxy beside HAProxy on HTTP/1.1, five rounds, all figures as JSON:
    make bench ARGS='--only fusebox,haproxy,http1 --rounds 5 --json /tmp/bench.json'

  What the access log costs, and 10,000 breakers:
    make bench ARGS='--only access-log,breakers'

  What a limit for each client costs, in ours, in Envoy and in nginx:
    make bench ARGS='--only limit'

  What a limit kept in Redis adds to latencies:
    make bench ARGS='--only shared-limit'";

/// Measures Fusebox's proxy beside Envoy, nginx and HAProxy.
#[derive(Debug, Parser)]
#[command(name = "fusebox-bench", version, about, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Only these proxies and scenarios; where one sort is not named, all of it is meant.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) only: Vec<Only>,

    /// How often each proxy is measured, in turn with the others.
    #[arg(long, default_value_t = LEAST_ROUNDS, value_name = "COUNT", value_parser = rounds)]
    pub(crate) rounds: usize,

    /// One round of short runs. Nothing is written into the documentation.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Where all figures of all rounds go, besides the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Our own proxy's program; unless told otherwise the one built beside this.
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy: Option<PathBuf>,

    /// Where fetched programs are kept.
    #[arg(long, value_name = "FOLDER", default_value = ".cache")]
    pub(crate) cache: PathBuf,

    /// The repository, whose bench/proxies is read and whose docs are written.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) repository: PathBuf,
}

/// What `--only` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Our proxy.
    Fusebox,
    /// Envoy 1.40.
    Envoy,
    /// nginx, from Debian.
    Nginx,
    /// HAProxy, from Debian.
    Haproxy,
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// Unary gRPC over HTTP/2 without TLS.
    Grpc,
    /// Our proxy with its access log on, against off.
    AccessLog,
    /// Our proxy with 10,000 breakers, against one.
    Breakers,
    /// Ours, Envoy and nginx with a limit for each client, against none.
    Limit,
    /// Our proxy with a limit kept in Redis, against none: what it adds to latencies.
    SharedLimit,
}

/// What is to be measured, after `--only`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) contenders: Vec<Contender>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) access_log: bool,
    pub(crate) breakers: bool,
    pub(crate) limit: bool,
    pub(crate) shared_limit: bool,
}

impl Selection {
    /// An empty list selects all.
    pub(crate) fn of(only: &[Only]) -> Self {
        let mut contenders: Vec<_> = only.iter().filter_map(|name| name.contender()).collect();
        let mut protocols: Vec<_> = only.iter().filter_map(|name| name.protocol()).collect();
        // In the order of the tables, and each once, however they were named.
        contenders.sort();
        contenders.dedup();
        protocols.sort();
        protocols.dedup();
        let (access_log, breakers) = (only.contains(&Only::AccessLog), only.contains(&Only::Breakers));
        let limit = only.contains(&Only::Limit);
        let shared_limit = only.contains(&Only::SharedLimit);
        let any_scenario = access_log || breakers || limit || shared_limit || !protocols.is_empty();
        let ours = contenders.is_empty() || contenders.contains(&Contender::Fusebox);
        Self {
            contenders: if contenders.is_empty() { Contender::ALL.to_vec() } else { contenders },
            protocols: if any_scenario { protocols } else { Protocol::ALL.to_vec() },
            access_log: ours && (access_log || !any_scenario),
            breakers: ours && (breakers || !any_scenario),
            limit: limit || !any_scenario,
            shared_limit: ours && (shared_limit || !any_scenario),
        }
    }

    /// Whether nothing is left out.
    pub(crate) fn is_everything(&self) -> bool {
        *self == Self::of(&[])
    }
}

impl Only {
    fn contender(self) -> Option<Contender> {
        match self {
            Self::Fusebox => Some(Contender::Fusebox),
            Self::Envoy => Some(Contender::Envoy),
            Self::Nginx => Some(Contender::Nginx),
            Self::Haproxy => Some(Contender::Haproxy),
            Self::Http1 | Self::Grpc | Self::AccessLog | Self::Breakers | Self::Limit | Self::SharedLimit => None,
        }
    }

    fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Http1 => Some(Protocol::Http1),
            Self::Grpc => Some(Protocol::Grpc),
            _ => None,
        }
    }
}

fn rounds(text: &str) -> Result<usize, String> {
    const MOST: usize = 100;
    match text.parse() {
        Ok(count) if (1..=MOST).contains(&count) => Ok(count),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_named_is_everything() {
        let all = Selection::of(&[]);
        assert_eq!((all.contenders.len(), all.protocols.len()), (4, 2));
        assert!(all.access_log && all.breakers && all.limit && all.shared_limit && all.is_everything());
    }

    #[test]
    fn a_proxy_alone_is_measured_in_all_scenarios_and_a_scenario_with_all_proxies() {
        let nginx = Selection::of(&[Only::Nginx]);
        assert_eq!((nginx.contenders, nginx.protocols.len()), (vec![Contender::Nginx], 2));
        assert!(!nginx.access_log, "it is our proxy's");
        let grpc = Selection::of(&[Only::Grpc]);
        assert_eq!((grpc.contenders.len(), grpc.protocols), (4, vec![Protocol::Grpc]));
        assert!(!grpc.breakers);
        assert!(Selection::of(&[Only::AccessLog]).protocols.is_empty());
        assert_eq!(Selection::of(&[Only::Grpc, Only::Http1, Only::Grpc]).protocols, Protocol::ALL);
    }

    #[test]
    fn no_rounds_are_refused() {
        assert!(Options::try_parse_from(["bench", "--rounds", "0"]).unwrap_err().to_string().contains("from 1 to"));
        assert!(Options::try_parse_from(["bench", "--only", "traefik"]).unwrap_err().to_string().contains("haproxy"));
    }
}
