//! The gRPC upstream: sends each call's message back with grpc-status 0.
//!
//! It must not look at request headers, nor at flow control: its windows never close, and a peer opens its own long
//! before a few dozen answers of a hundred bytes fill 65,535. It is as lean as the client, for the same reason.

use std::collections::VecDeque;

use super::Wrong;
use super::frame::{self, Frame, Window};

/// What a peer's header table holds at least where this end uses it.
const TABLE_SIZE: u32 = 4096;

/// The upstream's end of one connection.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    greeted: bool,
    compression: Compression,
    window: Window,
    /// Messages that have begun to come, by stream.
    pending: VecDeque<(u32, Vec<u8>)>,
}

/// How answers are compressed. Only two fields are worth it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Compression {
    /// The first answer tells the peer's table both fields.
    #[default]
    First,
    /// Later ones name them by index.
    Indexed,
    /// The peer wants no table, and has yet to be told that this is understood.
    FirstLiteral,
    /// Everything is spelt out.
    Literal,
}

impl Upstream {
    /// Reads what came, answers what is whole, and returns how many bytes are done with.
    ///
    /// # Errors
    /// A peer that does not speak HTTP/2.
    pub(super) fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, Wrong> {
        let mut done = 0;
        if !self.greeted {
            let Some(preface) = input.get(..frame::PREFACE.len()) else { return Ok(0) };
            if preface != frame::PREFACE {
                return Err(Wrong("the proxy does not speak HTTP/2 to its upstream".to_owned()));
            }
            self.greeted = true;
            frame::write_settings(output);
            done = frame::PREFACE.len();
        }
        while let Some((frame, length)) = Frame::first(&input[done..]) {
            self.frame(&frame, output);
            done += length;
        }
        Ok(done)
    }

    fn frame(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>) {
        match frame.kind {
            frame::DATA => self.data(frame, output),
            frame::RST_STREAM => self.pending.retain(|(stream, _)| *stream != frame.stream),
            frame::SETTINGS => {
                let small = frame.header_table_size().is_some_and(|size| size < TABLE_SIZE);
                if small && self.compression == Compression::First {
                    self.compression = Compression::FirstLiteral;
                }
                frame::acknowledge(frame, output);
            }
            _ => frame::acknowledge(frame, output),
        }
    }

    fn data(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>) {
        self.window.consume(frame, output);
        let content = frame.content().unwrap_or_default();
        let position = self.pending.iter().position(|(stream, _)| *stream == frame.stream);
        match (position, frame.has(frame::END_STREAM)) {
            (None, true) => self.answer(frame.stream, content, output),
            (None, false) => self.pending.push_back((frame.stream, content.to_vec())),
            (Some(position), last) => {
                self.pending[position].1.extend_from_slice(content);
                if last && let Some((stream, message)) = self.pending.remove(position) {
                    self.answer(stream, &message, output);
                }
            }
        }
    }

    fn answer(&mut self, stream: u32, message: &[u8], output: &mut Vec<u8>) {
        let (head, trailers) = self.compression.blocks();
        self.compression = self.compression.next();
        frame::write(output, frame::HEADERS, frame::END_HEADERS, stream, head);
        frame::write(output, frame::DATA, 0, stream, message);
        frame::write(output, frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, stream, trailers);
    }
}

impl Compression {
    /// `:status 200` and `content-type application/grpc`; `grpc-status 0`.
    fn blocks(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::First => (b"\x88\x5f\x10application/grpc", b"\x40\x0bgrpc-status\x010"),
            Self::Indexed => (&[0x88, 0x80 | 63], &[0x80 | 62]),
            Self::FirstLiteral => (b"\x20\x88\x0f\x10\x10application/grpc", b"\x00\x0bgrpc-status\x010"),
            Self::Literal => (b"\x88\x0f\x10\x10application/grpc", b"\x00\x0bgrpc-status\x010"),
        }
    }

    fn next(self) -> Self {
        match self {
            Self::First | Self::Indexed => Self::Indexed,
            Self::FirstLiteral | Self::Literal => Self::Literal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_two_frames_is_sent_back_whole() {
        let (mut upstream, mut input, mut output) = (Upstream::default(), frame::PREFACE.to_vec(), Vec::new());
        frame::write(&mut input, frame::DATA, 0, 1, b"ab");
        frame::write(&mut input, frame::DATA, frame::END_STREAM, 1, b"cd");
        upstream.receive(&input, &mut output).unwrap();
        assert!(output.windows(4).any(|window| window == b"abcd"));
        assert!(upstream.pending.is_empty());
    }

    #[test]
    fn http1_is_refused() {
        let wrong = Upstream::default().receive(b"GET / HTTP/1.1\r\nhost: upstream\r\n\r\n", &mut Vec::new());
        assert!(wrong.unwrap_err().to_string().contains("does not speak HTTP/2"));
    }
}
