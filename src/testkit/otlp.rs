//! A receiver of OTLP traces over gRPC.
//!
//! Owns the server and the spans it was sent. It must not interpret them: tests do.
//! Spans are checked where they arrive, because an exporter that batches and drops looks fine from the inside.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as WireSpan;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::eventually::eventually;

/// How many spans are kept; later ones are refused, and the exporter is told.
pub const MAX_SPANS: usize = 100_000;

/// One finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits; none for a root.
    pub parent_id: Option<String>,
    /// The span's name.
    pub name: String,
    /// The span's attributes; numbers and booleans as text.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the process that sent it, as in `service.name`.
    pub resource: BTreeMap<String, String>,
    /// From start to end.
    pub duration: Duration,
}

/// A running receiver. Dropping it stops the server.
pub struct Receiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Receiver {
    /// Starts a receiver on a free loopback port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).context("the receiver cannot listen")?;
        let address = incoming.local_addr().context("the receiver has no address")?;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let service = TraceServiceServer::new(Collector { spans: Arc::clone(&spans) });
        let server = tokio::spawn(async move {
            // It ends when it is aborted; before that there is nobody to tell of an error.
            Server::builder().add_service(service).serve_with_incoming(incoming).await.ok();
        });
        Ok(Self { address, spans, server })
    }

    /// The endpoint to export to, as in `http://127.0.0.1:4317`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far, in the order they arrived.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.spans).clone()
    }

    /// Waits for a span of that name and returns it.
    ///
    /// # Errors
    /// After `deadline`, with the names that did arrive.
    pub async fn wait_for_span(&self, name: &str, deadline: Duration) -> Result<Span> {
        eventually(deadline, &format!("a span called {name} arrives"), async || {
            let spans = self.spans();
            let found = spans.iter().find(|span| span.name == name).cloned();
            let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
            ensure!(found.is_some(), "spans {names:?}");
            found.context("checked above")
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut spans = lock(&self.spans);
        for group in request.into_inner().resource_spans {
            let resource = attributes(&group.resource.map(|resource| resource.attributes).unwrap_or_default());
            for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
                if spans.len() == MAX_SPANS {
                    return Err(tonic::Status::resource_exhausted("the receiver keeps no more spans"));
                }
                spans.push(read(span, &resource));
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(span: &WireSpan, resource: &BTreeMap<String, String>) -> Span {
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
        name: span.name.clone(),
        attributes: attributes(&span.attributes),
        resource: resource.clone(),
        duration: Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(value)) => value.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A list of whole spans stays whole when its holder panics.
fn lock(spans: &Mutex<Vec<Span>>) -> MutexGuard<'_, Vec<Span>> {
    spans.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};

    use super::*;

    #[tokio::test]
    async fn exported_spans_arrive_with_parent_and_duration() -> Result<()> {
        let receiver = Receiver::start().await?;
        let span = WireSpan {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            parent_span_id: vec![3; 8],
            name: "reconcile".to_owned(),
            start_time_unix_nano: 10,
            end_time_unix_nano: 1_010,
            ..WireSpan::default()
        };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let mut exporter = TraceServiceClient::connect(receiver.endpoint()).await?;
        exporter.export(ExportTraceServiceRequest { resource_spans }).await?;
        let received = receiver.wait_for_span("reconcile", Duration::from_secs(5)).await?;
        assert_eq!(received.parent_id.as_deref(), Some("0303030303030303"));
        assert_eq!(received.duration, Duration::from_micros(1));
        let missing = receiver.wait_for_span("apply", Duration::from_millis(100)).await;
        assert!(missing.is_err_and(|error| format!("{error:#}").contains("reconcile")));
        Ok(())
    }
}
