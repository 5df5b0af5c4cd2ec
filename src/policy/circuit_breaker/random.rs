//! Jitter: a small deterministic random number generator (xorshift64*).
//!
//! Not for secrets. Seeded by the caller, so that a history replays exactly.

use std::time::Duration;

/// Stands in for the seed 0, on which xorshift would stay for ever.
const SEED_FOR_ZERO: u64 = 0x9E37_79B9_7F4A_7C15;

/// The generator's state, never 0.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// A generator for `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(if seed == 0 { SEED_FOR_ZERO } else { seed })
    }

    /// A duration from zero to `most`, both included, in whole milliseconds.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        let choices = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        // The high half of a 128-bit product spreads evenly without a division.
        let chosen = (u128::from(self.next()) * u128::from(choices)) >> 64;
        Duration::from_millis(u64::try_from(chosen).unwrap_or(0))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}
