//! The reference model: a token bucket written in the most obvious way, to hold the engine against.
//!
//! It keeps everything that ever passed in a list and works each answer out from that list, with exact fractions of a
//! request. It shares no code with the engine and knows no arrival times, or both could be wrong alike.

/// A rate in its plainest form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ModelRate {
    /// Nanoseconds a request.
    pub(super) interval: u64,
    pub(super) burst: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pass {
    at: u64,
    cost: u32,
    undone: bool,
}

/// A bucket of one client.
#[derive(Clone, Debug)]
pub(super) struct Model {
    passes: Vec<Pass>,
    rate: ModelRate,
}

/// What the model says of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    Passes,
    /// It would pass after so many nanoseconds.
    Refuses(u64),
    /// It weighs more than a bucket holds.
    Never,
}

impl Model {
    pub(super) fn new(rate: ModelRate) -> Self {
        Self { passes: Vec::new(), rate }
    }

    /// What the bucket holds, in parts of a request of which `interval` make one.
    fn level(&self, now: u64) -> u128 {
        let full = u128::from(self.rate.interval) * u128::from(self.rate.burst);
        let (mut level, mut last) = (full, 0);
        for pass in self.passes.iter().filter(|pass| !pass.undone) {
            level = (level + u128::from(pass.at - last)).min(full);
            level -= u128::from(pass.cost) * u128::from(self.rate.interval);
            last = pass.at;
        }
        (level + u128::from(now - last)).min(full)
    }

    pub(super) fn ask(&self, cost: u32, now: u64) -> Said {
        let (level, wanted) = (self.level(now), u128::from(cost) * u128::from(self.rate.interval));
        match wanted.checked_sub(level) {
            None | Some(0) => Said::Passes,
            Some(_) if cost > self.rate.burst => Said::Never,
            Some(missing) => Said::Refuses(u64::try_from(missing).unwrap()),
        }
    }

    /// Notes that a request passed; its number, to undo it.
    pub(super) fn pass(&mut self, cost: u32, now: u64) -> usize {
        self.passes.push(Pass { at: now, cost, undone: false });
        self.passes.len() - 1
    }

    pub(super) fn undo(&mut self, pass: usize) {
        self.passes[pass].undone = true;
    }

    /// Whether nothing was spent after it, not even what was given back since.
    pub(super) fn is_last(&self, pass: usize) -> bool {
        pass + 1 == self.passes.len()
    }

    pub(super) fn remaining(&self, now: u64) -> u32 {
        u32::try_from(self.level(now) / u128::from(self.rate.interval)).unwrap()
    }

    pub(super) fn is_full(&self, now: u64) -> bool {
        self.level(now) == u128::from(self.rate.interval) * u128::from(self.rate.burst)
    }
}

/// Something that was allowed, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) at: u64,
    pub(super) cost: u32,
}

/// Rates and since when each of them held, the first since 0.
pub(super) type Rates = Vec<(u64, ModelRate)>;

/// The first time span in which more passed than rate x time + burst, if there is one. Where the rate changed, the burst is
/// the largest of the span, and the rate that of each part of it.
pub(super) fn overshoot(allowed: &[Allowed], rates: &Rates) -> Option<(Allowed, Allowed, u64)> {
    for (first, begin) in allowed.iter().enumerate() {
        let mut passed = 0;
        for end in &allowed[first..] {
            passed += u64::from(end.cost);
            if exceeds(passed, (begin.at, end.at), rates) {
                return Some((*begin, *end, passed));
            }
        }
    }
    None
}

fn exceeds(passed: u64, (begin, end): (u64, u64), rates: &Rates) -> bool {
    let mut burst = 0;
    let mut refilled = 0.0;
    for (number, (since, rate)) in rates.iter().enumerate() {
        let until = rates.get(number + 1).map_or(u64::MAX, |(since, _)| *since);
        // A rate that was taken back at once may have held for a request.
        let (from, to) = ((*since).max(begin), until.min(end));
        if from <= to {
            burst = burst.max(rate.burst);
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53 in these tests")]
            let part = (to - from) as f64 / rate.interval as f64;
            refilled += part;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53 in these tests")]
    let passed = passed as f64;
    passed > f64::from(burst) + refilled + 1e-6
}
