//! What a request is about, from its method and path, and which operation that is.
//!
//! [`OPERATIONS`] is the one table of what can be done: discovery is made from it, and another kind of policy adds its lines
//! here. Nothing is decided yet about whether the user may.

use bytes::Bytes;
use fusebox_api::operations::{API_VERSION, Metadata};
use fusebox_policy::config::PolicyId;
use http::Method;

use super::authorization::Attributes;
use super::front_proxy::User;
use super::refusal::Refusal;
use super::{Question, circuit_breaker, explanation, rate_limit};

const GROUPS: &str = "/apis";
const GROUP: &str = "/apis/ops.fusebox.dev";
const VERSION: &str = "/apis/ops.fusebox.dev/v1alpha1";

/// The longest name of anything in Kubernetes.
const MAX_NAME: usize = 253;

/// Everything that can be asked for.
pub(crate) const OPERATIONS: &[Operation] = &[
    circuit_breaker::GET,
    circuit_breaker::LIST,
    circuit_breaker::FORCE,
    circuit_breaker::FORCE_AGAIN,
    circuit_breaker::RELEASE,
    explanation::GET,
    rate_limit::GET,
    rate_limit::LIST,
    rate_limit::UNBLOCK,
];

/// One thing that can be done with a resource.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) resource: &'static str,
    /// Empty for the resource itself.
    pub(crate) subresource: &'static str,
    pub(crate) verb: &'static str,
    /// Reads the request.
    pub(crate) read: fn(&Asked<'_>) -> Result<Question, Refusal>,
}

/// A request that may be answered.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) query: &'a Query,
    pub(crate) user: &'a User,
    pub(crate) body: &'a Bytes,
}

/// What a body says of itself, where it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyHead<'a> {
    pub(crate) api_version: &'a Option<String>,
    pub(crate) kind: &'a Option<String>,
    pub(crate) metadata: &'a Option<Metadata>,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Groups,
    Group,
    Version,
    OpenApiV2,
    OpenApiV3,
    OpenApiV3Document,
    Resource(Attributes),
}

/// The parameters of a request that mean something here; others are passed over, as the API server does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) limit: Option<usize>,
    pub(crate) next: String,
    pub(crate) force: bool,
    pub(crate) watch: bool,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) include_object: String,
}

impl Asked<'_> {
    /// The policy that the path names.
    pub(crate) fn policy(&self) -> PolicyId {
        PolicyId { namespace: self.attributes.namespace.clone(), name: self.attributes.name.clone() }
    }

    /// The policy that the path names, which a body of this kind may name again but not otherwise.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn policy_of_body(&self, kind: &str, body: BodyHead<'_>) -> Result<PolicyId, Refusal> {
        let is = |given: &Option<String>, only: &str| given.as_ref().is_none_or(|given| given == only);
        if !is(body.api_version, API_VERSION) || !is(body.kind, kind) {
            return Err(Refusal::Malformed(format!("the body is not an {API_VERSION} {kind}")));
        }
        let policy = self.policy();
        let agrees = |given: &str, asked: &str| given.is_empty() || given == asked;
        match body.metadata {
            Some(named) if !agrees(&named.name, &policy.name) || !agrees(&named.namespace, &policy.namespace) => {
                Err(Refusal::Malformed("the body's metadata names another policy than the path".to_owned()))
            }
            _ => Ok(policy),
        }
    }
}

impl Route {
    /// Reads method, path and query.
    ///
    /// # Errors
    /// `NoSuchPath`, or `Verb` for a method that Kubernetes has no verb for.
    pub(crate) fn find(method: &Method, path: &str, query: &Query) -> Result<Self, Refusal> {
        let fixed = match path.strip_suffix('/').unwrap_or(path) {
            GROUPS => Some(Self::Groups),
            GROUP => Some(Self::Group),
            VERSION => Some(Self::Version),
            "/openapi/v2" => Some(Self::OpenApiV2),
            "/openapi/v3" => Some(Self::OpenApiV3),
            "/openapi/v3/apis/ops.fusebox.dev/v1alpha1" => Some(Self::OpenApiV3Document),
            _ => None,
        };
        match fixed {
            Some(route) if method == Method::GET => Ok(route),
            Some(_) => Err(Refusal::Verb { verb: "this method", resource: "discovery".to_owned() }),
            None => Self::resource(method, path, query),
        }
    }

    fn resource(method: &Method, path: &str, query: &Query) -> Result<Self, Refusal> {
        let rest = path.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('/')).ok_or(Refusal::NoSuchPath)?;
        let parts: Vec<&str> = rest.split('/').collect();
        if !parts.iter().all(|part| is_name(part)) {
            return Err(Refusal::NoSuchPath);
        }
        let (namespace, parts) = match parts.as_slice() {
            ["namespaces", namespace, parts @ ..] => (*namespace, parts),
            parts => ("", parts),
        };
        let (resource, name, subresource) = match (namespace, parts) {
            (_, [resource]) => (*resource, "", ""),
            ("", _) => return Err(Refusal::NoSuchPath),
            (_, [resource, name]) => (*resource, *name, ""),
            (_, [resource, name, subresource]) => (*resource, *name, *subresource),
            _ => return Err(Refusal::NoSuchPath),
        };
        let verb = verb(method, name, query)
            .ok_or_else(|| Refusal::Verb { verb: "this method", resource: resource.to_owned() })?;
        let owned = str::to_owned;
        Ok(Self::Resource(Attributes {
            verb,
            resource: owned(resource),
            subresource: owned(subresource),
            namespace: owned(namespace),
            name: owned(name),
        }))
    }
}

/// The operation for these attributes.
///
/// # Errors
/// `NoSuchPath` for a resource that is not served, `Verb` for one that can't do that.
pub(crate) fn operation(attributes: &Attributes) -> Result<&'static Operation, Refusal> {
    let same = |operation: &&Operation| {
        operation.resource == attributes.resource && operation.subresource == attributes.subresource
    };
    let found = OPERATIONS.iter().filter(same).find(|operation| operation.verb == attributes.verb);
    match (found, OPERATIONS.iter().any(|operation| same(&operation))) {
        (Some(operation), _) => Ok(operation),
        (None, true) => Err(Refusal::Verb { verb: attributes.verb, resource: attributes.resource() }),
        (None, false) => Err(Refusal::NoSuchPath),
    }
}

impl Query {
    /// Reads a query; of a parameter that comes twice the first counts.
    ///
    /// # Errors
    /// `Malformed`, naming the parameter.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let pairs: Vec<(String, String)> = text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        let value = |wanted: &str| {
            let found = pairs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let limit = match value("limit").as_str() {
            "" | "0" => None,
            text => Some(text.parse().map_err(|_| Refusal::Malformed(format!("limit {text:?} is not a number")))?),
        };
        Ok(Self {
            limit,
            next: value("continue"),
            force: truth(&value("force"), "force")?,
            watch: truth(&value("watch"), "watch")?,
            label_selector: value("labelSelector"),
            field_selector: value("fieldSelector"),
            include_object: value("includeObject"),
        })
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let unescaped = |text: &str| super::front_proxy::unescape(&text.replace('+', " "));
    (unescaped(name), unescaped(value))
}

fn truth(text: &str, name: &str) -> Result<bool, Refusal> {
    match text {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => Err(Refusal::Malformed(format!("{name} {text:?} is neither true nor false"))),
    }
}

/// Whether it can be the name of anything: no escapes, no empty parts, no `..`.
fn is_name(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let within = |c: char| ends(c) || c == '-' || c == '.';
    text.len() <= MAX_NAME && text.starts_with(ends) && text.ends_with(ends) && text.chars().all(within)
}

/// Kubernetes' verb for a method.
fn verb(method: &Method, name: &str, query: &Query) -> Option<&'static str> {
    match (method.as_str(), name) {
        ("GET", _) if query.watch => Some("watch"),
        ("GET", "") => Some("list"),
        ("GET", _) => Some("get"),
        ("POST", _) => Some("create"),
        ("PUT", _) => Some("update"),
        ("PATCH", _) => Some("patch"),
        ("DELETE", "") => Some("deletecollection"),
        ("DELETE", _) => Some("delete"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(method: &Method, path: &str) -> Result<Attributes, Refusal> {
        match Route::find(method, &format!("{VERSION}{path}"), &Query::default())? {
            Route::Resource(attributes) => Ok(attributes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_lead_to_what_is_asked_for() {
        let asked = attributes(&Method::GET, "/circuitbreakerstates").unwrap();
        assert_eq!((asked.verb, asked.namespace.as_str(), asked.name.as_str()), ("list", "", ""));
        let asked = attributes(&Method::GET, "/namespaces/shop/circuitbreakerstates/pay.ments").unwrap();
        assert_eq!((asked.verb, asked.namespace.as_str(), asked.name.as_str()), ("get", "shop", "pay.ments"));
        let asked = attributes(&Method::DELETE, "/namespaces/shop/circuitbreakerstates/payments/override").unwrap();
        assert_eq!((asked.verb, asked.resource().as_str()), ("delete", "circuitbreakerstates/override"));
        assert_eq!(Route::find(&Method::GET, "/apis/", &Query::default()).unwrap(), Route::Groups);
    }

    #[test]
    fn tricks_in_paths_lead_nowhere() {
        for path in [
            "/namespaces/shop/../bank/circuitbreakerstates",
            "/namespaces/shop/circuitbreakerstates/%2e%2e",
            "/namespaces//circuitbreakerstates",
            "/namespaces/shop/circuitbreakerstates/a/override/b",
            "/circuitbreakerstates/a",
            "/namespaces/SHOP/circuitbreakerstates",
        ] {
            let outcome = attributes(&Method::GET, path);
            assert!(matches!(outcome, Err(Refusal::NoSuchPath)), "{path}: {outcome:?}");
        }
        assert!(matches!(Route::find(&Method::GET, "/healthz", &Query::default()), Err(Refusal::NoSuchPath)));
    }

    #[test]
    fn what_a_resource_cannot_do_is_said_by_name() {
        let asked = attributes(&Method::PATCH, "/namespaces/shop/circuitbreakerstates/payments").unwrap();
        let refusal = operation(&asked).unwrap_err();
        assert_eq!(refusal.to_string(), "patch is not supported on circuitbreakerstates");
        let asked = attributes(&Method::GET, "/namespaces/shop/pods/payments").unwrap();
        assert!(matches!(operation(&asked), Err(Refusal::NoSuchPath)));
        assert!(matches!(attributes(&Method::OPTIONS, "/circuitbreakerstates"), Err(Refusal::Verb { .. })));
    }

    #[test]
    fn queries_are_read_and_mistakes_named() {
        let query = Query::parse("limit=500&continue=a%2Fb&watch=0&unknown=1").unwrap();
        assert_eq!((query.limit, query.next.as_str(), query.watch), (Some(500), "a/b", false));
        assert!(Query::parse("limit=-1").unwrap_err().to_string().contains("limit"));
        assert!(Query::parse("force=perhaps").unwrap_err().to_string().contains("force"));
    }
}
