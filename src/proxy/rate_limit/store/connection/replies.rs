//! What a server says in place of a value, in words of our own.
//!
//! It must pass on nothing that a server wrote but an error's code: the rest may be anything.

use redis::{ErrorKind, RedisError};

use super::super::error::StoreLost;

/// The longest code of a server's error that is shown.
const MAX_CODE: usize = 24;

/// How servers say that their ACL refuses a command of the script, before and since Redis 7.2.
const REFUSED_IN_SCRIPT: [&str; 2] = ["executing the script can't", "ACL failure in script"];

/// Words of our own for an error of the library, which may hold words of the server.
pub(super) fn error_of(address: &str, error: &RedisError) -> StoreLost {
    let address = address.to_owned();
    match error.kind() {
        ErrorKind::AuthenticationFailed => StoreLost::Credentials { address },
        ErrorKind::Io => StoreLost::Ended { address },
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => StoreLost::Malformed { address },
        _ => match error.code() {
            Some("WRONGPASS") => StoreLost::Credentials { address },
            // Of a command within the script an ACL's refusal is an error like any other.
            Some("ERR") if error.detail().is_some_and(is_refused_in_script) => {
                StoreLost::Answered { address, code: "NOPERM".to_owned() }
            }
            Some(code) => StoreLost::Answered { address, code: word(code) },
            None => StoreLost::Malformed { address },
        },
    }
}

/// An error's code is an upper-case word; anything else may be anything.
fn word(code: &str) -> String {
    let is_word = !code.is_empty() && code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_word { code.to_owned() } else { "ERR".to_owned() }
}

fn is_refused_in_script(detail: &str) -> bool {
    REFUSED_IN_SCRIPT.iter().any(|words| detail.contains(words))
}

/// Errors that tell of a key rather than of the server.
pub(super) fn is_of_one_key(code: &str) -> bool {
    matches!(code, "FOREIGN" | "WRONGTYPE" | "TRYAGAIN" | "CROSSSLOT")
}
