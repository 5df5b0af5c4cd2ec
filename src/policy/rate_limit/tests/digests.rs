//! Claims about who a client is, and how it is shown.

use sha2::{Digest, Sha256};

use super::*;

#[test]
fn a_key_of_one_part_is_its_sha256_so_that_sha256sum_can_name_it() {
    // printf %s abc | sha256sum
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest(&[b"abc"]).hex(), abc);
    assert_eq!(digest(&[b"abc"]).short_hex(), &abc[..16]);
    assert_eq!(digest(&[b"abc"]).id().to_string(), &abc[..32]);
    assert_eq!(KeyDigest::parse(abc).unwrap(), digest(&[b"abc"]));
    assert_eq!(KeyDigest::parse(&abc.to_uppercase()).unwrap(), digest(&[b"abc"]));
}

#[test]
fn a_key_of_several_parts_is_the_sha256_of_their_digests() {
    let both: Vec<u8> = [Sha256::digest(b"a"), Sha256::digest(b"bc")].concat();
    assert_eq!(digest(&[b"a", b"bc"]), digest(&[&both]));
}

#[test]
fn no_separator_in_a_part_makes_two_keys_one() {
    let keys: [&[&[u8]]; 6] = [&[b"a", b"bc"], &[b"ab", b"c"], &[b"abc"], &[b"abc", b""], &[b"", b"abc"], &[]];
    for (number, one) in keys.iter().enumerate() {
        for other in &keys[number + 1..] {
            assert_ne!(digest(one), digest(other));
        }
    }
}

#[test]
fn a_prefix_names_the_clients_whose_digest_begins_so() {
    let client = digest(&[b"abc"]);
    for digits in 16..=64 {
        let prefix = KeyPrefix::parse(&client.hex()[..digits]).unwrap();
        assert!(prefix.matches(client.id()), "{digits} digits");
        assert!(!prefix.matches(digest(&[b"abd"]).id()));
    }
}

#[test]
fn a_prefix_that_is_no_digest_is_refused_without_being_repeated() {
    let short = KeyPrefix::parse("0123456789abcde").unwrap_err();
    assert_eq!(short, DigestError::Length { digits: 15 });
    assert_eq!(KeyPrefix::parse(&"0".repeat(65)).unwrap_err(), DigestError::Length { digits: 65 });
    let key = KeyPrefix::parse("sk-live-0123456789").unwrap_err();
    assert_eq!(key, DigestError::NotHexadecimal { position: 1 });
    assert!(!key.to_string().contains("sk-live"));
    assert!(KeyPrefix::parse("0123456789abcdeé").is_err());
}

#[test]
fn no_key_has_the_digest_of_those_that_share() {
    for shared in [KeyDigest::MISSING_KEY, KeyDigest::UNKNOWN_KEY] {
        assert_ne!(shared, digest(&[]));
        assert_ne!(shared, digest(&[&[0; 32]]));
    }
    assert_ne!(KeyDigest::MISSING_KEY.id(), KeyDigest::UNKNOWN_KEY.id());
}

#[test]
fn a_redacted_key_shows_only_the_ends_of_long_parts() {
    assert_eq!(redacted(&[b"sk-live-0123456789"]), "sk***89");
    assert_eq!(redacted(&[b"short"]), "***");
    assert_eq!(redacted(&[b"12345678901", b"123456789012"]), "***/12***12");
}

#[test]
fn a_redacted_key_has_no_control_characters_and_an_end() {
    assert_eq!(redacted(&[b"\x1b[31mred and more\x07"]), "?[***e?");
    assert!(redacted(&[b"\xff\xfe\xfd\xff\xfe\xfd\xff\xfe\xfd\xff\xfe\xfd"]).starts_with("\u{fffd}\u{fffd}***"));
    let many = vec![&b"0123456789abcdef"[..]; 1_000];
    assert_eq!(redacted(&many).chars().count(), MAX_REDACTED_CHARACTERS);
}
