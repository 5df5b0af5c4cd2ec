//! The containers and volumes that injection adds.
//!
//! The sidecar must satisfy Pod Security `restricted` whatever the pod's own security context says; the step that redirects
//! traffic is the only one with a privilege, and lives for milliseconds.

use fusebox_api::names::{CA_CONFIG_MAP, REDIRECT_CONTAINER, SIDECAR_CONTAINER, SIDECAR_UID};
use serde_json::{Value, json};

use super::ports::{ADMIN_PORT, TRANSPARENT_INBOUND_PORT, TRANSPARENT_OUTBOUND_PORT};
use super::wishes::Wishes;
use super::{InjectionOptions, InjectionRefusal, Interception, Subject};
use crate::objects::CONFIG_KEY;
use crate::proxy_config::config_map_name;

/// The volume of the breakers' states.
pub(super) const STATE_VOLUME: &str = "fusebox-state";

const TOKEN_VOLUME: &str = "fusebox-token";
const CA_VOLUME: &str = "fusebox-ca";
const CONFIG_VOLUME: &str = "fusebox-config";

/// The audience of the token by which the operator knows the pod.
const TOKEN_AUDIENCE: &str = "fusebox-control";

/// How long a token is valid; the kubelet renews it in time.
const TOKEN_SECONDS: u32 = 3600;

/// Room for the breakers' states.
const STATE_SIZE: &str = "16Mi";

/// DNS, whose traffic never passes the sidecar.
const DNS_PORT: u16 = 53;

/// The sidecar's program in its image.
const PROGRAM: &str = "/fusebox-proxy";

/// How long the sidecar may take to be ready, in seconds, before it is started again.
const STARTUP_SECONDS: u32 = 60;

/// Refuses a pod that uses a name the sidecar needs.
pub(super) fn check_names(subject: &Subject<'_>) -> Result<(), InjectionRefusal> {
    let volumes = subject.spec.volumes.iter().flatten().map(|volume| ("volume", &volume.name));
    let containers = subject.spec.containers.iter().chain(subject.init_containers());
    let mut names = volumes.chain(containers.map(|container| ("container", &container.name)));
    let ours = [TOKEN_VOLUME, CA_VOLUME, CONFIG_VOLUME, STATE_VOLUME, REDIRECT_CONTAINER];
    let taken = names.find(|(_, name)| ours.contains(&name.as_str()));
    taken.map_or(Ok(()), |(kind, name)| Err(InjectionRefusal::NameTaken { kind, name: name.clone() }))
}

/// The sidecar without what the pod's ports and probes add.
pub(super) fn container(subject: &Subject<'_>, wishes: &Wishes, options: &InjectionOptions) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let mut container = json!({
        "name": SIDECAR_CONTAINER,
        "image": options.image,
        "restartPolicy": "Always",
        "args": arguments(subject, wishes, options),
        "env": [
            {"name": "POD_IP", "valueFrom": field("status.podIP")},
            {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
            {"name": "RUST_LOG", "value": options.log_level},
        ],
        "resources": options.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": SIDECAR_UID,
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Not a startup probe: the kubelet asks those once a second and looks at the answer later still, which would cost
        // each pod two seconds.
        "lifecycle": {"postStart": {"exec": {"command": [
            PROGRAM, "wait", format!("--admin=127.0.0.1:{ADMIN_PORT}"), format!("--timeout={STARTUP_SECONDS}"),
        ]}}},
        "volumeMounts": mounts(subject),
    });
    if let Some(policy) = options.image_pull_policy {
        container["imagePullPolicy"] = json!(policy.word());
    }
    container
}

/// The step that redirects the pod's traffic to the sidecar.
pub(super) fn redirect(wishes: &Wishes, options: &InjectionOptions) -> Value {
    let listed = |ports: &std::collections::BTreeSet<u16>, always: u16| {
        let mut ports = ports.clone();
        ports.insert(always);
        ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
    };
    let mut container = json!({
        "name": REDIRECT_CONTAINER,
        "image": options.image,
        "args": [
            "redirect",
            format!("--proxy-uid={SIDECAR_UID}"),
            format!("--inbound-port={TRANSPARENT_INBOUND_PORT}"),
            format!("--outbound-port={TRANSPARENT_OUTBOUND_PORT}"),
            format!("--exclude-inbound={}", listed(&wishes.exclude_inbound, ADMIN_PORT)),
            format!("--exclude-outbound={}", listed(&wishes.exclude_outbound, DNS_PORT)),
        ],
        "resources": options.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    if let Some(policy) = options.image_pull_policy {
        container["imagePullPolicy"] = json!(policy.word());
    }
    container
}

/// The sidecar's volumes. Their files are readable for everybody: no group is forced on the application, and they are
/// mounted into the sidecar alone.
pub(super) fn volumes(subject: &Subject<'_>) -> Vec<Value> {
    let token = json!({"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"});
    let mut volumes = vec![
        json!({"name": TOKEN_VOLUME, "projected": {"defaultMode": 0o444, "sources": [{"serviceAccountToken": token}]}}),
        json!({"name": CA_VOLUME, "configMap": {
            "name": CA_CONFIG_MAP, "optional": true, "defaultMode": 0o444, "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }}),
        json!({"name": STATE_VOLUME, "emptyDir": {"sizeLimit": STATE_SIZE}}),
    ];
    if has_config_map(subject) {
        let name = config_map_name(&subject.workload);
        let items = json!([{"key": CONFIG_KEY, "path": CONFIG_KEY}]);
        let map = json!({"name": name, "optional": true, "defaultMode": 0o444, "items": items});
        volumes.push(json!({"name": CONFIG_VOLUME, "configMap": map}));
    }
    volumes
}

fn mounts(subject: &Subject<'_>) -> Vec<Value> {
    let read = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let mut mounts = vec![
        read(TOKEN_VOLUME, "/var/run/fusebox/token"),
        read(CA_VOLUME, "/var/run/fusebox/ca"),
        json!({"name": STATE_VOLUME, "mountPath": "/var/lib/fusebox"}),
    ];
    if has_config_map(subject) {
        mounts.push(read(CONFIG_VOLUME, "/etc/fusebox"));
    }
    mounts
}

/// A bare pod whose name is made by the API server has none yet, so its ConfigMap's name is not known: its configuration
/// comes by the stream alone.
fn has_config_map(subject: &Subject<'_>) -> bool {
    !subject.workload.name.is_empty()
}

fn arguments(subject: &Subject<'_>, wishes: &Wishes, options: &InjectionOptions) -> Vec<String> {
    let mut arguments = vec![format!("--admin=0.0.0.0:{ADMIN_PORT}")];
    if wishes.interception == Interception::Transparent {
        arguments.push(format!("--transparent-inbound=0.0.0.0:{TRANSPARENT_INBOUND_PORT}"));
        arguments.push(format!("--transparent-outbound=127.0.0.1:{TRANSPARENT_OUTBOUND_PORT}"));
    }
    arguments.extend(options.control_urls.iter().map(|url| format!("--control={url}")));
    arguments.push("--control-ca=/var/run/fusebox/ca/ca.crt".to_owned());
    arguments.push("--token-file=/var/run/fusebox/token/token".to_owned());
    if has_config_map(subject) {
        arguments.push(format!("--config=/etc/fusebox/{CONFIG_KEY}"));
    }
    arguments.push("--state-file=/var/lib/fusebox/breakers.state".to_owned());
    arguments.push(format!("--drain-timeout={}", options.drain_timeout));
    arguments.push(format!("--access-log={}", options.access_log));
    arguments
}
