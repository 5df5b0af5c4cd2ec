//! Tokens that hold, and every way in which one does not.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fusebox_policy::config::{JwtClaim, Reference, ReferenceKind};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};

use super::{KeySet, KeySetError, KeySlot, MAX_TOKEN_BYTES, MAX_VERIFIED, Verifier};

const NOW: u64 = 1_800_000_000;

/// Made with OpenSSL, as is the token: nothing here signs with RSA.
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAkYHnNys6ic3TbQWUPx4k
6qnVWgFyLoAU0+gcuG9IpFyASD26uOaIhAV3JFZdKr1+hE5r6S9ye3N2/f9COyYO
1MFTq6D+HTEtp2viuqeLlgUCIi8+5kCo8uffkFbxBzi8fR5ux8ZKoZw25dZFAdi/
4w73mvUPSAdoeuZov1raxBXjAAZqdJ9aR+DQrEk5YDz0lwYRFhpCCOl7CJJdi6JW
Sdjki+SIV9WnISr9ZBA3u0LrAq+57msTWrVlHgL4kSNWVk7aGNcWs2n/PMaDz6Fd
ExkjtEf6tiwvN1hnkVw/8d5SPKe2iRezEoJZVP9zOgB1jbNxhuF6/BvCC5j0jGTf
mwIDAQAB
-----END PUBLIC KEY-----
";
const RSA_MODULUS: &str = "kYHnNys6ic3TbQWUPx4k6qnVWgFyLoAU0-gcuG9IpFyASD26uOaIhAV3JFZdKr1-hE5r6S9ye3N2_f9COyYO1MFTq6D-HTEtp2viuqeLlgUCIi8-5kCo8uffkFbxBzi8fR5ux8ZKoZw25dZFAdi_4w73mvUPSAdoeuZov1raxBXjAAZqdJ9aR-DQrEk5YDz0lwYRFhpCCOl7CJJdi6JWSdjki-SIV9WnISr9ZBA3u0LrAq-57msTWrVlHgL4kSNWVk7aGNcWs2n_PMaDz6FdExkjtEf6tiwvN1hnkVw_8d5SPKe2iRezEoJZVP9zOgB1jbNxhuF6_BvCC5j0jGTfmw";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9.eyJzdWIiOiJhZGEiLCJleHAiOjQwMDAwMDAwMDB9.gGBeFv0KWSHjPbj84iSz5-nX9EtqQuH4kCDAU6n6jpc_Vgx-_Z4uxdB9z3eN-l_37whvnQjEC-lpddaRBeOfQmwY_bJPsnQ3flB9Uv0OePp1g361L5z6h4XCgPdheyNh1bkXjGbgpVVeuNQD5He6U7Dm6NoHR4pUNj1xT_jIGsyHkbiFYNuBZrXgWOJKROtiwMZYo0C3Jq-kFfES6aAYTJ82GyXzbFPi-e49ezimZsCBwHyABqZ6bEHfPkLqa5yNYgFlhG8yRjJsyeNWzh7TDLQUTC4-CLylSA3GUk93xMCeNKn0Ho7EEyA6lPqd5QZ3TT0k78kw-lSZoZUhhADYMg";

fn wanted() -> JwtClaim {
    JwtClaim {
        claim: "sub".into(),
        header: "authorization".into(),
        issuer: None,
        audiences: Vec::new(),
        keys: Reference {
            kind: ReferenceKind::Secret,
            namespace: "shop".into(),
            name: "keys".into(),
            key: "jwks.json".into(),
        },
    }
}

fn slot(value: &str) -> KeySlot {
    Arc::new(ArcSwapOption::from_pointee(KeySet::parse(value, ReferenceKind::Secret).unwrap()))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn claim(verifier: &Verifier, token: &str) -> Option<String> {
    verifier.claim(token.as_bytes(), at(NOW)).map(|claim| claim.to_string())
}

struct Issuer {
    key: rcgen::KeyPair,
}

impl Issuer {
    fn new() -> Self {
        Self { key: rcgen::KeyPair::generate().unwrap() }
    }

    /// A set with the public key, and these members besides.
    #[expect(clippy::needless_pass_by_value, reason = "so that calls are short")]
    fn keys(&self, more: Value) -> String {
        let point = self.key.der_bytes();
        let (x, y) = point[1..].split_at(32);
        let mut key =
            json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"keys": [key]}).to_string()
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).unwrap()
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&Header::new(Algorithm::ES256), claims)
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

#[test]
fn a_claim_of_a_signed_token_is_found_with_or_without_the_scheme() {
    let issuer = Issuer::new();
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    let token = issuer.token(&json!({"sub": "ada", "exp": NOW + 60, "nbf": NOW}));
    for value in [token.clone(), format!("Bearer {token}"), format!("bEARER   {token}")] {
        assert_eq!(claim(&verifier, &value).as_deref(), Some("ada"));
    }
    for (value, expected) in [(json!(12), "12"), (json!(true), "true")] {
        let token = issuer.token(&json!({"sub": value, "exp": NOW + 60}));
        assert_eq!(claim(&verifier, &token).as_deref(), Some(expected));
    }
}

#[test]
fn rsa_keys_verify_from_a_set_and_from_pem() {
    let set = json!({"keys": [{"kty": "RSA", "kid": "one", "n": RSA_MODULUS, "e": "AQAB", "use": "sig"}]}).to_string();
    for keys in [set.as_str(), RSA_PEM] {
        let verifier = Verifier::new(&wanted(), slot(keys));
        assert_eq!(claim(&verifier, RSA_TOKEN).as_deref(), Some("ada"));
        let mut tampered = RSA_TOKEN.to_owned();
        tampered.replace_range(50..51, "A");
        assert_eq!(claim(&verifier, &tampered), None);
    }
}

#[test]
fn elliptic_keys_verify_from_pem() {
    for (kind, algorithm) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
        (&rcgen::PKCS_ED25519, Algorithm::EdDSA),
    ] {
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let verifier = Verifier::new(&wanted(), slot(&key.public_key_pem()));
        let der = key.serialize_der();
        let signing =
            if algorithm == Algorithm::EdDSA { EncodingKey::from_ed_der(&der) } else { EncodingKey::from_ec_der(&der) };
        let token = jsonwebtoken::encode(&Header::new(algorithm), &json!({"sub": "ada"}), &signing).unwrap();
        assert_eq!(claim(&verifier, &token).as_deref(), Some("ada"), "{algorithm:?}");
    }
}

#[test]
fn an_unsigned_token_or_one_of_another_key_is_none() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    let claims = json!({"sub": "ada", "exp": NOW + 60});
    assert_eq!(claim(&verifier, &other.token(&claims)), None, "another key");
    for algorithm in ["none", "None", "NONE", "ES256", "HS256", ""] {
        assert_eq!(claim(&verifier, &unsigned(&json!({"alg": algorithm}), &claims)), None, "{algorithm:?}");
    }
    let good = issuer.token(&claims);
    let stripped = &good[..=good.rfind('.').unwrap()];
    assert_eq!(claim(&verifier, stripped), None, "without its signature");
    assert_eq!(verifier.remembered(), 0, "nothing that did not hold is remembered");
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let issuer = Issuer::new();
    let pem = issuer.key.public_key_pem();
    let verifier = Verifier::new(&wanted(), slot(&pem));
    let claims = json!({"sub": "ada", "exp": NOW + 60});
    for secret in [pem.as_bytes(), issuer.key.der_bytes()] {
        let forged =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(claim(&verifier, &forged), None);
    }
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({"kid": "one"}))));
    let own: Value = serde_json::from_str(&other.keys(json!({}))).unwrap();
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("one".into());
    header.jwk = Some(serde_json::from_value(own["keys"][0].clone()).unwrap());
    assert_eq!(claim(&verifier, &other.sign(&header, &json!({"sub": "ada"}))), None);
    let mut header = Header::new(Algorithm::ES256);
    header.crit = Some(vec!["exp".into()]);
    assert_eq!(claim(&verifier, &issuer.sign(&header, &json!({"sub": "ada"}))), None, "critical, and not understood");
}

#[test]
fn a_token_counts_between_its_times_alone_even_when_it_is_remembered() {
    let issuer = Issuer::new();
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    let token = issuer.token(&json!({"sub": "ada", "nbf": NOW, "exp": NOW + 60}));
    let holds = |seconds: u64| verifier.claim(token.as_bytes(), at(seconds)).is_some();
    assert!(!holds(NOW - 11), "too early");
    assert!(!holds(NOW + 60), "expired");
    assert!(holds(NOW - 10) && holds(NOW + 59));
    assert_eq!(verifier.remembered(), 1);
    assert!(!holds(NOW + 60) && !holds(NOW - 11), "a remembered token ends as well");
    for wrong in [json!({"sub": "ada", "exp": "tomorrow"}), json!({"sub": "ada", "nbf": []})] {
        assert_eq!(claim(&verifier, &issuer.token(&wrong)), None, "{wrong}");
    }
}

#[test]
fn a_token_out_of_its_time_costs_no_look_at_its_signature() {
    let issuer = Issuer::new();
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    for over in [
        json!({"sub": "ada", "exp": NOW}),
        json!({"sub": "ada", "exp": NOW - 60, "nbf": NOW - 120}),
        json!({"sub": "ada", "exp": NOW + 60, "nbf": NOW + 11}),
        json!({"sub": "ada", "exp": -1}),
        json!({"sub": "ada", "exp": "4000000000"}),
        json!({"sub": "ada", "exp": NOW + 60, "nbf": {}}),
    ] {
        assert_eq!(claim(&verifier, &issuer.token(&over)), None, "{over}");
    }
    assert_eq!((verifier.checked(), verifier.remembered()), (0, 0));
    assert!(claim(&verifier, &issuer.token(&json!({"sub": "ada", "exp": NOW + 1, "nbf": NOW + 10}))).is_some());
    assert_eq!(verifier.checked(), 1);
}

#[test]
fn what_an_unverified_token_says_of_its_time_never_lets_it_pass() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    let (late, early) = (json!({"sub": "ada", "exp": NOW - 1}), json!({"sub": "ada", "exp": NOW + 3_600}));
    let (expired, forged) = (issuer.token(&late), other.token(&early));
    assert_eq!(claim(&verifier, &forged), None, "in time, and of another key");
    assert_eq!(verifier.checked(), 1);
    // The claims of one with the signature of the other.
    let (head, _) = forged.rsplit_once('.').unwrap();
    let spliced = format!("{head}.{}", expired.rsplit_once('.').unwrap().1);
    assert_eq!(claim(&verifier, &spliced), None, "signed by the right key for something else");
    // Two expiries: whichever is believed, the signature decides.
    let twice = |claims: &str| {
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256"}).to_string());
        format!("{head}.{}.{}", URL_SAFE_NO_PAD.encode(claims), forged.rsplit_once('.').unwrap().1)
    };
    for claims in ["{\"sub\":\"ada\",\"exp\":1,\"exp\":4000000000}", "{\"sub\":\"ada\",\"exp\":null}", "[]", "{"] {
        assert_eq!(claim(&verifier, &twice(claims)), None, "{claims}");
    }
    assert_eq!(verifier.remembered(), 0);
}

#[test]
fn issuer_and_audience_must_be_those_that_are_asked_for() {
    let issuer = Issuer::new();
    let asked = JwtClaim { issuer: Some("https://a".into()), audiences: vec!["x".into(), "y".into()], ..wanted() };
    let verifier = Verifier::new(&asked, slot(&issuer.keys(json!({}))));
    let found = |more: Value| {
        let mut claims = json!({"sub": "ada"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claim(&verifier, &issuer.token(&claims)).is_some()
    };
    assert!(found(json!({"iss": "https://a", "aud": "y"})));
    assert!(found(json!({"iss": "https://a", "aud": ["z", "x"]})));
    for wrong in [
        json!({"aud": "x"}),
        json!({"iss": "https://b", "aud": "x"}),
        json!({"iss": ["https://a"], "aud": "x"}),
        json!({"iss": "https://a"}),
        json!({"iss": "https://a", "aud": "z"}),
        json!({"iss": "https://a", "aud": []}),
        json!({"iss": "https://a", "aud": 1}),
    ] {
        assert!(!found(wrong.clone()), "{wrong}");
    }
}

#[test]
fn garbage_and_tokens_that_are_too_long_are_none() {
    let issuer = Issuer::new();
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({}))));
    for garbage in ["", ".", "..", "...", "a.b.c", "Bearer", "Bearer ", "\u{1}\u{2}.\u{3}.", "e30.e30.e30"] {
        assert_eq!(claim(&verifier, garbage), None, "{garbage:?}");
    }
    let long = issuer.token(&json!({"sub": "ada", "more": "x".repeat(MAX_TOKEN_BYTES)}));
    assert_eq!(claim(&verifier, &long), None);
    for lacking in
        [json!({}), json!({"sub": null}), json!({"sub": ["ada"]}), json!({"sub": {"a": 1}}), json!({"sub": ""})]
    {
        assert_eq!(claim(&verifier, &issuer.token(&lacking)), None, "{lacking}");
    }
}

#[test]
fn new_keys_are_used_at_once_and_what_the_old_ones_verified_is_forgotten() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let keys: KeySlot = Arc::default();
    let verifier = Verifier::new(&wanted(), Arc::clone(&keys));
    let claims = json!({"sub": "ada"});
    assert_eq!(claim(&verifier, &old.token(&claims)), None, "no keys yet");
    let token = old.token(&claims);
    keys.store(Some(Arc::new(KeySet::parse(&old.keys(json!({})), ReferenceKind::Secret).unwrap())));
    assert!(claim(&verifier, &token).is_some());
    keys.store(Some(Arc::new(KeySet::parse(&new.keys(json!({})), ReferenceKind::Secret).unwrap())));
    assert_eq!(claim(&verifier, &token), None);
    assert!(claim(&verifier, &new.token(&claims)).is_some());
}

#[test]
fn a_crowd_of_tokens_takes_no_more_memory() {
    let secret = [7; 32];
    let keys = json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)}]}).to_string();
    let verifier = Verifier::new(&wanted(), slot(&keys));
    for client in 0..MAX_VERIFIED + 1_000 {
        let claims = json!({"sub": client, "exp": NOW + 60});
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(claim(&verifier, &token), Some(client.to_string()));
    }
    assert!(verifier.remembered() <= MAX_VERIFIED);
}

#[test]
fn a_key_is_for_the_algorithm_that_it_names() {
    let issuer = Issuer::new();
    let claims = json!({"sub": "ada"});
    let verifier = Verifier::new(&wanted(), slot(&issuer.keys(json!({"alg": "ES256", "kid": "one"}))));
    assert!(claim(&verifier, &issuer.token(&claims)).is_some());
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("two".into());
    assert_eq!(claim(&verifier, &issuer.sign(&header, &claims)), None, "another key is named");
}

#[test]
fn a_set_without_a_usable_key_is_refused_with_the_reason() {
    let parse = |value: &str, kind| KeySet::parse(value, kind).unwrap_err();
    let oct = |bytes: usize| json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(vec![7; bytes])}]}).to_string();
    let issuer = Issuer::new();
    for garbage in ["", "{", "{}", "[]", "-----BEGIN PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----\nAA\n", "key"] {
        assert_eq!(parse(garbage, ReferenceKind::Secret), KeySetError::NotAKeySet, "{garbage:?}");
    }
    for useless in [
        json!({"keys": []}).to_string(),
        json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}).to_string(),
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}).to_string(),
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}).to_string(),
        json!({"keys": [1, "x", {"kty": "what"}]}).to_string(),
        oct(31),
        issuer.keys(json!({"use": "enc"})),
        issuer.keys(json!({"key_ops": ["sign"]})),
        issuer.keys(json!({"alg": "RS256"})),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(),
    ] {
        assert_eq!(parse(&useless, ReferenceKind::Secret), KeySetError::NoUsableKey, "{useless}");
    }
    assert_eq!(parse(&oct(32), ReferenceKind::ConfigMap), KeySetError::NoUsableKey, "everybody may read a ConfigMap");
    assert!(KeySet::parse(&oct(32), ReferenceKind::Secret).is_ok());
    let many = json!({"keys": vec![json!({}); 65]}).to_string();
    assert_eq!(parse(&many, ReferenceKind::Secret), KeySetError::TooMany);
    assert_eq!(KeySetError::TooMany.reason(), "TooManyKeys");
    let private = issuer.key.serialize_pem();
    let error = parse(&private, ReferenceKind::Secret);
    assert!(!error.to_string().contains(private.lines().nth(1).unwrap()), "nothing of the value is repeated");
}
