//! `fusebox-proxy redirect`: tells the kernel to lead a pod's TCP traffic to the sidecar.
//!
//! It must change one nftables table of its own, `inet fusebox`, and all of it at once: who looks sees the rules
//! from before or the rules from now. It runs once, as an init step that alone may do this, and then ends.

mod netlink;
mod rules;

use std::collections::BTreeSet;
use std::io;

use clap::Args;

pub use self::rules::Table;

/// Ports that may be left out of one direction.
const MAX_EXCLUDED: usize = 256;

/// What the redirect step is told.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Redirect {
    /// The user that the sidecar runs as; its own traffic is never redirected.
    #[arg(long, value_name = "UID", default_value_t = 15000)]
    pub proxy_uid: u32,

    /// Where the sidecar takes traffic in: the port of its --transparent-inbound.
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    pub inbound_port: u16,

    /// Where the sidecar takes traffic out: the port of its --transparent-outbound.
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    pub outbound_port: u16,

    /// The sidecar's admin port, which the kubelet and Prometheus reach directly.
    #[arg(long, value_name = "PORT", default_value_t = 15020)]
    pub admin_port: u16,

    /// Ports of this pod that are reached directly.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',')]
    pub exclude_inbound: Vec<u16>,

    /// Ports elsewhere that are called directly. 53 (DNS over TCP) always is.
    #[arg(long, value_name = "PORT,...", value_delimiter = ',')]
    pub exclude_outbound: Vec<u16>,

    /// Print the rules as `nft -f` reads them, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Why nothing is redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// An argument can't be followed.
    #[error("{argument}: {problem}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// This process may not.
    #[error(
        "not permitted to change nftables: this container needs securityContext {{runAsUser: 0, capabilities: {{add: \
         [NET_ADMIN]}}}}; where that is forbidden, annotate the pod with fusebox.dev/interception: explicit"
    )]
    NotPermitted,
    /// The kernel can't.
    #[error(
        "this node's kernel has no nftables NAT (modules nf_tables, nft_chain_nat, nft_redir): {source}; annotate the pod \
         with fusebox.dev/interception: explicit"
    )]
    Unsupported {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not take a part of it.
    #[error("nftables refused {part}: {source}")]
    Refused {
        /// What it refused.
        part: String,
        /// What it said.
        source: io::Error,
    },
    /// The kernel could not be talked to.
    #[error("no word from the kernel over netlink: {0}")]
    Netlink(#[source] io::Error),
}

impl Redirect {
    /// The rules, as checked values.
    ///
    /// # Errors
    /// [`RedirectError::Argument`] for ports that can't be meant.
    pub fn table(&self) -> Result<Table, RedirectError> {
        let refuse = |argument, problem: &str| RedirectError::Argument { argument, problem: problem.to_owned() };
        for (argument, port) in [
            ("--inbound-port", self.inbound_port),
            ("--outbound-port", self.outbound_port),
            ("--admin-port", self.admin_port),
        ] {
            if port == 0 {
                return Err(refuse(argument, "must be from 1 to 65535"));
            }
        }
        if self.inbound_port == self.outbound_port {
            return Err(refuse("--inbound-port", "is the same as --outbound-port"));
        }
        if self.proxy_uid == 0 {
            return Err(refuse(
                "--proxy-uid",
                "root's traffic can't be told from others': give the sidecar its own user",
            ));
        }
        let inbound = excluded("--exclude-inbound", &self.exclude_inbound)?;
        let outbound = excluded("--exclude-outbound", &self.exclude_outbound)?;
        Ok(Table::new(self, inbound, outbound))
    }

    /// Puts the rules in force, in place of those that an earlier run left.
    ///
    /// # Errors
    /// [`RedirectError`] that says what to do; then everything is as before.
    pub fn install(&self) -> Result<(), RedirectError> {
        netlink::replace(&self.table()?)
    }
}

impl RedirectError {
    /// A stable word for logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Argument { .. } => "BadArgument",
            Self::NotPermitted => "NotPermitted",
            Self::Unsupported { .. } => "Unsupported",
            Self::Refused { .. } => "Refused",
            Self::Netlink(_) => "NoNetlink",
        }
    }
}

fn excluded(argument: &'static str, ports: &[u16]) -> Result<BTreeSet<u16>, RedirectError> {
    let refuse = |problem: String| RedirectError::Argument { argument, problem };
    let ports: BTreeSet<u16> = ports.iter().copied().collect();
    if ports.contains(&0) {
        return Err(refuse("port 0 is none".to_owned()));
    }
    if ports.len() > MAX_EXCLUDED {
        return Err(refuse(format!("{} ports are more than {MAX_EXCLUDED}", ports.len())));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        redirect: Redirect,
    }

    fn line(arguments: &[&str]) -> Redirect {
        Line::try_parse_from(["redirect"].iter().chain(arguments)).unwrap().redirect
    }

    #[test]
    fn the_rules_read_as_nft_writes_them() {
        let redirect = line(&["--exclude-inbound", "22,15020", "--exclude-outbound", "5432,53"]);
        assert_eq!(
            redirect.table().unwrap().to_string(),
            r#"table inet fusebox {
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto != tcp accept
		iifname "lo" accept
		tcp dport 22 accept
		tcp dport 15020 accept
		meta l4proto tcp redirect to :15006
	}

	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp accept
		meta skuid 15000 accept
		oifname "lo" accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		tcp dport 53 accept
		tcp dport 5432 accept
		meta l4proto tcp redirect to :15001
	}
}
"#
        );
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_name() {
        for (arguments, said) in [
            (&["--inbound-port", "0"][..], "--inbound-port: must be"),
            (&["--inbound-port", "15001"], "--inbound-port: is the same as --outbound-port"),
            (&["--proxy-uid", "0"], "--proxy-uid: root"),
            (&["--exclude-inbound", "0"], "--exclude-inbound: port 0"),
        ] {
            let error = line(arguments).table().unwrap_err();
            assert_eq!(error.reason(), "BadArgument");
            assert!(error.to_string().starts_with(said), "{error}");
        }
        let many: Vec<String> = (1..=300).map(|port| port.to_string()).collect();
        let error = line(&["--exclude-outbound", &many.join(",")]).table().unwrap_err().to_string();
        assert!(error.contains("300 ports are more than 256"), "{error}");
        assert!(Line::try_parse_from(["redirect", "--exclude-inbound", "http"]).is_err());
    }
}
