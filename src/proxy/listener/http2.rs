//! HTTP/2 on one client connection.
//!
//! It must bound what a client can make it hold or do: streams, headers, buffers, and streams that are
//! opened only to be reset. Each of the bounds has a name below.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::MissedTickBehavior;

use super::MAX_HEADER_BYTES;
use super::activity::Activity;
use super::caller::Caller;
use super::limits::{Limits, ticks};
use super::stream::ClientStream;
use crate::pipeline;

/// Requests of one connection at once.
const MAX_STREAMS: u32 = 250;

/// Bytes a client may send on a stream before the upstream has taken them.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of answers held for a client that does not read, for each stream.
const SEND_BUFFER: usize = 64 << 10;

/// Streams that were reset before they were looked at; more of them end the connection (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Streams this side had to reset for the client's mistakes; more of them end the connection (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 256;

/// A silent client is asked for a sign of life this often,
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// and has this long to give it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How often the watch looks, or more often where a limit is shorter.
const TICK: Duration = Duration::from_secs(5);

/// An interval can't be none.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

/// How many ticks a client may keep a connection without requests after it was told to leave.
const LEAVE_TICKS: u32 = 2;

/// What the watch makes of what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Fine,
    Leave,
    Cut,
}

/// Sees now and then whether the connection still does something.
#[derive(Debug, Default)]
struct Watch {
    served: u64,
    written: u64,
    taken: u64,
    idle_ticks: u32,
    write_ticks: u32,
    leave_ticks: u32,
    limits: Limits,
    tick: Duration,
}

/// Serves requests until the client or the drain ends it.
pub(super) async fn serve(stream: ClientStream, caller: &Arc<Caller>) {
    let activity = Arc::clone(stream.activity());
    let serving = Arc::clone(caller);
    let service = service_fn(move |request| pipeline::handle(Arc::clone(&serving), request));
    let connection = builder().serve_connection(TokioIo::new(stream.into_http2()), service);
    let mut connection = pin!(connection);
    let mut watch = Watch::new(*caller.enforcer.limits());
    let mut tick = tokio::time::interval(watch.tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = pin!(caller.draining.cancelled());
    let mut leaving = false;
    let ended = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let before = leaving;
            leaving = leaving || draining.as_mut().poll(cx).is_ready();
            while tick.poll_tick(cx).is_ready() {
                match watch.look(&activity, leaving) {
                    Sight::Cut => return Poll::Ready(None),
                    Sight::Leave => leaving = true,
                    Sight::Fine => leaving = leaving || caller.is_older_than(watch.limits.age),
                }
            }
            if leaving == before {
                return Poll::Pending;
            }
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Some(Err(error)) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "client connection ended");
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

impl Watch {
    fn new(limits: Limits) -> Self {
        let tick = TICK.min(limits.shortest() / 2).max(SHORTEST_TICK);
        Self { limits, tick, ..Self::default() }
    }

    fn look(&mut self, activity: &Activity, leaving: bool) -> Sight {
        activity.forgive();
        let moved = std::mem::replace(&mut self.written, activity.written()) != activity.written();
        let served = std::mem::replace(&mut self.served, activity.served()) != activity.served();
        let silent = !served && activity.in_flight() == 0;
        self.idle_ticks = if silent { self.idle_ticks + 1 } else { 0 };
        self.leave_ticks = if silent && leaving { self.leave_ticks + 1 } else { 0 };
        // A client that opens no window for its answers reads nothing of them, whatever its socket takes.
        let took = std::mem::replace(&mut self.taken, activity.taken()) != activity.taken();
        let stuck = (activity.is_write_blocked() && !moved) || (activity.is_answer_offered() && !took);
        self.write_ticks = if stuck { self.write_ticks + 1 } else { 0 };
        if self.write_ticks > ticks(self.limits.write, self.tick) || self.leave_ticks > LEAVE_TICKS {
            Sight::Cut
        } else if self.idle_ticks > ticks(self.limits.idle, self.tick) {
            Sight::Leave
        } else {
            Sight::Fine
        }
    }
}
