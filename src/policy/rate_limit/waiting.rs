//! Who waits for a rule of a limit, and whose turn it is.
//!
//! It must not spend: who waits has a reservation, which says when the last of its bucket's waiters passes. Here is
//! decided only who takes which turn: the higher priority first, but of ten turns one is for the client's request that has waited
//! longest among the others, and of ten places one is theirs, so that nobody starves. Nobody waits longer than the longest delay.

mod line;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::line::{Line, Waiter};
use super::digest::KeyId;
use super::rate::Rate;

/// The most that may be asked to wait at once for one limit at one port in one proxy.
pub const MAX_QUEUED: u32 = 10_000;

/// The longest delay that may be asked for.
pub const MAX_DELAY: Duration = Duration::from_secs(10 * 60);

/// The highest priority.
pub const MAX_PRIORITY: u8 = 9;

/// Of so many turns, and so many places, one is for those of lower priority.
pub const SHARE_OF_LOWER: u32 = 10;

/// Who waits for one rule of one limit. `W` is what the caller needs to wake one of them and to give back what it spent.
#[derive(Debug)]
pub struct Waiting<W> {
    room: Arc<WaitingRoom>,
    state: Mutex<State<W>>,
}

/// How many may wait at once for one limit: all of its rules share it.
#[derive(Debug)]
pub struct WaitingRoom {
    most: AtomicU32,
    taken: AtomicU32,
}

/// One request that would wait.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Whose bucket it spent from.
    pub key: KeyId,
    /// What it weighs.
    pub cost: u32,
    /// The bucket's rate.
    pub rate: Rate,
    /// How long its reservation makes it wait.
    pub wait: Duration,
    /// The longest it may wait.
    pub max_delay: Duration,
    /// 0..=9; the greater goes first.
    pub priority: u8,
}

/// A place among the waiting, to be given to [`Waiting::leave`] when its request goes without having had its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    key: KeyId,
    number: u64,
}

/// What became of one that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<W> {
    /// It passes now, and what it reserved must be spent ([`super::Buckets::settle`]).
    Passes(W),
    /// It has waited as long as it may, since others went first: it is refused, and what it spent must be given back.
    Overdue(W),
}

#[derive(Debug)]
struct State<W> {
    waiting: u32,
    next: u64,
    lines: HashMap<KeyId, Line<W>>,
    /// When each line has something to do next.
    agenda: BTreeSet<(Instant, KeyId)>,
}

impl<W> Waiting<W> {
    /// Nobody waits; as many may as the room has places for.
    #[must_use]
    pub fn new(room: Arc<WaitingRoom>) -> Self {
        let (lines, agenda) = (HashMap::new(), BTreeSet::new());
        Self { room, state: Mutex::new(State { waiting: 0, next: 0, lines, agenda }) }
    }

    /// The room that it shares with other rules of its limit.
    #[must_use]
    pub const fn room(&self) -> &Arc<WaitingRoom> {
        &self.room
    }

    /// Lets a request wait that has a reservation.
    ///
    /// # Errors
    /// Gives `W` back where every place is taken: the request is refused, and what it spent must be given back.
    pub fn enter(&self, entry: &Entry, waiter: W, now: Instant) -> Result<Place, W> {
        let mut state = self.state.lock();
        if !self.room.enter() {
            return Err(waiter);
        }
        let number = state.next;
        state.next += 1;
        state.waiting += 1;
        state.on_line(entry.key, |line| line.enter(Waiter::new(entry, (number, waiter), now), (entry, now)));
        Ok(Place { key: entry.key, number })
    }

    /// The one that must go so that a request of this client, weight and priority may wait, where the bucket or the places are used
    /// up: the last of the lowest priority below its own, or the last of the highest where the others have less than their
    /// share. It is refused, what it reserved must be given back, and then the request may ask again. None goes that
    /// weighs less.
    pub fn displace(&self, key: KeyId, (cost, priority): (u32, u8)) -> Option<W> {
        let mut state = self.state.lock();
        let out = state.on_line(key, |line| line.displace(cost, priority.min(MAX_PRIORITY)))?;
        self.left(&mut state, 1);
        Some(out)
    }

    /// Takes out one whose client left; none where it had its turn.
    pub fn leave(&self, place: Place) -> Option<W> {
        let mut state = self.state.lock();
        let out = state.on_line(place.key, |line| line.leave(place.number))?;
        self.left(&mut state, 1);
        Some(out)
    }

    /// Those whose turn has come, in order, and those that are overdue.
    pub fn due(&self, now: Instant) -> Vec<Turn<W>> {
        let mut state = self.state.lock();
        let mut turns = Vec::new();
        while let Some(&(at, key)) = state.agenda.first() {
            if at > now {
                break;
            }
            let before = turns.len();
            state.on_line(key, |line| line.due(now, &mut turns).then_some(()));
            self.left(&mut state, u32::try_from(turns.len() - before).unwrap_or(u32::MAX));
        }
        turns
    }

    /// When [`Waiting::due`] has something to say next.
    pub fn next_due(&self) -> Option<Instant> {
        self.state.lock().agenda.first().map(|(at, _)| *at)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.state.lock().waiting as usize
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn left(&self, state: &mut State<W>, gone: u32) {
        state.waiting -= gone;
        self.room.leave(gone);
    }
}

impl<W> Drop for Waiting<W> {
    /// A rule may go with its waiters while others of its limit stay.
    fn drop(&mut self) {
        self.room.leave(self.state.get_mut().waiting);
    }
}

impl WaitingRoom {
    /// Nobody waits; at most `most` may.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { most: AtomicU32::new(most.clamp(1, MAX_QUEUED)), taken: AtomicU32::new(0) }
    }

    /// Takes another bound. Those that wait beyond it go on to wait.
    pub fn set_most(&self, most: u32) {
        self.most.store(most.clamp(1, MAX_QUEUED), Ordering::Relaxed);
    }

    /// Takes a place, if one is free.
    fn enter(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let next = |taken: u32| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    fn leave(&self, places: u32) {
        self.taken.fetch_sub(places, Ordering::Relaxed);
    }
}

impl<W> State<W> {
    /// Runs `step` on a client's line, and notes when it has something to do next.
    fn on_line<T>(&mut self, key: KeyId, step: impl FnOnce(&mut Line<W>) -> Option<T>) -> Option<T> {
        let line = self.lines.entry(key).or_default();
        if let Some(at) = line.next_due() {
            self.agenda.remove(&(at, key));
        }
        let result = step(line);
        match line.next_due() {
            Some(at) => {
                self.agenda.insert((at, key));
            }
            None => {
                self.lines.remove(&key);
            }
        }
        result
    }
}
