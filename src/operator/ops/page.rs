//! Which part of a list is asked for, and where it goes on.
//!
//! Lists of all kinds are in the order of namespaces and names, so that a token is the last policy of the page before.

use fusebox_api::operations::{ListMetadata, Metadata, State, StateList};
use fusebox_policy::config::PolicyId;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::route::Asked;

/// Objects of one page, at most, whatever is asked for.
pub(crate) const MAX_PAGE: usize = 5_000;

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) limit: usize,
    /// The last policy of the page before.
    pub(crate) after: Option<PolicyId>,
}

impl Page {
    /// Reads which part is asked for.
    ///
    /// # Errors
    /// `Malformed`, for selectors that are not known and tokens that are none.
    pub(crate) fn read(asked: &Asked<'_>) -> Result<Self, Refusal> {
        let query = asked.query;
        if !query.label_selector.is_empty() {
            return Err(Refusal::Malformed(
                "label selectors are not supported: these objects have no labels".to_owned(),
            ));
        }
        let mut page = Self {
            namespace: Some(asked.attributes.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: None,
            limit: query.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE),
            after: after(&query.next)?,
        };
        for term in query.field_selector.split(',').filter(|term| !term.is_empty()) {
            page.select(term)?;
        }
        Ok(page)
    }

    /// Whether a policy is among what is asked for, on whatever page.
    pub(crate) fn wants(&self, id: &PolicyId) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| id.namespace == *namespace)
            && self.name.as_ref().is_none_or(|name| id.name == *name)
    }

    fn select(&mut self, term: &str) -> Result<(), Refusal> {
        let not_supported =
            || Refusal::Malformed(format!("field selector {term:?}: only metadata.name and metadata.namespace"));
        let (field, value) = term.split_once("==").or_else(|| term.split_once('=')).ok_or_else(not_supported)?;
        match field {
            "metadata.name" => self.name = Some(value.to_owned()),
            "metadata.namespace" if self.namespace.as_deref().is_none_or(|namespace| namespace == value) => {
                self.namespace = Some(value.to_owned());
            }
            _ => return Err(not_supported()),
        }
        Ok(())
    }
}

/// These states as a page, after which so many remain.
pub(crate) fn list_of<S: State>(items: Vec<S>, remaining: usize) -> StateList<S> {
    let metadata = rest(items.last().map(State::metadata), remaining);
    StateList::new(items, metadata)
}

/// What a list says of itself: where it goes on after its last object, if so many remain.
fn rest(last: Option<&Metadata>, remaining: usize) -> ListMetadata {
    let last = last.filter(|_| remaining > 0);
    let next = last.map(|last| token(&last.namespace, &last.name)).unwrap_or_default();
    let remaining = (remaining > 0).then(|| i64::try_from(remaining).unwrap_or(i64::MAX));
    ListMetadata { next, remaining_item_count: remaining }
}

/// The token of a page that goes on after this policy.
fn token(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn after(token: &str) -> Result<Option<PolicyId>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let (namespace, name) =
        token.split_once('/').ok_or_else(|| Refusal::Malformed("continue is not a token of this list".to_owned()))?;
    Ok(Some(PolicyId { namespace: namespace.to_owned(), name: name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_that_are_not_known_are_refused_and_never_passed_over() {
        let mut page = Page { namespace: Some("shop".into()), name: None, limit: 1, after: None };
        page.select("metadata.name=payments").unwrap();
        assert_eq!(page.name.as_deref(), Some("payments"));
        for term in ["status.state=Open", "metadata.namespace=bank", "metadata.name"] {
            assert!(matches!(page.select(term), Err(Refusal::Malformed(_))), "{term}");
        }
        assert!(after("nonsense").is_err());
        let id = PolicyId { namespace: "shop".into(), name: "payments".into() };
        assert_eq!(after(&token(&id.namespace, &id.name)).unwrap(), Some(id));
    }
}
