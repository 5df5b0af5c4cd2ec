//! What of the cluster decides about one pod's injection.
//!
//! It must be cheap to put together for each pod that is created: everything here is looked up, nothing is compiled.

use fusebox_policy::config::ServiceId;

use crate::plan::Plan;
use crate::snapshot::{Namespace, Operator, Service, Snapshot};

/// What of the cluster decides about one pod's injection.
#[derive(Clone, Debug)]
pub struct InjectionFacts<'a> {
    /// The operator, which knows the namespaces that get no sidecars.
    pub operator: &'a Operator,
    /// The pod's namespace; absent where it is not known yet, which asks for nothing.
    pub namespace: Option<&'a Namespace>,
    /// Services of the pod's namespace that have a policy on side Server.
    pub inbound: Vec<&'a Service>,
    /// Services whose policies on side Client the callers of the pod's namespace obey, in the order of their names.
    pub outbound: Vec<&'a Service>,
}

impl<'a> InjectionFacts<'a> {
    /// The facts about pods of a namespace.
    #[must_use]
    pub fn of(namespace: &str, snapshot: &'a Snapshot, plan: &Plan) -> Self {
        let guarded = &plan.guarded;
        let service = |id: &ServiceId| snapshot.services.iter().find(|service| service.id == *id);
        Self {
            operator: &snapshot.operator,
            namespace: snapshot.namespaces.iter().find(|it| it.name == namespace),
            inbound: guarded.at_servers(namespace).filter_map(service).collect(),
            outbound: guarded.by_callers(namespace).filter_map(service).collect(),
        }
    }
}
