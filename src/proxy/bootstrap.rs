//! Reads the configuration file a proxy starts from.
//!
//! It must never stop the proxy: an optional mount may be missing and a file may be torn, and
//! traffic has to flow in both cases. What was wrong is returned, to be said in log and health.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use fusebox_policy::config::ProxyConfig;
use fusebox_policy::seal;
use fusebox_policy::stream::MAX_LINE_DOWN;

/// The longest configuration file, in bytes: as much as the control stream carries.
pub(crate) const MAX_CONFIG_BYTES: u64 = MAX_LINE_DOWN as u64;

/// Why a configuration file gave no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    /// It can't be read.
    #[error("configuration file can't be read")]
    Read(#[source] io::Error),
    /// It is longer than the bound.
    #[error("configuration file is longer than {MAX_CONFIG_BYTES} bytes")]
    TooLong,
    /// Its first line vouches for something else.
    #[error("configuration file: {0}")]
    Broken(#[from] seal::Broken),
    /// It is no configuration, for instance because it was torn.
    #[error("configuration file is not a proxy configuration: {0}")]
    Malformed(serde_yaml::Error),
}

/// The configuration in `path`; none when there is no such file.
pub(crate) fn read_config(path: &Path) -> Result<Option<ProxyConfig>, BootstrapError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BootstrapError::Read(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(BootstrapError::Read)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(BootstrapError::TooLong);
    }
    parsed(seal::unseal(&bytes)?).map(Some).map_err(BootstrapError::Malformed)
}

/// As YAML, of which choices have tags (`!apiKey`), or as JSON, which has none and writes them as objects.
fn parsed(text: &[u8]) -> Result<ProxyConfig, serde_yaml::Error> {
    // The first letter of a YAML file ends this soon.
    serde_json::from_slice(text).or_else(|_| serde_yaml::from_slice(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusebox_policy::config::{KeyPart, RateLimit, WorkloadId};
    use serde_json::json;

    #[test]
    fn a_missing_file_is_no_configuration_and_no_error() {
        assert!(matches!(read_config(Path::new("/nonexistent/config.yaml")), Ok(None)));
    }

    #[test]
    fn a_whole_file_is_read_and_a_torn_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let workload = WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "web".into() };
        let text = serde_yaml::to_string(&ProxyConfig::empty(workload)).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_config(&path).unwrap().unwrap().workload.name, "web");
        for end in [0, text.len() / 2] {
            std::fs::write(&path, &text[..end]).unwrap();
            assert!(matches!(read_config(&path), Err(BootstrapError::Malformed(_))), "torn at {end}");
        }
    }

    #[test]
    fn json_is_read_with_its_choices_as_objects() {
        let limit: RateLimit = serde_json::from_value(json!({
            "policy": {"namespace": "shop", "name": "fair"}, "side": "Server", "maxTrackedKeys": 10,
            "target": {"kind": "Service", "namespace": "shop", "name": "web"},
            "limits": [{"name": "each", "key": [{"header": "x-client"}],
                "rules": [{"rate": {"requests": 1, "perMs": 1000, "burst": 1}}]}],
        }))
        .unwrap();
        let text = json!({
            "format": 1, "workload": {"namespace": "shop", "kind": "Deployment", "name": "web"}, "policies": [],
            "inbound": [{"port": 8080, "rateLimit": limit}],
        });
        let config = parsed(text.to_string().as_bytes()).unwrap();
        let read = config.inbound[0].rate_limit.as_ref().unwrap();
        assert_eq!(read.limits[0].key, [KeyPart::Header("x-client".into())]);
        assert_eq!(parsed(serde_yaml::to_string(&config).unwrap().as_bytes()).unwrap(), config);
        assert!(parsed(b"{\"format\": 1,").is_err());
    }

    #[test]
    fn a_sealed_file_is_never_taken_for_less_than_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let workload = WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "web".into() };
        let text = seal::seal(&serde_yaml::to_string(&ProxyConfig::empty(workload)).unwrap());
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_config(&path).unwrap().unwrap().workload.name, "web");
        for end in 0..text.len() {
            std::fs::write(&path, &text[..end]).unwrap();
            assert!(read_config(&path).is_err(), "torn at {end}");
        }
    }
}
