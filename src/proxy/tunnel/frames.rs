//! Where one HTTP/2 frame ends and the next begins, in bytes that are passed on.
//!
//! It must not judge them: it counts lengths, so that a frame of ours can be put between two of the server's.

/// A frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// A server's word that it takes no further streams, and finishes those there are (RFC 9113 section 6.8).
pub(super) struct FarewellFrame;

/// How far into a frame the bytes came.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    head_bytes: usize,
    payload_left: usize,
}

impl FarewellFrame {
    /// GOAWAY with the highest stream there can be and no error: what is under way goes on.
    pub(super) const BYTES: &'static [u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
}

impl Frames {
    /// Whether all that was read ends with a frame.
    pub(super) fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0
    }

    /// More bytes of the same direction.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len());
                self.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&bytes[..taken]);
            self.head_bytes += taken;
            bytes = &bytes[taken..];
            if self.head_bytes == HEAD {
                self.head_bytes = 0;
                let [high, middle, low, ..] = self.head;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let two = [&[0, 0, 3, 0, 0, 0, 0, 0, 1, 7, 7, 7][..], FarewellFrame::BYTES].concat();
        for cut in 0..=two.len() {
            let mut frames = Frames::default();
            frames.read(&two[..cut]);
            assert_eq!(frames.is_between(), [0, 12, two.len()].contains(&cut), "cut at {cut}");
            frames.read(&two[cut..]);
            assert!(frames.is_between(), "cut at {cut}");
        }
    }
}
