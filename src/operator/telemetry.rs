//! Logs, and traces over OTLP.
//!
//! Spans wait in a bounded queue and are dropped when the collector is away: telemetry must never
//! hold up or fill up the operator. Only the operator's own spans are exported, so that exporting
//! makes no spans.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter as Exporter,
};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::Targets};

use crate::health::{Component, Health, Status};
use crate::metrics::Metrics;
use crate::settings::{LogFormat, Settings};

/// Spans that wait for export, at most.
const MAX_QUEUED_SPANS: usize = 2048;
const MAX_BATCH: usize = 512;
const EXPORT_EVERY: Duration = Duration::from_secs(1);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
const SERVICE: &str = "fusebox-operator";

/// What must be flushed at the end.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint can't be used.
    #[error("--otlp-endpoint can't be used; write http://HOST:4317")]
    Endpoint(#[source] ExporterBuildError),
    /// Something else set up logging already.
    #[error("logging is set up already")]
    Twice(#[source] TryInitError),
}

/// Sets up logs for the process, and traces where an endpoint is given.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(settings: &Settings, health: &Health, metrics: &Metrics) -> Result<Telemetry, TelemetryError> {
    let provider = provider(settings, health, metrics)?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_filter(Targets::new().with_target("fusebox", tracing::Level::INFO))
    });
    Registry::default().with(traces).with(log_layer(settings.log_format)).try_init().map_err(TelemetryError::Twice)?;
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Exports what waits, for at most `patience`. It blocks: call it where that is allowed.
    pub fn finish(self, patience: Duration) {
        if let Some(Err(error)) = self.provider.map(|provider| provider.shutdown_with_timeout(patience)) {
            tracing::warn!(%error, "last spans were not exported");
        }
    }
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Text => layer.with_filter(filter).boxed(),
    }
}

fn provider(
    settings: &Settings,
    health: &Health,
    metrics: &Metrics,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let Some(endpoint) = &settings.otlp_endpoint else {
        return Ok(None);
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(TelemetryError::Endpoint)?;
    health.set(Component::Otlp, Status::healthy());
    let counted = Counted { exporter, health: health.clone(), metrics: metrics.clone() };
    let bounds = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED_SPANS)
        .with_max_export_batch_size(MAX_BATCH)
        .with_scheduled_delay(EXPORT_EVERY)
        .build();
    let processor = BatchSpanProcessor::builder(counted).with_batch_config(bounds).build();
    let resource = opentelemetry_sdk::Resource::builder()
        .with_service_name(SERVICE)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", settings.identity.clone()),
            KeyValue::new("k8s.namespace.name", settings.namespace.clone()),
        ])
        .build();
    Ok(Some(SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build()))
}

/// An exporter whose fate shows in health and metrics.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    health: Health,
    metrics: Metrics,
}

impl<E: Exporter> Exporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let outcome = self.exporter.export(batch).await;
        match &outcome {
            Ok(()) => {
                self.metrics.spans_exported.inc_by(spans);
                self.health.set(Component::Otlp, Status::healthy());
            }
            Err(_) => {
                self.metrics.spans_dropped.inc_by(spans);
                let message = "spans can't be exported; check --otlp-endpoint and the collector";
                self.health.set(Component::Otlp, Status::degraded(message));
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &opentelemetry_sdk::Resource) {
        self.exporter.set_resource(resource);
    }
}
