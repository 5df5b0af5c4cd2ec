//! Lines of JSON over one HTTP/2 exchange: bounded reading, and writing that never waits for ever.
//!
//! The streams of sidecars and of peers share it. It knows bytes and bounds, not what messages mean.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::stream::{Decoder, LineError};
use http_body_util::BodyExt;
use http_body_util::channel::Sender;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

/// Lines that may wait for the other end, at most.
pub(crate) const BACKLOG: usize = 4;

/// How long the other end may take to read on before it is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads messages; dropping a pending [`Reader::next`] loses nothing.
pub(crate) struct Reader<M> {
    body: Incoming,
    decoder: Decoder,
    ready: VecDeque<M>,
}

/// Writes lines.
pub(crate) struct Writer {
    sender: Sender<Bytes, Infallible>,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The other end broke off.
    #[error("the stream broke")]
    Broken(#[from] hyper::Error),
    /// It sent something that is not a message.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// Why a line could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The other end does not read.
    #[error("the other end did not read for {WRITE_TIMEOUT:?}")]
    Slow,
    /// The other end is gone.
    #[error("the other end is gone")]
    Gone,
}

impl<M: DeserializeOwned> Reader<M> {
    pub(crate) fn new(body: Incoming, limit: usize) -> Self {
        Self { body, decoder: Decoder::new(limit), ready: VecDeque::new() }
    }

    /// The next message; None when the other end has no more to say.
    pub(crate) async fn next(&mut self) -> Result<Option<M>, ReadError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.ready.extend(self.decoder.push(&data)?);
            }
        }
    }
}

impl Writer {
    pub(crate) fn new(sender: Sender<Bytes, Infallible>) -> Self {
        Self { sender }
    }

    /// Hands one line on.
    pub(crate) async fn send(&mut self, line: Bytes) -> Result<(), WriteError> {
        match tokio::time::timeout(WRITE_TIMEOUT, self.sender.send_data(line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(WriteError::Gone),
            Err(_) => Err(WriteError::Slow),
        }
    }
}
