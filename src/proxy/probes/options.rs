//! Probes as they are given on the command line.
//!
//! It must refuse what is no list of probes before anything starts, since that is a misspelt option. It must not refuse a list
//! for one probe that can't be made: what the probe says is the application's, and the kubelet would have failed that one alone.

use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

/// Probes that one pod can have; the injector hands over no more.
const MAX_PROBES: usize = 256;

/// The longest time a probe takes; who asks for more gets this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

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
    /// Path and query of an HTTP probe; absent is `/`. What a request can't hold is escaped, as the kubelet does it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Headers of an HTTP probe, Host among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ProbeHeader>,
    /// The service that a gRPC probe asks about; absent is the whole server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// How long it may take, in milliseconds, from 1 to an hour; what is out of that is taken as the nearest.
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
    /// The sidecar could never be asked for it.
    #[error("path {0:?} is not /probes/CONTAINER/KIND")]
    Path(String),
}

/// Why one probe fails whenever it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeProblem {
    /// Nobody listens there.
    #[error("port is 0")]
    Port,
    /// Even escaped it is none.
    #[error("target {0:?} is no path")]
    Target(String),
    /// A header that no request can hold.
    #[error("header {0:?} can't be sent")]
    Header(String),
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

    /// Those that fail whenever they are asked for, and why.
    pub(crate) fn hopeless(&self) -> impl Iterator<Item = (&Probe, ProbeProblem)> {
        self.0.iter().filter_map(|probe| Some((probe, probe.problem()?)))
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
    /// Why it can't be made; none where it can.
    pub(crate) fn problem(&self) -> Option<ProbeProblem> {
        if self.port == 0 {
            return Some(ProbeProblem::Port);
        }
        let unsendable = |header: &&ProbeHeader| {
            HeaderName::try_from(&header.name).is_err() || HeaderValue::try_from(&header.value).is_err()
        };
        if let Some(header) = self.headers.iter().find(unsendable) {
            return Some(ProbeProblem::Header(header.name.clone()));
        }
        self.request_target().err()
    }

    /// Path and query as they are sent.
    pub(crate) fn request_target(&self) -> Result<PathAndQuery, ProbeProblem> {
        let escaped = escaped(&self.target);
        escaped.parse().map_err(|_| ProbeProblem::Target(self.target.clone()))
    }

    /// How long it may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.max(1)).min(MAX_TIMEOUT)
    }

    fn check(&self) -> Result<(), ProbeError> {
        let mut parts = self.path.strip_prefix("/probes/").into_iter().flat_map(|rest| rest.split('/'));
        match (parts.next(), parts.next(), parts.next()) {
            (Some(container), Some(kind), None) if !container.is_empty() && !kind.is_empty() => Ok(()),
            _ => Err(ProbeError::Path(self.path.clone())),
        }
    }
}

/// A path from the root in which every letter is one that a request can hold. The fragment is not sent.
fn escaped(target: &str) -> String {
    let sent = target.split('#').next().unwrap_or_default();
    let mut text = String::with_capacity(sent.len() + 1);
    if !sent.starts_with('/') {
        text.push('/');
    }
    for byte in sent.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
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
    fn what_is_no_list_of_probes_is_refused_with_its_field() {
        for (text, said) in [
            ("", "not a list"),
            ("{}", "not a list"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"exec"}]"#, "unknown variant"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"tcp","more":1}]"#, "unknown field"),
            (r#"[{"path":"/probes/a/b","port":70000,"kind":"tcp"}]"#, "70000"),
            (r#"[{"path":"/health","port":1,"kind":"tcp"}]"#, r#"path "/health" is not"#),
            (r#"[{"path":"/probes/a/b/c","port":1,"kind":"tcp"}]"#, "is not /probes/CONTAINER/KIND"),
            (r#"[{"path":"/probes/a/b","port":1,"kind":"tcp"},{"path":"/probes/a/b","port":2,"kind":"tcp"}]"#, "twice"),
        ] {
            let error = text.parse::<Probes>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    /// What is wrong with the one probe of `fields`.
    fn problem(fields: &str) -> Option<ProbeProblem> {
        let text = format!(r#"[{{"path":"/probes/a/b","kind":"http",{fields}}}]"#);
        text.parse::<Probes>().unwrap().find("/probes/a/b").unwrap().problem()
    }

    #[test]
    fn a_probe_that_can_not_be_made_is_kept_with_its_reason() {
        let header = |name: &str| Some(ProbeProblem::Header(name.to_owned()));
        assert_eq!(problem(r#""port":0"#), Some(ProbeProblem::Port));
        assert_eq!(problem(r#""port":1,"headers":[{"name":"a b"}]"#), header("a b"));
        assert_eq!(problem(r#""port":1,"headers":[{"name":""}]"#), header(""));
        assert_eq!(problem(r#""port":1,"headers":[{"name":"x","value":"a\nb"}]"#), header("x"));
        assert_eq!(problem(r#""port":1,"headers":[{"name":"x","value":"\u00fc"}]"#), None);
        let long = format!(r#""port":1,"target":"/{}""#, "a".repeat(70_000));
        assert!(matches!(problem(&long), Some(ProbeProblem::Target(_))));
    }

    #[test]
    fn a_target_is_escaped_as_the_kubelet_does_it() {
        for (target, sent) in [
            ("", "/"),
            ("health", "/health"),
            ("?full=1", "/?full=1"),
            ("/a b", "/a%20b"),
            ("/a%20b?c=d&e#f", "/a%20b?c=d&e"),
            ("/\u{fc}", "/%C3%BC"),
            ("/a\n\"{b}", "/a%0A%22%7Bb%7D"),
        ] {
            let text = serde_json::json!([{"path": "/probes/a/b", "port": 1, "kind": "http", "target": target}]);
            let probes: Probes = text.to_string().parse().unwrap();
            let found = probes.find("/probes/a/b").unwrap();
            assert_eq!(found.request_target().unwrap(), sent, "{target:?}");
            assert_eq!(found.problem(), None);
        }
    }

    #[test]
    fn a_timeout_out_of_range_is_the_nearest_in_it() {
        for (asked, taken) in [(0, 1), (2_000, 2_000), (2_147_483_647_000, 3_600_000), (u64::MAX, 3_600_000)] {
            let text = format!(r#"[{{"path":"/probes/a/b","port":1,"kind":"tcp","timeoutMs":{asked}}}]"#);
            let probes: Probes = text.parse().unwrap();
            assert_eq!(probes.find("/probes/a/b").unwrap().timeout(), Duration::from_millis(taken));
        }
    }
}
