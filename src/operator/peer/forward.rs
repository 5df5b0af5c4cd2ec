//! The follower's end: keeps one stream to whoever leads, and mirrors its own book there.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::stream::{Command, encode};
use http::{Request, StatusCode};
use http_body_util::Channel;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{FromPeer, MAX_LINE_DOWN, PATH, ToPeer};
use crate::certificates::Tls;
use crate::control::{
    BACKLOG, Commands, MAX_UNDER_WAY_TO_PEER, PING_EVERY, ReadError, Reader, ReportBook, Source, WriteError, Writer,
};
use crate::lease::{Leader, Leadership, Role};

/// How long connecting to the leader may take, up to its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What forwarding needs.
pub struct Forwarder {
    /// This replica's book.
    pub book: ReportBook,
    /// This replica's sidecars, for commands that the leader passes on.
    pub commands: Commands,
    /// Who leads.
    pub leadership: Leadership,
    /// How to prove what this is.
    pub tls: Tls,
    /// This replica's identity.
    pub identity: String,
}

/// Why a stream to the leader ended.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("the leader's address {0:?} can't be reached")]
    Connect(String, #[source] std::io::Error),
    #[error("the leader did not answer within {CONNECT_TIMEOUT:?}")]
    Timeout,
    #[error("the exchange with the leader failed")]
    Http(#[from] hyper::Error),
    #[error("the leader answered {0}")]
    Status(StatusCode),
    #[error("a line to the leader could not be written")]
    Write(#[from] WriteError),
    #[error("a message could not be encoded")]
    Encode(#[from] serde_json::Error),
    #[error("the request could not be made")]
    Request(#[from] http::Error),
    #[error("the control port's name is not a name")]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    #[error("a line of the leader could not be read")]
    Read(#[from] ReadError),
    #[error("fell behind; starting over with the whole state")]
    Behind,
    #[error("the leader ended the stream")]
    Ended,
}

/// Forwards to whoever leads, until `shutdown`. While this replica leads itself, it waits.
pub async fn forward(forwarder: Forwarder, shutdown: CancellationToken) {
    let mut roles = forwarder.leadership.subscribe();
    let mut pause = FIRST_PAUSE;
    while !shutdown.is_cancelled() {
        let role = roles.borrow_and_update().clone();
        let Role::Follower { leader: Some(leader) } = role else {
            tokio::select! {
                _ = roles.changed() => continue,
                () = shutdown.cancelled() => return,
            }
        };
        let started = tokio::time::Instant::now();
        tokio::select! {
            Err(error) = forwarder.mirror(&leader) => {
                tracing::info!(leader = leader.identity, error = %error, "forwarding to the leader ended");
            }
            _ = roles.changed() => continue,
            () = shutdown.cancelled() => return,
        }
        // A stream that lived for a while says that the leader is well.
        pause = if started.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = roles.changed() => pause = FIRST_PAUSE,
            () = shutdown.cancelled() => return,
        }
    }
}

impl Forwarder {
    async fn mirror(&self, leader: &Leader) -> Result<Infallible, ForwardError> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(leader)).await;
        let (mut writer, answer) = connected.map_err(|_| ForwardError::Timeout)??;
        let mut reader = Reader::<ToPeer>::new(answer, MAX_LINE_DOWN);
        send(&mut writer, &FromPeer::Hello { identity: self.identity.clone() }).await?;
        let (state, mut events) = self.book.follow();
        for event in state {
            send(&mut writer, &FromPeer::Event { event }).await?;
        }
        tracing::info!(leader = leader.identity, "forwarding to the leader");
        let mut asked = JoinSet::new();
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => send(&mut writer, &FromPeer::Event { event: (*event).clone() }).await?,
                    Err(RecvError::Lagged(_)) => return Err(ForwardError::Behind),
                    Err(RecvError::Closed) => return Err(ForwardError::Ended),
                },
                message = reader.next(), if asked.len() < MAX_UNDER_WAY_TO_PEER => match message? {
                    Some(ToPeer::Command { id, pod, command }) => {
                        asked.spawn(ask(self.commands.clone(), (id, pod), command));
                    }
                    Some(ToPeer::Unknown) => {}
                    None => return Err(ForwardError::Ended),
                },
                Some(Ok(answer)) = asked.join_next() => send(&mut writer, &answer).await?,
                _ = ping.tick() => send(&mut writer, &FromPeer::Ping).await?,
            }
        }
    }

    async fn connect(&self, leader: &Leader) -> Result<(Writer, Incoming), ForwardError> {
        let unreachable = |error| ForwardError::Connect(leader.address.clone(), error);
        let name = ServerName::try_from(self.tls.names().service().to_owned())?;
        let stream = TcpStream::connect(&leader.address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream = TlsConnector::from(self.tls.peer()).connect(name, stream).await.map_err(unreachable)?;
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends by itself when the request is dropped.
        tokio::spawn(connection);
        let (sender, body) = Channel::<Bytes, Infallible>::new(BACKLOG);
        let uri = format!("https://{}{PATH}", self.tls.names().service());
        let response = requests.send_request(Request::post(uri).body(body)?).await?;
        match response.status() {
            StatusCode::OK => Ok((Writer::new(sender), response.into_body())),
            status => Err(ForwardError::Status(status)),
        }
    }
}

async fn ask(commands: Commands, (id, pod): (u64, String), command: Command) -> FromPeer {
    let answer = commands.ask(&Source::Local, &pod, command).await.ok();
    FromPeer::Answer { id, answer }
}

async fn send(writer: &mut Writer, message: &FromPeer) -> Result<(), ForwardError> {
    Ok(writer.send(Bytes::from(encode(message)?)).await?)
}
