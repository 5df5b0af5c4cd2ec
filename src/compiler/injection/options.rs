//! What an installation says about every sidecar: the file of `--injection-config`, written by the chart.
//!
//! Unknown fields are refused, because a misspelt one would otherwise be a default that nobody chose.

use fusebox_api::duration::Duration;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Deserialize;

/// The longest delay before a container ends.
const MAX_SHUTDOWN_DELAY: Duration = Duration::from_secs(3600);

/// What an installation says about every sidecar.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectionOptions {
    /// The proxy's image, such as `fusebox/proxy:0.1.0`. Required.
    pub image: String,
    /// When the image is pulled. Default: as Kubernetes does it by the image's tag.
    #[serde(default)]
    pub image_pull_policy: Option<PullPolicy>,
    /// Where sidecars reach the operator, such as `https://fusebox-operator.fusebox-system.svc:9443`. Required.
    pub control_urls: Vec<String>,
    /// How traffic reaches the sidecar where nobody says. Default: `auto`.
    #[serde(default)]
    pub interception: InterceptionDefault,
    /// What the sidecar may use. Default: requests of 20m CPU and 32Mi memory, a limit of 256Mi memory.
    #[serde(default = "default_resources")]
    pub resources: ResourceRequirements,
    /// Which requests the sidecar logs: `off`, `all`, `errors` or `sampled:PERCENT`. Default: `off`.
    #[serde(default = "default_access_log")]
    pub access_log: String,
    /// What else the sidecar logs, as in RUST_LOG. Default: `info`.
    #[serde(default = "default_log_level")]
    pub log_level: String,
    /// How long requests in flight may take after the sidecar was asked to end. Default: `30s`.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout: Duration,
    /// How long containers go on serving after the pod was asked to end; `0s` is not at all. Default: `3s`.
    #[serde(default = "default_shutdown_delay")]
    pub shutdown_delay: Duration,
    /// Ports of every pod whose traffic does not pass the sidecar. Default: none.
    #[serde(default)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports elsewhere to which traffic does not pass the sidecar. Default: none.
    #[serde(default)]
    pub exclude_outbound_ports: Vec<u16>,
    /// The cluster's domain. Default: `cluster.local`.
    #[serde(default = "default_cluster_domain")]
    pub cluster_domain: String,
}

/// How traffic reaches the sidecar where neither pod nor namespace says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterceptionDefault {
    /// Explicit where the namespace enforces Pod Security `baseline` or `restricted`, else transparent.
    #[default]
    Auto,
    /// Transparent everywhere.
    Transparent,
    /// Explicit everywhere.
    Explicit,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node has none.
    IfNotPresent,
    /// Never.
    Never,
}

/// Why options can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// They are no YAML of the right shape.
    #[error("the injection options can't be read")]
    Unreadable(#[from] serde_yaml::Error),
    /// A field says nothing useful.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl InjectionOptions {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`OptionsError`] naming the field.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let options: Self = serde_yaml::from_str(text)?;
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), OptionsError> {
        let field = |field, problem| Err(OptionsError::Field { field, problem });
        if self.image.trim().is_empty() {
            return field("image", "must name the proxy's image");
        }
        if self.control_urls.is_empty() || !self.control_urls.iter().all(|url| url.starts_with("https://")) {
            return field(
                "controlUrls",
                "must list the operator's addresses, such as https://fusebox-operator.fusebox-system.svc:9443",
            );
        }
        if !access_log_is_known(&self.access_log) {
            return field("accessLog", "must be off, all, errors or sampled:PERCENT");
        }
        if self.shutdown_delay > MAX_SHUTDOWN_DELAY {
            return field("shutdownDelay", "must be at most 1h");
        }
        if self.cluster_domain.is_empty() || self.cluster_domain.starts_with('.') || self.cluster_domain.ends_with('.')
        {
            return field("clusterDomain", "must be a domain such as cluster.local, without dots at its ends");
        }
        Ok(())
    }
}

impl PullPolicy {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

fn access_log_is_known(word: &str) -> bool {
    let share = word.strip_prefix("sampled:").and_then(|share| share.parse::<f64>().ok());
    matches!(word, "off" | "all" | "errors") || share.is_some_and(|share| (0.0..=100.0).contains(&share))
}

fn default_resources() -> ResourceRequirements {
    let quantities = |listed: &[(&str, &str)]| {
        let quantity = |value: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(value.to_owned());
        Some(listed.iter().map(|(name, value)| ((*name).to_owned(), quantity(value))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "20m"), ("memory", "32Mi")]),
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

fn default_access_log() -> String {
    "off".to_owned()
}

fn default_log_level() -> String {
    "info".to_owned()
}

fn default_drain_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_shutdown_delay() -> Duration {
    Duration::from_secs(3)
}

fn default_cluster_domain() -> String {
    "cluster.local".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "{image: fusebox/proxy:1, controlUrls: [https://operator:9443]}";

    #[test]
    fn image_and_operator_are_enough() {
        let options = InjectionOptions::parse(LEAST).unwrap();
        assert_eq!((options.shutdown_delay, options.drain_timeout), (Duration::from_secs(3), Duration::from_secs(30)));
        assert_eq!(options.interception, InterceptionDefault::Auto);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let error = InjectionOptions::parse(&LEAST.replace('}', ", shutdownDelays: 3s}")).unwrap_err();
        assert!(matches!(&error, OptionsError::Unreadable(source) if source.to_string().contains("shutdownDelays")));
    }

    #[test]
    fn values_that_say_nothing_are_refused_by_name() {
        for (wrong, field) in [
            ("{image: '', controlUrls: [https://operator:9443]}", "image"),
            ("{image: a, controlUrls: []}", "controlUrls"),
            ("{image: a, controlUrls: [http://operator:9443]}", "controlUrls"),
            ("{image: a, controlUrls: [https://operator:9443], accessLog: some}", "accessLog"),
            ("{image: a, controlUrls: [https://operator:9443], accessLog: 'sampled:101'}", "accessLog"),
            ("{image: a, controlUrls: [https://operator:9443], shutdownDelay: 2h}", "shutdownDelay"),
            ("{image: a, controlUrls: [https://operator:9443], clusterDomain: .local}", "clusterDomain"),
        ] {
            let error = InjectionOptions::parse(wrong).unwrap_err();
            assert!(matches!(&error, OptionsError::Field { field: named, .. } if *named == field), "{wrong}: {error}");
        }
    }
}
