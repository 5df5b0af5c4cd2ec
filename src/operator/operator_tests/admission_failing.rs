//! The injection webhook down, slow, wrongly certified and expired: pods that asked are refused with a clear message, and pods
//! that did not are created at once.

use std::time::Instant;

use fusebox_testkit::certificates::Authority;
use fusebox_testkit::ports::Port;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::admission_stage::{Served, Stage, ask, server_config};
use super::*;

/// Slower than any API server waits.
const SLOW: Duration = Duration::from_secs(30);

/// Much less than the time after which the API server gives a webhook up.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Holds what must be true of any failure, and gives the message to whoever asked.
async fn only_who_asked_is_refused(stage: &Stage) -> Result<String> {
    let begun = Instant::now();
    stage.create("plain", |_| ()).await?;
    let taken = begun.elapsed();
    ensure!(taken < AT_ONCE, "a pod that did not ask took {taken:?}");
    let refused = stage.create("asked", ask).await;
    let Err(kube::Error::Api(status)) = refused else { anyhow::bail!("{refused:?}") };
    ensure!(status.message.contains("failed calling webhook \"pods.inject.fusebox.dev\""), "{}", status.message);
    stage.clear().await?;
    Ok(status.message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_down() -> Result<()> {
    let stage = Stage::new("down", &[]).await?;
    let (nobody, authority) = (Port::reserve()?, Authority::new("nobody")?);
    stage.register_injection(&format!("https://{}", nobody.address()), &authority.certificate()).await?;
    let said = only_who_asked_is_refused(&stage).await?;
    assert!(said.contains("connection refused"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_slow() -> Result<()> {
    let stage = Stage::new("slow", &[]).await?;
    let authority = Authority::new("slow")?;
    let acceptor = TlsAcceptor::from(server_config(&authority.server(&["127.0.0.1"])?)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let slow = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await;
                tokio::time::sleep(SLOW).await;
                drop(stream);
            });
        }
    });
    stage.register_injection(&url, &authority.certificate()).await?;
    let said = only_who_asked_is_refused(&stage).await?;
    assert!(said.contains("deadline exceeded") || said.contains("Timeout"), "{said}");
    slow.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_of_an_authority_that_is_not_known() -> Result<()> {
    let stage = Stage::new("wrong-ca", &[]).await?;
    let served = Served::start(stage.cluster).await?;
    stage.register_injection(&served.url, &Authority::new("another")?.certificate()).await?;
    let said = only_who_asked_is_refused(&stage).await?;
    assert!(said.contains("certificate signed by unknown authority"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_with_an_expired_certificate() -> Result<()> {
    let stage = Stage::new("expired", &[]).await?;
    let authority = Authority::new("admission-test")?;
    let signed = authority.expired_server(&["127.0.0.1"])?;
    let served = Served::start_with(stage.cluster, authority, &signed).await?;
    stage.register_injection(&served.url, &served.authority.certificate()).await?;
    let said = only_who_asked_is_refused(&stage).await?;
    assert!(said.contains("certificate has expired"), "{said}");
    Ok(())
}
