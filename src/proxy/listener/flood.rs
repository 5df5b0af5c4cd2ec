//! A bound on what an HTTP/2 client can make this side do without asking for anything.
//!
//! It must not know what frames mean, only how many come: h2 bounds header blocks, pending resets and small DATA frames
//! by itself, and answers pings, settings, window updates and resets as fast as they come. It reads nine bytes of
//! each frame and no clock; the watch over the connection forgives from time to time.

use std::io;

/// Frames without a purpose of their own that a client may send between two looks of the watch, five seconds apart.
pub(crate) const MAX_FRAMES: u64 = 5_000;

/// Bytes in both directions that earn one more: window updates, and the pings that measure a link, grow with its traffic.
pub(crate) const BYTES_A_FRAME: u64 = 128;

/// Frames after which other connections get their turn, so that a flood delays them by little until it is cut.
pub(crate) const TURN_FRAMES: u64 = 100;

/// How much is read at once from a client that has been made to wait for its turn: a read of the usual size holds a thousand
/// small frames, which h2 would all answer before anybody else came next.
pub(crate) const SUSPECT_READ_BYTES: usize = 2 << 10;

/// The client's preface comes before the first frame (RFC 9113 section 3.4).
const PREFACE_BYTES: u64 = 24;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// One setting has six bytes, and a frame of them costs as much as many frames.
const SETTINGS_BYTES: u64 = 60;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct FrameMeter {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the frame, or of the preface, that are still to come.
    skip: u64,
    frames: u64,
    /// Those of this turn.
    turn_frames: u64,
    /// Whether a turn was over since the last look.
    is_suspect: bool,
    /// Bytes of requests and answers since the last look.
    earned_bytes: u64,
}

/// The client sends more frames than it can have use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client floods the connection with HTTP/2 control frames")]
pub(crate) struct Flood;

impl From<Flood> for io::Error {
    fn from(flood: Flood) -> Self {
        Self::new(io::ErrorKind::InvalidData, flood)
    }
}

impl FrameMeter {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self {
            header: [0; HEADER_BYTES],
            have: 0,
            skip: PREFACE_BYTES,
            frames: 0,
            turn_frames: 0,
            is_suspect: false,
            earned_bytes: 0,
        }
    }

    /// Follows `bytes` from the client.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() as u64);
                self.skip -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            let taken = (HEADER_BYTES - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER_BYTES {
                self.have = 0;
                self.frame();
            }
        }
        let allowed = MAX_FRAMES + self.earned_bytes / BYTES_A_FRAME;
        if self.frames > allowed { Err(Flood) } else { Ok(()) }
    }

    /// Whether the client made so much to do that others come first; said once for each such turn.
    pub(crate) fn has_had_its_turn(&mut self) -> bool {
        let over = self.turn_frames > TURN_FRAMES;
        if over {
            self.turn_frames = 0;
            self.is_suspect = true;
        }
        over
    }

    /// How much may be read at once.
    pub(crate) fn read_bytes(&self) -> usize {
        if self.is_suspect { SUSPECT_READ_BYTES } else { usize::MAX }
    }

    /// The client took `bytes` of answers, which stand for the window updates they cause.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.earned_bytes = self.earned_bytes.saturating_add(bytes as u64);
    }

    /// Another while is over.
    pub(crate) fn forgive(&mut self) {
        self.frames = 0;
        self.is_suspect = false;
        self.earned_bytes = 0;
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, ..] = self.header;
        let length = u64::from(u32::from_be_bytes([0, high, middle, low]));
        self.skip = length;
        match kind {
            DATA if length > 0 => self.earned_bytes += length,
            HEADERS | CONTINUATION => self.turn_frames += 1,
            SETTINGS => self.count(1 + length / SETTINGS_BYTES),
            _ => self.count(1),
        }
    }

    fn count(&mut self, frames: u64) {
        self.frames += frames;
        self.turn_frames += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![size[1], size[2], size[3], kind, 0, 0, 0, 0, 0];
        bytes.resize(HEADER_BYTES + length, 7);
        bytes
    }

    fn begun() -> FrameMeter {
        let mut meter = FrameMeter::new();
        meter.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        meter
    }

    #[test]
    fn each_kind_of_control_frame_is_bounded() {
        for kind in [2, 3, 4, 6, 8, 200] {
            let mut meter = begun();
            let bytes = frame(kind, 4);
            for _ in 0..MAX_FRAMES {
                meter.read(&bytes).unwrap();
            }
            assert_eq!(meter.read(&bytes), Err(Flood), "frames of kind {kind}");
        }
        let mut meter = begun();
        assert_eq!(meter.read(&frame(DATA, 0).repeat(MAX_FRAMES as usize + 1)), Err(Flood), "empty DATA frames");
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes = [frame(HEADERS, 100), frame(6, 8).repeat(MAX_FRAMES as usize), frame(DATA, 5)].concat();
        for size in [1, 7, 9, 4096] {
            let mut meter = begun();
            for part in bytes.chunks(size) {
                meter.read(part).unwrap();
            }
            assert_eq!(meter.frames, MAX_FRAMES, "in parts of {size}");
            assert_eq!(meter.read(&frame(6, 8)), Err(Flood));
        }
    }

    #[test]
    fn traffic_earns_the_frames_it_causes() {
        let mut meter = begun();
        for _ in 0..10 * MAX_FRAMES {
            meter.wrote(16 << 10);
            meter.read(&frame(8, 4)).unwrap();
            meter.read(&frame(6, 8)).unwrap();
        }
    }

    #[test]
    fn the_answers_to_pings_earn_too_little_for_more_pings() {
        let mut meter = begun();
        let flooded = (0..2 * MAX_FRAMES).any(|_| {
            meter.wrote(17);
            meter.read(&frame(6, 8)).is_err()
        });
        assert!(flooded);
    }

    #[test]
    fn a_client_that_makes_much_to_do_waits_for_others_and_one_that_sends_data_does_not() {
        let mut meter = begun();
        meter.read(&frame(6, 8).repeat(TURN_FRAMES as usize)).unwrap();
        assert!(!meter.has_had_its_turn());
        meter.read(&frame(HEADERS, 20)).unwrap();
        assert!(meter.has_had_its_turn());
        assert!(!meter.has_had_its_turn(), "once for each turn");
        assert_eq!(meter.read_bytes(), SUSPECT_READ_BYTES);
        meter.read(&frame(DATA, 100).repeat(10 * TURN_FRAMES as usize)).unwrap();
        assert!(!meter.has_had_its_turn());
        meter.forgive();
        assert_eq!(meter.read_bytes(), usize::MAX);
    }

    #[test]
    fn a_quiet_client_is_forgiven() {
        let mut meter = begun();
        for _ in 0..100 {
            meter.read(&frame(6, 8).repeat(MAX_FRAMES as usize)).unwrap();
            meter.forgive();
        }
    }

    #[test]
    fn one_frame_with_many_settings_counts_as_many() {
        let mut meter = begun();
        let flooded = (0..MAX_FRAMES / 100).any(|_| meter.read(&frame(SETTINGS, 16_380)).is_err());
        assert!(flooded);
    }
}
