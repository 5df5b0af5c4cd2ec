//! What a server says in place of a value, in words of our own.
//!
//! It must pass on nothing that a server wrote but an error's code: the rest may be anything.

use redis::{ErrorKind, RedisError};

use super::super::error::StoreLost;

/// The longest code of a server's error that is shown.
const MAX_CODE: usize = 24;

/// How servers say that their ACL refuses a command of the script, before and since Redis 7.2.
const REFUSED_IN_SCRIPT: [&str; 2] = ["executing the script can't", "ACL failure in script"];

/// An error as a server sent it: its code, and what follows.
pub(super) struct Said {
    pub(super) code: String,
    words: String,
}

impl Said {
    /// None where it is not a server's word. A pipeline's error is that of the first of its commands that failed.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let errors = error.clone().into_server_errors()?;
        let (_, first) = errors.first()?;
        Some(Self { code: first.code().to_owned(), words: first.details().unwrap_or_default().to_owned() })
    }

    /// The node that a cluster names in MOVED and ASK: `slot address`.
    pub(super) fn node(&self) -> Option<String> {
        self.words.split_ascii_whitespace().nth(1).map(str::to_owned)
    }
}

/// Words of our own for an error of the library, which may hold words of the server.
pub(super) fn error_of(address: &str, error: &RedisError) -> StoreLost {
    let address = address.to_owned();
    if error.kind() == ErrorKind::AuthenticationFailed {
        return StoreLost::Credentials { address };
    }
    let Some(Said { code, words }) = Said::of(error) else {
        return if error.is_io_error() { StoreLost::Ended { address } } else { StoreLost::Malformed { address } };
    };
    match code.as_str() {
        "WRONGPASS" => StoreLost::Credentials { address },
        // Of a command within the script an ACL's refusal is an error like any other.
        "ERR" if is_refused_in_script(&words) => StoreLost::Answered { address, code: "NOPERM".to_owned() },
        code => StoreLost::Answered { address, code: word(code) },
    }
}

/// Errors that tell of a key rather than of the server.
pub(super) fn is_of_one_key(code: &str) -> bool {
    matches!(code, "FOREIGN" | "WRONGTYPE" | "CROSSSLOT")
}

/// An error's code is an upper-case word; anything else may be anything.
fn word(code: &str) -> String {
    let is_word = !code.is_empty() && code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_word { code.to_owned() } else { "ERR".to_owned() }
}

fn is_refused_in_script(detail: &str) -> bool {
    REFUSED_IN_SCRIPT.iter().any(|words| detail.contains(words))
}
