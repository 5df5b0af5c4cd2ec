//! AdmissionReview of `admission.k8s.io/v1`, as far as it decides something.
//!
//! Objects stay JSON: a pod of a newer Kubernetes must come through whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fusebox_compiler::injection::Operation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::RequestRefusal;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Warnings that are sent, at most; the API server shows about 4 KiB.
const MAX_WARNINGS: usize = 16;

/// The longest warning, in characters; the API server may cut longer ones.
const MAX_WARNING: usize = 256;

/// What the API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdmissionRequest {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) resource: Resource,
    #[serde(default)]
    pub(super) sub_resource: Option<String>,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) operation: String,
    #[serde(default)]
    pub(super) object: Value,
    #[serde(default)]
    pub(super) old_object: Value,
}

/// Which resource it is about.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Resource {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) resource: String,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Verdict {
    /// A stable word for metrics.
    pub(super) result: &'static str,
    pub(super) warnings: Vec<String>,
    pub(super) decision: Decision,
}

#[derive(Debug)]
pub(super) enum Decision {
    /// The object is good, perhaps after a patch.
    Allow(Vec<Operation>),
    /// It is not.
    Refuse {
        /// The HTTP status that the API server's client gets.
        code: u16,
        /// Why, with the next step.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Value,
}

/// Reads a request's body.
pub(super) fn read(body: &[u8]) -> Result<AdmissionRequest, RequestRefusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(RequestRefusal::Empty);
    }
    let review: Review = serde_json::from_slice(body).map_err(RequestRefusal::Malformed)?;
    if (review.api_version.as_str(), review.kind.as_str()) != (API_VERSION, KIND) {
        let (api_version, kind) = (shortened(&review.api_version), shortened(&review.kind));
        return Err(RequestRefusal::Version { api_version, kind });
    }
    if review.request.is_null() {
        return Err(RequestRefusal::NoRequest);
    }
    let request: AdmissionRequest = serde_json::from_value(review.request).map_err(RequestRefusal::Malformed)?;
    if request.uid.is_empty() { Err(RequestRefusal::NoRequest) } else { Ok(request) }
}

impl Verdict {
    pub(super) fn allow(result: &'static str) -> Self {
        Self { result, warnings: Vec::new(), decision: Decision::Allow(Vec::new()) }
    }

    pub(super) fn refuse(result: &'static str, code: u16, message: String) -> Self {
        Self { result, warnings: Vec::new(), decision: Decision::Refuse { code, message } }
    }

    /// The review that answers.
    pub(super) fn review(self, uid: &str) -> Value {
        let warnings: Vec<String> = self.warnings.iter().take(MAX_WARNINGS).map(|warning| shortened(warning)).collect();
        let mut response = json!({"uid": uid, "allowed": true});
        match self.decision {
            Decision::Allow(patch) if patch.is_empty() => {}
            Decision::Allow(patch) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(json!(patch).to_string()));
            }
            Decision::Refuse { code, message } => {
                let reason = match code {
                    503 => "ServiceUnavailable",
                    422 => "Invalid",
                    _ => "Forbidden",
                };
                response["allowed"] = json!(false);
                response["status"] = json!({"code": code, "message": message, "reason": reason});
            }
        }
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_WARNING) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
