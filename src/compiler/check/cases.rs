//! The cases of `cases_*.yaml`: manifests with the verdict that both the offline check and a real
//! API server must give.
//!
//! The files are compiled in so that every crate's tests read the same cases.

use serde::Deserialize;

use super::Layer;
use crate::kind::Kind;

/// The files, one for each kind.
const FILES: [(Kind, &str); 2] = [
    (Kind::CircuitBreakerPolicy, include_str!("cases_circuit_breaker.yaml")),
    (Kind::RateLimit, include_str!("cases_rate_limit.yaml")),
];

/// What the limit of a case has that does not say otherwise.
const LIMIT: [&str; 2] = ["name: all", "rate: {requests: 60, per: 1m}"];

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
    /// Fields of the only limit of an otherwise good RateLimit.
    #[serde(default)]
    limit: Option<String>,
    /// The server of an otherwise good RateLimit whose limit has scope Shared.
    #[serde(default)]
    redis: Option<String>,
    /// What the verdict is.
    pub verdict: Verdict,
    /// The field that is named where it is refused.
    #[serde(default)]
    pub field: String,
    /// Who refuses it; the API server accepts what only the compiler refuses.
    #[serde(default)]
    pub layer: Option<Layer>,
    /// Which kind it is about.
    #[serde(skip, default = "any_kind")]
    pub kind: Kind,
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
/// When a file is not as [`Case`] wants it.
pub fn all() -> Result<Vec<Case>, serde_yaml::Error> {
    let mut cases = Vec::new();
    for (kind, text) in FILES {
        let of_kind: Vec<Case> = serde_yaml::from_str(text)?;
        cases.extend(of_kind.into_iter().map(|case| Case { kind, ..case }));
    }
    Ok(cases)
}

impl Case {
    /// The manifest's text.
    #[must_use]
    pub fn manifest(&self) -> String {
        let text = self.manifest.clone().unwrap_or_else(|| {
            let spec: String = self.spec().lines().map(|line| format!("  {line}\n")).collect();
            let kind = self.kind.as_str();
            format!("apiVersion: fusebox.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: case\nspec:\n{spec}")
        });
        let text = expand(&expand(&text, "a", |count| "a".repeat(count)), "rules", rules);
        expand(&text, "limits", limits)
    }

    fn spec(&self) -> String {
        match (&self.spec, &self.limit, &self.redis) {
            (Some(spec), _, _) => spec.clone(),
            (None, limit, redis) => {
                let said = limit.as_deref().unwrap_or("scope: Shared");
                let said = said.strip_prefix('{').and_then(|said| said.strip_suffix('}')).unwrap_or(said);
                let store = redis.as_ref().map(|redis| {
                    let redis = redis.strip_prefix('{').and_then(|it| it.strip_suffix('}')).unwrap_or(redis);
                    format!(", store: {{redis: {{{redis}}}}}")
                });
                let more: Vec<&str> = LIMIT.into_iter().filter(|field| !names(said, field)).collect();
                let (limit, store) = (format!("{}, {said}", more.join(", ")), store.unwrap_or_default());
                format!("{{targetRefs: [{{name: pay}}], limits: [{{{limit}}}]{store}}}")
            }
        }
    }

    /// Whether the API server refuses it: what only the compiler can tell, it accepts.
    #[must_use]
    pub fn refused_by_api_server(&self) -> bool {
        self.verdict == Verdict::Refused && self.layer != Some(Layer::Compiler)
    }
}

/// Whether fields hold one of this name, given as `name: value`.
fn names(said: &str, field: &str) -> bool {
    let name = field.split(':').next().unwrap_or_default();
    said.starts_with(&format!("{name}:"))
}

const fn any_kind() -> Kind {
    Kind::CircuitBreakerPolicy
}

fn limits(count: usize) -> String {
    let limit = |index| format!("{{name: l{index}, rate: {{requests: 1, per: 1s}}}}");
    format!("[{}]", (0..count).map(limit).collect::<Vec<_>>().join(", "))
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
