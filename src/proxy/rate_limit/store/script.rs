//! The script: how it is called, and how its answer is read.
//!
//! It must believe nothing of the answer that it did not check: the store is another program.

use std::sync::LazyLock;

use fusebox_policy::rate_limit::{Exceed, MAX_LIMITS, Verdict};
use redis::{Cmd, Script};

use super::bucket::{BucketName, MAX_SPAN_US, Reading, ReadingState, SharedDemand, Spans};
use super::error::StoreLost;

static TEXT: &str = include_str!("decide.lua");

/// The script with its SHA-1, by which servers know it.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// How many numbers the answer holds for each bucket, after the time.
const NUMBERS: usize = 4;

/// How the script is named in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its digest, for a server that has seen it.
    Digest,
    /// Whole; the server knows it from then on.
    Text,
}

/// One call of the script.
#[derive(Debug)]
pub(super) struct Decision<'a> {
    demands: &'a [SharedDemand],
    spans: Vec<Spans>,
}

impl<'a> Decision<'a> {
    pub(super) fn new(demands: &'a [SharedDemand]) -> Result<Self, StoreLost> {
        if demands.is_empty() || demands.len() > MAX_LIMITS {
            return Err(StoreLost::Demands { most: MAX_LIMITS });
        }
        let spans = demands.iter().map(|demand| Spans::new(&demand.ask)).collect();
        Ok(Self { demands, spans })
    }

    /// A bucket that decides on the node; all are on one.
    pub(super) fn bucket(&self) -> &BucketName {
        // There is at least one demand.
        &self.demands[0].bucket
    }

    pub(super) fn command(&self, naming: Naming) -> Cmd {
        let mut command = match naming {
            Naming::Digest => redis::cmd("EVALSHA"),
            Naming::Text => redis::cmd("EVAL"),
        };
        match naming {
            Naming::Digest => command.arg(SCRIPT.get_hash()),
            Naming::Text => command.arg(TEXT),
        };
        command.arg(self.demands.len());
        for demand in self.demands {
            command.arg(demand.bucket.as_str());
        }
        for (demand, spans) in self.demands.iter().zip(&self.spans) {
            let ((cost, cost_part), (full, full_part)) = (spans.cost(), spans.full());
            let block = match demand.ask.exceed {
                Exceed::Block(time) => u64::try_from(time.as_micros()).unwrap_or(MAX_SPAN_US).min(MAX_SPAN_US),
                Exceed::Refuse | Exceed::Delay(_) => 0,
            };
            let burst = u64::from(spans.burst);
            command.arg(&[spans.requests, spans.per_us, burst, cost, cost_part, full, full_part, block]);
        }
        command
    }

    /// The verdicts, where the answer is one of our script's.
    pub(super) fn read(&self, answer: &[i64]) -> Option<Vec<Verdict>> {
        let (_time, numbers) = answer.split_first()?;
        if numbers.len() != NUMBERS * self.spans.len() {
            return None;
        }
        let readings = numbers.chunks_exact(NUMBERS).map(reading);
        self.spans.iter().zip(readings).map(|(spans, reading)| Some(spans.verdict(reading?))).collect()
    }
}

fn reading(numbers: &[i64]) -> Option<Reading> {
    let &[state, missing_us, missing_part, blocked_us] = numbers else { return None };
    let state = match state {
        0 => ReadingState::Allowed,
        1 => ReadingState::Beyond,
        2 => ReadingState::Blocked,
        3 => ReadingState::BlockBegins,
        _ => return None,
    };
    Some(Reading {
        state,
        missing_us: u64::try_from(missing_us).ok()?,
        missing_part: u64::try_from(missing_part).ok()?,
        blocked_us: u64::try_from(blocked_us).ok()?,
    })
}
