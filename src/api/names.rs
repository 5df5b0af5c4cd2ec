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

/// The annotation on a namespace or pod template that chooses how traffic reaches the sidecar: [`TRANSPARENT`] or [`EXPLICIT`].
/// The injector writes what it chose onto the pod, so that it can be read back.
pub const INTERCEPTION_ANNOTATION: &str = "fusebox.dev/interception";

/// All TCP traffic of the pod is redirected to the sidecar, which needs an init step with NET_ADMIN.
pub const TRANSPARENT: &str = "transparent";

/// Named ports and host aliases lead to the sidecar; nothing is redirected and no privilege is needed.
pub const EXPLICIT: &str = "explicit";

/// The annotation on a pod template that lists, comma separated, the ports of the pod whose traffic does not pass the sidecar.
pub const EXCLUDE_INBOUND_PORTS_ANNOTATION: &str = "fusebox.dev/exclude-inbound-ports";

/// The annotation on a pod template that lists, comma separated, the ports elsewhere to which traffic does not pass the sidecar.
pub const EXCLUDE_OUTBOUND_PORTS_ANNOTATION: &str = "fusebox.dev/exclude-outbound-ports";

/// The annotation on a pod template that says how long the application's containers go on serving after the pod was asked to
/// end, while callers learn that it is gone, such as `5s`; `0s` is not at all.
pub const SHUTDOWN_DELAY_ANNOTATION: &str = "fusebox.dev/shutdown-delay";

/// The annotation that the injector leaves on a pod: the version that injected it.
pub const INJECTED_ANNOTATION: &str = "fusebox.dev/injected";

/// The annotation that the injector leaves on a pod with explicit interception: the application's ports by name, whose names
/// the sidecar has now, such as `http=8080,grpc=9000`.
pub const TAKEN_PORTS_ANNOTATION: &str = "fusebox.dev/taken-ports";

/// The annotation that the injector leaves on a pod with explicit interception: the Service ports for which its host aliases
/// were made, such as `shop/payments:80,shop/ledger:8080`. They are fixed for the pod's life.
pub const OUTBOUND_ANNOTATION: &str = "fusebox.dev/outbound";

/// The sidecar's container.
pub const SIDECAR_CONTAINER: &str = "fusebox-proxy";

/// The init container that redirects traffic to the sidecar.
pub const REDIRECT_CONTAINER: &str = "fusebox-redirect";

/// The user that the sidecar runs as, and whose own traffic is never redirected.
pub const SIDECAR_UID: i64 = 15_000;

/// The ConfigMap that holds, in every namespace with sidecars, the certificates by which sidecars know the operator, under `ca.crt`.
pub const CA_CONFIG_MAP: &str = "fusebox-ca";

/// The group of the live operations that the operator serves by API aggregation.
pub const OPERATIONS_GROUP: &str = "ops.fusebox.dev";
