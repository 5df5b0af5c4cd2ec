//! Who may open a stream: every wrong token and pod is refused, each with its reason.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fusebox_policy::report::ProxyReport;
use fusebox_policy::stream::{PATH, Up};
use fusebox_testkit::pods::{CONTROL_AUDIENCE, PodBuilder};
use fusebox_testkit::{Cluster, eventually};
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;

use super::streams::breaker;
use super::{Answer, Replica, SOON, authority, breakers, entry, pods};
use crate::control::Sidecar;
use crate::token::{TokenError, TokenVerifier};

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

fn part(token: &str, index: usize) -> Result<Value> {
    let part = token.split('.').nth(index).context("no such part")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// The same token with another payload and the old signature.
fn tampered(token: &str, pod_uid: &str) -> Result<String> {
    let mut claims = part(token, 1)?;
    claims["kubernetes.io"]["pod"]["uid"] = pod_uid.into();
    let parts: Vec<&str> = token.split('.').collect();
    Ok(format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]))
}

/// The same claims, signed with a secret instead of the cluster's key.
fn signed_with_a_secret(token: &str) -> Result<String> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = part(token, 0)?["kid"].as_str().map(str::to_owned);
    Ok(jsonwebtoken::encode(&header, &part(token, 1)?, &EncodingKey::from_secret(b"guessed"))?)
}

/// The same token under the name of a key that the cluster does not have.
fn under_another_key(token: &str) -> Result<String> {
    let mut header = part(token, 0)?;
    header["kid"] = "another".into();
    let (_, rest) = token.split_once('.').context("no header")?;
    Ok(format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string())))
}

async fn unbound_token(namespace: &str) -> Result<String> {
    let audiences = vec![CONTROL_AUDIENCE.to_owned()];
    let spec = TokenRequestSpec { audiences, ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts: Api<ServiceAccount> = Api::namespaced(Cluster::shared().await?.client().await?, namespace);
    let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    Ok(answer.status.context("no status")?.token)
}

#[tokio::test]
async fn wrong_tokens_are_refused_each_with_its_reason() -> Result<()> {
    let [pod, other] = pods().await?;
    let replica = Replica::ready(&[&pod, &other], &[]).await?;
    let good = pod.control_token().await?;
    replica.open(&good).await?;

    let refusal = async |token: &str| replica.refusal(Some(token)).await;
    assert_eq!(replica.refusal(None).await?, refused(401, "TokenMissing"));
    assert_eq!(refusal("garbage").await?, refused(401, "TokenMalformed"));
    assert_eq!(refusal(&pod.token("another", 3_600).await?).await?, refused(401, "TokenAudience"));
    assert_eq!(refusal(&tampered(&good, other.uid())?).await?, refused(401, "TokenSignature"));
    assert_eq!(refusal(&signed_with_a_secret(&good)?).await?, refused(401, "TokenAlgorithm"));
    assert_eq!(refusal(&under_another_key(&good)?).await?, refused(401, "TokenUnknownKey"));
    assert_eq!(refusal(&unbound_token(pod.namespace()).await?).await?, refused(403, "TokenUnbound"));
    Ok(())
}

#[tokio::test]
async fn an_expired_token_is_refused_without_leeway() -> Result<()> {
    let [pod] = pods().await?;
    let verifier = TokenVerifier::new(Cluster::shared().await?.client().await?);
    let token = pod.token(CONTROL_AUDIENCE, 600).await?;
    let now = SystemTime::now();
    let identity = verifier.verify(&token, now).await?;
    assert_eq!(identity.pod.uid, pod.uid());
    let expired = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(identity.expires_unix)?);
    assert!(verifier.verify(&token, expired - Duration::from_secs(1)).await.is_ok());
    assert!(matches!(verifier.verify(&token, expired).await, Err(TokenError::Expired)));
    Ok(())
}

#[tokio::test]
async fn a_deleted_pod_and_its_namesake_are_not_the_same() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &[]).await?;
    let token = pod.control_token().await?;
    pod.delete().await?;
    replica.control.directory.remove(pod.uid());
    assert_eq!(replica.refusal(Some(&token)).await?, refused(403, "PodUnknown"));

    let client = Cluster::shared().await?.client().await?;
    let namesake = PodBuilder::bare(pod.namespace(), pod.name()).with_sidecar().create(&client).await?;
    replica.control.directory.insert(entry(&namesake, Sidecar::Present));
    assert_eq!(replica.refusal(Some(&token)).await?, refused(403, "PodUnknown"));
    replica.open(&namesake.control_token().await?).await?;
    Ok(())
}

#[tokio::test]
async fn two_pods_with_one_address_are_two() -> Result<()> {
    let [pod] = pods().await?;
    let client = Cluster::shared().await?.client().await?;
    let twin = PodBuilder::bare(pod.namespace(), "twin").ip(pod.ip()).with_sidecar().create(&client).await?;
    let replica = Replica::ready(&[&pod, &twin], &["mine"]).await?;
    let mut first = replica.greet(&pod).await?;
    let mut second = replica.greet(&twin).await?;
    first.configuration().await?;
    second.configuration().await?;
    let report = ProxyReport { full: true, breakers: vec![breaker(pod.namespace(), "mine")], ..ProxyReport::default() };
    second.send(&Up::Report(report)).await?;
    eventually(SOON, "the twin's report is the twin's", async || {
        let found = breakers(&replica.control.book);
        ensure!(found["twin"] == ["mine"] && found[pod.name()].is_empty(), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_without_the_mark_is_refused() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[], &[]).await?;
    replica.control.directory.insert(entry(&pod, Sidecar::Absent));
    assert_eq!(replica.refusal(Some(&pod.control_token().await?)).await?, refused(403, "NoSidecar"));
    Ok(())
}

#[tokio::test]
async fn a_token_opens_nothing_but_the_stream() -> Result<()> {
    let [pod] = pods().await?;
    let replica = Replica::ready(&[&pod], &[]).await?;
    let token = pod.control_token().await?;
    let cases = BTreeMap::from([
        ((Method::GET.as_str(), PATH), refused(405, "MethodNotAllowed")),
        ((Method::POST.as_str(), "/v1/peer"), refused(403, "NotAPeer")),
        ((Method::POST.as_str(), "/v1/stream/../peer"), refused(404, "NotFound")),
        ((Method::POST.as_str(), "/"), refused(404, "NotFound")),
    ]);
    for ((method, path), expected) in cases {
        match replica.request(method.parse()?, path, Some(&token)).await? {
            Answer::Refused(status, reason) => assert_eq!((status, reason), expected, "{method} {path}"),
            Answer::Opened(_) => panic!("{method} {path} was opened"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_still_starting_asks_to_try_again() -> Result<()> {
    let [pod] = pods().await?;
    let authority = authority()?;
    let replica = Replica::start(&authority, &crate::lease::Timing::default()).await?;
    let token = pod.control_token().await?;
    assert_eq!(replica.refusal(Some(&token)).await?, refused(503, "NotReady"));
    replica.control.directory.replace([entry(&pod, Sidecar::Present)]);
    assert_eq!(replica.refusal(Some(&token)).await?, refused(503, "NotReady"));
    replica.control.source.publish([])?;
    replica.open(&token).await?;
    Ok(())
}

#[tokio::test]
async fn without_the_clusters_keys_a_token_is_reviewed() -> Result<()> {
    let [pod] = pods().await?;
    let cluster = Cluster::shared().await?;
    // This user may ask for reviews, and may not read the keys.
    cluster
        .apply(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reviewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:auth-delegator'}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reviewer}]
",
        )
        .await?;
    let client = cluster.client_from(&cluster.kubeconfig_for_user("reviewer", None)?).await?;
    let (verifier, now) = (TokenVerifier::new(client), SystemTime::now());
    let identity = eventually(SOON, "the review is granted", async || {
        Ok(verifier.verify(&pod.control_token().await?, now).await?)
    })
    .await?;
    assert_eq!(identity.pod.uid, pod.uid());
    let foreign = pod.token("another", 3_600).await?;
    assert!(matches!(verifier.verify(&foreign, now).await, Err(TokenError::Reviewed)));
    let unbound = unbound_token(pod.namespace()).await?;
    assert!(matches!(verifier.verify(&unbound, now).await, Err(TokenError::Unbound)));
    Ok(())
}
