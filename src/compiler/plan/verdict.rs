//! Whether a policy applies to a target, and if not, why: the words that conditions show.
//!
//! Each error says what to do about it. It must not decide: `attachment` gives the verdicts, and a spec's own errors come from the
//! kinds' files.

use std::fmt;

use fusebox_policy::config::{PolicyId, ServiceId, WorkloadId};

/// Whether a policy applies to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Accepted,
    /// It does not.
    Refused(Refusal),
}

/// Why a policy does not apply to a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target does not exist.
    #[error("Service {0} does not exist: create it, or correct targetRefs")]
    TargetNotFound(Name),
    /// The target has no such port.
    #[error(
        "Service {service} has no port named {section:?}: correct sectionName, or name the port; its ports are {ports}"
    )]
    SectionNotFound {
        /// The Service.
        service: Name,
        /// The name looked for.
        section: String,
        /// The names there are.
        ports: String,
    },
    /// The target has no TCP port.
    #[error("Service {0} has no TCP port: declare the ports that callers use in its spec.ports")]
    NoPorts(Name),
    /// The port is not TCP.
    #[error("port {section:?} of Service {service} is not TCP: {guards} guard TCP ports only")]
    UnsupportedProtocol {
        /// The Service.
        service: Name,
        /// The port.
        section: String,
        /// What the policy would put there.
        guards: &'static str,
    },
    /// Side Server on another namespace's Service.
    #[error(
        "side Server is refused for Service {0} of another namespace: use side Client, which guards the callers in namespace {1}"
    )]
    CrossNamespaceServer(Name, String),
    /// Side Client on a headless Service.
    #[error(
        "Service {0} is headless, so its callers connect to pods and not to the Service: use side Server, or a Service with a cluster IP"
    )]
    HeadlessService(Name),
    /// Side Server on a Service without pods of its own.
    #[error("Service {0} selects no pods of its own (it is an ExternalName or has no selector): use side Client")]
    NoSelector(Name),
    /// Scope Endpoint on a Service without pods of its own.
    #[error(
        "Service {0} selects no pods of its own (it is an ExternalName or has no selector), so its endpoints are not known: use scope Service"
    )]
    NoEndpoints(Name),
    /// The reference repeats an earlier one.
    #[error("Service {0} is already named by targetRefs[{1}]: remove one of the two")]
    Duplicate(Name, usize),
    /// Another policy has the target.
    #[error("{what} belongs to the older policy {winner}: remove one of the two, or narrow one by sectionName")]
    Conflicted {
        /// The policy that wins.
        winner: Name,
        /// What both claim.
        what: String,
    },
    /// The spec says what can't be enforced.
    #[error("{field}: {problem}")]
    InvalidSpec {
        /// The field.
        field: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
}

/// What is accepted and hardly meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// What looks into requests, on ports on which there are none.
    #[error(
        "port {0} is passed through as plain TCP, where rules and a fallback have no effect: the policy's own breaker counts connections there"
    )]
    PlainTcp(u16),
    /// Limits on ports on which there are no requests.
    #[error("port {0} is passed through as plain TCP, where there are no requests: limits have no effect there")]
    PlainTcpLimits(u16),
    /// Callers of another namespace, which values never reach.
    #[error(
        "callers in namespace {0} have the limits without quotas, and their tokens count as missing: values of Secrets and ConfigMaps never leave the policy's namespace"
    )]
    ValuesStayHome(String),
    /// A slip in the Service's list of opaque ports.
    #[error("annotation fusebox.dev/opaque-ports lists {0:?}, which is none of the Service's ports")]
    NoSuchOpaquePort(String),
}

/// A namespace and a name, written with a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Whether a target has the word anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// At one place at least.
    Somewhere,
    /// At none.
    Nowhere,
}

/// A place where another policy has the word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overruled {
    /// Why the other one has it.
    pub cause: Cause,
    /// The other policy.
    pub by: PolicyId,
    /// The workload whose sidecars decide.
    pub workload: WorkloadId,
    /// The Service's port on side Client, the container port on side Server.
    pub port: u16,
}

/// Why another policy has the word at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It stands in the callers' own namespace.
    ConsumerPolicy,
    /// It names the port.
    MoreSpecific,
    /// It is older, and targets another Service on the same container port.
    Conflict,
}

impl Refusal {
    /// A stable word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TargetNotFound(_) => "TargetNotFound",
            Self::SectionNotFound { .. } => "SectionNotFound",
            Self::NoPorts(_) => "NoPorts",
            Self::UnsupportedProtocol { .. } => "UnsupportedProtocol",
            Self::CrossNamespaceServer(..) => "CrossNamespaceServer",
            Self::HeadlessService(_) => "HeadlessService",
            Self::NoSelector(_) | Self::NoEndpoints(_) => "NoSelector",
            Self::Duplicate(..) | Self::Conflicted { .. } => "Conflicted",
            Self::InvalidSpec { .. } => "InvalidSpec",
        }
    }

    /// Whether the reference leads nowhere, as `ResolvedRefs` says.
    #[must_use]
    pub const fn is_unresolved(&self) -> bool {
        matches!(self, Self::TargetNotFound(_) | Self::SectionNotFound { .. })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl From<&ServiceId> for Name {
    fn from(id: &ServiceId) -> Self {
        Self { namespace: id.namespace.clone(), name: id.name.clone() }
    }
}

impl From<&PolicyId> for Name {
    fn from(id: &PolicyId) -> Self {
        Self { namespace: id.namespace.clone(), name: id.name.clone() }
    }
}
