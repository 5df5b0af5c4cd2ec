//! The values of Secrets and ConfigMaps that a RateLimit names, each as a `Reference`.
//!
//! They are only ever named here, and always in the policy's own namespace: what stands in them is never read, since it must
//! not be in a configuration.

use std::collections::BTreeMap;

use fusebox_api::RateLimitSpec;
use fusebox_api::rate_limit as api;
use fusebox_policy::config::{Reference, ReferenceKind};

use crate::common_config::invalid;
use crate::plan::Refusal;
use crate::snapshot::{RateLimit, ReferenceState};

/// The keys of a Secret with credentials.
pub(super) const USERNAME: &str = "username";
pub(super) const PASSWORD: &str = "password";

/// The keys of a Secret with a certificate, as type `kubernetes.io/tls` has them.
pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const PRIVATE_KEY: &str = "tls.key";

/// Whether the store can do without a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// Every value that a policy names, with what is known of it. A username that is not there is none that is missing.
pub(crate) fn references(
    source: &RateLimit,
    known: &BTreeMap<Reference, ReferenceState>,
) -> BTreeMap<Reference, ReferenceState> {
    let state = |reference: &Reference| known.get(reference).cloned().unwrap_or_default();
    let named = named(source).into_iter().map(|(reference, need)| {
        let found = match (state(&reference), need) {
            (ReferenceState::KeyMissing, Need::Optional) => ReferenceState::Present { revision: String::new() },
            (found, _) => found,
        };
        (reference, found)
    });
    named.collect()
}

/// Whether limits depend on values that sidecars of other namespaces are never sent.
pub(crate) fn names_values(spec: &RateLimitSpec) -> bool {
    let claims = |limit: &api::Limit| limit.key.iter().any(|part| part.jwt_claim.is_some());
    spec.limits.iter().any(|limit| limit.quotas_from.is_some() || claims(limit))
}

/// Every value that a policy names, and whether it can do without.
fn named(source: &RateLimit) -> Vec<(Reference, Need)> {
    let (namespace, spec) = (source.id.namespace.as_str(), &source.spec);
    let mut named = Vec::new();
    for limit in &spec.limits {
        let claims = limit.key.iter().filter_map(|part| part.jwt_claim.as_ref());
        named.extend(claims.filter_map(|claim| value_from(namespace, &claim.keys_from)));
        let quotas = limit.quotas_from.as_ref();
        named.extend(quotas.and_then(|it| entry(namespace, (it.config_map_ref.as_ref(), it.secret_ref.as_ref()))));
    }
    let mut named: Vec<(Reference, Need)> = named.into_iter().map(|it| (it, Need::Required)).collect();
    let Some(api::Store { redis }) = &spec.store else { return named };
    let secret = |name: &api::ObjectName, key: &str| secret(namespace, &name.name, key);
    if let Some(login) = &redis.secret_ref {
        named.push((secret(login, USERNAME), Need::Optional));
        named.push((secret(login, PASSWORD), Need::Required));
    }
    if let Some(api::RedisTls { ca_from, certificate_from }) = &redis.tls {
        named.extend(ca_from.as_ref().and_then(|from| value_from(namespace, from)).map(|it| (it, Need::Required)));
        let own = certificate_from.iter().flat_map(|name| [secret(name, CERTIFICATE), secret(name, PRIVATE_KEY)]);
        named.extend(own.map(|it| (it, Need::Required)));
    }
    named
}

/// A key in a ConfigMap or a Secret; none where not exactly one of the two is set.
pub(super) fn value_from(namespace: &str, from: &api::ValueFrom) -> Option<Reference> {
    entry(namespace, (from.config_map_ref.as_ref(), from.secret_ref.as_ref()))
}

pub(super) fn entry(namespace: &str, refs: (Option<&api::ObjectKey>, Option<&api::ObjectKey>)) -> Option<Reference> {
    let (kind, object) = match refs {
        (Some(map), None) => (ReferenceKind::ConfigMap, map),
        (None, Some(secret)) => (ReferenceKind::Secret, secret),
        _ => return None,
    };
    let (name, key) = (object.name.clone(), object.key.clone());
    Some(Reference { kind, namespace: namespace.to_owned(), name, key })
}

pub(super) fn secret(namespace: &str, name: &str, key: &str) -> Reference {
    let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
    Reference { kind: ReferenceKind::Secret, namespace, name, key }
}

pub(super) fn either(field: &str) -> Refusal {
    invalid(field, "set exactly one of configMapRef and secretRef")
}
