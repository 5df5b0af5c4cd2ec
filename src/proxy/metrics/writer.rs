//! Families of samples, written one after the other through one encoder.
//!
//! It must not know what is counted: names, helps and labels come from those who write.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;

type Label = (&'static str, Cow<'static, str>);
pub(super) type Labels = Vec<Label>;

/// Writes families through one encoder.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

/// One value of a family.
pub(super) enum Sample {
    Counter(u64),
    Seconds(f64),
    Gauge(f64),
    Durations(crate::series::DurationSnapshot),
}

impl Writer<'_> {
    pub(super) fn family(&mut self, name: &str, help: &str, samples: &[(Labels, Sample)]) -> fmt::Result {
        let Some((_, first)) = samples.first() else { return Ok(()) };
        // The encoder appends the suffix of counters by itself.
        let name = name.strip_suffix("_total").unwrap_or(name);
        let mut family = self.0.encode_descriptor(name, help, None, first.kind())?;
        // An empty label set would be written as a pair of braces.
        if let [(labels, sample)] = samples
            && labels.is_empty()
        {
            return sample.encode(family);
        }
        for (labels, sample) in samples {
            sample.encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let samples: Vec<_> = value.map(|value| (Vec::new(), Sample::Gauge(value))).into_iter().collect();
        self.family(name, help, &samples)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, &[(Vec::new(), Sample::Counter(value))])
    }
}

impl Sample {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => ConstCounter::new(*value).encode(encoder),
            Self::Seconds(value) => ConstCounter::new(*value).encode(encoder),
            Self::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Self::Durations(durations) => {
                let none: Option<&HashMap<usize, Exemplar<Labels, f64>>> = None;
                encoder.encode_histogram(durations.sum, durations.count, &durations.buckets, none)
            }
        }
    }

    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Seconds(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Durations(_) => MetricType::Histogram,
        }
    }
}

/// Labels with some more behind them.
pub(super) fn with<const N: usize>(labels: &Labels, more: [Label; N]) -> Labels {
    labels.iter().cloned().chain(more).collect()
}

/// Exact up to 2^53, which no counter here reaches.
pub(super) fn number(value: u64) -> f64 {
    value as f64
}
