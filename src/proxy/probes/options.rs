//! Probes as they are given on the command line, checked before anything starts.
//!
//! It must refuse what could not be done later: a pod whose probes fail for a misspelt option would never become ready.

use std::str::FromStr;

use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

/// Probes that one pod can have.
const MAX_PROBES: usize = 256;

/// The longest time a probe may take, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// All probes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probes(Vec<Probe>);

/// One probe of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Where the kubelet asks for it: `/probes/CONTAINER/KIND`.
    pub path: String,
    /// The application's port.
    pub port: u16,
    /// What is asked.
    pub kind: ProbeKind,
    /// Whether HTTP goes over TLS.
    #[serde(default, skip_serializing_if = "ProbeScheme::is_http")]
    pub scheme: ProbeScheme,
    /// Path and query of an HTTP probe; absent is `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Headers of an HTTP probe, Host among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ProbeHeader>,
    /// The service that a gRPC probe asks about; absent is the whole server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// How long it may take, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A GET that succeeds with 200..=399.
    Http,
    /// The health service of gRPC, without TLS.
    Grpc,
    /// A connection that can be made.
    Tcp,
}

/// How HTTP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeScheme {
    /// As it is.
    #[default]
    #[serde(rename = "HTTP", alias = "http")]
    Http,
    /// Over TLS, whatever the certificate says.
    #[serde(rename = "HTTPS", alias = "https")]
    Https,
}

/// One header of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// Why probes can't be done as asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is no list of probes.
    #[error("not a list of probes as JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// There are too many.
    #[error("{0} probes are more than {MAX_PROBES}")]
    TooMany(usize),
    /// Two have one path.
    #[error("path {0} is there twice")]
    Twice(String),
    /// A field of one can't be meant.
    #[error("probe {path}: {field} {problem}")]
    Field {
        /// Which probe.
        path: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ProbeScheme {
    fn is_http(&self) -> bool {
        *self == Self::Http
    }
}

impl Probes {
    /// The probe that the kubelet asks for at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Probe> {
        self.0.iter().find(|probe| probe.path == path)
    }
}

impl FromStr for Probes {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let probes: Self = serde_json::from_str(text)?;
        if probes.0.len() > MAX_PROBES {
            return Err(ProbeError::TooMany(probes.0.len()));
        }
        for (index, probe) in probes.0.iter().enumerate() {
            probe.check()?;
            if probes.0[..index].iter().any(|before| before.path == probe.path) {
                return Err(ProbeError::Twice(probe.path.clone()));
            }
        }
        Ok(probes)
    }
}

impl Probe {
    fn check(&self) -> Result<(), ProbeError> {
        let refuse = |field, problem: String| Err(ProbeError::Field { path: self.path.clone(), field, problem });
        let mut parts = self.path.strip_prefix("/probes/").into_iter().flat_map(|rest| rest.split('/'));
        match (parts.next(), parts.next(), parts.next()) {
            (Some(container), Some(kind), None) if !container.is_empty() && !kind.is_empty() => {}
            _ => return refuse("path", "is not /probes/CONTAINER/KIND".to_owned()),
        }
        if self.port == 0 {
            return refuse("port", "is 0".to_owned());
        }
        if self.timeout_ms == 0 || self.timeout_ms > MAX_TIMEOUT_MS {
            return refuse("timeoutMs", format!("is {}, not from 1 to {MAX_TIMEOUT_MS}", self.timeout_ms));
        }
        if self.target.parse::<PathAndQuery>().is_err() && !self.target.is_empty() {
            return refuse("target", format!("{:?} is no path", self.target));
        }
        for ProbeHeader { name, value } in &self.headers {
            if name.parse::<HeaderName>().is_err() || value.parse::<HeaderValue>().is_err() {
                return refuse("headers", format!("have {name:?}, which can't be sent"));
            }
        }
        Ok(())
    }
}

fn default_timeout_ms() -> u64 {
    1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_read_whole_and_written_as_it_was() {
        let text = r#"[{"path":"/probes/app/liveness","port":8080,"kind":"http","scheme":"HTTPS","target":"/live?full=1","headers":[{"name":"Host","value":"a.b"}],"timeoutMs":2000}]"#;
        let probes: Probes = text.parse().unwrap();
        let probe = probes.find("/probes/app/liveness").unwrap();
        assert_eq!((probe.scheme, &*probe.target, probe.timeout_ms), (ProbeScheme::Https, "/live?full=1", 2000));
        assert_eq!(serde_json::to_string(&probes).unwrap(), text);
        let short: Probes = r#"[{"path":"/probes/a/startup","port":1,"kind":"tcp"}]"#.parse().unwrap();
        assert_eq!(short.find("/probes/a/startup").unwrap().timeout_ms, 1_000);
    }

    #[test]
    fn what_could_not_be_done_is_refused_with_its_field() {
        for (text, said) in [
            ("", "not a list"),
            ("{}", "not a list"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"exec"}]"#, "unknown variant"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"tcp","more":1}]"#, "unknown field"),
            (r#"[{"path":"/probes/a/b","port":70000,"kind":"tcp"}]"#, "70000"),
            (r#"[{"path":"/probes/a/b","port":0,"kind":"tcp"}]"#, "probe /probes/a/b: port"),
            (r#"[{"path":"/health","port":1,"kind":"tcp"}]"#, "path is not"),
            (r#"[{"path":"/probes/a/b/c","port":1,"kind":"tcp"}]"#, "path is not"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"tcp","timeoutMs":0}]"#, "timeoutMs is 0"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"http","target":"a b"}]"#, "target"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"http","headers":[{"name":"a b"}]}]"#, "headers have"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"tcp"},{"path":"/probes/a/b","port":2,"kind":"tcp"}]"#, "twice"),
        ] {
            let error = text.parse::<Probes>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
