//! A request's line in the access log, from its head to the last byte of its answer.
//!
//! It must cost nothing where the log is off. The line is given away when the answer is dropped, because that is the one
//! end that every answer has.

use std::time::Instant;

use fusebox_policy::config::Mode;
use fusebox_policy::metrics::ERRORS;
use http::{Request, Response, Version};

use super::gate::Pass;
use super::problem::{ERROR_HEADER, Place};
use crate::access_log::{Ended, Entry, Origin};
use crate::listener::caller::Caller;
use crate::rate_limit::{Passed, Refused};
use crate::snapshot::Rule;

/// What is told of a request whose client went away before its answer's end.
const CLIENT_ABORT: &str = fusebox_policy::metrics::ERROR_CLIENT_ABORT;

/// A request that may be logged.
#[derive(Debug)]
pub(crate) struct Logged {
    entry: Option<Entry>,
    started: Instant,
}

/// A logged answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Passing {
    logged: Logged,
    status: u16,
    error: &'static str,
    bytes: u64,
    whole: bool,
}

impl Logged {
    /// Begins the line of `request`, which came as `version` at `started`, if it is to have one.
    pub(crate) fn begin<B>(caller: &Caller, request: &mut Request<B>, came: (Version, Instant)) -> Self {
        let (version, started) = came;
        let entry = caller.enforcer.access_log().and_then(|log| {
            let unix_ms = caller.enforcer.clock().unix_ms(started);
            let origin = Origin { unix_ms, peer: caller.hop.peer(), direction: caller.hop.direction(), version };
            log.begin(request, origin)
        });
        Self { entry, started }
    }

    /// Where the request goes.
    pub(crate) fn goes(&mut self, place: Place<'_>) {
        let Some(entry) = &mut self.entry else { return };
        let Place { policy, target, rule } = place;
        for (name, value) in [("target", target), ("rule", rule), ("policy", policy)] {
            entry.note(name, value);
        }
    }

    /// The policy let it pass.
    pub(crate) fn passes(&mut self, rule: &Rule, pass: &Pass) {
        let (Some(entry), Some(guard)) = (&mut self.entry, &rule.guard) else { return };
        let refused = pass.permit.is_none() && guard.mode == Mode::Shadow;
        entry.note("decision", if refused { "would-refuse" } else { "admitted" });
    }

    /// A limit refused it.
    pub(crate) fn is_limited(&mut self, refused: &Refused, target: &str) {
        self.goes(refused.place(target));
        let Some(entry) = &mut self.entry else { return };
        for (name, value) in [("limit", refused.limit()), ("decision", refused.state()), ("limitKey", &refused.key)] {
            entry.note(name, value);
        }
    }

    /// A limit would have refused it, were it enforced.
    pub(crate) fn is_limited_in_shadow(&mut self, passed: &Passed) {
        if let (Some(entry), Some(limit)) = (&mut self.entry, &passed.would_refuse) {
            entry.note("wouldLimit", limit);
        }
    }

    /// The policy refused it while it was in `state`.
    pub(crate) fn is_refused(&mut self, state: &'static str) {
        if let Some(entry) = &mut self.entry {
            entry.note("decision", state);
        }
    }

    /// It is being answered; none where there is nothing to log.
    pub(crate) fn answer<B>(self, response: &Response<B>) -> Option<Passing> {
        self.entry.as_ref()?;
        let told = response.headers().get(ERROR_HEADER).map(http::HeaderValue::as_bytes);
        let error = ERRORS.into_iter().find(|error| told == Some(error.as_bytes())).unwrap_or_default();
        Some(Passing { logged: self, status: response.status().as_u16(), error, bytes: 0, whole: false })
    }
}

impl Passing {
    /// So many bytes of the body went on.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// All of the body went on.
    pub(crate) fn is_whole(&mut self) {
        self.whole = true;
    }

    /// The body broke off.
    pub(crate) fn broke(&mut self, error: &'static str) {
        self.error = error;
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let Some(entry) = self.logged.entry.take() else { return };
        let gone = self.error.is_empty() && !self.whole;
        entry.finish(Ended {
            status: self.status,
            took: self.logged.started.elapsed(),
            bytes: self.bytes,
            error: if gone { CLIENT_ABORT } else { self.error },
        });
    }
}
