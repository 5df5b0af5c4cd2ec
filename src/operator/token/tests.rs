//! What is refused before or after the signature; the real cluster's tokens are tried in `control::cluster`.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

fn token(header: &serde_json::Value) -> String {
    format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header.to_string()))
}

fn claims(change: impl FnOnce(&mut serde_json::Value)) -> Claims {
    let mut value = json!({
        "iss": "https://cluster", "aud": [AUDIENCE], "exp": 2_000, "nbf": 1_000,
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "web-1", "uid": "u1"},
            "serviceaccount": {"name": "web", "uid": "s1"},
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn verdict(claims: Claims, unix: u64) -> &'static str {
    match claims.identity(Some("https://cluster"), UNIX_EPOCH + Duration::from_secs(unix)) {
        Ok(_) => "accepted",
        Err(error) => error.reason(),
    }
}

#[test]
fn a_pods_own_token_is_accepted() {
    let identity = claims(|_| {}).identity(Some("https://cluster"), UNIX_EPOCH + Duration::from_secs(1_500)).unwrap();
    let pod = PodRef { namespace: "shop".into(), name: "web-1".into(), uid: "u1".into() };
    assert_eq!(identity, Identity { pod, service_account: "web".into(), expires_unix: 2_000 });
}

#[test]
fn only_asymmetric_algorithms_are_looked_at() {
    for alg in ["none", "HS256", "HS512", "RS512", "EdDSA", "None", ""] {
        let error = header(&token(&json!({"alg": alg, "kid": "k"}))).unwrap_err();
        assert_eq!(error.reason(), "TokenAlgorithm", "{alg}");
    }
    assert!(header(&token(&json!({"alg": "RS256", "kid": "k"}))).is_ok());
}

#[test]
fn garbage_is_refused_before_anything_is_asked() {
    let long = "a".repeat(MAX_TOKEN + 1);
    for garbage in ["", "a", "a.b.c", "a.b.c.d", "....", "e30.e30.e30", long.as_str()] {
        assert_eq!(header(garbage).unwrap_err().reason(), "TokenMalformed", "{garbage:.20}");
    }
}

#[test]
fn a_key_of_another_family_never_verifies() {
    let secret = DecodingKey::from_secret(b"public key bytes used as a secret");
    let error = signed_claims(&token(&json!({"alg": "RS256"})), Algorithm::RS256, &secret).unwrap_err();
    assert_eq!(error.reason(), "TokenSignature");
}

#[test]
fn each_claim_that_does_not_hold_has_its_reason() {
    assert_eq!(verdict(claims(|c| c["iss"] = json!("https://other")), 1_500), "TokenIssuer");
    assert_eq!(verdict(claims(|c| c["aud"] = json!(["api"])), 1_500), "TokenAudience");
    assert_eq!(verdict(claims(|c| c["aud"] = json!("api")), 1_500), "TokenAudience");
    assert_eq!(verdict(claims(|_| {}), 2_000), "TokenExpired");
    assert_eq!(verdict(claims(|_| {}), 989), "TokenNotYetValid");
    assert_eq!(verdict(claims(|c| c["kubernetes.io"]["pod"] = json!(null)), 1_500), "TokenUnbound");
    assert_eq!(verdict(claims(|c| c["kubernetes.io"] = json!(null)), 1_500), "TokenUnbound");
    assert_eq!(verdict(claims(|c| c["kubernetes.io"]["pod"]["uid"] = json!("")), 1_500), "TokenUnbound");
}
