//! HTTP/2 frames (RFC 9113, section 4) as far as one load generator and its upstream need them.
//!
//! It must not know what a stream means. Written by hand because the load shares one core with the upstream: a
//! complete HTTP/2 library on both ends costs more than the fastest proxy in between, and would be what is measured.

/// The bytes by which a client opens a connection.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 0x1;
/// On SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const HEAD: usize = 9;
const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
/// What both ends advertise beyond the default, so that no window ever closes: 2^31-1 is the largest.
const LARGEST_WINDOW: u32 = 0x7fff_ffff;
const DEFAULT_WINDOW: u32 = 65_535;
/// The connection's window is opened again after so many bytes.
const REPLENISH_AFTER: u32 = 1 << 30;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

/// Counts received DATA, and says when the connection's window must be opened again.
#[derive(Debug, Default)]
pub(super) struct Window {
    consumed: u32,
}

impl<'a> Frame<'a> {
    /// The first whole frame of `bytes`, with its length.
    pub(super) fn first(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let head = bytes.get(..HEAD)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = bytes.get(HEAD..HEAD + length)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & LARGEST_WINDOW;
        Some((Self { kind: head[3], flags: head[4], stream, payload }, HEAD + length))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA or HEADERS without padding and priority; `None` where these claim more than there is.
    pub(super) fn content(&self) -> Option<&'a [u8]> {
        let (mut start, mut padding) = (0, 0);
        if self.has(PADDED) {
            padding = usize::from(*self.payload.first()?);
            start = 1;
        }
        if self.kind == HEADERS && self.has(PRIORITY) {
            start += 5;
        }
        self.payload.get(start..self.payload.len().checked_sub(padding)?)
    }

    /// The peer's HEADER_TABLE_SIZE, in a SETTINGS frame that has it.
    pub(super) fn header_table_size(&self) -> Option<u32> {
        let entries = self.payload.as_chunks::<6>().0;
        let found =
            entries.iter().rfind(|entry| u16::from_be_bytes([entry[0], entry[1]]) == SETTINGS_HEADER_TABLE_SIZE)?;
        Some(u32::from_be_bytes([found[2], found[3], found[4], found[5]]))
    }
}

impl Window {
    /// Notes `frame`'s bytes, and opens the window again when it is time.
    pub(super) fn consume(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>) {
        self.consumed += u32::try_from(frame.payload.len()).unwrap_or(REPLENISH_AFTER);
        if self.consumed >= REPLENISH_AFTER {
            write(output, WINDOW_UPDATE, 0, 0, &self.consumed.to_be_bytes());
            self.consumed = 0;
        }
    }
}

/// Appends a frame.
pub(super) fn write(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    output.extend_from_slice(&[high, middle, low, kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    output.extend_from_slice(payload);
}

/// Appends what either end says first: streams of any size up to the largest window, on a connection alike.
pub(super) fn write_settings(output: &mut Vec<u8>) {
    const NO_PUSH: [u8; 6] = [0, 2, 0, 0, 0, 0];
    write(output, SETTINGS, 0, 0, &NO_PUSH);
    write(output, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - DEFAULT_WINDOW).to_be_bytes());
}

/// Answers what every endpoint must answer: SETTINGS and PING.
pub(super) fn acknowledge(frame: &Frame<'_>, output: &mut Vec<u8>) {
    if (frame.kind == SETTINGS || frame.kind == PING) && !frame.has(ACK) {
        let payload = if frame.kind == PING { frame.payload } else { &[] };
        write(output, frame.kind, ACK, 0, payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, DATA, END_STREAM, 7, b"abc");
        let whole = bytes.len();
        bytes.push(0);
        let (frame, length) = Frame::first(&bytes).unwrap();
        assert_eq!((frame.kind, frame.stream, frame.content().unwrap(), length), (DATA, 7, &b"abc"[..], whole));
        assert_eq!(Frame::first(&bytes[..whole - 1]), None);
    }

    #[test]
    fn padding_and_priority_are_left_out() {
        let payload = [&[2][..], &[0; 5], b"block", &[0; 2]].concat();
        let frame = Frame { kind: HEADERS, flags: PADDED | PRIORITY, stream: 1, payload: &payload };
        assert_eq!(frame.content().unwrap(), b"block");
        let lying = Frame { kind: DATA, flags: PADDED, stream: 1, payload: &[200, 1] };
        assert_eq!(lying.content(), None);
    }

    #[test]
    fn the_last_header_table_size_counts() {
        let payload = [0, 1, 0, 0, 16, 0, 0, 4, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0];
        let frame = Frame { kind: SETTINGS, flags: 0, stream: 0, payload: &payload };
        assert_eq!(frame.header_table_size(), Some(0));
        assert_eq!(Frame { kind: SETTINGS, flags: 0, stream: 0, payload: &[] }.header_table_size(), None);
    }

    #[test]
    fn pings_are_answered_with_their_own_bytes_and_answers_are_not() {
        let mut output = Vec::new();
        acknowledge(&Frame { kind: PING, flags: 0, stream: 0, payload: b"12345678" }, &mut output);
        assert_eq!(&output[9..], b"12345678");
        output.clear();
        acknowledge(&Frame { kind: PING, flags: ACK, stream: 0, payload: b"12345678" }, &mut output);
        assert!(output.is_empty());
    }
}
