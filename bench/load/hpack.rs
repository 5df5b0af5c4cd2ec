//! Reads HTTP/2 header blocks (RFC 7541), dynamic table and Huffman code included.
//!
//! It must not write any: what the load sends is constant. Needed in full because each proxy compresses its answers in
//! its own way, and a header that was not read cannot be checked.

mod tables;

use std::collections::VecDeque;

use tables::{HUFFMAN_LENGTHS, STATIC};

/// What both ends assume until SETTINGS say otherwise.
const TABLE_SIZE: usize = 4096;
const FIELD_OVERHEAD: usize = 32;
const LONGEST_CODE: usize = 30;

/// Why a block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HpackError {
    /// It ends within a field.
    #[error("header block is cut off")]
    Short,
    /// An index beyond both tables, or zero.
    #[error("header block names field {0}, which is in no table")]
    Index(usize),
    /// Not Huffman code.
    #[error("header block has a string that is not Huffman code")]
    Huffman,
    /// A number that no header needs.
    #[error("header block has a number that is too large")]
    Number,
}

/// The reading end of one connection's compression.
#[derive(Debug)]
pub(super) struct Decoder {
    fields: VecDeque<Field>,
    size: usize,
    capacity: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: Vec<u8>,
    value: Vec<u8>,
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Default for Decoder {
    fn default() -> Self {
        Self { fields: VecDeque::new(), size: 0, capacity: TABLE_SIZE }
    }
}

impl Decoder {
    /// Hands every field of `block` to `each`, in order.
    ///
    /// # Errors
    /// A block that does not follow RFC 7541; the connection cannot be used afterwards.
    pub(super) fn decode(&mut self, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let mut reader = Reader { bytes: block };
        while let Some(&first) = reader.bytes.first() {
            if first & 0x80 != 0 {
                let index = reader.number(7)?;
                self.with_field(index, &mut each)?;
            } else if first & 0xe0 == 0x20 {
                self.capacity = reader.number(5)?.min(TABLE_SIZE);
                self.evict(0);
            } else {
                let keeps = first & 0x40 != 0;
                let index = reader.number(if keeps { 6 } else { 4 })?;
                let field = Field { name: self.name(index, &mut reader)?, value: reader.string()? };
                each(&field.name, &field.value);
                if keeps {
                    self.insert(field);
                }
            }
        }
        Ok(())
    }

    fn with_field(&self, index: usize, each: &mut impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let position = index.checked_sub(1).ok_or(HpackError::Index(index))?;
        if let Some((name, value)) = STATIC.get(position) {
            each(name.as_bytes(), value.as_bytes());
        } else {
            let field = self.fields.get(position - STATIC.len()).ok_or(HpackError::Index(index))?;
            each(&field.name, &field.value);
        }
        Ok(())
    }

    fn name(&self, index: usize, reader: &mut Reader<'_>) -> Result<Vec<u8>, HpackError> {
        if index == 0 {
            return reader.string();
        }
        let mut found = Vec::new();
        self.with_field(index, &mut |name, _| found.extend_from_slice(name))?;
        Ok(found)
    }

    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.capacity {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    fn evict(&mut self, wanted: usize) {
        while self.size + wanted > self.capacity
            && let Some(oldest) = self.fields.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Field {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + FIELD_OVERHEAD
    }
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (&first, rest) = self.bytes.split_first().ok_or(HpackError::Short)?;
        self.bytes = rest;
        Ok(first)
    }

    /// A number with a prefix of so many bits (section 5.1).
    fn number(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let mask = (1usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14] {
            let octet = usize::from(self.octet()?);
            value += (octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Number)
    }

    fn string(&mut self) -> Result<Vec<u8>, HpackError> {
        let huffman = self.bytes.first().ok_or(HpackError::Short)? & 0x80 != 0;
        let length = self.number(7)?;
        let (text, rest) = self.bytes.split_at_checked(length).ok_or(HpackError::Short)?;
        self.bytes = rest;
        if huffman { CODE.decode(text) } else { Ok(text.to_vec()) }
    }
}

/// The canonical code: for each length the first code, and where its symbols begin in `symbols`.
struct Code {
    first: [u32; LONGEST_CODE + 1],
    count: [u32; LONGEST_CODE + 1],
    start: [usize; LONGEST_CODE + 1],
    symbols: [u8; 256],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            first: [0; LONGEST_CODE + 1],
            count: [0; LONGEST_CODE + 1],
            start: [0; LONGEST_CODE + 1],
            symbols: [0; 256],
        };
        let (mut next, mut placed, mut length) = (0, 0, 1);
        while length <= LONGEST_CODE {
            next <<= 1;
            code.first[length] = next;
            code.start[length] = placed;
            let mut symbol = 0;
            while symbol < 256 {
                if HUFFMAN_LENGTHS[symbol] as usize == length {
                    code.symbols[placed] = symbol as u8;
                    placed += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.count[length] = (placed - code.start[length]) as u32;
            length += 1;
        }
        code
    }

    fn decode(&self, text: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut decoded = Vec::with_capacity(text.len() * 8 / 5);
        let (mut bits, mut length) = (0, 0);
        for octet in text {
            for position in (0..8).rev() {
                bits = bits << 1 | u32::from(octet >> position & 1);
                length += 1;
                if length > LONGEST_CODE {
                    return Err(HpackError::Huffman);
                }
                let offset = bits.wrapping_sub(self.first[length]);
                if offset < self.count[length] {
                    decoded.push(self.symbols[self.start[length] + offset as usize]);
                    (bits, length) = (0, 0);
                }
            }
        }
        let padding_is_ones = bits == (1u32 << length) - 1;
        if length < 8 && padding_is_ones { Ok(decoded) } else { Err(HpackError::Huffman) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, HpackError> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.decode(block, |name, value| found.push(format!("{}: {}", text(name), text(value))))?;
        Ok(found)
    }

    /// RFC 7541, C.6.1 and C.6.2: the second block uses what the first one left, and evicts.
    #[test]
    fn the_rfcs_huffman_responses_are_read_with_their_dynamic_table() {
        let mut decoder = Decoder { capacity: 256, ..Decoder::default() };
        let first = [
            0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b, 0x61, 0x96, 0xd0, 0x7a, 0xbe, 0x94, 0x10,
            0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff, 0x6e,
            0x91, 0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3,
        ];
        let read = fields(&mut decoder, &first).unwrap();
        assert_eq!(read[0], ":status: 302");
        assert_eq!(read[2], "date: Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(read[3], "location: https://www.example.com");
        let second = [0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf];
        let read = fields(&mut decoder, &second).unwrap();
        assert_eq!(read[0], ":status: 307");
        assert_eq!(read[3], "location: https://www.example.com");
        assert_eq!(decoder.size, 222);
    }

    #[test]
    fn a_smaller_table_forgets() {
        let mut decoder = Decoder::default();
        assert_eq!(fields(&mut decoder, b"\x40\x01a\x01b\xbe").unwrap(), ["a: b", "a: b"]);
        assert_eq!(fields(&mut decoder, b"\x20\xbe"), Err(HpackError::Index(62)));
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let refused = |block: &[u8]| fields(&mut Decoder::default(), block).unwrap_err();
        assert_eq!(refused(b"\x80"), HpackError::Index(0));
        assert_eq!(refused(b"\x40\x05ab"), HpackError::Short);
        assert_eq!(refused(b"\x0f\xff\xff\xff\xff"), HpackError::Number);
        assert_eq!(refused(b"\x00\x82\x00\x00\x01a"), HpackError::Huffman, "padding of zeroes");
    }
}
