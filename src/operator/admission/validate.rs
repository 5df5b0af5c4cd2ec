//! `/admission/validate`: the word of `fusebox check` on a policy, and warnings about what it refers to.
//!
//! A policy whose own text can't be enforced is refused. What depends on other objects is only told: they may come later, and
//! condition Accepted says the same. An object on its way out, or whose spec stays, is never held up.

use fusebox_api::common::TargetRef;
use fusebox_api::names::GROUP;
use fusebox_api::{CircuitBreakerPolicy, RateLimit};
use fusebox_compiler::check::{Severity, check_object, doubts};
use fusebox_compiler::snapshot::{Policy, PolicySpec, Service};
use fusebox_compiler::{Kind, Snapshot};
use fusebox_policy::config::ServiceId;
use jiff::Timestamp;
use serde_json::Value;

use super::endpoint::Admission;
use super::review::{AdmissionRequest, Verdict};
use crate::stores::{ObjectName, PolicyObject};

impl Admission {
    pub(super) fn validate(&self, asked: &AdmissionRequest) -> Verdict {
        let kind = Kind::ALL.into_iter().find(|kind| asked.resource.resource == kind.plural());
        let kind = kind.filter(|_| asked.resource.group == GROUP);
        let main = asked.sub_resource.as_ref().is_none_or(String::is_empty);
        let written = matches!(asked.operation.as_str(), "CREATE" | "UPDATE");
        let Some(kind) = kind.filter(|_| main && written && !stays(asked)) else {
            return Verdict::allow("NotChecked");
        };
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        for finding in check_object(&asked.object) {
            let said = format!("{}: {}", finding.field, finding.message);
            let said = if finding.fix.is_empty() { said } else { format!("{said}; {}", finding.fix) };
            match finding.severity {
                // The API server keeps only fields it knows: it has a newer definition than this replica.
                Severity::Error if finding.is_unknown_field() => {
                    warnings.push(format!("{}: this operator does not know the field: upgrade it", finding.field));
                }
                Severity::Error => errors.push(said),
                Severity::Warning => warnings.push(said),
            }
        }
        if !errors.is_empty() {
            return Verdict::refuse("Refused", 422, errors.join("\n"));
        }
        warnings.extend(match kind {
            Kind::CircuitBreakerPolicy => self.doubts::<CircuitBreakerPolicy>(asked),
            Kind::RateLimit => self.doubts::<RateLimit>(asked),
        });
        let result = if warnings.is_empty() { "Allowed" } else { "Warned" };
        Verdict { warnings, ..Verdict::allow(result) }
    }

    /// What is doubtful about the policy among the objects there are; nothing before these are known.
    fn doubts<P: PolicyObject>(&self, asked: &AdmissionRequest) -> Vec<String> {
        if self.published.borrow().is_none() {
            return Vec::new();
        }
        let Ok(mut policy) = serde_json::from_value::<P>(asked.object.clone()) else {
            return Vec::new();
        };
        policy.meta_mut().namespace.get_or_insert_with(|| asked.namespace.clone());
        let policy = Policy::from(&policy);
        let key = P::KIND.key(&policy.id);
        let targets = targets(&policy);
        let rivals = P::table(&self.stores).map(|record| record.policy.clone()).into_iter();
        let rivals = rivals
            .filter(|rival| rival.id != key.id && self::targets(rival).iter().any(|target| targets.contains(target)));
        let mut around = Snapshot::empty(Timestamp::now());
        *P::of_snapshot(&mut around) = rivals.chain([policy]).collect();
        around.services = targets.iter().filter_map(|target| self.service(target)).collect();
        doubts(&key, &around)
    }

    fn service(&self, id: &ServiceId) -> Option<Service> {
        let name = ObjectName { namespace: id.namespace.clone(), name: id.name.clone() };
        self.stores.services.get(&name).map(|service| (*service).clone())
    }
}

/// Whether nothing is written that could be wrong: the object is on its way out, or its spec stays as it is.
fn stays(asked: &AdmissionRequest) -> bool {
    let leaving = asked.object["metadata"].get("deletionTimestamp").is_some_and(|time| !time.is_null());
    let spec = |object: &Value| object.get("spec").cloned();
    leaving || (asked.operation == "UPDATE" && spec(&asked.object) == spec(&asked.old_object))
}

fn targets<S: PolicySpec>(policy: &Policy<S>) -> Vec<ServiceId> {
    let own = &policy.id.namespace;
    let target = |reference: &TargetRef| {
        let namespace = if reference.namespace.is_empty() { own } else { &reference.namespace };
        ServiceId { namespace: namespace.clone(), name: reference.name.clone() }
    };
    policy.spec.target_refs().iter().map(target).collect()
}
