//! Which endpoints calls may leave out, where each has breakers of its own (scope Endpoint).
//!
//! It must not hold state or ask a breaker: it judges what it is told, for one moment. It is apart from
//! the breakers because none of them can see that all the others are open as well.

use std::time::Instant;

/// Whether an endpoint's breaker would let a request pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It would, if only as a probe.
    Usable,
    /// It would not.
    Unusable {
        /// When it tripped. Half-opens that failed since do not count: it never recovered.
        since: Instant,
    },
}

/// What calls do with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// They ask its breaker.
    Ask,
    /// They go to others.
    LeaveOut,
    /// They use it without asking its breaker, and what comes of it decides nothing: too many are left out.
    InSpite,
}

/// The share of endpoints that may be left out at once: `maxOpenEndpointsPercent`, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxOpenPercent(u8);

/// A share that is not 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("maxOpenPercent is {found}; set it to 1 to 100")]
pub struct PercentError {
    found: u8,
}

impl MaxOpenPercent {
    /// How many of `endpoints` may be left out: the share, rounded down, but one at least where another
    /// is left to take its calls. A single endpoint is left out only where the share is all of them.
    #[must_use]
    pub fn most_of(self, endpoints: usize) -> usize {
        // In parts, so that no number of endpoints overflows.
        let percent = usize::from(self.0);
        let share = endpoints / 100 * percent + endpoints % 100 * percent / 100;
        share.max(usize::from(endpoints > 1))
    }
}

impl TryFrom<u8> for MaxOpenPercent {
    type Error = PercentError;

    fn try_from(percent: u8) -> Result<Self, PercentError> {
        if (1..=100).contains(&percent) { Ok(Self(percent)) } else { Err(PercentError { found: percent }) }
    }
}

/// What calls do with each endpoint. Of those that are unusable the ones that tripped first stay out, in
/// the order given where they tripped together; the rest are used in spite of their breakers.
#[must_use]
pub fn uses(endpoints: &[Standing], most: MaxOpenPercent) -> Vec<Use> {
    let mut uses = vec![Use::Ask; endpoints.len()];
    let mut unusable: Vec<(Instant, usize)> = Vec::new();
    for (index, standing) in endpoints.iter().enumerate() {
        if let Standing::Unusable { since } = standing {
            unusable.push((*since, index));
        }
    }
    unusable.sort_unstable();
    let most = most.most_of(endpoints.len());
    for (rank, (_, index)) in unusable.into_iter().enumerate() {
        uses[index] = if rank < most { Use::LeaveOut } else { Use::InSpite };
    }
    uses
}

/// The endpoint that call number `turn` goes to, each of those not left out in turn; none if all are.
#[must_use]
pub fn choose(uses: &[Use], turn: usize) -> Option<usize> {
    let open_to_calls = || uses.iter().enumerate().filter(|(_, usage)| **usage != Use::LeaveOut);
    let count = open_to_calls().count();
    let chosen = turn.checked_rem(count)?;
    open_to_calls().nth(chosen).map(|(index, _)| index)
}
