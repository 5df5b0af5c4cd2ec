//! The slots of probes in flight: how many there are, and when their leases end.
//!
//! It must not decide what a lease's end means. Slots outlive the half-open they were given in,
//! because the cap protects an upstream, to which an old probe is as much load as a new one.

use std::collections::VecDeque;
use std::time::Instant;

/// Probes in flight, oldest lease first.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    in_flight: VecDeque<Probe>,
    next_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u64,
    epoch: u64,
    lease_end: Instant,
}

impl Probes {
    /// Takes a slot for a probe of `epoch`. The caller has seen that there is one, and never gives
    /// a lease that ends before an earlier one.
    pub(super) fn take(&mut self, epoch: u64, lease_end: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.in_flight.push_back(Probe { id, epoch, lease_end });
        id
    }

    /// Gives a slot back; nothing if its lease ended first.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(position) = self.in_flight.iter().position(|probe| probe.id == id) {
            self.in_flight.remove(position);
        }
    }

    /// Gives back the slots whose leases are over; how many of them belong to `epoch`.
    pub(super) fn expire(&mut self, now: Instant, epoch: u64) -> usize {
        let mut of_epoch = 0;
        while let Some(probe) = self.in_flight.pop_front_if(|probe| probe.lease_end <= now) {
            of_epoch += usize::from(probe.epoch == epoch);
        }
        of_epoch
    }

    /// Probes whose leases are not over.
    pub(super) fn in_flight(&self, now: Instant) -> u32 {
        let in_flight = self.in_flight.iter().filter(|probe| probe.lease_end > now).count();
        u32::try_from(in_flight).unwrap_or(u32::MAX)
    }

    /// Slots taken.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX)
    }

    /// Whether no slot is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether a probe of `epoch` is in flight.
    pub(super) fn has(&self, epoch: u64) -> bool {
        self.in_flight.iter().any(|probe| probe.epoch == epoch)
    }

    /// When the next lease ends.
    pub(super) fn next_lease_end(&self) -> Option<Instant> {
        self.in_flight.front().map(|probe| probe.lease_end)
    }
}
