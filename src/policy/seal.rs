//! A first line that vouches for the rest of a text file.
//!
//! Half of a YAML file is often a whole YAML file, with the last sections missing; a proxy must not take it for what was
//! meant. It must not be required: a file that a person wrote has no such line and is taken as it is.

use sha2::{Digest, Sha256};

/// How the line begins; a comment in YAML. What follows is the SHA-256 of all that comes after it, in hexadecimal.
pub const PREFIX: &str = "# fusebox-sha256: ";

/// The text is not what its first line vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is torn or was changed: it is not what its first line vouches for; write it anew, or take that line away")]
pub struct Broken;

/// `text` with the line before it.
#[must_use]
pub fn seal(text: &str) -> String {
    format!("{PREFIX}{}\n{text}", hash(text.as_bytes()))
}

/// What comes after the line, or all of it where there is none.
///
/// # Errors
/// [`Broken`] when the line does not vouch for what comes after it.
pub fn unseal(bytes: &[u8]) -> Result<&[u8], Broken> {
    let Some(sealed) = bytes.strip_prefix(PREFIX.as_bytes()) else { return Ok(bytes) };
    let end = sealed.iter().position(|byte| *byte == b'\n').ok_or(Broken)?;
    let (wanted, text) = (&sealed[..end], &sealed[end + 1..]);
    if wanted.trim_ascii_end() == hash(text).as_bytes() { Ok(text) } else { Err(Broken) }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_torn_anywhere_after_the_prefix_is_broken() {
        let sealed = seal("a: 1\nb: 2\n");
        assert_eq!(unseal(sealed.as_bytes()), Ok(&b"a: 1\nb: 2\n"[..]));
        for end in PREFIX.len()..sealed.len() {
            assert_eq!(unseal(&sealed.as_bytes()[..end]), Err(Broken), "torn at {end}");
        }
        assert_eq!(unseal(sealed.replace("b: 2", "b: 3").as_bytes()), Err(Broken));
    }

    #[test]
    fn a_text_without_the_line_is_taken_as_it_is() {
        assert_eq!(unseal(b"a: 1\n"), Ok(&b"a: 1\n"[..]));
        assert_eq!(unseal(b""), Ok(&b""[..]));
    }
}
