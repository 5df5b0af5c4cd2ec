//! One request from admission to its end: the permit, the numbers, the transition.
//!
//! It must be settled exactly once, and being dropped is an ending too: then the client went away,
//! which says nothing about the upstream.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fusebox_policy::circuit_breaker::{Answer, Ended, Outcome};
use fusebox_policy::config::{FailureCondition, Mode};
use http::{HeaderMap, Response, StatusCode};

use super::gate::Pass;
use super::grpc;
use super::request_body::ClientBody;
use super::retry_after;
use crate::endpoints::Member;
use crate::enforcer::Enforcer;
use crate::series::Ending;
use crate::snapshot::Rule;

/// A request that was let through.
#[derive(Debug)]
pub(crate) struct Exchange {
    enforcer: Arc<Enforcer>,
    rule: Arc<Rule>,
    pass: Pass,
    started: Instant,
    /// How long it waited for a limit before it was let through, in milliseconds.
    waited_ms: u32,
    status: u16,
    /// From its being let through to the answer's head; none before that.
    head_took: Option<Duration>,
    /// When the upstream asked to be called again, where the policy honours that.
    retry_after: Option<Duration>,
    grpc: Option<GrpcStatus>,
    finished: bool,
}

/// What is known of a gRPC answer's status; it usually stands in the trailers.
#[derive(Clone, Copy, Debug, Default)]
struct GrpcStatus(Option<u32>);

impl Ending {
    /// The same ending, unless it was the client who broke its body or let the time pass.
    pub(crate) fn blaming(self, client: Option<&ClientBody>) -> Self {
        let Some(client) = client else { return self };
        if client.is_broken() || (self == Self::Timeout && client.is_awaited()) { Self::ClientAbort } else { self }
    }
}

impl Exchange {
    /// Begins for a request whose head had arrived at the first of these moments, and which was let through at the second.
    pub(crate) fn begin(enforcer: Arc<Enforcer>, rule: Arc<Rule>, pass: Pass, times: (Instant, Instant)) -> Self {
        let (started, admitted) = times;
        let waited = admitted.saturating_duration_since(started);
        let waited_ms = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        Self {
            enforcer,
            rule,
            pass,
            started,
            waited_ms,
            status: 0,
            head_took: None,
            retry_after: None,
            grpc: None,
            finished: false,
        }
    }

    /// The rule it goes by.
    pub(crate) fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// The endpoint it goes to; none for the Service's own address.
    pub(crate) fn endpoint(&self) -> Option<Arc<Member>> {
        self.pass.endpoint.clone()
    }

    /// The upstream's head arrived. A status that is a failure decides at once: nothing that follows can change it.
    pub(crate) fn head<B>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        if self.rule.guard.as_ref().is_some_and(|guard| guard.honors_retry_after) {
            self.retry_after = retry_after::wait(response.headers(), SystemTime::now);
        }
        let now = Instant::now();
        self.head_took = Some(self.took(now));
        let told = grpc::status(response.headers());
        // Without a gRPC status, another HTTP status than 200 is that of something before the gRPC server.
        if grpc::is_grpc(response.headers()) && (told.is_some() || response.status() == StatusCode::OK) {
            self.grpc = Some(GrpcStatus(told));
        }
        if self.outcome() == Some(Outcome::Failure) {
            self.settle(Outcome::Failure, now);
        }
    }

    /// The answer is this proxy's own refusal of a loop: no failure of the upstream, whatever its status says.
    pub(crate) fn is_own_refusal(&mut self, now: Instant) {
        self.settle(Outcome::Neutral, now);
    }

    /// Trailers arrived; a gRPC answer's status stands in them.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let (Some(status), Some(told)) = (&mut self.grpc, grpc::status(trailers)) {
            *status = GrpcStatus(Some(told));
        }
    }

    /// Whether the answer is one of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    /// What the answer says, as far as it is known; nothing while a gRPC status is missing.
    fn outcome(&self) -> Option<Outcome> {
        let grpc_status = match self.grpc {
            Some(GrpcStatus(told)) => Some(told?),
            None => None,
        };
        let answer = Answer { status: self.status, grpc_status };
        Some(self.rule.guard.as_ref().map_or(Outcome::Success, |guard| guard.failures.outcome(&answer)))
    }

    /// The rule's time is over. In Shadow that is only counted: true means that the request goes on without a deadline.
    pub(crate) fn overdue_in_shadow(&mut self, client: Option<&ClientBody>, now: Instant) -> bool {
        let Some(guard) = self.rule.guard.as_ref().filter(|guard| guard.mode == Mode::Shadow) else { return false };
        let outcome = match Ending::Timeout.blaming(client) {
            Ending::Timeout if self.has_waited() => Outcome::Neutral,
            Ending::Timeout => guard.failures.condition_outcome(FailureCondition::Timeout),
            _ => Outcome::Neutral,
        };
        self.settle(outcome, now);
        true
    }

    /// The whole answer was passed on. A gRPC answer whose status is missing broke off.
    pub(crate) fn answered(mut self, now: Instant) {
        // A failing status has been settled with the head.
        match self.outcome() {
            Some(outcome) => {
                self.settle(outcome, now);
                self.record(Ending::Answered, self.status, now);
            }
            None => self.broke(Ending::Reset, now),
        }
    }

    /// It ended otherwise; `status` is what the client got, 0 where it got none.
    pub(crate) fn failed(mut self, ending: Ending, status: u16, now: Instant) {
        let condition = match ending {
            Ending::Timeout if self.has_waited() => None,
            Ending::Timeout => Some(FailureCondition::Timeout),
            Ending::ConnectFailure => Some(FailureCondition::ConnectFailure),
            Ending::Reset => Some(FailureCondition::Reset),
            Ending::Answered | Ending::Refused | Ending::ClientAbort | Ending::RateLimited => None,
        };
        let outcome = match (condition, &self.rule.guard) {
            (Some(condition), Some(guard)) => guard.failures.condition_outcome(condition),
            _ => Outcome::Neutral,
        };
        self.settle(outcome, now);
        self.record(ending, status, now);
    }

    /// It broke while the answer's body was being passed on.
    pub(crate) fn broke(self, ending: Ending, now: Instant) {
        let status = self.status;
        self.failed(ending, status, now);
    }

    /// Whether a part of its time was spent waiting for a limit, so that the upstream did not have all of it.
    fn has_waited(&self) -> bool {
        self.waited_ms > 0
    }

    /// From its being let through.
    fn took(&self, now: Instant) -> Duration {
        let waited = Duration::from_millis(self.waited_ms.into());
        now.saturating_duration_since(self.started).saturating_sub(waited)
    }

    fn settle(&mut self, outcome: Outcome, now: Instant) {
        let Some(permit) = self.pass.permit.take() else { return };
        let Some(tracked) = self.pass.tracked(&self.rule) else { return };
        let took = self.head_took.unwrap_or_else(|| self.took(now));
        let ended = Ended { outcome, took, retry_after: self.retry_after };
        if let Some(transition) = tracked.breaker.settle(permit, ended, now) {
            self.enforcer.transitioned(tracked, &transition);
        }
    }

    fn record(&mut self, ending: Ending, status: u16, now: Instant) {
        self.finished = true;
        self.rule.series.record(ending, status, now.saturating_duration_since(self.started));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            let status = self.status;
            self.record(Ending::ClientAbort, status, Instant::now());
        }
    }
}
