//! gRPC unary calls over HTTP/2 on raw bytes: the client's end of one connection.
//!
//! It must check each call in full: HTTP status, content type, exactly one message equal to the one sent, grpc-status 0.
//! Each message carries its call's number, so that answers given to the wrong stream are seen.

use std::collections::VecDeque;
use std::time::Instant;

use super::Wrong;
use super::frame::{self, Frame, Window};
use super::hpack::Decoder;

/// gRPC's five bytes before a message: not compressed, and the length.
const MESSAGE_PREFIX: [u8; 5] = [0, 0, 0, 0, MESSAGE as u8];
const MESSAGE: usize = 64;
const FRAMED: usize = MESSAGE_PREFIX.len() + MESSAGE;
/// `:method POST`, `:scheme http`, then five fields that the peer is told to remember.
const FIRST_BLOCK: &[u8] = b"\x83\x86\x44\x11/bench.Bench/Echo\x41\x0eupstream.bench\x5f\x10application/grpc\
    \x40\x02te\x08trailers\x7a\x0dfusebox-bench";
/// The same fields from then on: path, authority, content-type, te and user-agent by their index.
const NEXT_BLOCKS: &[u8] = &[0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

/// One connection with several calls at a time.
#[derive(Debug, Default)]
pub(super) struct Client {
    opened: bool,
    calls: u32,
    decoder: Decoder,
    window: Window,
    /// In the order of their streams.
    pending: VecDeque<Call>,
}

#[derive(Debug)]
struct Call {
    stream: u32,
    intended: Instant,
    status_is_right: bool,
    message: Vec<u8>,
}

/// What the fields of one header block said.
#[derive(Debug, Default)]
struct Fields {
    status: Option<Vec<u8>>,
    content_type: Option<Vec<u8>>,
    grpc_status: Option<Vec<u8>>,
}

impl Client {
    /// Sends a call that should have gone out at `intended`.
    pub(super) fn start(&mut self, intended: Instant, output: &mut Vec<u8>) {
        let block = if self.opened { NEXT_BLOCKS } else { FIRST_BLOCK };
        if !self.opened {
            output.extend_from_slice(frame::PREFACE);
            frame::write_settings(output);
            self.opened = true;
        }
        let stream = 2 * self.calls + 1;
        self.calls += 1;
        frame::write(output, frame::HEADERS, frame::END_HEADERS, stream, block);
        frame::write(output, frame::DATA, frame::END_STREAM, stream, &message(stream));
        self.pending.push_back(Call { stream, intended, status_is_right: false, message: Vec::new() });
    }

    /// Reads what came, tells of completed calls, and returns how many bytes are done with.
    ///
    /// # Errors
    /// Any answer but the expected one, and a connection that the peer ends.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        mut completed: impl FnMut(Instant),
    ) -> Result<usize, Wrong> {
        let mut done = 0;
        while let Some((frame, length)) = Frame::first(&input[done..]) {
            if let Some(intended) = self.frame(&frame, output)? {
                completed(intended);
            }
            done += length;
        }
        Ok(done)
    }

    fn frame(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>) -> Result<Option<Instant>, Wrong> {
        match frame.kind {
            frame::HEADERS => self.headers(frame),
            frame::DATA => self.data(frame, output),
            frame::RST_STREAM => Err(Wrong(format!("stream {} was reset, code {:?}", frame.stream, frame.payload))),
            frame::GOAWAY => Err(Wrong(format!("GOAWAY after {} calls: {:?}", self.calls, frame.payload))),
            frame::CONTINUATION => Err(Wrong("an answer's headers need CONTINUATION".to_owned())),
            frame::SETTINGS if frame.header_table_size().is_some_and(|size| size < 4096) => {
                Err(Wrong("the proxy allows less than 4,096 bytes of header table, the default".to_owned()))
            }
            _ => {
                frame::acknowledge(frame, output);
                Ok(None)
            }
        }
    }

    fn headers(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>, Wrong> {
        let block = frame.content().filter(|_| frame.has(frame::END_HEADERS));
        let block = block.ok_or_else(|| Wrong("HEADERS that are not whole".to_owned()))?;
        let mut fields = Fields::default();
        self.decoder.decode(block, |name, value| fields.note(name, value)).map_err(|error| Wrong(error.to_string()))?;
        let index = self.index(frame.stream)?;
        let call = &mut self.pending[index];
        if fields.status.is_some() {
            call.status_is_right = fields.begins_an_answer();
        }
        if frame.has(frame::END_STREAM) {
            let right = call.status_is_right && fields.ends_well() && call.message == message(frame.stream);
            if !right {
                return Err(Wrong(format!("expected one message and grpc-status 0, got {fields}, {call:?}")));
            }
            return Ok(self.pending.remove(index).map(|call| call.intended));
        }
        if !call.status_is_right {
            return Err(Wrong(format!("expected status 200 and application/grpc, got {fields}")));
        }
        Ok(None)
    }

    fn data(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>) -> Result<Option<Instant>, Wrong> {
        self.window.consume(frame, output);
        let index = self.index(frame.stream)?;
        let call = &mut self.pending[index];
        call.message.extend_from_slice(frame.content().unwrap_or_default());
        if frame.has(frame::END_STREAM) || call.message.len() > FRAMED {
            return Err(Wrong(format!("expected one message and trailers, got {call:?}")));
        }
        Ok(None)
    }

    fn index(&self, stream: u32) -> Result<usize, Wrong> {
        let found = self.pending.binary_search_by_key(&stream, |call| call.stream);
        found.map_err(|_| Wrong(format!("a frame for stream {stream}, which has no call")))
    }
}

impl Fields {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let place = match name {
            b":status" => &mut self.status,
            b"content-type" => &mut self.content_type,
            b"grpc-status" => &mut self.grpc_status,
            _ => return,
        };
        *place = Some(value.to_vec());
    }

    fn begins_an_answer(&self) -> bool {
        self.status.as_deref() == Some(b"200")
            && self.content_type.as_ref().is_some_and(|kind| kind.starts_with(b"application/grpc"))
    }

    fn ends_well(&self) -> bool {
        self.grpc_status.as_deref() == Some(b"0")
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Option<Vec<u8>>| match value {
            Some(value) => String::from_utf8_lossy(value).into_owned(),
            None => "absent".to_owned(),
        };
        let (status, kind, code) = (text(&self.status), text(&self.content_type), text(&self.grpc_status));
        write!(formatter, ":status {status}, content-type {kind}, grpc-status {code}")
    }
}

/// The framed message of the call on `stream`.
pub(super) fn message(stream: u32) -> [u8; FRAMED] {
    let mut framed = [b'.'; FRAMED];
    framed[..MESSAGE_PREFIX.len()].copy_from_slice(&MESSAGE_PREFIX);
    framed[MESSAGE_PREFIX.len()..][..4].copy_from_slice(&stream.to_be_bytes());
    framed
}

#[cfg(test)]
mod tests {
    use super::super::grpc_upstream::Upstream;
    use super::*;

    fn received(client: &mut Client, input: &[u8]) -> Result<u32, String> {
        let mut count = 0;
        let done = client.receive(input, &mut Vec::new(), |_| count += 1).map_err(|wrong| wrong.to_string())?;
        assert_eq!(done, input.len());
        Ok(count)
    }

    fn calls(client: &mut Client, count: usize) -> Vec<u8> {
        let mut output = Vec::new();
        (0..count).for_each(|_| client.start(Instant::now(), &mut output));
        output
    }

    fn answers(upstream: &mut Upstream, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        assert_eq!(upstream.receive(input, &mut output).unwrap(), input.len());
        output
    }

    #[test]
    fn the_upstream_answers_every_call_with_its_own_message() {
        let (mut client, mut upstream) = (Client::default(), Upstream::default());
        for count in [1, 8, 8] {
            let sent = calls(&mut client, count);
            let answered = answers(&mut upstream, &sent);
            assert_eq!(received(&mut client, &answered), Ok(u32::try_from(count).unwrap()));
        }
    }

    #[test]
    fn an_upstream_without_a_header_table_spells_everything_out() {
        let (mut client, mut upstream) = (Client::default(), Upstream::default());
        let mut sent = frame::PREFACE.to_vec();
        frame::write(&mut sent, frame::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        sent.extend_from_slice(&calls(&mut client, 3)[frame::PREFACE.len()..]);
        let answered = answers(&mut upstream, &sent);
        assert_eq!(received(&mut client, &answered), Ok(3));
    }

    #[test]
    fn a_message_of_another_call_is_wrong() {
        let mut client = Client::default();
        calls(&mut client, 2);
        let mut swapped = Vec::new();
        frame::write(&mut swapped, frame::HEADERS, frame::END_HEADERS, 1, b"\x88\x5f\x10application/grpc");
        frame::write(&mut swapped, frame::DATA, 0, 1, &message(3));
        let last = frame::END_HEADERS | frame::END_STREAM;
        frame::write(&mut swapped, frame::HEADERS, last, 1, b"\x00\x0bgrpc-status\x010");
        assert!(received(&mut client, &swapped).unwrap_err().contains("expected one message"));
    }

    #[test]
    fn a_refusal_is_told_with_its_status() {
        let mut client = Client::default();
        calls(&mut client, 1);
        let mut refusal = Vec::new();
        let last = frame::END_HEADERS | frame::END_STREAM;
        let block = b"\x88\x5f\x10application/grpc\x00\x0bgrpc-status\x0214";
        frame::write(&mut refusal, frame::HEADERS, last, 1, block);
        assert!(received(&mut client, &refusal).unwrap_err().contains("grpc-status 14"));
    }

    #[test]
    fn a_connection_that_is_ended_is_wrong() {
        let mut client = Client::default();
        let mut goaway = Vec::new();
        frame::write(&mut goaway, frame::GOAWAY, 0, 0, &[0; 8]);
        assert!(received(&mut client, &goaway).unwrap_err().contains("GOAWAY"));
    }
}
