//! Which namespaces an operator serves: all, or those it was given.
//!
//! What stands elsewhere is read over as if it were not there, before it gets into any store. So nothing is compiled from
//! it, no sidecar there is heard, and nothing is written or deleted there, whatever the operator's role would allow.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The namespaces that are served; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every namespace.
    #[default]
    Cluster,
    /// These, and no others.
    Namespaces(Arc<BTreeSet<String>>),
}

impl Scope {
    /// The scope of a list; an empty one stands for all.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Self {
        if namespaces.is_empty() {
            return Self::Cluster;
        }
        Self::Namespaces(Arc::new(namespaces.iter().cloned().collect()))
    }

    /// This scope and one namespace more.
    #[must_use]
    pub fn and(&self, namespace: &str) -> Self {
        match self {
            Self::Cluster => Self::Cluster,
            Self::Namespaces(namespaces) => {
                let more = std::iter::once(namespace.to_owned());
                Self::Namespaces(Arc::new(namespaces.iter().cloned().chain(more).collect()))
            }
        }
    }

    /// Whether this namespace is served.
    #[must_use]
    pub fn holds(&self, namespace: &str) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_what_it_names_and_an_empty_one_holds_all() {
        let scope = Scope::of(&["shop".to_owned()]);
        assert!(scope.holds("shop") && !scope.holds("shop2") && !scope.holds(""));
        assert!(Scope::of(&[]).holds("anything"));
        let with_own = scope.and("fusebox-system");
        assert!(with_own.holds("shop") && with_own.holds("fusebox-system") && !with_own.holds("bank"));
    }
}
