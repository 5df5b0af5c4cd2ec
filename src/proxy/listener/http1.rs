//! HTTP/1 on one client connection, for as long as there is something to do.
//!
//! It must give the socket back as soon as the client is silent: an idle connection then costs a socket
//! and a few hundred bytes, because no parser and no buffer are kept for it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use super::MAX_HEADER_BYTES;
use super::activity::Activity;
use super::caller::Caller;
use super::limits::{Limits, ticks};
use super::stream::ClientStream;
use crate::pipeline;
use crate::tunnel::Upstream;

/// How often the watch looks. A client that is silent from one look to the next is idle, and holds no buffers any more:
/// the sooner, the less memory a crowd of them needs at once.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// How long the parser and its buffers stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until an answer was given: most connections of a crowd are silent after it.
    ForOneAnswer,
    /// While requests follow each other.
    WhileBusy,
}

/// What became of the connection.
pub(super) enum End {
    /// It is over, and what was sent may still be on its way.
    Closed(ClientStream),
    /// The client is silent; it goes on with its next byte.
    Idle(ClientStream),
    /// Both ends agreed to speak something else.
    Upgraded(ClientStream, Upstream),
    /// Nothing more can be sent on it.
    Cut,
}

/// What the watch makes of what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Fine,
    Idle,
    Cut,
}

/// Sees now and then whether the connection still does something.
#[derive(Debug, Default)]
struct Watch {
    limits: Limits,
    served: u64,
    written: u64,
    read: u64,
    head_ticks: u32,
    body_ticks: u32,
    write_ticks: u32,
    half_closed_ticks: u32,
}

/// Why the parser was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// The client is silent.
    Idle,
    /// No further request is wanted.
    End,
}

/// Serves requests until the client is silent for as long as `stay` says, or is done.
pub(super) async fn serve(stream: ClientStream, caller: &Arc<Caller>, stay: Stay) -> End {
    let activity = Arc::clone(stream.activity());
    activity.allow_half_close();
    let serving = Arc::clone(caller);
    let service = service_fn(move |request| pipeline::handle(Arc::clone(&serving), request));
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let limits = *caller.enforcer.limits();
    let mut watch = Watch { limits, served: activity.served(), ..Watch::default() };
    let mut tick = pin!(tokio::time::sleep(TICK));
    let mut draining = pin!(caller.draining.cancelled());
    let mut asked = Asked::Nothing;
    let ended = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(result));
            }
            let before = asked;
            if stay == Stay::ForOneAnswer && asked == Asked::Nothing && watch.has_answered(&activity) {
                asked = Asked::Idle;
            }
            if asked != Asked::End && draining.as_mut().poll(cx).is_ready() {
                asked = Asked::End;
            }
            while ticked(tick.as_mut(), cx) {
                match watch.look(&activity) {
                    Sight::Cut => return Poll::Ready(None),
                    Sight::Idle if asked == Asked::Nothing => asked = Asked::Idle,
                    Sight::Fine if asked == Asked::Nothing && caller.is_older_than(limits.age) => {
                        asked = Asked::End;
                    }
                    Sight::Idle | Sight::Fine => {}
                }
            }
            if asked == before {
                return Poll::Pending;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    let Some(result) = ended else { return End::Cut };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    stream.put_back(parts.read_buf);
    match (result, caller.take_upgrade()) {
        (Ok(()), Some(upgraded)) => End::Upgraded(stream, upgraded),
        (Ok(()), None) if asked == Asked::Idle && activity.in_flight() == 0 => End::Idle(stream),
        (Ok(()), _) => End::Closed(stream),
        (Err(error), _) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "client connection ended");
            End::Closed(stream)
        }
    }
}

/// Whether it is time for another look.
fn ticked(mut tick: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    let over = tick.as_mut().poll(cx).is_ready();
    if over {
        tick.reset(Instant::now() + TICK);
    }
    over
}

impl Watch {
    /// Whether a request was answered since the last look, and nothing is under way.
    fn has_answered(&self, activity: &Activity) -> bool {
        activity.served() != self.served
            && activity.in_flight() == 0
            && !activity.is_head_partial()
            && !activity.is_body_open()
            && !activity.is_write_blocked()
    }

    fn look(&mut self, activity: &Activity) -> Sight {
        let moved = std::mem::replace(&mut self.written, activity.written()) != activity.written();
        let served = std::mem::replace(&mut self.served, activity.served()) != activity.served();
        count(&mut self.write_ticks, activity.is_write_blocked() && !moved);
        count(&mut self.half_closed_ticks, activity.is_half_closed() && !activity.is_write_blocked() && !moved);
        // An answer may come before the whole request did, and then the rest is owed as a head would be.
        let rest_owed = activity.is_body_open() && activity.in_flight() == 0;
        count(&mut self.head_ticks, (activity.is_head_partial() || rest_owed) && !served);
        let came = std::mem::replace(&mut self.read, activity.read()) != activity.read();
        count(&mut self.body_ticks, activity.is_body_awaited() && activity.in_flight() > 0 && !came);
        let Limits { head, body, write, half_closed, .. } = self.limits;
        if self.head_ticks > ticks(head, TICK)
            || self.body_ticks > ticks(body, TICK)
            || self.write_ticks > ticks(write, TICK)
            || self.half_closed_ticks > ticks(half_closed, TICK)
        {
            return Sight::Cut;
        }
        let busy = served
            || rest_owed
            || activity.in_flight() > 0
            || activity.is_head_partial()
            || activity.is_write_blocked();
        if busy { Sight::Fine } else { Sight::Idle }
    }
}

/// Counts while `holds`, from zero again when it did not.
fn count(ticks: &mut u32, holds: bool) {
    *ticks = if holds { *ticks + 1 } else { 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default limits in ticks.
    const HEAD_TICKS: u32 = 50;
    const BODY_TICKS: u32 = 300;
    const WRITE_TICKS: u32 = 300;

    fn looks(watch: &mut Watch, activity: &Activity, ticks: u32) -> Vec<Sight> {
        (0..ticks).map(|_| watch.look(activity)).collect()
    }

    #[test]
    fn a_silent_client_is_idle_and_a_request_in_flight_is_not() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        assert_eq!(watch.look(&activity), Sight::Idle);
        let request = activity.begin();
        assert_eq!(looks(&mut watch, &activity, 200), vec![Sight::Fine; 200], "an upstream may take its time");
        drop(request);
        assert_eq!(watch.look(&activity), Sight::Idle);
    }

    #[test]
    fn a_request_counts_as_answered_only_when_nothing_is_left_of_it() {
        let activity = Arc::new(Activity::default());
        let watch = Watch::default();
        assert!(!watch.has_answered(&activity), "nothing was asked");
        let request = activity.begin();
        assert!(!watch.has_answered(&activity));
        activity.note_write_blocked();
        drop(request);
        assert!(!watch.has_answered(&activity), "the client has yet to read it");
        activity.note_written(1);
        assert!(watch.has_answered(&activity));
    }

    #[test]
    fn a_connection_whose_request_was_not_read_to_its_end_is_never_idle_and_is_cut() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let request = activity.begin();
        let body = activity.begin_body();
        drop(request);
        assert!(!watch.has_answered(&activity), "what comes next is the rest of a body, not a request");
        assert_eq!(watch.look(&activity), Sight::Fine);
        assert_eq!(looks(&mut watch, &activity, HEAD_TICKS), vec![Sight::Fine; HEAD_TICKS as usize]);
        assert_eq!(watch.look(&activity), Sight::Cut);
        body.complete();
        assert_eq!(watch.look(&activity), Sight::Idle);
    }

    #[test]
    fn a_client_that_owes_its_body_is_cut_and_one_whose_upstream_does_not_take_it_is_not() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let _request = activity.begin();
        let body = activity.begin_body();
        assert!(!looks(&mut watch, &activity, BODY_TICKS * 2).contains(&Sight::Cut), "nobody asked for it");
        body.note_awaited();
        assert!(!looks(&mut watch, &activity, BODY_TICKS).contains(&Sight::Cut));
        activity.note_read(1);
        assert!(!looks(&mut watch, &activity, BODY_TICKS + 1).contains(&Sight::Cut), "a part came");
        assert_eq!(watch.look(&activity), Sight::Cut);
    }

    #[test]
    fn a_late_word_about_an_earlier_body_does_not_complete_the_one_that_is_open() {
        let activity = Arc::new(Activity::default());
        let _first = activity.begin();
        let body = activity.begin_body();
        let _second = activity.begin();
        activity.begin_body();
        body.complete();
        assert!(activity.is_body_open());
    }

    #[test]
    fn a_head_that_does_not_end_is_cut() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        activity.note_read(1);
        assert_eq!(looks(&mut watch, &activity, HEAD_TICKS), vec![Sight::Fine; HEAD_TICKS as usize]);
        activity.note_read(1);
        assert_eq!(watch.look(&activity), Sight::Cut, "one byte more buys no time");
    }

    #[test]
    fn a_client_that_stops_reading_is_cut_unless_it_goes_on() {
        let activity = Arc::new(Activity::default());
        let mut watch = Watch::default();
        let _request = activity.begin();
        activity.note_write_blocked();
        assert!(!looks(&mut watch, &activity, WRITE_TICKS).contains(&Sight::Cut));
        activity.note_written(1);
        activity.note_write_blocked();
        assert!(!looks(&mut watch, &activity, WRITE_TICKS + 1).contains(&Sight::Cut));
        assert_eq!(watch.look(&activity), Sight::Cut);
    }
}
