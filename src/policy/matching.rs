//! Which requests a rule takes, in checked form.
//!
//! It must not see an HTTP library or keep a request. Rules are untrusted and stand in every
//! request's way: all they hold is bounded, and every comparison takes linear time.

use regex::{Regex, RegexBuilder};

use crate::config::{HeaderMatch, PathMatch, RequestMatch};

/// The most methods a match may list.
pub const MAX_METHODS: usize = 16;

/// The most headers a match may ask for.
pub const MAX_HEADERS: usize = 16;

/// The longest path, regular expression or header value, in bytes.
pub const MAX_VALUE: usize = 4096;

/// The longest method or header name, in bytes.
pub const MAX_NAME: usize = 256;

/// The most memory one compiled regular expression may take, in bytes; its lazy tables as much again.
pub const MAX_REGEX_SIZE: usize = 1 << 20;

/// How deep a regular expression may nest.
pub const MAX_REGEX_NESTING: u32 = 64;

/// Decides whether a rule takes a request. One without conditions takes all.
#[derive(Clone, Debug, Default)]
pub struct RequestMatcher {
    methods: Vec<String>,
    path: Option<PathMatcher>,
    headers: Vec<HeaderMatcher>,
}

/// Why a match was refused.
#[derive(Debug, thiserror::Error)]
pub enum MatchError {
    /// A list is too long.
    #[error("{field} has {found} entries; use {most} at most")]
    TooMany {
        /// The field.
        field: String,
        /// How many there were.
        found: usize,
        /// The most there may be.
        most: usize,
    },
    /// A text is too long.
    #[error("{field} is {found} bytes long; use {most} at most")]
    TooLong {
        /// The field.
        field: String,
        /// How long it was.
        found: usize,
        /// The longest it may be.
        most: usize,
    },
    /// A name with bytes that HTTP does not allow there, or none at all.
    #[error("{field} is not a name HTTP knows; use letters, digits and !#$%&'*+-.^_`|~")]
    NotAToken {
        /// The field.
        field: String,
    },
    /// A path that no request can have.
    #[error("{field} must be a path beginning with /, without a query")]
    NotAPath {
        /// The field.
        field: String,
    },
    /// A header value that no request can have.
    #[error("{field} has control characters; remove them")]
    NotAHeaderValue {
        /// The field.
        field: String,
    },
    /// A regular expression that is not one, or needs too much memory.
    #[error("{field} is not a usable regular expression: {message}", message = last_line(source))]
    BadRegex {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: regex::Error,
    },
}

#[derive(Clone, Debug)]
enum PathMatcher {
    Exact(String),
    /// Without slashes at its end, so that `/` is empty and takes every path.
    Prefix(String),
    Regex(Regex),
}

#[derive(Clone, Debug)]
struct HeaderMatcher {
    /// In lower case.
    name: String,
    value: String,
}

impl RequestMatcher {
    /// Whether it takes this request. `path` is without the query; `header` gives a header's values,
    /// one or many, by its name in lower case, and any of them may match.
    pub fn matches<'a, V>(&self, method: &str, path: &str, header: impl Fn(&str) -> V) -> bool
    where
        V: IntoIterator<Item = &'a [u8]>,
    {
        let Self { methods, path: path_matcher, headers } = self;
        (methods.is_empty() || methods.iter().any(|allowed| allowed == method))
            && path_matcher.as_ref().is_none_or(|matcher| matcher.matches(path))
            && headers
                .iter()
                .all(|HeaderMatcher { name, value }| header(name).into_iter().any(|found| found == value.as_bytes()))
    }
}

impl PathMatcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl TryFrom<&RequestMatch> for RequestMatcher {
    type Error = MatchError;

    fn try_from(request: &RequestMatch) -> Result<Self, Self::Error> {
        let RequestMatch { methods, path, headers } = request;
        bounded_list("match.methods", methods.len(), MAX_METHODS)?;
        bounded_list("match.headers", headers.len(), MAX_HEADERS)?;
        for (index, method) in methods.iter().enumerate() {
            check_token(method, || format!("match.methods[{index}]"))?;
        }
        let headers = headers.iter().enumerate().map(|(index, header)| HeaderMatcher::parse(index, header));
        Ok(Self {
            methods: methods.clone(),
            path: path.as_ref().map(PathMatcher::try_from).transpose()?,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<&PathMatch> for PathMatcher {
    type Error = MatchError;

    fn try_from(path: &PathMatch) -> Result<Self, Self::Error> {
        let (PathMatch::Exact(value) | PathMatch::PathPrefix(value) | PathMatch::RegularExpression(value)) = path;
        bounded_text(value, MAX_VALUE, path_field)?;
        Ok(match path {
            PathMatch::Exact(exact) => Self::Exact(checked_path(exact)?.to_owned()),
            PathMatch::PathPrefix(prefix) => Self::Prefix(checked_path(prefix)?.trim_end_matches('/').to_owned()),
            PathMatch::RegularExpression(pattern) => Self::Regex(anchored(pattern)?),
        })
    }
}

impl HeaderMatcher {
    fn parse(index: usize, header: &HeaderMatch) -> Result<Self, MatchError> {
        let HeaderMatch { name, value } = header;
        check_token(name, || format!("match.headers[{index}].name"))?;
        let field = || format!("match.headers[{index}].value");
        bounded_text(value, MAX_VALUE, field)?;
        if value.chars().any(|character| character.is_ascii_control() && character != '\t') {
            return Err(MatchError::NotAHeaderValue { field: field() });
        }
        Ok(Self { name: name.to_ascii_lowercase(), value: value.clone() })
    }
}

impl MatchError {
    /// The field at fault, as a path within the rule.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::TooMany { field, .. }
            | Self::TooLong { field, .. }
            | Self::NotAToken { field }
            | Self::NotAPath { field }
            | Self::NotAHeaderValue { field }
            | Self::BadRegex { field, .. } => field,
        }
    }

    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "TooManyEntries",
            Self::TooLong { .. } => "TooLong",
            Self::NotAToken { .. } => "NotAToken",
            Self::NotAPath { .. } => "NotAPath",
            Self::NotAHeaderValue { .. } => "NotAHeaderValue",
            Self::BadRegex { .. } => "BadRegularExpression",
        }
    }
}

/// The pattern, to match a whole path. It is compiled alone first, since `a)|(b` is no regular
/// expression but would become one between the anchors.
fn anchored(pattern: &str) -> Result<Regex, MatchError> {
    let refused = |source| MatchError::BadRegex { field: path_field(), source };
    compile(pattern).map_err(refused)?;
    compile(&format!(r"\A(?:{pattern})\z")).map_err(refused)
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_REGEX_SIZE)
        .dfa_size_limit(MAX_REGEX_SIZE)
        .nest_limit(MAX_REGEX_NESTING)
        .build()
}

fn checked_path(path: &str) -> Result<&str, MatchError> {
    let possible = path.starts_with('/') && !path.contains(['?', '#']) && !path.contains(char::is_control);
    possible.then_some(path).ok_or_else(|| MatchError::NotAPath { field: path_field() })
}

fn path_field() -> String {
    "match.path.value".to_owned()
}

fn bounded_list(field: &str, found: usize, most: usize) -> Result<(), MatchError> {
    if found > most {
        return Err(MatchError::TooMany { field: field.to_owned(), found, most });
    }
    Ok(())
}

fn bounded_text(text: &str, most: usize, field: impl Fn() -> String) -> Result<(), MatchError> {
    if text.len() > most {
        return Err(MatchError::TooLong { field: field(), found: text.len(), most });
    }
    Ok(())
}

/// A token (RFC 9110, section 5.6.2): what methods and header names are made of.
fn check_token(text: &str, field: impl Fn() -> String) -> Result<(), MatchError> {
    bounded_text(text, MAX_NAME, &field)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(MatchError::NotAToken { field: field() });
    }
    Ok(())
}

/// The last line of the regex crate's message says what is wrong; those before it repeat the pattern.
fn last_line(error: &regex::Error) -> String {
    let message = error.to_string();
    message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests;
