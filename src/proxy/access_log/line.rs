//! One line of JSON, written member by member into a buffer.
//!
//! It must stay one line of JSON whatever the values are: they come from clients. What is too long is cut.

use std::cell::Cell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes of one value that are logged.
pub(crate) const MAX_VALUE_BYTES: usize = 1024;

pub(super) const HEX: [u8; 16] = *b"0123456789abcdef";

/// Bytes of a time up to its second, as in `2026-11-21T06:59:59`.
const SECOND_BYTES: usize = 19;

/// Digits of the largest number.
const MAX_DIGITS: usize = 20;

/// A line with everything that is usually in it.
const USUAL_BYTES: usize = 512;

thread_local! {
    /// The second that was written last, for most lines share theirs with the line before.
    static SECOND: Cell<(i64, [u8; SECOND_BYTES])> = const { Cell::new((i64::MIN, [0; SECOND_BYTES])) };
}

/// A line that is not yet whole.
#[derive(Debug)]
pub(crate) struct Line(Vec<u8>);

impl Line {
    /// Begins with the time, in an empty buffer.
    pub(crate) fn begin(mut buffer: Vec<u8>, unix_ms: i64) -> Self {
        buffer.clear();
        buffer.reserve(USUAL_BYTES);
        buffer.extend_from_slice(b"{\"time\":\"");
        write_time(&mut buffer, unix_ms);
        buffer.push(b'"');
        Self(buffer)
    }

    /// A text; left out when it is empty.
    pub(crate) fn text(&mut self, name: &str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        self.0.push(b'"');
        let cut = value.len().min(MAX_VALUE_BYTES);
        write_escaped(&mut self.0, &value[..cut]);
        if cut < value.len() {
            self.0.extend_from_slice(b"...");
        }
        self.0.push(b'"');
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        write_number(&mut self.0, value);
    }

    /// A duration in milliseconds, to the microsecond.
    pub(crate) fn millis(&mut self, name: &str, value: Duration) {
        self.name(name);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        write_number(&mut self.0, micros / 1000);
        write_thousandths(&mut self.0, micros % 1000);
    }

    /// An address and its port.
    pub(crate) fn address(&mut self, name: &str, value: SocketAddr) {
        self.name(name);
        self.0.push(b'"');
        match value.ip() {
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                write_number(&mut self.0, u64::from(first));
                for octet in rest {
                    self.0.push(b'.');
                    write_number(&mut self.0, u64::from(octet));
                }
                self.0.push(b':');
                write_number(&mut self.0, u64::from(value.port()));
            }
            // Writing into memory does not fail.
            IpAddr::V6(_) => drop(write!(self.0, "{value}")),
        }
        self.0.push(b'"');
    }

    /// The whole line.
    pub(crate) fn end(&mut self) -> &[u8] {
        self.0.extend_from_slice(b"}\n");
        &self.0
    }

    /// The buffer, for another line.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.0
    }

    /// Names are ours and need no escaping.
    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// Writes `bytes` as the inside of a JSON string (RFC 8259 section 7); what is no UTF-8 becomes U+FFFD.
fn write_escaped(buffer: &mut Vec<u8>, bytes: &[u8]) {
    // Most values are plain, and without a way out of the loop eight bytes and more are looked at in one step.
    let plain = |byte: &u8| (*byte >= 0x20) & (*byte < 0x7f) & (*byte != b'"') & (*byte != b'\\');
    if bytes.iter().fold(true, |all, byte| all & plain(byte)) {
        buffer.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut from = 0;
        for (at, byte) in valid.iter().enumerate() {
            if *byte >= 0x20 && !matches!(byte, b'"' | b'\\' | 0x7f) {
                continue;
            }
            buffer.extend_from_slice(&valid[from..at]);
            from = at + 1;
            match byte {
                b'"' | b'\\' => buffer.extend_from_slice(&[b'\\', *byte]),
                _ => {
                    buffer.extend_from_slice(b"\\u00");
                    buffer.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
            }
        }
        buffer.extend_from_slice(&valid[from..]);
        if !chunk.invalid().is_empty() {
            buffer.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn write_time(buffer: &mut Vec<u8>, unix_ms: i64) {
    let (second, ms) = (unix_ms.div_euclid(1000), unix_ms.rem_euclid(1000));
    let (last, text) = SECOND.get();
    if second == last {
        buffer.extend_from_slice(&text);
    } else {
        let begin = buffer.len();
        write_second(buffer, second);
        // A year of five digits is not kept.
        if let Ok(text) = <[u8; SECOND_BYTES]>::try_from(&buffer[begin..]) {
            SECOND.set((second, text));
        }
    }
    write_thousandths(buffer, ms as u64);
    buffer.push(b'Z');
}

fn write_second(buffer: &mut Vec<u8>, unix_seconds: i64) {
    let (days, seconds) = (unix_seconds.div_euclid(86_400), unix_seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(buffer, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
}

fn write_number(buffer: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; MAX_DIGITS];
    let mut first = MAX_DIGITS;
    loop {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    buffer.extend_from_slice(&digits[first..]);
}

/// A dot and three digits; `value` is below 1000.
fn write_thousandths(buffer: &mut Vec<u8>, value: u64) {
    let digit = |value: u64| b'0' + (value % 10) as u8;
    buffer.extend_from_slice(&[b'.', digit(value / 100), digit(value / 10), digit(value)]);
}

/// Year, month and day of a day since 1970, in the calendar that begins its years in March so that leap days come last.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut Line)) -> serde_json::Value {
        let mut line = Line::begin(Vec::new(), 0);
        write(&mut line);
        let text = line.end();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn time_is_written_as_people_and_machines_read_it() {
        let times = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_244_399_999, "2026-11-21T06:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (unix_ms, expected) in times {
            let mut buffer = Vec::new();
            write_time(&mut buffer, unix_ms);
            assert_eq!(String::from_utf8(buffer).unwrap(), expected);
        }
    }

    #[test]
    fn hostile_values_stay_inside_their_string() {
        let hostile = "\",\"status\":1}\n{\"a\":\"\\\r\t\u{0}\u{1b}[31m\u{7f}\u{2028}é";
        let read = line(|line| line.text("path", hostile.as_bytes()));
        assert_eq!(read["path"], hostile);
        assert_eq!(read.as_object().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_text_is_marked_and_what_is_too_long_is_cut() {
        assert_eq!(line(|line| line.text("a", b"x\xff\xfey"))["a"], "x\u{fffd}\u{fffd}y");
        let long = vec![b'"'; 100_000];
        let read = line(|line| line.text("a", &long));
        assert_eq!(read["a"].as_str().unwrap().len(), MAX_VALUE_BYTES + 3);
        let cut_in_a_character = "é".repeat(MAX_VALUE_BYTES).into_bytes();
        line(|line| line.text("a", &cut_in_a_character[1..]));
    }

    #[test]
    fn numbers_and_addresses_are_written_as_the_library_would() {
        for value in [0, 9, 10, 99, 100, 12_345, u64::MAX] {
            let mut buffer = Vec::new();
            write_number(&mut buffer, value);
            assert_eq!(String::from_utf8(buffer).unwrap(), value.to_string());
        }
        for address in ["0.0.0.0:0", "10.1.2.30:4000", "255.255.255.255:65535", "[::1]:80", "[2001:db8::1]:9"] {
            assert_eq!(line(|line| line.address("peer", address.parse().unwrap()))["peer"], address);
        }
    }

    #[test]
    fn every_byte_stays_inside_its_string_at_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut value = *b"abcdefghijklmnopqrst";
                value[at] = byte;
                let read = line(|line| line.text("a", &value));
                assert_eq!(read["a"], String::from_utf8_lossy(&value).as_ref());
            }
        }
    }

    #[test]
    fn empty_texts_are_left_out() {
        assert_eq!(line(|line| line.text("a", b"")).as_object().unwrap().len(), 1);
    }

    #[test]
    fn durations_are_milliseconds() {
        assert_eq!(line(|line| line.millis("a", Duration::from_micros(1_002_003)))["a"], 1002.003);
    }
}
