//! The words that Fusebox shares with the API server: group, labels, annotations.
//!
//! They stand in one place because operator, command, injector and documentation must spell
//! them alike; nothing else belongs here.

/// The API group of every Fusebox resource.
pub const GROUP: &str = "fusebox.dev";

/// The version this build serves.
pub const VERSION: &str = "v1alpha1";

/// The field manager of everything that Fusebox applies.
pub const FIELD_MANAGER: &str = "fusebox";

/// The label on a namespace or pod template that asks for sidecars.
pub const INJECT_LABEL: &str = "fusebox.dev/inject";

/// The value of [`INJECT_LABEL`] that asks for a sidecar.
pub const INJECT_ENABLED: &str = "enabled";

/// The label on a pod that has a sidecar.
pub const SIDECAR_LABEL: &str = "fusebox.dev/sidecar";

/// The value of [`SIDECAR_LABEL`] on a pod that has a sidecar.
pub const SIDECAR_INJECTED: &str = "injected";

/// The annotation on a namespace that lists, comma separated, the namespaces whose policies its
/// own callers obey. There is no wildcard.
pub const CONSENT_ANNOTATION: &str = "fusebox.dev/accept-policies-from";

/// The annotation on a Service that lists, comma separated, the numbers of those of its ports that are passed through as
/// plain TCP, whatever their `appProtocol` says and whatever is spoken there.
pub const OPAQUE_PORTS_ANNOTATION: &str = "fusebox.dev/opaque-ports";
