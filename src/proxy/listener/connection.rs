//! One client connection from its first byte to its end: what it speaks, and who serves it.
//!
//! It must hold next to nothing while it waits: parsers, buffers and their state are made when bytes are
//! there, and given up when the client is silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fusebox_policy::config::Protocol;
use tokio::io::AsyncReadExt;

use super::caller::Caller;
use super::detect::{self, Spoken};
use super::http1::{self, End, Stay};
use super::http2;
use super::stream::ClientStream;
use crate::tunnel;

/// How long a client may be silent before the server may be the one to speak first.
pub(crate) const DETECTION_TIME: Duration = Duration::from_millis(100);

/// What the first moments of a connection showed.
enum Detected {
    /// The client spoke.
    Client(Spoken),
    /// The client was silent, or spoke no HTTP, while this connection to the upstream was made.
    Upstream(tunnel::Upstream),
    /// Nobody spoke in time, or there is no upstream.
    Nothing,
}

/// Serves `stream` to its end.
pub(super) async fn run(mut stream: ClientStream, caller: Arc<Caller>) {
    let protocol = caller.way.protocol(&caller.enforcer.snapshot());
    let detected = match protocol {
        Protocol::Tcp => Detected::Client(Spoken::Other),
        Protocol::Http if awaited(&stream, &caller, caller.enforcer.limits().idle).await => {
            Detected::Client(http_only(first_bytes(&mut stream, &caller).await))
        }
        Protocol::Http => Detected::Nothing,
        Protocol::Detect => detect(&mut stream, &caller).await,
    };
    match detected {
        Detected::Client(Spoken::Http1 | Spoken::Unsure) => http1_until_end(stream, &caller).await,
        Detected::Client(Spoken::Http2) => Box::pin(http2::serve(stream, &caller)).await,
        Detected::Client(Spoken::Other) => {
            if let Some(upstream) = open(&stream, &caller).await {
                carry(stream, upstream, &caller).await;
            }
        }
        Detected::Upstream(upstream) => carry(stream, upstream, &caller).await,
        Detected::Nothing => {}
    }
}

async fn carry(stream: ClientStream, upstream: tunnel::Upstream, caller: &Arc<Caller>) {
    if let Some(stream) = Box::pin(tunnel::carry(stream, upstream, caller)).await {
        http1_until_end(stream, caller).await;
    }
}

/// A connection to the upstream. Where there is none, a client whose connection was redirected sees it break, which is as
/// near as can be to being refused.
async fn open(stream: &ClientStream, caller: &Caller) -> Option<tunnel::Upstream> {
    let upstream = Box::pin(tunnel::open(caller)).await;
    if upstream.is_none() && caller.way.address().is_some() {
        stream.reset();
    }
    upstream
}

async fn http1_until_end(mut stream: ClientStream, caller: &Arc<Caller>) {
    let mut stay = Stay::ForOneAnswer;
    loop {
        // On the heap only while it serves, so that an idle connection's task is small.
        match Box::pin(http1::serve(stream, caller, stay)).await {
            End::Idle(silent) => stream = silent,
            End::Closed(stream) => return stream.close().await,
            End::Upgraded(stream, upgraded) => {
                Box::pin(tunnel::carry(stream, upgraded, caller)).await;
                return;
            }
            End::Cut => return,
        }
        let silent_since = Instant::now();
        if !stream.has_prefix() && !awaited(&stream, caller, caller.enforcer.limits().idle).await {
            return;
        }
        stay = if silent_since.elapsed() < http1::TICK { Stay::WhileBusy } else { Stay::ForOneAnswer };
    }
}

/// Waits for a byte or the client's end; false when neither came in time, or the proxy drains.
async fn awaited(stream: &ClientStream, caller: &Caller, limit: Duration) -> bool {
    let mut byte = [0];
    tokio::select! {
        biased;
        // Readiness alone may be an error of the system's; a byte or the end is not.
        peeked = stream.socket().peek(&mut byte) => peeked.is_ok(),
        () = caller.draining.cancelled() => false,
        () = tokio::time::sleep(limit) => false,
    }
}

/// What the client speaks. When it is silent the upstream is connected to, because in some protocols the server
/// speaks first; the client may still turn out to be a slow one that speaks HTTP.
async fn detect(stream: &mut ClientStream, caller: &Arc<Caller>) -> Detected {
    if awaited(stream, caller, DETECTION_TIME).await {
        return Detected::Client(first_bytes(stream, caller).await);
    }
    if caller.draining.is_cancelled() {
        return Detected::Nothing;
    }
    let Some(upstream) = open(stream, caller).await else { return Detected::Nothing };
    let client_spoke = tokio::select! {
        biased;
        client_spoke = awaited(stream, caller, caller.enforcer.limits().idle) => client_spoke,
        _ = upstream.spoke() => return Detected::Upstream(upstream),
    };
    if !client_spoke {
        return Detected::Nothing;
    }
    match first_bytes(stream, caller).await {
        Spoken::Other => Detected::Upstream(upstream),
        spoken => Detected::Client(spoken),
    }
}

/// On a port where only HTTP is spoken, anything else is HTTP that is broken, and is told so.
fn http_only(spoken: Spoken) -> Spoken {
    match spoken {
        Spoken::Http2 => Spoken::Http2,
        Spoken::Http1 | Spoken::Other | Spoken::Unsure => Spoken::Http1,
    }
}

/// Judges the first bytes, which stay unread where one look is enough.
async fn first_bytes(stream: &mut ClientStream, caller: &Caller) -> Spoken {
    let mut seen = [0; detect::ENOUGH];
    let length = stream.socket().peek(&mut seen).await.unwrap_or(0);
    match detect::spoken(&seen[..length]) {
        Spoken::Unsure if length > 0 => {
            let mut bytes = BytesMut::with_capacity(detect::ENOUGH);
            let spoken = tokio::time::timeout(caller.enforcer.limits().head, more_bytes(stream, &mut bytes)).await;
            stream.put_back(bytes.freeze());
            spoken.unwrap_or(Spoken::Unsure)
        }
        spoken => spoken,
    }
}

async fn more_bytes(stream: &mut ClientStream, bytes: &mut BytesMut) -> Spoken {
    loop {
        let ended = !matches!(stream.read_buf(bytes).await, Ok(1..));
        let spoken = detect::spoken(bytes);
        if ended || spoken != Spoken::Unsure {
            return spoken;
        }
    }
}
