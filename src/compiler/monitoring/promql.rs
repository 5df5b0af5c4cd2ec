//! Names as they stand in PromQL, quoted so that no name can end its string.
//!
//! All text that users choose reaches PromQL through here, and no other way. Annotations never hold such text: they read
//! labels (`{{ $labels.policy }}`), which Prometheus does not expand again.

use std::fmt::Write as _;

use fusebox_policy::config::PolicyId;
use fusebox_policy::metrics::{POLICY, POLICY_NAMESPACE};

use crate::kind::PolicyKey;

/// Label matchers between braces, such as `{policy="payments",rule!="writes"}`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matchers {
    text: String,
}

impl Matchers {
    /// The series of one policy.
    pub(crate) fn of_policy(policy: &PolicyKey) -> Self {
        let PolicyId { namespace, name } = &policy.id;
        Self::default().equal(POLICY_NAMESPACE, namespace).equal(POLICY, name)
    }

    /// Adds `label="value"`.
    pub(crate) fn equal(self, label: &str, value: &str) -> Self {
        self.with(label, "=", value)
    }

    /// Adds `label!="value"`.
    pub(crate) fn not_equal(self, label: &str, value: &str) -> Self {
        self.with(label, "!=", value)
    }

    /// Adds `label=~"a|b"`; the values must be words of ours, without signs that mean something in a pattern.
    pub(crate) fn one_of(self, label: &str, values: &[&'static str]) -> Self {
        self.with(label, "=~", &values.join("|"))
    }

    /// Adds `label!~"a|b"`; the values must be words of ours, without signs that mean something in a pattern.
    pub(crate) fn none_of(self, label: &str, values: &[&'static str]) -> Self {
        self.with(label, "!~", &values.join("|"))
    }

    /// The series of `metric` that match.
    pub(crate) fn select(&self, metric: &str) -> String {
        format!("{metric}{{{}}}", self.text)
    }

    fn with(mut self, label: &str, operator: &str, value: &str) -> Self {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(label);
        self.text.push_str(operator);
        self.text.push_str(&quoted(value));
        self
    }
}

/// `text` as a double-quoted PromQL string, which follows Go's escapes.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            // Writing into a String cannot fail.
            control if control.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a quoted string the way PromQL does, for the escapes we write.
    fn unquoted(text: &str) -> Option<String> {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        let mut letters = inner.chars();
        let mut plain = String::new();
        while let Some(letter) = letters.next() {
            match letter {
                '"' | '\n' => return None,
                '\\' => match letters.next()? {
                    'n' => plain.push('\n'),
                    'u' => {
                        let code: String = letters.by_ref().take(4).collect();
                        plain.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                    }
                    sign @ ('"' | '\\') => plain.push(sign),
                    _ => return None,
                },
                other => plain.push(other),
            }
        }
        Some(plain)
    }

    proptest! {
        #[test]
        fn a_quoted_name_reads_back_as_itself(name in ".{0,40}", tail in prop::sample::select(vec!["\"", "\\", "`", "\n", "\"}", "{{.}}", "\0", "\u{202e}"])) {
            let text = format!("{name}{tail}{name}");
            prop_assert_eq!(unquoted(&quoted(&text)), Some(text));
        }
    }

    #[test]
    fn matchers_are_joined_by_commas() {
        let matchers = Matchers::default().equal("policy", "a\"b").not_equal("rule", "").one_of("error", &["x", "y"]);
        assert_eq!(matchers.select("m"), r#"m{policy="a\"b",rule!="",error=~"x|y"}"#);
    }
}
