//! What is doubtful about a policy among the objects there are: it may work, or come to work, and may not be what was meant.
//!
//! Nothing here refuses a policy: what it refers to may come after it, and condition Accepted says the same.

use fusebox_api::circuit_breaker::FallbackType;
use fusebox_policy::config::{self, TargetId};

use super::Path;
use crate::compile;
use crate::kind::{Kind, PolicyKey};
use crate::plan::{Doubt, Verdict};
use crate::snapshot::{CircuitBreaker, Protocol, Service, Snapshot};

/// Warnings about one policy. `around` holds it, the Services it targets and the policies that target the same.
#[must_use]
pub fn doubts(key: &PolicyKey, around: &Snapshot) -> Vec<String> {
    let plan = compile(around);
    let mut said = Vec::new();
    for (index, target) in plan.policies.get(key).into_iter().flat_map(|policy| &policy.targets).enumerate() {
        let path = Path::default().field("spec").field("targetRefs").index(index);
        match (&target.verdict, key.kind) {
            (Verdict::Refused(refusal), _) => said.push(format!("{path}: {refusal}")),
            (Verdict::Accepted, Kind::CircuitBreakerPolicy) => {
                let service = around.services.iter().find(|it| is(it, &target.target));
                let blind = around.circuit_breakers.iter().find(|it| it.id == key.id).map(blind_fields);
                let blind = blind.unwrap_or_default();
                said.extend(service.into_iter().flat_map(|service| plain_tcp(service, &target.target.section, &blind)));
            }
            (Verdict::Accepted, Kind::RateLimit) => {
                let about = target.doubts.iter().filter(|doubt| !matches!(doubt, Doubt::NoSuchOpaquePort(_)));
                said.extend(about.map(|doubt| format!("{path}: {doubt}")));
            }
        }
    }
    said
}

/// Fields that say something about requests, which plain TCP does not have.
fn blind_fields(policy: &CircuitBreaker) -> Vec<&'static str> {
    let spec = &policy.spec;
    let mut fields = Vec::new();
    if !spec.rules.is_empty() {
        fields.push("spec.rules");
    }
    if spec.fallback.kind != FallbackType::None {
        fields.push("spec.fallback");
    }
    fields
}

fn plain_tcp(service: &Service, section: &str, fields: &[&str]) -> Vec<String> {
    let meant = |name: &str| section.is_empty() || section == name;
    let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp && meant(&port.name));
    let plain = ports.filter(|port| port.spoken == config::Protocol::Tcp);
    let mut said = Vec::new();
    for port in plain {
        let (namespace, name, port) = (&service.id.namespace, &service.id.name, port.port);
        for field in fields {
            said.push(format!(
                "{field}: has no effect on port {port} of Service {namespace}/{name}, which is passed through as plain TCP (its \
                 appProtocol or annotation fusebox.dev/opaque-ports): only connections count there"
            ));
        }
    }
    said
}

fn is(service: &Service, target: &TargetId) -> bool {
    service.id.namespace == target.namespace && service.id.name == target.name
}
