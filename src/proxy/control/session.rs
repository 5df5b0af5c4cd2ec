//! One stream: hello, configurations, values and commands down, acknowledgements, reports and answers up.
//!
//! It must notice a dead operator by silence and never wait for one without bound. Whatever ends it is
//! a value, and the client above decides when to try again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use bytes::Bytes;
use fusebox_policy::config::ProxyConfig;
use fusebox_policy::stream::{self, Answer, Command, Decoder, Down, LineError, MAX_LINE_DOWN, Up};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connect::{ConnectError, Connector, UpBody};
use super::reporter::Reporter;
use crate::enforcer::Enforcer;
use crate::health::{Component, Health};
use crate::options::ControlUrl;
use crate::rate_limit::commands;

/// Without a line for this long the operator is taken for dead; it pings every 10 s.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// How long the operator may take to answer the request, and to take a line.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// Lines that wait to be sent.
const QUEUE: usize = 16;

/// How often the token's file is compared with the token in use.
const TOKEN_CHECK: Duration = Duration::from_secs(10);

/// The longest token file, in bytes.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The token's file has another token, which a new stream will use.
    TokenChanged,
    /// Something went wrong.
    Failed(SessionError),
}

/// What went wrong with a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The token's file can't be used.
    #[error("token file {path} can't be used: {message}")]
    Token {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// The operator answered with another status than 200.
    #[error("operator answered {0}")]
    Refused(StatusCode),
    /// The stream broke.
    #[error("stream broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The operator ended the stream.
    #[error("operator ended the stream")]
    Ended,
    /// The operator was silent for too long, or did not take what was sent.
    #[error("operator is silent")]
    Silent,
    /// The operator sent what is no message.
    #[error("operator sent what is no message: {0}")]
    Line(#[from] LineError),
    /// A message could not be written.
    #[error("message could not be written: {0}")]
    Encode(#[from] serde_json::Error),
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Session {
    up: Sender<Bytes>,
    down: Incoming,
    decoder: Decoder,
    reporter: Reporter,
    changes: watch::Receiver<u64>,
    heard: Instant,
    token: String,
    token_file: PathBuf,
}

/// What the session was woken by.
enum Wake {
    Data(Option<Result<http_body::Frame<Bytes>, hyper::Error>>),
    Report,
    Changed,
    Silent,
    CheckToken,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenChanged => formatter.write_str("token was renewed"),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl Session {
    /// Connects, authenticates and says hello.
    pub(crate) async fn open(
        connector: &Connector,
        place: (&ControlUrl, usize),
        token_file: &Path,
        enforcer: &Arc<Enforcer>,
    ) -> Result<Self, SessionError> {
        let (url, attempt) = place;
        let token = read_token(token_file).await?;
        let mut sender = connector.connect(url, attempt).await?;
        let (mut up, body) = Channel::new(QUEUE);
        let changes = enforcer.changes();
        send(&mut up, &hello(enforcer)).await?;
        let request = request(url, &token, body).map_err(|error| SessionError::Token {
            path: token_file.display().to_string(),
            message: error.to_string(),
        })?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let response = answer.map_err(|_| SessionError::Silent)??;
        if response.status() != StatusCode::OK {
            return Err(SessionError::Refused(response.status()));
        }
        Ok(Self {
            up,
            down: response.into_body(),
            decoder: Decoder::new(MAX_LINE_DOWN),
            reporter: Reporter::new(enforcer, Instant::now()),
            changes,
            heard: Instant::now(),
            token,
            token_file: token_file.to_owned(),
        })
    }

    /// Talks until something ends the stream.
    pub(crate) async fn run(&mut self, enforcer: &Arc<Enforcer>, health: &Health) -> SessionEnd {
        let mut token_check = tokio::time::interval(TOKEN_CHECK);
        token_check.reset();
        loop {
            let wake = tokio::select! {
                frame = self.down.frame() => Wake::Data(frame),
                Ok(()) = self.changes.changed() => Wake::Changed,
                () = tokio::time::sleep_until(self.reporter.due()) => Wake::Report,
                () = tokio::time::sleep_until(self.heard + SILENCE) => Wake::Silent,
                _ = token_check.tick() => Wake::CheckToken,
            };
            let step = match wake {
                Wake::Data(frame) => self.receive(frame, enforcer, health).await,
                Wake::Changed => {
                    self.reporter.changed(enforcer, Instant::now());
                    Ok(())
                }
                Wake::Report => self.report(enforcer).await,
                Wake::Silent => Err(SessionError::Silent),
                // A file that can't be read just now is no reason to drop a stream that works.
                Wake::CheckToken => match read_token(&self.token_file).await {
                    Ok(token) if token != self.token => return SessionEnd::TokenChanged,
                    _ => Ok(()),
                },
            };
            if let Err(error) = step {
                return SessionEnd::Failed(error);
            }
        }
    }

    async fn receive(
        &mut self,
        frame: Option<Result<http_body::Frame<Bytes>, hyper::Error>>,
        enforcer: &Arc<Enforcer>,
        health: &Health,
    ) -> Result<(), SessionError> {
        let frame = frame.ok_or(SessionError::Ended)??;
        let Ok(bytes) = frame.into_data() else { return Ok(()) };
        for message in self.decoder.push::<Down>(&bytes)? {
            self.heard = Instant::now();
            let answer = match message {
                Down::Ping => Up::Pong,
                Down::Config { revision, config } => enforce(enforcer, health, &revision, &config),
                Down::Endpoints { services } => {
                    enforcer.endpoints(services, Monotonic::now());
                    continue;
                }
                Down::References { values } => {
                    enforcer.references(values, Monotonic::now());
                    continue;
                }
                Down::Command { id, command } => Up::Answer { id, answer: obey(enforcer, command).await },
                Down::Replicas { policies } => {
                    enforcer.replicas(policies);
                    continue;
                }
                Down::Unknown => continue,
            };
            send(&mut self.up, &answer).await?;
        }
        Ok(())
    }

    async fn report(&mut self, enforcer: &Arc<Enforcer>) -> Result<(), SessionError> {
        for report in self.reporter.take(enforcer, Instant::now()) {
            send(&mut self.up, &Up::Report(report)).await?;
        }
        Ok(())
    }
}

/// Does what a person asks, within the time that the stream may be silent.
async fn obey(enforcer: &Enforcer, command: Command) -> Answer {
    let answered = tokio::time::timeout(COMMAND_TIMEOUT, commands::answer(enforcer, command)).await;
    answered.unwrap_or_else(|_| Answer::Failed { problem: "it took too long; try again".to_owned() })
}

/// Puts a configuration in force and says so, or says why not.
fn enforce(enforcer: &Enforcer, health: &Health, revision: &str, config: &ProxyConfig) -> Up {
    match enforcer.apply(config, revision) {
        Ok(applied) => {
            health.config(Component::healthy());
            Up::Ack { revision: applied.revision, policies: applied.policies }
        }
        Err(error) => {
            enforcer.counters().refused_config();
            tracing::error!(revision, %error, "configuration refused; the one before stays in force");
            health.config(Component::degraded(format!("revision {revision} is refused: {error}")));
            Up::Nack { revision: revision.to_owned(), error: error.to_string() }
        }
    }
}

fn hello(enforcer: &Enforcer) -> Up {
    let snapshot = enforcer.snapshot();
    Up::Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: snapshot.revision.clone(),
        policies: snapshot.policies.clone(),
    }
}

fn request(url: &ControlUrl, token: &str, body: UpBody) -> Result<Request<UpBody>, http::Error> {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    Request::post(format!("https://{host}:{}{}", url.port, stream::PATH))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(body)
}

async fn read_token(path: &Path) -> Result<String, SessionError> {
    let refuse = |message: String| SessionError::Token { path: path.display().to_string(), message };
    let bytes = tokio::fs::read(path).await.map_err(|error| refuse(error.to_string()))?;
    if bytes.len() > MAX_TOKEN_BYTES {
        return Err(refuse(format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is not text".to_owned()))?;
    Ok(text.trim().to_owned())
}

async fn send(up: &mut Sender<Bytes>, message: &Up) -> Result<(), SessionError> {
    let line = Bytes::from(stream::encode(message)?);
    match tokio::time::timeout(ANSWER_TIMEOUT, up.send_data(line)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Ended),
        Err(_) => Err(SessionError::Silent),
    }
}
