//! What the specs of all kinds have in common, in the engines' words.
//!
//! It must know no kind: what only one of them says is in that kind's own file.

use fusebox_api::common;
use fusebox_policy::config::{self, PathMatch, RequestMatch};
use fusebox_policy::matching::RequestMatcher;

use crate::plan::Refusal;

pub(crate) const fn side(side: common::Side) -> config::Side {
    match side {
        common::Side::Client => config::Side::Client,
        common::Side::Server => config::Side::Server,
    }
}

/// The way back, for what people are told.
pub(crate) const fn side_told(side: config::Side) -> common::Side {
    match side {
        config::Side::Client => common::Side::Client,
        config::Side::Server => common::Side::Server,
    }
}

/// Whether a policy acts; nothing where it is disabled.
pub(crate) const fn mode(mode: common::Mode) -> Option<config::Mode> {
    match mode {
        common::Mode::Enforce => Some(config::Mode::Enforce),
        common::Mode::Shadow => Some(config::Mode::Shadow),
        common::Mode::Disabled => None,
    }
}

/// The refusal of a spec that says what can't be enforced; `problem` says what is wrong and how to mend it.
pub(crate) fn invalid(field: &str, problem: &str) -> Refusal {
    Refusal::InvalidSpec { field: field.to_owned(), problem: problem.to_owned() }
}

/// A match that the engine takes.
///
/// # Errors
/// [`Refusal::InvalidSpec`], naming the field below `field`, where the engine would not.
pub(crate) fn request_match(field: &str, matches: &common::RequestMatch) -> Result<RequestMatch, Refusal> {
    let common::RequestMatch { methods, path, headers } = matches;
    let matches = RequestMatch {
        methods: methods.iter().map(|method| method.as_str().to_owned()).collect(),
        path: path.as_ref().map(path_match),
        headers: headers
            .iter()
            .map(|header| config::HeaderMatch { name: header.name.clone(), value: header.value.clone() })
            .collect(),
    };
    match RequestMatcher::try_from(&matches) {
        Ok(_) => Ok(matches),
        Err(error) => {
            let below = error.field().strip_prefix("match").unwrap_or_default();
            Err(invalid(&format!("{field}{below}"), &error.to_string()))
        }
    }
}

fn path_match(path: &common::PathMatch) -> PathMatch {
    let value = path.value.clone();
    match path.kind {
        common::PathMatchType::Exact => PathMatch::Exact(value),
        common::PathMatchType::PathPrefix => PathMatch::PathPrefix(value),
        common::PathMatchType::RegularExpression => PathMatch::RegularExpression(value),
    }
}
