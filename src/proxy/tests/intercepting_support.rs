//! A pod's network namespace with a sidecar in it, servers that tell who called them, and clients on both sides of the cable.
//!
//! What it starts runs in threads, since a thread alone can be in another namespace than the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fusebox_policy::config::{InboundRoute, Protocol, ProxyConfig, Side};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::namespaces::{Cable, End, PROXY_UID, SERVICES, become_proxy, enter};
use super::support::{DEADLINE, config};
use crate::{Drained, Options, Proxy, Redirect};

pub(super) const ADMIN: &str = "127.0.0.1:15020";

/// What a server was asked, and by whom.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) head: String,
}

/// A proxy in the pod, under the sidecar's own user.
pub(super) struct Sidecar {
    commands: Option<UnboundedSender<Command>>,
    thread: Option<JoinHandle<(Drained, Duration)>>,
    pub(super) took: Duration,
}

type Command = Box<dyn FnOnce(&Proxy) + Send>;

impl Sidecar {
    /// Starts it, and then lets the kernel lead the pod's traffic to it.
    pub(super) fn start(cable: &Cable, config: &ProxyConfig) -> Self {
        let options = Options {
            transparent_inbound: vec!["0.0.0.0:15006".parse().unwrap()],
            transparent_outbound: vec!["127.0.0.1:15001".parse().unwrap()],
            admin: "0.0.0.0:15020".parse().unwrap(),
            ..Options::default()
        };
        let (commands, mut wanted) = unbounded_channel::<Command>();
        let (tell, told) = channel();
        let (name, config) = (cable.of(End::Pod), config.clone());
        let thread = std::thread::spawn(move || {
            enter(&name);
            become_proxy();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let started = Instant::now();
                let proxy = Proxy::start(options).await.unwrap();
                tell.send(started.elapsed()).unwrap();
                proxy.apply(&config).unwrap();
                while let Some(command) = wanted.recv().await {
                    command(&proxy);
                }
                let ending = Instant::now();
                (proxy.drain().await, ending.elapsed())
            })
        });
        let took = told.recv_timeout(DEADLINE).unwrap();
        cable.within(End::Pod, || redirect().install().unwrap());
        let sidecar = Self { commands: Some(commands), thread: Some(thread), took };
        sidecar.run(|_| {});
        sidecar
    }

    /// Does `work` with the proxy, and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce(&Proxy) -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let command: Command = Box::new(move |proxy| tell.send(work(proxy)).unwrap());
        assert!(self.commands.as_ref().unwrap().send(command).is_ok());
        told.recv_timeout(DEADLINE).unwrap()
    }

    /// Ends it as SIGTERM would.
    pub(super) fn drain(mut self) -> (Drained, Duration) {
        self.commands = None;
        self.thread.take().unwrap().join().unwrap()
    }
}

pub(super) fn redirect() -> Redirect {
    Redirect {
        proxy_uid: PROXY_UID,
        inbound_port: 15006,
        outbound_port: 15001,
        admin_port: 15020,
        exclude_inbound: vec![22],
        exclude_outbound: vec![5432],
        dry_run: false,
    }
}

/// Answers HTTP on `listener`, and tells of each request.
pub(super) fn serve(listener: TcpListener) -> Receiver<Asked> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut stream = stream;
                let local = stream.local_addr().unwrap();
                while let Some(head) = read_head(&mut stream) {
                    let status = if head.contains("/status/503") { "503 Told" } else { "200 OK" };
                    if tell.send(Asked { peer, local, head }).is_err() {
                        return;
                    }
                    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok").as_bytes());
                }
            });
        }
    });
    told
}

/// Says `greeting` and then whatever it hears.
pub(super) fn echo(listener: TcpListener, greeting: &'static [u8]) -> Receiver<Asked> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let local = stream.local_addr().unwrap();
            let _ = tell.send(Asked { peer, local, head: String::new() });
            std::thread::spawn(move || {
                let _ = stream.write_all(greeting);
                let mut room = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut room) {
                    let _ = stream.write_all(&room[..length]);
                }
            });
        }
    });
    told
}

pub(super) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// One request and its answer's head; two bytes of body follow where they are announced.
pub(super) fn get(stream: &mut TcpStream, path: &str, host: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).unwrap();
    let head = read_head(stream).unwrap();
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).unwrap();
    head
}

pub(super) fn hear(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, expected);
}

pub(super) fn said(asked: &Receiver<Asked>) -> Asked {
    asked.recv_timeout(DEADLINE).unwrap()
}

pub(super) fn page(cable: &Cable, from: End, address: &str, path: &str) -> (String, String) {
    let mut stream = cable.connect(from, address);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub(super) fn metric(cable: &Cable, starts: &str, contains: &str) -> Option<String> {
    let (_, page) = page(cable, End::Pod, ADMIN, "/metrics");
    let line = page.lines().find(|line| line.starts_with(starts) && line.contains(contains))?;
    line.rsplit(' ').next().map(str::to_owned)
}

/// A policy on shop/payments:80, which has cluster IPs of both families.
pub(super) fn outbound() -> ProxyConfig {
    let mut config = config("127.0.0.1:1".parse().unwrap());
    config.outbound[0].addresses = vec![format!("{}:80", SERVICES[0]), format!("[{}]:80", SERVICES[1])];
    config
}

/// The same policy on the pod's own port 8080.
pub(super) fn inbound() -> ProxyConfig {
    let mut config = outbound();
    let mut policy = config.outbound.remove(0).circuit_breaker.unwrap();
    policy.side = Side::Server;
    config.inbound =
        vec![InboundRoute { port: 8080, protocol: Protocol::Detect, circuit_breaker: Some(policy), rate_limit: None }];
    config
}

pub(super) fn nothing() -> ProxyConfig {
    ProxyConfig { outbound: Vec::new(), policies: Vec::new(), ..outbound() }
}

pub(super) fn is_broken(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Whether a connection breaks as soon as it is made, or while it is.
pub(super) fn breaks(cable: &Cable, from: End, address: &str) -> bool {
    let address = address.parse().unwrap();
    match cable.within(from, || TcpStream::connect_timeout(&address, DEADLINE)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            is_broken(&mut stream)
        }
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused),
    }
}
