//! The API server's audit log, which tells who asked for what and what was answered.
//!
//! Owns the policy handed to the API server and the reading of its lines. It must not judge them: tests do.
//! A test that a frozen leader writes nothing can only be believed from the server's side.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// How much the audit log says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuditLevel {
    /// Who, what, when and the status code. The default.
    #[default]
    Metadata,
    /// The objects sent and answered as well.
    RequestResponse,
}

/// One finished request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: String,
    /// The path with its query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who asked.
    pub user: AuditUser,
    /// The client's User-Agent header.
    #[serde(default)]
    pub user_agent: String,
    /// The object, absent for paths such as /readyz.
    #[serde(default, rename = "objectRef")]
    pub object: AuditObject,
    /// The answer, absent where the server died first.
    #[serde(default)]
    pub response_status: AuditStatus,
    /// When the server received the request.
    pub request_received_timestamp: Timestamp,
    /// When the request reached `stage`.
    pub stage_timestamp: Timestamp,
    /// ResponseComplete; a watch also writes ResponseStarted.
    pub stage: String,
    /// The body sent, at level RequestResponse.
    #[serde(default)]
    pub request_object: Option<Value>,
    /// The body answered, at level RequestResponse.
    #[serde(default)]
    pub response_object: Option<Value>,
}

/// The user of a request.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct AuditUser {
    /// As in `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub username: String,
    /// The user's groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The object of a request. Fields that do not apply are empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuditObject {
    /// The plural, as in `configmaps`.
    pub resource: String,
    /// As in `status`.
    pub subresource: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The resource's group, empty for the core group.
    pub api_group: String,
}

/// The answer to a request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuditStatus {
    /// The HTTP status code.
    pub code: u16,
}

/// A place in the log, from which later events are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditMark(u64);

/// The audit log of one API server.
#[derive(Debug, Clone)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditEvent {
    /// Whether the request was meant to change something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether the server accepted it.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }
}

impl AuditLog {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file the API server writes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log's present end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn mark(&self) -> Result<AuditMark> {
        let length = std::fs::metadata(&self.path).map(|metadata| metadata.len());
        Ok(AuditMark(length.with_context(|| format!("cannot read {}", self.path.display()))?))
    }

    /// The events written after `mark` (all of them from `AuditMark::default()`), in the order they finished.
    ///
    /// # Errors
    /// When the file cannot be read, or a whole line is not an event.
    pub fn events_since(&self, mark: AuditMark) -> Result<Vec<AuditEvent>> {
        let mut file = File::open(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        file.seek(SeekFrom::Start(mark.0)).context("cannot seek in the audit log")?;
        let mut reader = BufReader::new(file);
        let (mut events, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line).context("cannot read the audit log")? > 0 {
            // The last line may still be in the middle of being written.
            if line.ends_with('\n') {
                events.push(serde_json::from_str(&line).with_context(|| format!("not an audit event: {line}"))?);
            }
            line.clear();
        }
        Ok(events)
    }
}

/// The policy file for the API server.
pub(crate) fn policy(level: AuditLevel) -> Value {
    let level = match level {
        AuditLevel::Metadata => "Metadata",
        AuditLevel::RequestResponse => "RequestResponse",
    };
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": level}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"5","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/configmaps/a?x=1","verb":"patch","user":{"username":"admin","groups":["system:masters"]},"sourceIPs":["127.0.0.1"],"userAgent":"test","objectRef":{"resource":"configmaps","namespace":"shop","name":"a","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":409},"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.700000Z"}"#;

    #[test]
    fn a_refused_write_is_a_write_that_did_not_succeed() -> Result<()> {
        let event: AuditEvent = serde_json::from_str(LINE)?;
        assert!(event.is_write() && !event.succeeded());
        assert_eq!((event.object.resource.as_str(), event.object.name.as_str()), ("configmaps", "a"));
        assert_eq!(event.request_received_timestamp.to_string(), "2026-01-02T03:04:05.678901Z");
        Ok(())
    }

    #[test]
    fn only_whole_lines_after_the_mark_are_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let log = AuditLog::at(folder.path().join("audit.log"));
        std::fs::write(log.path(), format!("{LINE}\n"))?;
        let mark = log.mark()?;
        std::fs::write(log.path(), format!("{LINE}\n{LINE}\n{{\"half"))?;
        assert_eq!(log.events_since(mark)?.len(), 1);
        assert_eq!(log.events_since(AuditMark::default())?.len(), 2);
        Ok(())
    }
}
