//! Probes as they are given on the command line.
//!
//! It must refuse what is no list of probes before anything starts, since that is a misspelt option. It must not refuse a list
//! for one probe that can't be made: what the probe says is the application's, and the kubelet would have failed that one alone.

use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use fusebox_policy::config::{MAX_PROBES, Probe, ProbeHeader};
use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

/// The longest time a probe takes; who asks for more gets this.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// All probes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probes(Vec<Probe>);

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

impl Probes {
    /// The probe that the kubelet asks for at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Probe> {
        self.0.iter().find(|probe| probe.path == path)
    }

    /// Those that fail whenever they are asked for, and why.
    pub(crate) fn hopeless(&self) -> impl Iterator<Item = (&Probe, ProbeProblem)> {
        self.0.iter().filter_map(|probe| Some((probe, problem(probe)?)))
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
            check(probe)?;
            if probes.0[..index].iter().any(|before| before.path == probe.path) {
                return Err(ProbeError::Twice(probe.path.clone()));
            }
        }
        Ok(probes)
    }
}

/// Why a probe can't be made; none where it can.
pub(super) fn problem(probe: &Probe) -> Option<ProbeProblem> {
    if probe.port == 0 {
        return Some(ProbeProblem::Port);
    }
    let unsendable = |header: &&ProbeHeader| {
        HeaderName::try_from(&header.name).is_err() || HeaderValue::try_from(&header.value).is_err()
    };
    if let Some(header) = probe.headers.iter().find(unsendable) {
        return Some(ProbeProblem::Header(header.name.clone()));
    }
    request_target(probe).err()
}

/// Path and query of a probe as they are sent.
pub(super) fn request_target(probe: &Probe) -> Result<PathAndQuery, ProbeProblem> {
    let target = probe.target.as_deref().unwrap_or_default();
    escaped(target).parse().map_err(|_| ProbeProblem::Target(target.to_owned()))
}

/// How long a probe may take.
pub(super) fn timeout(probe: &Probe) -> Duration {
    Duration::from_millis(probe.timeout_ms.max(1)).min(MAX_TIMEOUT)
}

fn check(probe: &Probe) -> Result<(), ProbeError> {
    let mut parts = probe.path.strip_prefix("/probes/").into_iter().flat_map(|rest| rest.split('/'));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(container), Some(kind), None) if !container.is_empty() && !kind.is_empty() => Ok(()),
        _ => Err(ProbeError::Path(probe.path.clone())),
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

#[cfg(test)]
mod tests {
    use fusebox_policy::config::ProbeScheme;

    use super::*;

    #[test]
    fn what_was_meant_is_read_whole_and_written_as_it_was() {
        let text = r#"[{"path":"/probes/app/liveness","port":8080,"kind":"http","scheme":"HTTPS","target":"/live?full=1","headers":[{"name":"Host","value":"a.b"}],"timeoutMs":2000}]"#;
        let probes: Probes = text.parse().unwrap();
        let probe = probes.find("/probes/app/liveness").unwrap();
        assert_eq!(
            (probe.scheme, probe.target.as_deref(), probe.timeout_ms),
            (Some(ProbeScheme::Https), Some("/live?full=1"), 2000)
        );
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
    fn problem_of(fields: &str) -> Option<ProbeProblem> {
        let text = format!(r#"[{{"path":"/probes/a/b","kind":"http",{fields}}}]"#);
        problem(text.parse::<Probes>().unwrap().find("/probes/a/b").unwrap())
    }

    #[test]
    fn a_probe_that_can_not_be_made_is_kept_with_its_reason() {
        let header = |name: &str| Some(ProbeProblem::Header(name.to_owned()));
        assert_eq!(problem_of(r#""port":0"#), Some(ProbeProblem::Port));
        assert_eq!(problem_of(r#""port":1,"headers":[{"name":"a b"}]"#), header("a b"));
        assert_eq!(problem_of(r#""port":1,"headers":[{"name":""}]"#), header(""));
        assert_eq!(problem_of(r#""port":1,"headers":[{"name":"x","value":"a\nb"}]"#), header("x"));
        assert_eq!(problem_of(r#""port":1,"headers":[{"name":"x","value":"\u00fc"}]"#), None);
        let long = format!(r#""port":1,"target":"/{}""#, "a".repeat(70_000));
        assert!(matches!(problem_of(&long), Some(ProbeProblem::Target(_))));
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
            assert_eq!(request_target(found).unwrap(), sent, "{target:?}");
            assert_eq!(problem(found), None);
        }
    }

    #[test]
    fn a_timeout_out_of_range_is_the_nearest_in_it() {
        for (asked, taken) in [(0, 1), (2_000, 2_000), (2_147_483_647_000, 3_600_000), (u64::MAX, 3_600_000)] {
            let text = format!(r#"[{{"path":"/probes/a/b","port":1,"kind":"tcp","timeoutMs":{asked}}}]"#);
            let probes: Probes = text.parse().unwrap();
            assert_eq!(timeout(probes.find("/probes/a/b").unwrap()), Duration::from_millis(taken));
        }
    }
}
