//! The fallback: asks the API server about one token, where its public keys can't be had.
//!
//! It is not the usual way, because then every reconnecting sidecar would cost the API server a call.

use std::time::Duration;

use fusebox_policy::stream::AUDIENCE;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::TokenError;

/// How long a review may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks whether the token is good for our audience.
pub(super) async fn review(client: &Client, token: &str) -> Result<(), TokenError> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let asked = TokenReview { spec, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(client.clone());
    let parameters = PostParams::default();
    let answer = match tokio::time::timeout(TIMEOUT, api.create(&parameters, &asked)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(TokenError::Unavailable(Some(Box::new(error)))),
        Err(_) => return Err(TokenError::Unavailable(None)),
    };
    let status = answer.status.unwrap_or_default();
    let ours = status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE);
    match (status.authenticated, ours) {
        (Some(true), true) => Ok(()),
        _ => Err(TokenError::Reviewed),
    }
}
