//! What is measured of a proxy, and how several rounds become one figure.
//!
//! It must not format tables or draw. The median of the rounds is shown with the least and the greatest, because a mean
//! hides the round in which the machine did something else.

use serde::Serialize;

use crate::contender::{Contender, Variant};
use crate::scenario::Protocol;

/// One proxy in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) contender: Contender,
    pub(crate) protocol: Protocol,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// All that is measured of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_seconds_per_100k: f64,
    pub(crate) proxy_core_percent: f64,
    pub(crate) load_core_percent: f64,
    pub(crate) added_p50_us: f64,
    pub(crate) added_p99_us: f64,
    pub(crate) added_p999_us: f64,
    pub(crate) rss_idle_mib: f64,
    pub(crate) rss_per_connection_kib: f64,
}

/// The load straight at the upstream, in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Direct {
    pub(crate) round: usize,
    pub(crate) protocol: Protocol,
    #[serde(flatten)]
    pub(crate) latencies: Latencies,
}

/// Latencies of one run at a fixed rate, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// A variant of a proxy against the plain one: CPU per request of neighbouring turns, as a ratio.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) contender: Contender,
    #[serde(serialize_with = "label")]
    pub(crate) variant: Variant,
    pub(crate) cpu_ratios: Vec<f64>,
    /// CPU seconds per 100,000 requests of the variant, turn by turn.
    pub(crate) cpu_seconds_per_100k: Vec<f64>,
    /// What the variant's latencies at the fixed rate were above the plain one's, turn by turn; only where it waits for another program.
    pub(crate) added: Vec<Latencies>,
    /// Requests that the variant answered while it was measured.
    pub(crate) answered: f64,
    /// Lines it printed in all its life: an access log that drops lines would look cheap.
    pub(crate) lines: usize,
}

impl Comparison {
    /// Whether both compare the same.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (self.contender, self.variant) == (other.contender, other.variant)
    }
}

/// One column of [`Figures`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    RequestsPerSecond,
    CpuSeconds,
    AddedP50,
    AddedP99,
    AddedP999,
    RssIdle,
    RssPerConnection,
    ProxyCore,
    LoadCore,
}

/// Several rounds as one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Metric {
    pub(crate) const ALL: [Self; 9] = [
        Self::RequestsPerSecond,
        Self::CpuSeconds,
        Self::AddedP50,
        Self::AddedP99,
        Self::AddedP999,
        Self::RssIdle,
        Self::RssPerConnection,
        Self::ProxyCore,
        Self::LoadCore,
    ];

    /// As tables say it, with the unit.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s at saturation",
            Self::CpuSeconds => "CPU seconds per 100k requests",
            Self::AddedP50 => "p50 added, µs",
            Self::AddedP99 => "p99 added, µs",
            Self::AddedP999 => "p99.9 added, µs",
            Self::RssIdle => "RSS idle, MiB",
            Self::RssPerConnection => "RSS per idle connection, KiB",
            Self::ProxyCore => "the proxy's core in use, %",
            Self::LoadCore => "the load's core in use, %",
        }
    }

    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::CpuSeconds => 2,
            Self::RssIdle | Self::RssPerConnection => 1,
            _ => 0,
        }
    }

    pub(crate) fn of(self, figures: &Figures) -> f64 {
        match self {
            Self::RequestsPerSecond => figures.requests_per_second,
            Self::CpuSeconds => figures.cpu_seconds_per_100k,
            Self::AddedP50 => figures.added_p50_us,
            Self::AddedP99 => figures.added_p99_us,
            Self::AddedP999 => figures.added_p999_us,
            Self::RssIdle => figures.rss_idle_mib,
            Self::RssPerConnection => figures.rss_per_connection_kib,
            Self::ProxyCore => figures.proxy_core_percent,
            Self::LoadCore => figures.load_core_percent,
        }
    }
}

impl Latencies {
    /// What `through` a proxy took longer than this direct run of the same round.
    pub(crate) fn added(&self, through: &Self) -> Self {
        Self {
            p50_us: through.p50_us - self.p50_us,
            p99_us: through.p99_us - self.p99_us,
            p999_us: through.p999_us - self.p999_us,
        }
    }
}

impl Summary {
    /// None of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, least, greatest })
    }

    /// One metric of one proxy over all rounds.
    pub(crate) fn of_metric(samples: &[Sample], who: (Contender, Protocol), metric: Metric) -> Option<Self> {
        let values: Vec<_> = those(samples, who).map(|sample| metric.of(&sample.figures)).collect();
        Self::of(&values)
    }

    /// How many times ours another proxy's figure is, round by round.
    pub(crate) fn of_ratio(samples: &[Sample], who: (Contender, Protocol), metric: Metric) -> Option<Self> {
        let ratios = those(samples, who).filter_map(|theirs| {
            let ours = those(samples, (Contender::Fusebox, who.1)).find(|sample| sample.round == theirs.round)?;
            Some(metric.of(&theirs.figures) / metric.of(&ours.figures))
        });
        Self::of(&ratios.collect::<Vec<_>>())
    }
}

fn those(samples: &[Sample], (contender, protocol): (Contender, Protocol)) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.contender == contender && sample.protocol == protocol)
}

fn label<S: serde::Serializer>(variant: &Variant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(variant.label())
}

/// Samples for tests: round by round, requests/s falls and CPU per request rises from proxy to proxy.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for (round, protocol) in (1..=3).flat_map(|round| Protocol::ALL.map(|protocol| (round, protocol))) {
        for (place, contender) in Contender::ALL.into_iter().enumerate() {
            let factor = 1.0 + place as f64 + round as f64 / 100.0;
            let figures = Figures {
                requests_per_second: 40_000.0 / factor,
                cpu_seconds_per_100k: 2.0 * factor,
                proxy_core_percent: 99.0,
                load_core_percent: 55.0,
                added_p50_us: 50.0 * factor,
                added_p99_us: 90.0 * factor,
                added_p999_us: 200.0 * factor,
                rss_idle_mib: 5.0 * factor,
                rss_per_connection_kib: 10.0 * factor,
            };
            samples.push(Sample { round, contender, protocol, figures });
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap(), Summary { median: 2.0, least: 1.0, greatest: 3.0 });
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let envoy = (Contender::Envoy, Protocol::Grpc);
        let ratio = Summary::of_ratio(&samples(), envoy, Metric::CpuSeconds).unwrap();
        assert!((ratio.median - 2.02 / 1.02).abs() < 1e-9, "{ratio:?}");
        let ours = Summary::of_ratio(&samples(), (Contender::Fusebox, Protocol::Grpc), Metric::CpuSeconds).unwrap();
        assert_eq!((ours.least, ours.greatest), (1.0, 1.0));
    }

    #[test]
    fn the_direct_run_is_taken_away() {
        let direct = Latencies { p50_us: 20.0, p99_us: 30.0, p999_us: 50.0 };
        let through = Latencies { p50_us: 70.0, p99_us: 100.0, p999_us: 45.0 };
        assert_eq!(direct.added(&through), Latencies { p50_us: 50.0, p99_us: 70.0, p999_us: -5.0 });
    }
}
