//! `/admission/inject`: looks up what the compiler wants to know of a pod, and carries its word.
//!
//! A pod that asked gets its sidecar or is refused with the next step; to let it in without one would leave it unprotected, and
//! nobody would know.

use std::sync::Arc;
use std::time::Duration;

use fusebox_api::names::{INJECT_ENABLED, INJECT_LABEL};
use fusebox_compiler::injection::{InjectionFacts, InjectionRequest, inject};
use fusebox_compiler::snapshot::{Namespace, Service};
use fusebox_policy::config::ServiceId;

use super::endpoint::Admission;
use super::review::{AdmissionRequest, Decision, Verdict};
use crate::reconcile::Compiled;
use crate::stores::ObjectName;

/// How long a review waits for a namespace or its label, which the API server may know some milliseconds earlier.
const NAMESPACE_WAIT: Duration = Duration::from_secs(1);

impl Admission {
    pub(super) async fn inject(&self, asked: &AdmissionRequest) -> Verdict {
        let pods = asked.resource.group.is_empty() && asked.resource.resource == "pods";
        if !pods || asked.operation != "CREATE" || asked.sub_resource.as_ref().is_some_and(|it| !it.is_empty()) {
            return Verdict::allow("NotAPod");
        }
        let Some(options) = &self.options else {
            return refused(
                "NotConfigured",
                403,
                "no sidecar is configured: start the operator with --injection-config",
            );
        };
        let Some(compiled) = self.published.borrow().clone() else {
            return refused(
                "NotReady",
                503,
                "the operator is still starting and does not know the cluster yet: try again",
            );
        };
        let Some(namespace) = self.namespace(asked).await else {
            return refused("NamespaceUnknown", 503, "the operator does not know the pod's namespace yet: try again");
        };
        let services = self.services(&asked.namespace, &compiled);
        let facts = InjectionFacts {
            operator: &self.operator,
            namespace: Some(&namespace),
            inbound: services.0.iter().map(AsRef::as_ref).collect(),
            outbound: services.1.iter().map(AsRef::as_ref).collect(),
        };
        let request = InjectionRequest { namespace: &asked.namespace, pod: &asked.object };
        match inject(&request, &facts, options) {
            Ok(injection) => Verdict {
                result: injection.outcome.reason(),
                warnings: injection.warnings,
                decision: Decision::Allow(injection.patch),
            },
            Err(refusal) => refused(refusal.reason(), 403, &refusal.to_string()),
        }
    }

    /// The pod's namespace. Where nothing asks for a sidecar yet the API server, which called, knows better: then it is
    /// waited for a moment.
    async fn namespace(&self, asked: &AdmissionRequest) -> Option<Arc<Namespace>> {
        let name = ObjectName { namespace: String::new(), name: asked.namespace.clone() };
        let decided = asked.object["metadata"]["labels"].get(INJECT_LABEL).is_some();
        let asks =
            |namespace: &Namespace| namespace.labels.get(INJECT_LABEL).is_some_and(|word| word == INJECT_ENABLED);
        let mut inputs = self.inputs.subscribe();
        let deadline = tokio::time::Instant::now() + NAMESPACE_WAIT;
        loop {
            inputs.mark_unchanged();
            let known = self.stores.namespaces.get(&name);
            if known.as_ref().is_some_and(|namespace| decided || asks(namespace)) {
                return known;
            }
            match tokio::time::timeout_at(deadline, inputs.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return known,
            }
        }
    }

    /// Services that have a policy: those of the namespace at the server's side, and those its callers obey.
    fn services(&self, namespace: &str, compiled: &Compiled) -> (Vec<Arc<Service>>, Vec<Arc<Service>>) {
        let service = |id: &ServiceId| {
            self.stores.services.get(&ObjectName { namespace: id.namespace.clone(), name: id.name.clone() })
        };
        let guarded = &compiled.plan.guarded;
        let inbound = guarded.at_servers(namespace).filter_map(service).collect();
        (inbound, guarded.by_callers(namespace).filter_map(service).collect())
    }
}

fn refused(result: &'static str, code: u16, why: &str) -> Verdict {
    Verdict::refuse(result, code, format!("Fusebox can't inject its sidecar: {why}"))
}
