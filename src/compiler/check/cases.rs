//! The cases of `cases.yaml`: manifests with the verdict that both the offline check and a real
//! API server must give.
//!
//! The file is compiled in so that every crate's tests read the same cases.

use serde::Deserialize;

use super::Layer;

/// The file.
const TEXT: &str = include_str!("cases.yaml");

/// The policy that a case without a manifest of its own is put into.
const HEAD: &str = "apiVersion: fusebox.dev/v1alpha1\nkind: CircuitBreakerPolicy\nmetadata:\n  name: case\n";

/// One manifest and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case claims, unique.
    pub name: String,
    /// The whole manifest, where `spec` is not enough. `{{a:N}}` stands for N times the letter, `{{rules:N}}` for N rules.
    #[serde(default)]
    manifest: Option<String>,
    /// The spec, indented under `spec:` of an otherwise good manifest.
    #[serde(default)]
    spec: Option<String>,
    /// What the verdict is.
    pub verdict: Verdict,
    /// The field that is named where it is refused.
    #[serde(default)]
    pub field: String,
    /// Who refuses it; the API server accepts what only the compiler refuses.
    #[serde(default)]
    pub layer: Option<Layer>,
}

/// Whether a case is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Accepted,
    /// It is not.
    Refused,
}

/// Every case.
///
/// # Errors
/// When the file is not as [`Case`] wants it.
pub fn all() -> Result<Vec<Case>, serde_yaml::Error> {
    serde_yaml::from_str(TEXT)
}

impl Case {
    /// The manifest's text.
    #[must_use]
    pub fn manifest(&self) -> String {
        let text = match (&self.manifest, &self.spec) {
            (Some(manifest), _) => manifest.clone(),
            (None, spec) => {
                let spec = spec.as_deref().unwrap_or_default();
                let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
                format!("{HEAD}spec:\n{indented}")
            }
        };
        expand(&expand(&text, "a", |count| "a".repeat(count)), "rules", rules)
    }

    /// Whether the API server refuses it: what only the compiler can tell, it accepts.
    #[must_use]
    pub fn refused_by_api_server(&self) -> bool {
        self.verdict == Verdict::Refused && self.layer != Some(Layer::Compiler)
    }
}

fn rules(count: usize) -> String {
    let rule = |index| format!("{{name: r{index}, match: {{path: {{value: /r{index}}}}}}}");
    format!("[{}]", (0..count).map(rule).collect::<Vec<_>>().join(", "))
}

/// Replaces `{{word:N}}`.
fn expand(text: &str, word: &str, made: impl Fn(usize) -> String) -> String {
    let opening = format!("{{{{{word}:");
    let Some((before, rest)) = text.split_once(&opening) else { return text.to_owned() };
    let Some((count, after)) = rest.split_once("}}") else { return text.to_owned() };
    let Ok(count) = count.parse() else { return text.to_owned() };
    format!("{before}{}{}", made(count), expand(after, word, made))
}
