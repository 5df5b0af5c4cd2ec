//! The words that stand in conditions as `reason`: stable, one meaning each.
//!
//! They are an interface (alerts, scripts and GitOps tools compare them), so none may be
//! renamed or built from text.

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// All targets are accepted.
    Accepted,
    /// All references lead to something.
    ResolvedRefs,
    /// Every Ready pod acknowledged this generation.
    Programmed,
    /// As Programmed, and the policy is disabled.
    Disabled,
    /// No Ready pod is on the enforcing side.
    NoProxies,
    /// Pods are on the enforcing side, and none has a sidecar.
    NoSidecars,
    /// Acknowledgements are missing.
    Pending,
    /// A proxy refused the configuration.
    RefusedByProxy,
    /// No target is accepted.
    NotAccepted,
    /// Other policies have every place.
    Overruled,
    /// Accepted, resolved and programmed.
    Ready,
    /// No breaker is open or half-open.
    NotTripped,
    /// No pod reports.
    NoReports,
    /// An override forces the breakers open.
    ForcedOpen,
    /// An override forces the breakers closed.
    ForcedClosed,
    /// There is no override.
    NoOverride,
    /// The override's time has passed.
    Expired,
    /// The override would last too long.
    UntilTooFar,
    /// The monitoring objects were applied.
    Monitored,
    /// The Prometheus operator's resources are not installed.
    CrdMissing,
    /// The monitoring objects could not be applied.
    ApplyFailed,
    /// Every pod that asks for a sidecar has one that works.
    Covered,
    /// A Secret or ConfigMap, or its key, is not there.
    RefNotFound,
    /// The operator may not read a Secret or ConfigMap.
    RefNotPermitted,
    /// A value of a Secret or ConfigMap can't be used.
    InvalidContent,
    /// Clients are refused for a time.
    ClientsBlocked,
    /// No client is refused for a time; what was refused in the last minute is not known.
    NoneBlocked,
    /// Requests were refused in the last minute, and no client is refused for a time.
    RequestsLimited,
    /// No request was refused in the last minute, and no client is refused for a time.
    NoneLimited,
    /// Every pod reaches the store.
    StoreReachable,
    /// Pods don't reach the store.
    StoreLost,
}

impl Reason {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Disabled => "Disabled",
            Self::NoProxies => "NoProxies",
            Self::NoSidecars => "NoSidecars",
            Self::Pending => "Pending",
            Self::RefusedByProxy => "RefusedByProxy",
            Self::NotAccepted => "NotAccepted",
            Self::Overruled => "Overruled",
            Self::Ready => "Ready",
            Self::NotTripped => "NotTripped",
            Self::NoReports => "NoReports",
            Self::ForcedOpen => "ForcedOpen",
            Self::ForcedClosed => "ForcedClosed",
            Self::NoOverride => "NoOverride",
            Self::Expired => "Expired",
            Self::UntilTooFar => "UntilTooFar",
            Self::Monitored => "Monitored",
            Self::CrdMissing => "CrdMissing",
            Self::ApplyFailed => "ApplyFailed",
            Self::Covered => "Covered",
            Self::RefNotFound => "RefNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidContent => "InvalidContent",
            Self::ClientsBlocked => "ClientsBlocked",
            Self::NoneBlocked => "NoneBlocked",
            Self::RequestsLimited => "RequestsLimited",
            Self::NoneLimited => "NoneLimited",
            Self::StoreReachable => "StoreReachable",
            Self::StoreLost => "StoreLost",
        }
    }
}
