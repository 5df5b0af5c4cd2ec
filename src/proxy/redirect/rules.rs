//! The table's rules as values: the one source of what is installed and of what is printed.
//!
//! It must not talk to the kernel. Order matters: what is left alone comes first, the redirection last.

use std::collections::BTreeSet;
use std::fmt;

use super::Redirect;

/// The table's name, in the family `inet`, which is IPv4 and IPv6 both.
pub(super) const TABLE: &str = "fusebox";

/// Where destination NAT stands among the hooks of the kernel.
pub(super) const PRIORITY: i32 = -100;

/// The interface that never leaves the pod.
pub(super) const LOOPBACK: &str = "lo";

/// DNS over TCP: names are resolved whether the sidecar is up or not.
const DNS: u16 = 53;

/// All rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub(super) chains: [Chain; 2],
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where in a packet's way a chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// What comes into the pod.
    Prerouting,
    /// What the pod sends.
    Output,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) when: When,
    pub(super) then: Then,
}

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Anything else than TCP.
    NotTcp,
    /// TCP.
    Tcp,
    /// What came by the loopback interface.
    FromLoopback,
    /// What leaves by the loopback interface, as calls to the pod's own addresses do.
    ToLoopback,
    /// To 127.0.0.0/8.
    Loopback4,
    /// To `::1`.
    Loopback6,
    /// What this user sends.
    User(u32),
    /// To this port.
    Port(u16),
}

/// What becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// They go where they were going.
    Accept,
    /// They go to this port here.
    Redirect(u16),
}

impl Table {
    pub(super) fn new(redirect: &Redirect, mut inbound: BTreeSet<u16>, mut outbound: BTreeSet<u16>) -> Self {
        inbound.insert(redirect.admin_port);
        outbound.insert(DNS);
        let alone = |when| Rule { when, then: Then::Accept };
        let all_to = |port| Rule { when: When::Tcp, then: Then::Redirect(port) };
        let ports = |ports: BTreeSet<u16>| ports.into_iter().map(move |port| alone(When::Port(port)));
        let into_pod = [When::NotTcp, When::FromLoopback].map(alone);
        let own = When::User(redirect.proxy_uid);
        let out_of_pod = [When::NotTcp, own, When::ToLoopback, When::Loopback4, When::Loopback6].map(alone);
        let inbound = into_pod.into_iter().chain(ports(inbound)).chain([all_to(redirect.inbound_port)]);
        let outbound = out_of_pod.into_iter().chain(ports(outbound)).chain([all_to(redirect.outbound_port)]);
        Self {
            chains: [
                Chain { hook: Hook::Prerouting, rules: inbound.collect() },
                Chain { hook: Hook::Output, rules: outbound.collect() },
            ],
        }
    }
}

impl Hook {
    /// The name of its chain.
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::Prerouting => "inbound",
            Self::Output => "outbound",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "table inet {TABLE} {{")?;
        for (index, Chain { hook, rules }) in self.chains.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            writeln!(formatter, "\tchain {} {{", hook.chain())?;
            writeln!(formatter, "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;")?;
            for rule in rules {
                writeln!(formatter, "\t\t{rule}")?;
            }
            writeln!(formatter, "\t}}")?;
        }
        writeln!(formatter, "}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.when, self.then)
    }
}

impl fmt::Display for When {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTcp => formatter.write_str("meta l4proto != tcp"),
            Self::Tcp => formatter.write_str("meta l4proto tcp"),
            Self::FromLoopback => write!(formatter, "iifname \"{LOOPBACK}\""),
            Self::ToLoopback => write!(formatter, "oifname \"{LOOPBACK}\""),
            Self::Loopback4 => formatter.write_str("ip daddr 127.0.0.0/8"),
            Self::Loopback6 => formatter.write_str("ip6 daddr ::1"),
            Self::User(uid) => write!(formatter, "meta skuid {uid}"),
            Self::Port(port) => write!(formatter, "tcp dport {port}"),
        }
    }
}

impl fmt::Display for Then {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => formatter.write_str("accept"),
            Self::Redirect(port) => write!(formatter, "redirect to :{port}"),
        }
    }
}
