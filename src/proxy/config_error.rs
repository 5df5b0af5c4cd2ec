//! Why a configuration can't be enforced.
//!
//! It must name the field by its path, because it goes back to the operator and from there to the
//! person who wrote the policy.

use std::error::Error;

/// A field that can't be enforced, and why. The configuration before stays in force.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// The path of the field, such as `outbound[0].circuitBreaker.rules[1].timeoutMs`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// A stable word for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        "InvalidConfiguration"
    }

    /// `field` is wrong in the way that `source` says, with all of its causes.
    pub(crate) fn new(field: String, source: impl Error) -> Self {
        let mut message = source.to_string();
        let mut cause = source.source();
        while let Some(deeper) = cause {
            message = format!("{message}: {deeper}");
            cause = deeper.source();
        }
        Self { field, message }
    }

    /// `field` is wrong in the way that `message` says.
    pub(crate) fn text(field: &str, message: &str) -> Self {
        Self { field: field.to_owned(), message: message.to_owned() }
    }
}
