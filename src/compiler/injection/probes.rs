//! Probes and hooks of the kubelet, which come from outside the pod as its callers' traffic does.
//!
//! A probe must say what it said before, and must never feed a breaker. With transparent interception the sidecar's admin port
//! makes the original probe; with explicit interception the kubelet still reaches the application, but by number, since the
//! names have moved.

use fusebox_policy::config::{self, MAX_PROBES, ProbeHeader, ProbeKind, ProbeScheme};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::Subject;
use super::draft::{Draft, push};
use super::ports::{ADMIN_PORT, number as port_number};
use super::subject::Application;

/// The variable in which the sidecar finds its probes.
const PROBES_VARIABLE: &str = "FUSEBOX_PROBES";

/// Bytes of all probes together; the kernel gives no program a variable of more than 128 KiB.
const MAX_BYTES: usize = 64 << 10;

/// How long a hook may take, in milliseconds: the kubelet waits for as long as the pod may take to end.
const DEFAULT_HOOK_TIMEOUT_MS: u64 = 30_000;

/// One probe or hook of a container.
struct Asked<'s> {
    /// Where it stands in the container.
    place: Vec<&'static str>,
    /// The last part of its path on the admin port.
    kind: &'static str,
    action: Action<'s>,
    timeout_ms: u64,
}

enum Action<'s> {
    Http(&'s HTTPGetAction),
    Tcp(&'s IntOrString),
    Grpc { port: i32, service: String },
}

/// Has the sidecar make the probes.
pub(super) fn proxy(subject: &Subject<'_>, draft: &mut Draft, sidecar: &mut Value) {
    let mut probes = read(sidecar);
    let known = probes.clone();
    for application in subject.applications() {
        for asked in asked(application.container, subject) {
            let Some(probe) = asked.proxied(&application, draft) else { continue };
            // Another webhook may have written a probe anew that was the sidecar's already.
            probes.retain(|before| before.path != probe.path);
            if probes.len() == MAX_PROBES
                || json!(probes).to_string().len() + json!(probe).to_string().len() > MAX_BYTES
            {
                draft.warn(no_room(application.container, &asked));
                continue;
            }
            let place = asked.place.iter().fold(draft.container(&application), |value, field| &mut value[*field]);
            if let Some(action) = place.as_object_mut() {
                action.remove("tcpSocket");
                action.remove("grpc");
                let get = json!({"path": probe.path, "port": ADMIN_PORT, "scheme": "HTTP"});
                action.insert("httpGet".to_owned(), get);
            }
            probes.push(probe);
        }
    }
    if probes != known {
        write(sidecar, &probes);
    }
}

/// Replaces names of ports by their numbers.
pub(super) fn number(subject: &Subject<'_>, draft: &mut Draft) {
    for application in subject.applications() {
        for asked in asked(application.container, subject) {
            let (port, field) = match &asked.action {
                Action::Http(get) => (&get.port, "httpGet"),
                Action::Tcp(port) => (*port, "tcpSocket"),
                Action::Grpc { .. } => continue,
            };
            let IntOrString::String(name) = port else { continue };
            let Some(port) = resolve(application.container, port) else {
                draft.warn(unknown_port(application.container, &asked, name));
                continue;
            };
            let place = asked.place.iter().fold(draft.container(&application), |value, field| &mut value[*field]);
            place[field]["port"] = json!(port);
        }
    }
}

impl Asked<'_> {
    /// The probe as the sidecar makes it; none where it does not lead into the pod, or is the sidecar's already.
    fn proxied(&self, application: &Application<'_>, draft: &mut Draft) -> Option<config::Probe> {
        let container = application.container;
        let path = format!("/probes/{}/{}", container.name, self.kind);
        let bare = |kind, port| config::Probe {
            path: path.clone(),
            port,
            kind,
            scheme: None,
            target: None,
            headers: Vec::new(),
            service: None,
            timeout_ms: self.timeout_ms,
        };
        let mut resolved = |port: &IntOrString| {
            let found = resolve(container, port);
            if let (None, IntOrString::String(name)) = (found, port) {
                draft.warn(unknown_port(container, self, name));
            }
            found
        };
        match &self.action {
            Action::Http(get) => {
                let ours = get.port == IntOrString::Int(i32::from(ADMIN_PORT)) && get.path.as_ref() == Some(&path);
                if ours || get.host.as_ref().is_some_and(|host| !host.is_empty()) {
                    return None;
                }
                Some(config::Probe {
                    scheme: Some(scheme(get)?),
                    target: Some(get.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned())),
                    headers: headers(get),
                    ..bare(ProbeKind::Http, resolved(&get.port)?)
                })
            }
            Action::Tcp(port) => Some(bare(ProbeKind::Tcp, resolved(port)?)),
            Action::Grpc { port, service } => Some(config::Probe {
                service: Some(service.clone()),
                ..bare(ProbeKind::Grpc, resolved(&IntOrString::Int(*port))?)
            }),
        }
    }
}

/// Every probe and hook of a container that uses the network.
fn asked<'s>(container: &'s Container, subject: &Subject<'_>) -> Vec<Asked<'s>> {
    let probes = [
        ("livenessProbe", "liveness", &container.liveness_probe),
        ("readinessProbe", "readiness", &container.readiness_probe),
        ("startupProbe", "startup", &container.startup_probe),
    ];
    let mut found: Vec<Asked<'s>> = probes
        .into_iter()
        .filter_map(|(field, kind, probe)| {
            let probe = probe.as_ref()?;
            let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1).max(1);
            Some(Asked { place: vec![field], kind, action: action(probe)?, timeout_ms: seconds * 1000 })
        })
        .collect();
    let lifecycle = container.lifecycle.as_ref();
    let hooks = [
        ("postStart", lifecycle.and_then(|it| it.post_start.as_ref())),
        ("preStop", lifecycle.and_then(|it| it.pre_stop.as_ref())),
    ];
    let grace = subject.spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let timeout_ms = grace.map_or(DEFAULT_HOOK_TIMEOUT_MS, |seconds| seconds.saturating_mul(1000).max(1000));
    found.extend(hooks.into_iter().filter_map(|(kind, hook)| {
        let action = Action::Http(hook.and_then(|hook: &LifecycleHandler| hook.http_get.as_ref())?);
        Some(Asked { place: vec!["lifecycle", kind], kind, action, timeout_ms })
    }));
    found
}

/// What a probe does, where it uses the pod's network.
fn action(probe: &Probe) -> Option<Action<'_>> {
    if let Some(get) = &probe.http_get {
        return Some(Action::Http(get));
    }
    if let Some(socket) = &probe.tcp_socket {
        let elsewhere = socket.host.as_ref().is_some_and(|host| !host.is_empty());
        return (!elsewhere).then_some(Action::Tcp(&socket.port));
    }
    let grpc = probe.grpc.as_ref()?;
    Some(Action::Grpc { port: grpc.port, service: grpc.service.clone().unwrap_or_default() })
}

/// A port of a probe; its name is looked up in its own container, as the kubelet does it.
fn resolve(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        // The API server refuses 0, where it still finds it.
        IntOrString::Int(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name)).and_then(port_number)
        }
    }
}

fn unknown_port(container: &Container, asked: &Asked<'_>, name: &str) -> String {
    format!(
        "{} of container {} asks port {name:?}, which the container does not have: it is left as it is, and fails",
        asked.place.join("."),
        container.name
    )
}

fn no_room(container: &Container, asked: &Asked<'_>) -> String {
    format!(
        "{} of container {} is one more than the sidecar makes ({MAX_PROBES} probes, {} KiB of them): the kubelet still asks the \
         application, and policies see it",
        asked.place.join("."),
        container.name,
        MAX_BYTES >> 10
    )
}

/// How a request is carried; nothing for a scheme that the sidecar does not speak. The API server refuses others, unless they
/// were written away before it looked.
fn scheme(get: &HTTPGetAction) -> Option<ProbeScheme> {
    match get.scheme.as_deref() {
        None | Some("HTTP") => Some(ProbeScheme::Http),
        Some("HTTPS") => Some(ProbeScheme::Https),
        Some(_) => None,
    }
}

fn headers(get: &HTTPGetAction) -> Vec<ProbeHeader> {
    let header = |header: &k8s_openapi::api::core::v1::HTTPHeader| ProbeHeader {
        name: header.name.clone(),
        value: header.value.clone(),
    };
    get.http_headers.iter().flatten().map(header).collect()
}

/// The probes that the sidecar makes already.
fn read(sidecar: &Value) -> Vec<config::Probe> {
    let variables = sidecar["env"].as_array().into_iter().flatten();
    let found = variables.filter(|variable| variable["name"] == PROBES_VARIABLE).find_map(|it| it["value"].as_str());
    found.and_then(|text| serde_json::from_str(&text.replace("$$", "$")).ok()).unwrap_or_default()
}

/// Dollar signs are doubled, since the kubelet expands `$(NAME)`.
fn write(sidecar: &mut Value, probes: &[config::Probe]) {
    let text = json!(probes).to_string().replace('$', "$$");
    let variables = sidecar["env"].as_array_mut().into_iter().flatten();
    match variables.into_iter().find(|variable| variable["name"] == PROBES_VARIABLE) {
        Some(variable) => variable["value"] = json!(text),
        None => push(&mut sidecar["env"], json!({"name": PROBES_VARIABLE, "value": text})),
    }
}
