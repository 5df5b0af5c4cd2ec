//! A pod and the rest of the world, as two network namespaces with a cable between them.
//!
//! It must leave nothing behind, and touch no interface or rule of the machine itself. It needs root; without it tests
//! say so and are not run.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid};

use super::support::DEADLINE;

/// The user that the sidecar has in these tests, as in a cluster.
pub(crate) const PROXY_UID: u32 = 15_000;

/// The pod's addresses.
pub(crate) const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// The addresses of the world's end of the cable.
pub(crate) const WORLD: [&str; 2] = ["10.77.0.1", "fd77::1"];

/// Further addresses in the world; the first two stand for the cluster IPs of Services.
pub(crate) const SERVICES: [&str; 3] = ["10.96.0.10", "fd96::10", "10.96.0.11"];

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Both ends.
#[derive(Debug)]
pub(crate) struct Cable {
    name: String,
}

/// One end of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Pod,
    World,
}

impl Cable {
    /// A new one; none where this process may not make it.
    pub(crate) fn lay() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: network namespaces need root");
            return None;
        }
        let name = format!("fbt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cable = Self { name };
        cable.build();
        Some(cable)
    }

    fn build(&self) {
        let (pod, world) = (self.of(End::Pod), self.of(End::World));
        for end in [&pod, &world] {
            ip(&format!("netns add {end}"));
            ip(&format!("-n {end} link set lo up"));
        }
        ip(&format!("link add name eth0 netns {pod} type veth peer name eth0 netns {world}"));
        for (end, addresses) in [(&pod, POD), (&world, WORLD)] {
            ip(&format!("-n {end} addr add {}/24 dev eth0", addresses[0]));
            ip(&format!("-n {end} addr add {}/64 dev eth0 nodad", addresses[1]));
            ip(&format!("-n {end} link set eth0 up"));
        }
        for address in SERVICES {
            let bits = if address.contains(':') { "128 dev lo nodad" } else { "32 dev lo" };
            ip(&format!("-n {world} addr add {address}/{bits}"));
        }
        ip(&format!("-n {pod} route add default via {}", WORLD[0]));
        ip(&format!("-n {pod} -6 route add default via {}", WORLD[1]));
    }

    /// The name of one end's namespace.
    pub(crate) fn of(&self, end: End) -> String {
        let side = match end {
            End::Pod => "pod",
            End::World => "world",
        };
        format!("{}-{side}", self.name)
    }

    /// Does `work` on a thread of its own at one end.
    pub(crate) fn within<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter(end);
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Moves the calling thread to one end, for good.
    pub(crate) fn enter(&self, end: End) {
        enter(&self.of(end));
    }

    /// A listener at one end.
    pub(crate) fn listen(&self, end: End, address: &str) -> TcpListener {
        self.within(end, || TcpListener::bind(address).unwrap())
    }

    /// A connection from one end, which fails rather than wait for ever.
    pub(crate) fn connect(&self, from: End, address: &str) -> TcpStream {
        let address: SocketAddr = address.parse().unwrap();
        let stream = self.within(from, || TcpStream::connect_timeout(&address, DEADLINE).unwrap());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Who owns the socket of the pod that is bound to `local`, by the kernel's own table.
    pub(crate) fn owner(&self, local: SocketAddr) -> Option<u32> {
        let table = if local.is_ipv4() { "tcp" } else { "tcp6" };
        let text = self.within(End::Pod, || std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap());
        let wanted = hex(local);
        text.lines().skip(1).find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1] == wanted).then(|| words[7].parse().unwrap())
        })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in [End::Pod, End::World] {
            let _ = Command::new("ip").args(["netns", "del", &self.of(end)]).status();
        }
    }
}

/// Moves the calling thread into the namespace `name`.
pub(crate) fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Makes the calling thread the sidecar's user.
pub(crate) fn become_proxy() {
    let (gid, uid) = (Gid::from_raw(PROXY_UID), Uid::from_raw(PROXY_UID));
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Waits until `check` holds.
pub(crate) fn until(what: &str, mut check: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !check() {
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As the kernel writes it: each 32-bit word of the address in the machine's order.
fn hex(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    };
    let words = bytes.chunks(4).map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap())));
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}
