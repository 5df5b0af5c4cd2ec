//! Requests that wait for their turn: the engine says whose it is, here they are woken.
//!
//! It must not keep anything of a request that is gone: whoever leaves, for whatever reason, gives back its place and what it
//! spent. One task for each queue, and only once somebody has waited in it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fusebox_policy::rate_limit::{Entry, KeyId, Place, Reservation, Turn, Waiting, WaitingRoom};
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::Tracked;

/// What a request spent in buckets of this proxy; dropped, it is given back.
#[derive(Debug, Default)]
pub(super) struct Held(SmallVec<[(Arc<Tracked>, Option<Reservation>); 2]>);

/// Those that wait for one rule of one limit.
#[derive(Debug)]
pub(super) struct Queue {
    line: Arc<Line>,
    usher: OnceLock<AbortOnDropHandle<()>>,
}

/// Its turn did not come in time, or there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnedAway;

#[derive(Debug)]
struct Line {
    waiting: Waiting<Waiter>,
    /// Somebody came, whose turn may be before all others.
    came: Notify,
}

#[derive(Debug)]
struct Waiter {
    turn: oneshot::Sender<Held>,
    held: Held,
}

/// A request's place; dropped, it is free.
struct Stay<'a> {
    waiting: &'a Waiting<Waiter>,
    place: Place,
}

impl Held {
    /// Adds what was spent from these buckets.
    pub(super) fn add(&mut self, tracked: &Arc<Tracked>, reservation: Reservation) {
        self.0.push((Arc::clone(tracked), Some(reservation)));
    }

    /// The request passes: it stays spent.
    pub(super) fn keep(mut self, now: Instant) {
        for (tracked, reservation) in &mut self.0 {
            if let Some(reservation) = reservation.take() {
                tracked.buckets.settle(reservation, now);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (tracked, reservation) in &mut self.0 {
            if let Some(reservation) = reservation.take() {
                tracked.buckets.give_back(reservation);
            }
        }
    }
}

impl Queue {
    /// Nobody waits; who does takes a place of this room.
    pub(super) fn new(room: Arc<WaitingRoom>) -> Self {
        let line = Line { waiting: Waiting::new(room), came: Notify::new() };
        Self { line: Arc::new(line), usher: OnceLock::new() }
    }

    /// The room that the rules of a limit share.
    pub(super) fn room(&self) -> &Arc<WaitingRoom> {
        self.line.waiting.room()
    }

    /// How many wait for this rule.
    pub(super) fn len(&self) -> usize {
        self.line.waiting.len()
    }

    /// Sends one away that has to stand back for a request of this weight and priority; false where nobody has to.
    pub(super) fn displace(&self, key: KeyId, request: (u32, u8)) -> bool {
        // Who is dropped gives back what it spent, and is told.
        self.line.waiting.displace(key, request).is_some()
    }

    /// Waits for the turn of a request that has spent `held`.
    pub(super) async fn wait(&self, entry: &Entry, (held, now): (Held, Instant)) -> Result<Held, TurnedAway> {
        let Line { waiting, came } = &*self.line;
        let (turn, my_turn) = oneshot::channel();
        let place = match waiting.enter(entry, Waiter { turn, held }, now) {
            Ok(place) => place,
            Err(waiter) if self.displace(entry.key, (entry.cost, entry.priority)) => {
                waiting.enter(entry, waiter, now).map_err(|_| TurnedAway)?
            }
            Err(_) => return Err(TurnedAway),
        };
        let _stay = Stay { waiting, place };
        came.notify_one();
        self.usher.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(usher(Arc::clone(&self.line)))));
        my_turn.await.map_err(|_| TurnedAway)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        // Who had its turn is not there any more.
        drop(self.waiting.leave(self.place));
    }
}

/// Lets pass whose turn it is, for ever.
async fn usher(line: Arc<Line>) {
    let Line { waiting, came } = &*line;
    loop {
        match waiting.next_due() {
            Some(due) => {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = came.notified() => {}
                }
            }
            None => came.notified().await,
        }
        for turn in waiting.due(Instant::now()) {
            match turn {
                // Whoever is gone gives back what it spent, for nobody takes it.
                Turn::Passes(Waiter { turn, held }) => drop(turn.send(held)),
                Turn::Overdue(waiter) => drop(waiter),
            }
        }
    }
}
