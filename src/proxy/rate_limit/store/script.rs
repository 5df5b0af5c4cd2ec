//! The script: how it is called, and how its answer is read.
//!
//! It must believe nothing of the answer that it did not check: the store is another program.

use std::sync::LazyLock;

use redis::{Cmd, Script};

use super::MAX_DEMANDS;
use super::bucket::{BucketName, Reading, ReadingState, SharedDemand, SharedVerdict, Spans};
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
        if demands.is_empty() || demands.len() > MAX_DEMANDS {
            return Err(StoreLost::Demands { most: MAX_DEMANDS });
        }
        let spans = demands.iter().map(|demand| Spans::new(demand.rate, demand.cost)).collect();
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
            let block_us = demand.block_for.map_or(0, |block| u64::try_from(block.as_micros()).unwrap_or(u64::MAX));
            command.arg(&[spans.requests, spans.per_us, spans.burst, cost, cost_part, full, full_part]);
            command.arg(block_us.min(super::bucket::MAX_SPAN_US));
        }
        command
    }

    /// The verdicts, where the answer is one of our script's.
    pub(super) fn read(&self, answer: &[i64]) -> Option<Vec<SharedVerdict>> {
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
        _ => return None,
    };
    Some(Reading {
        state,
        missing_us: u64::try_from(missing_us).ok()?,
        missing_part: u64::try_from(missing_part).ok()?,
        blocked_us: u64::try_from(blocked_us).ok()?,
    })
}
