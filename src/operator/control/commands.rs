//! Commands for sidecars, and their answers: who can be asked now, what is under way, and what came back in time.
//!
//! A command goes down the stream of the pod that is asked, or to the follower that has it, and only that stream can answer it.
//! It must not decide what commands mean or who may give them: that is the operations API's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::config::PolicyId;
use fusebox_policy::stream::{Answer, Command};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::book::Source;

/// How long a sidecar may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long a follower may take to pass a command on and the answer back.
const PASSED_ON_WITHIN: Duration = Duration::from_millis(2_500);

/// Commands that wait for one stream to take them, at most.
const MAX_WAITING: usize = 16;

/// Commands under way on one sidecar's stream, at most.
pub(crate) const MAX_UNDER_WAY: usize = 16;

/// Commands under way to one follower, at most.
pub(crate) const MAX_UNDER_WAY_TO_PEER: usize = 1024;

/// Keys of one answer, at most.
pub const MAX_KEYS: usize = 256;

/// The longest word of an answer that is kept, in bytes.
const MAX_WORD: usize = 256;

/// Whom commands can reach; cheap to clone, one shared content.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    lines: Arc<Mutex<Lines>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The pod has no stream here.
    #[error("its sidecar is not connected")]
    NotConnected,
    /// The answer did not come in time.
    #[error("its sidecar did not answer within {}s", ANSWER_WITHIN.as_secs())]
    Late,
}

/// Where commands are taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// The stream of the pod with this uid.
    Pod(String),
    /// The stream of the follower with this identity.
    Peer(String),
}

/// One command on its way.
#[derive(Debug)]
pub(crate) struct Order {
    /// The pod's uid.
    pub(crate) pod: String,
    /// What to do.
    pub(crate) command: Command,
    /// Who waits; dropped unanswered where it can't be done.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A line that takes commands for as long as this lives.
#[derive(Debug)]
pub(crate) struct Taken {
    line: Line,
    number: u64,
    commands: Commands,
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// The commands under way on one stream.
#[derive(Debug)]
pub(crate) struct UnderWay {
    orders: BTreeMap<u64, (Command, oneshot::Sender<Answer>)>,
    next: u64,
    most: usize,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    open: BTreeMap<Line, (u64, mpsc::Sender<Order>)>,
}

impl Commands {
    /// Asks one pod, wherever its stream goes to.
    ///
    /// # Errors
    /// [`Unanswered`] where its stream is gone or silent.
    pub async fn ask(&self, source: &Source, pod: &str, command: Command) -> Result<Answer, Unanswered> {
        let (line, within) = match source {
            Source::Local => (Line::Pod(pod.to_owned()), ANSWER_WITHIN),
            Source::Peer(identity) => (Line::Peer(identity.clone()), PASSED_ON_WITHIN),
        };
        let taker = self.lines.lock().open.get(&line).map(|(_, taker)| taker.clone());
        let taker = taker.ok_or(Unanswered::NotConnected)?;
        let (answer, answered) = oneshot::channel();
        let order = Order { pod: pod.to_owned(), command, answer };
        let asked = async {
            taker.send(order).await.map_err(|_| Unanswered::NotConnected)?;
            answered.await.map_err(|_| Unanswered::NotConnected)
        };
        tokio::time::timeout(within, asked).await.map_err(|_| Unanswered::Late)?
    }

    /// Takes commands for a line; whoever took them for it before gets no more.
    pub(crate) fn take(&self, line: Line) -> Taken {
        let (sender, orders) = mpsc::channel(MAX_WAITING);
        let mut lines = self.lines.lock();
        lines.next += 1;
        let number = lines.next;
        lines.open.insert(line.clone(), (number, sender));
        Taken { line, number, commands: self.clone(), orders }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut lines = self.commands.lines.lock();
        if lines.open.get(&self.line).is_some_and(|(number, _)| *number == self.number) {
            lines.open.remove(&self.line);
        }
    }
}

impl UnderWay {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { orders: BTreeMap::new(), next: 0, most }
    }

    /// Whether one more can be taken; those for which nobody waits any more make room.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.orders.len() >= self.most {
            self.orders.retain(|_, (_, answer)| !answer.is_closed());
        }
        self.orders.len() < self.most
    }

    /// Takes one and names it.
    pub(crate) fn begin(&mut self, command: Command, answer: oneshot::Sender<Answer>) -> u64 {
        self.next += 1;
        self.orders.insert(self.next, (command, answer));
        self.next
    }

    /// Hands an answer to whoever waits; one that nobody asked for, or that came too late, counts for nothing.
    pub(crate) fn answered(&mut self, id: u64, answer: Answer) {
        if let Some((command, waiting)) = self.orders.remove(&id) {
            // Nobody waits any more: the answer came too late.
            let _ = waiting.send(bounded(&command, answer));
        }
    }

    /// Gives one up: whoever waits learns it.
    pub(crate) fn give_up(&mut self, id: u64) {
        self.orders.remove(&id);
    }
}

/// The policy that a command is about; none for one of a newer operator.
pub(crate) fn policy_of(command: &Command) -> Option<&PolicyId> {
    match command {
        Command::TopKeys { policy, .. } | Command::Unblock { policy, .. } => Some(policy),
        Command::Unknown => None,
    }
}

/// An answer as far as it is one to this command, within bounds.
fn bounded(command: &Command, answer: Answer) -> Answer {
    match (command, answer) {
        (Command::TopKeys { policy, .. }, Answer::TopKeys { mut keys }) => {
            keys.retain(|key| key.limit.policy == *policy && is_digest(&key.digest));
            keys.truncate(MAX_KEYS);
            keys.iter_mut().for_each(|key| cut(&mut key.key));
            Answer::TopKeys { keys }
        }
        (Command::Unblock { .. }, Answer::Unblocked { buckets, mut searched }) => {
            searched.iter_mut().for_each(|searched| cut(&mut searched.cut_off));
            Answer::Unblocked { buckets, searched }
        }
        (_, Answer::Failed { mut problem }) => {
            cut(&mut problem);
            Answer::Failed { problem }
        }
        _ => Answer::Failed { problem: "the sidecar answered something else".to_owned() },
    }
}

fn is_digest(text: &str) -> bool {
    (16..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_WORD));
}

#[cfg(test)]
mod tests {
    use fusebox_policy::config::{LimitKey, Side, TargetId};
    use fusebox_policy::stream::TopKey;

    use super::*;

    fn policy(name: &str) -> PolicyId {
        PolicyId { namespace: "shop".into(), name: name.into() }
    }

    fn top(name: &str, digest: &str) -> TopKey {
        let target =
            TargetId { kind: "Service".into(), namespace: "shop".into(), name: "web".into(), section: String::new() };
        let limit = LimitKey {
            policy: policy(name),
            target,
            side: Side::Server,
            port: 80,
            limit: "all".into(),
            rule: String::new(),
        };
        TopKey {
            limit,
            key: "k".repeat(1000),
            digest: digest.into(),
            refused: 1,
            remaining: 0,
            blocked_until_unix_ms: None,
        }
    }

    fn ask() -> Command {
        Command::TopKeys { policy: policy("a"), most: 10 }
    }

    #[tokio::test]
    async fn an_answer_counts_only_from_the_stream_that_was_asked() {
        let commands = Commands::default();
        let mut asked = commands.take(Line::Pod("a".into()));
        let _other = commands.take(Line::Pod("b".into()));
        let waiting = tokio::spawn({
            let commands = commands.clone();
            async move { commands.ask(&Source::Local, "a", ask()).await }
        });
        let order = asked.orders.recv().await.unwrap();
        let (mut own, mut others) = (UnderWay::new(2), UnderWay::new(2));
        let id = own.begin(order.command, order.answer);
        others.answered(id, Answer::TopKeys { keys: vec![] });
        own.answered(id + 1, Answer::TopKeys { keys: vec![] });
        own.answered(id, Answer::TopKeys { keys: vec![top("a", "0123456789abcdef")] });
        let Answer::TopKeys { keys } = waiting.await.unwrap().unwrap() else { panic!("another answer") };
        assert_eq!((keys.len(), keys[0].key.len()), (1, MAX_WORD));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_or_silent_is_said() {
        let commands = Commands::default();
        assert_eq!(commands.ask(&Source::Local, "a", ask()).await, Err(Unanswered::NotConnected));
        let line = commands.take(Line::Pod("a".into()));
        assert_eq!(commands.ask(&Source::Local, "a", ask()).await, Err(Unanswered::Late));
        drop(line);
        assert_eq!(commands.ask(&Source::Local, "a", ask()).await, Err(Unanswered::NotConnected));
    }

    #[test]
    fn an_older_stream_does_not_take_the_line_of_a_newer_one_with_it() {
        let commands = Commands::default();
        let older = commands.take(Line::Pod("a".into()));
        let newer = commands.take(Line::Pod("a".into()));
        drop(older);
        assert_eq!(commands.lines.lock().open.len(), 1);
        drop(newer);
        assert!(commands.lines.lock().open.is_empty());
    }

    #[test]
    fn commands_under_way_are_bounded_and_those_that_nobody_waits_for_make_room() {
        let mut under_way = UnderWay::new(2);
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let (answer, answered) = oneshot::channel();
            assert!(under_way.has_room());
            under_way.begin(ask(), answer);
            waiting.push(answered);
        }
        assert!(!under_way.has_room());
        waiting.pop();
        assert!(under_way.has_room());
    }

    #[test]
    fn what_is_no_answer_to_the_command_is_left_out() {
        let foreign = Answer::TopKeys { keys: vec![top("b", "0123456789abcdef"), top("a", "short"), top("a", "xyz")] };
        assert_eq!(bounded(&ask(), foreign), Answer::TopKeys { keys: vec![] });
        let Answer::Failed { problem } = bounded(&ask(), Answer::Unblocked { buckets: 1, searched: None }) else {
            panic!("taken")
        };
        assert_eq!(problem, "the sidecar answered something else");
    }
}
