//! The keys that tokens are verified with, from a JSON Web Key Set (RFC 7517) or public keys in PEM (RFC 7468).
//!
//! It must settle which algorithms a key is for when it is read: a token never chooses how it is verified (RFC 8725 section
//! 3.1). The value may be a secret, so that no message repeats any of it.

use fusebox_policy::config::ReferenceKind;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Keys in one set.
pub(crate) const MAX_KEYS: usize = 64;

/// Keys that one token is tried with, where it does not say which one it was signed with.
const MAX_TRIES: usize = 4;

/// Bytes of an RSA modulus: 2048 bits at least (RFC 7518 section 3.3), and no more than can be verified in a request's time.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Bytes of a shared secret, as many as the hash has (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Why a value is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    /// Neither JSON nor PEM.
    #[error(
        "is neither a JSON Web Key Set nor a public key in PEM; write {{\"keys\":[...]}} or -----BEGIN PUBLIC KEY-----"
    )]
    NotAKeySet,
    /// Too many keys.
    #[error("has more than {MAX_KEYS} keys; leave out those that sign nothing any more")]
    TooMany,
    /// No key in it can verify anything.
    #[error(
        "has no usable key; give RSA of 2048 to 4096 bits, EC P-256 or P-384, Ed25519, or in a Secret a secret of 32 bytes or more"
    )]
    NoUsableKey,
}

/// Keys, each with the algorithms it may verify.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// Tokens may name it.
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct RawKeys {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads `value`, which stands in an object of this kind. Keys that can't be used are passed over while one can.
    pub(crate) fn parse(value: &str, kind: ReferenceKind) -> Result<Self, KeySetError> {
        let text = value.trim_start();
        let keys: Vec<Key> = if text.starts_with('{') {
            let raw: RawKeys = serde_json::from_str(text).map_err(|_| KeySetError::NotAKeySet)?;
            if raw.keys.len() > MAX_KEYS {
                return Err(KeySetError::TooMany);
            }
            raw.keys.into_iter().filter_map(|raw| of_jwk(raw, kind)).collect()
        } else {
            let sections: Result<Vec<_>, _> =
                SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()).take(MAX_KEYS + 1).collect();
            let sections = sections.ok().filter(|sections| !sections.is_empty()).ok_or(KeySetError::NotAKeySet)?;
            if sections.len() > MAX_KEYS {
                return Err(KeySetError::TooMany);
            }
            sections.iter().filter_map(|section| of_der(section)).collect()
        };
        if keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(Self(keys)) }
    }

    /// The keys that may have signed a token with this header, and how it is verified with each.
    pub(crate) fn candidates(&self, header: &Header) -> impl Iterator<Item = (&DecodingKey, &Validation)> {
        let named = |key: &&Key| match (&header.kid, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let able = self.0.iter().filter(|key| key.validation.algorithms.contains(&header.alg));
        able.filter(named).take(MAX_TRIES).map(|key| (&key.key, &key.validation))
    }
}

impl KeySetError {
    /// A stable word.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotAKeySet => "NotAKeySet",
            Self::TooMany => "TooManyKeys",
            Self::NoUsableKey => "NoUsableKey",
        }
    }
}

impl Key {
    /// A key that can verify what these algorithms signed; none where it is no such key.
    fn new(id: Option<String>, key: DecodingKey, algorithms: Vec<Algorithm>) -> Option<Self> {
        let first = *algorithms.first()?;
        let whole = match (key.kind(), first) {
            (DecodingKeyKind::RsaModulusExponent { n, .. }, _) => RSA_BYTES.contains(&without_zeros(n).len()),
            (DecodingKeyKind::SecretOrDer(bytes), Algorithm::EdDSA) => bytes.len() == 32,
            (DecodingKeyKind::SecretOrDer(_), _) => true,
        };
        if !whole || (DEFAULT_PROVIDER.verifier_factory)(&first, &key).is_err() {
            return None;
        }
        // Claims are ours to check, against a time that is an argument.
        let mut validation = Validation::new(first);
        validation.algorithms = algorithms;
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Some(Self { id, key, validation })
    }
}

fn of_jwk(raw: serde_json::Value, kind: ReferenceKind) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(raw).ok()?;
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|wanted| *wanted == PublicKeyUse::Signature);
    let verifies =
        jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return None;
    }
    let possible = possible(&jwk.algorithm, kind)?;
    let algorithms = match jwk.common.key_algorithm {
        Some(named) => vec![Algorithm::try_from(named).ok().filter(|named| possible.contains(named))?],
        None => possible.to_vec(),
    };
    Key::new(jwk.common.key_id.clone(), DecodingKey::from_jwk(&jwk).ok()?, algorithms)
}

/// What a key of this type can verify. A shared secret that everybody may read proves nothing.
fn possible(parameters: &AlgorithmParameters, kind: ReferenceKind) -> Option<&'static [Algorithm]> {
    match parameters {
        AlgorithmParameters::RSA(_) => Some(&RSA),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(&[Algorithm::ES256]),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Some(&[Algorithm::ES384]),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(&[Algorithm::EdDSA]),
        AlgorithmParameters::OctetKey(key) => {
            // Four characters of base64 stand for three bytes.
            let long_enough = key.value.trim_end_matches('=').len() * 3 / 4 >= MIN_SECRET_BYTES;
            (kind == ReferenceKind::Secret && long_enough).then_some(&HMAC)
        }
        _ => None,
    }
}

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

fn of_der(section: &[u8]) -> Option<Key> {
    let (_, info) = SubjectPublicKeyInfo::from_der(section).ok()?;
    let bytes: &[u8] = &info.subject_public_key.data;
    let kind = &info.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let parsed = info.parsed().ok()?;
        let x509_parser::public_key::PublicKey::RSA(rsa) = parsed else { return None };
        let key = DecodingKey::from_rsa_raw_components(without_zeros(rsa.modulus), rsa.exponent);
        return Key::new(None, key, RSA.to_vec());
    }
    if *kind == OID_SIG_ED25519 {
        return Key::new(None, DecodingKey::from_ed_der(bytes), vec![Algorithm::EdDSA]);
    }
    if *kind != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    // A point of another curve is refused when it is made a key of this one.
    let curves = [Algorithm::ES256, Algorithm::ES384];
    curves.into_iter().find_map(|curve| Key::new(None, DecodingKey::from_ec_der(bytes), vec![curve]))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
