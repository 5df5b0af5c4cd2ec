//! The rules as netlink messages (`linux/netfilter/nf_tables.h`), sent as one batch that the kernel takes whole or not at all.
//!
//! It must hold no choice of its own: what is redirected is said in `rules`. There is no nft in the image, and no library
//! under a licence that we can take; the messages are few.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

use super::RedirectError;
use super::rules::{Chain, Hook, LOOPBACK, PRIORITY, Rule, TABLE, Table, Then, When};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for the kernel's answers to one batch, which repeat only the heads of our messages.
const ANSWER_BYTES: usize = 64 << 10;

/// The length of a message's head.
const HEAD: usize = 16;

/// Message types: the batch's ends, an answer, and what nf_tables does.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ANSWER: u16 = 0x02;
const NEW_TABLE: u16 = NF_TABLES << 8;
const DELETE_TABLE: u16 = (NF_TABLES << 8) | 2;
const NEW_CHAIN: u16 = (NF_TABLES << 8) | 3;
const NEW_RULE: u16 = (NF_TABLES << 8) | 6;

/// The subsystem of nf_tables.
const NF_TABLES: u16 = 10;

/// Flags: a request, answered, that makes something, at the end.
const REQUEST: u16 = 0x01;
const ACKNOWLEDGE: u16 = 0x04;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The family of IPv4 and IPv6 together, and the numbers by which rules tell the two apart.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;

/// Marks an attribute that holds others.
const NESTED: u16 = 0x8000;

/// What `meta` can load.
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_USER: u32 = 10;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

/// Where `payload` can read.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// The register for values; register 0 is the verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const ACCEPT: u32 = 1;

/// An interface's name with its zeros, as the kernel compares it.
const NAME_BYTES: usize = 16;

/// Messages that are sent together, and what each is about.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    parts: Vec<String>,
}

/// Attributes being written; lengths are filled in when they are known.
#[derive(Debug)]
struct Attributes<'a>(&'a mut Vec<u8>);

/// Puts `table` in the place of whatever has its name.
pub(super) fn replace(table: &Table) -> Result<(), RedirectError> {
    let batch = batch(table);
    let socket = open()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &batch.bytes, SendFlags::empty(), &kernel).map_err(|error| judge(error, "the batch"))?;
    let mut room = vec![0; ANSWER_BYTES];
    let mut answered = 0;
    while answered < batch.acknowledged() {
        let (_, length) = recv(&socket, &mut room[..], RecvFlags::empty()).map_err(netlink)?;
        for (sequence, error) in answers(&room[..length.min(ANSWER_BYTES)]) {
            if error != 0 {
                return Err(judge(Errno::from_raw_os_error(error), batch.part(sequence)));
            }
            answered += 1;
        }
    }
    Ok(())
}

fn open() -> Result<OwnedFd, RedirectError> {
    let unsupported = |error: Errno| RedirectError::Unsupported { source: error.into() };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
        .map_err(unsupported)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(netlink)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(netlink)?;
    Ok(socket)
}

fn netlink(error: Errno) -> RedirectError {
    RedirectError::Netlink(error.into())
}

fn judge(error: Errno, part: &str) -> RedirectError {
    let source: io::Error = error.into();
    match error {
        Errno::PERM | Errno::ACCESS => RedirectError::NotPermitted,
        Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::NOENT => {
            RedirectError::Unsupported { source }
        }
        _ => RedirectError::Refused { part: part.to_owned(), source },
    }
}

/// All messages: the table is made, so that it can be deleted with all it holds, and made anew.
fn batch(table: &Table) -> Batch {
    let mut batch = Batch::default();
    batch.message((BATCH_BEGIN, REQUEST), "the batch", |_| {});
    for (kind, flags) in [(NEW_TABLE, CREATE), (DELETE_TABLE, 0), (NEW_TABLE, CREATE)] {
        let part = format!("table inet {TABLE}");
        batch.message((kind, REQUEST | ACKNOWLEDGE | flags), &part, |table| table.text(1, TABLE));
    }
    for Chain { hook, rules } in &table.chains {
        let part = format!("chain {}", hook.chain());
        batch.message((NEW_CHAIN, REQUEST | ACKNOWLEDGE | CREATE), &part, |chain| write_chain(chain, *hook));
        for rule in rules {
            let part = format!("rule `{rule}`");
            batch.message((NEW_RULE, REQUEST | ACKNOWLEDGE | CREATE | APPEND), &part, |attributes| {
                attributes.text(1, TABLE);
                attributes.text(2, hook.chain());
                attributes.nested(4, |expressions| write_rule(expressions, rule));
            });
        }
    }
    batch.message((BATCH_END, REQUEST), "the batch", |_| {});
    batch
}

fn write_chain(chain: &mut Attributes<'_>, hook: Hook) {
    let number: u32 = match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    chain.text(1, TABLE);
    chain.text(3, hook.chain());
    chain.nested(4, |hook| {
        hook.number(1, number);
        hook.bytes(2, &PRIORITY.to_be_bytes());
    });
    chain.number(5, ACCEPT);
    chain.text(7, "nat");
}

fn write_rule(expressions: &mut Attributes<'_>, rule: &Rule) {
    match rule.when {
        When::NotTcp => {
            load_meta(expressions, META_PROTOCOL);
            compare(expressions, NOT_EQUAL, &[TCP]);
        }
        When::Tcp => meta_is(expressions, META_PROTOCOL, &[TCP]),
        When::FromLoopback => meta_is(expressions, META_INPUT_NAME, &interface(LOOPBACK)),
        When::ToLoopback => meta_is(expressions, META_OUTPUT_NAME, &interface(LOOPBACK)),
        When::User(uid) => meta_is(expressions, META_USER, &uid.to_ne_bytes()),
        When::Loopback4 => {
            meta_is(expressions, META_FAMILY, &[IPV4]);
            packet_has(expressions, (NETWORK_HEADER, 16), &[127]);
        }
        When::Loopback6 => {
            meta_is(expressions, META_FAMILY, &[IPV6]);
            packet_has(expressions, (NETWORK_HEADER, 24), &std::net::Ipv6Addr::LOCALHOST.octets());
        }
        When::Port(port) => {
            // As nft writes it, and so that it reads the rule back as it was meant.
            meta_is(expressions, META_PROTOCOL, &[TCP]);
            packet_has(expressions, (TRANSPORT_HEADER, 2), &port.to_be_bytes());
        }
    }
    match rule.then {
        Then::Accept => expressions.expression("immediate", |data| {
            data.number(1, VERDICT);
            data.nested(2, |value| value.nested(2, |verdict| verdict.number(1, ACCEPT)));
        }),
        Then::Redirect(port) => {
            expressions.expression("immediate", |data| {
                data.number(1, REGISTER);
                data.nested(2, |value| value.bytes(1, &port.to_be_bytes()));
            });
            expressions.expression("redir", |data| data.number(1, REGISTER));
        }
    }
}

fn meta_is(expressions: &mut Attributes<'_>, key: u32, value: &[u8]) {
    load_meta(expressions, key);
    compare(expressions, EQUAL, value);
}

fn load_meta(expressions: &mut Attributes<'_>, key: u32) {
    expressions.expression("meta", |data| {
        data.number(1, REGISTER);
        data.number(2, key);
    });
}

/// Whether `value` stands in a packet, at an offset from one of its headers.
fn packet_has(expressions: &mut Attributes<'_>, place: (u32, u32), value: &[u8]) {
    let (header, offset) = place;
    expressions.expression("payload", |data| {
        data.number(1, REGISTER);
        data.number(2, header);
        data.number(3, offset);
        data.number(4, value.len() as u32);
    });
    compare(expressions, EQUAL, value);
}

fn compare(expressions: &mut Attributes<'_>, operator: u32, value: &[u8]) {
    expressions.expression("cmp", |data| {
        data.number(1, REGISTER);
        data.number(2, operator);
        data.nested(3, |holder| holder.bytes(1, value));
    });
}

fn interface(name: &str) -> [u8; NAME_BYTES] {
    let mut padded = [0; NAME_BYTES];
    for (place, byte) in padded.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    padded
}

/// The sequence number and the error of each answer; 0 is none.
fn answers(bytes: &[u8]) -> Vec<(u32, i32)> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
    let mut found = Vec::new();
    let mut at = 0;
    while let (Some(length), Some(sequence)) = (word(at), word(at + 8)) {
        let kind = bytes.get(at + 4..at + 6).map(|two| u16::from_ne_bytes([two[0], two[1]]));
        if let (Some(ANSWER), Some(error)) = (kind, word(at + HEAD)) {
            found.push((sequence, error.cast_signed().wrapping_neg()));
        }
        // A length that would not lead on ends the walk.
        at += (length as usize).max(HEAD).next_multiple_of(4);
    }
    found
}

impl Batch {
    fn message(&mut self, kind: (u16, u16), part: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        let (kind, flags) = kind;
        let start = self.bytes.len();
        let sequence = self.parts.len() as u32;
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        let is_frame = matches!(kind, BATCH_BEGIN | BATCH_END);
        let (family, resource) = if is_frame { (0, NF_TABLES) } else { (INET, 0) };
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend_from_slice(&[family, 0, high, low]);
        fill(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.parts.push(part.to_owned());
    }

    /// How many messages are answered: all but the batch's ends.
    fn acknowledged(&self) -> usize {
        self.parts.len() - 2
    }

    fn part(&self, sequence: u32) -> &str {
        self.parts.get(sequence as usize).map_or("the batch", String::as_str)
    }
}

impl Attributes<'_> {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&0_u16.to_ne_bytes());
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_read_and_a_torn_one_ends_the_walk() {
        let mut bytes = Vec::new();
        for (sequence, error) in [(3_u32, 0_i32), (4, -1)] {
            bytes.extend_from_slice(&36_u32.to_ne_bytes());
            bytes.extend_from_slice(&ANSWER.to_ne_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&error.to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
        }
        assert_eq!(answers(&bytes), [(3, 0), (4, 1)]);
        assert_eq!(answers(&bytes[..40]), [(3, 0)]);
        assert_eq!(answers(&[]), []);
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = judge(Errno::PERM, "the batch");
        assert!(error.to_string().contains("NET_ADMIN") && error.reason() == "NotPermitted", "{error}");
        let error = judge(Errno::OPNOTSUPP, "the batch");
        assert!(error.to_string().contains("fusebox.dev/interception: explicit"), "{error}");
        assert!(error.reason() == "Unsupported", "{error}");
        let error = judge(Errno::INVAL, "rule `tcp dport 1 accept`");
        assert!(error.to_string().contains("rule `tcp dport 1 accept`") && error.reason() == "Refused", "{error}");
    }
}
