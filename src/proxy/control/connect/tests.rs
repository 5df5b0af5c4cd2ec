//! Which operators are trusted: by the authorities in the file as it is now, and with the reason where not.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// An operator whose certificate has this name and ends then.
async fn operator(authority: &Authority, name: &str, ends: SystemTime) -> ControlUrl {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = (SystemTime::now() - HOUR * 2).into();
    params.not_after = ends.into();
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, authority).unwrap().der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![leaf], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(http_body_util::Empty::<Bytes>::new()))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    ControlUrl { host: "127.0.0.1".to_owned(), port }
}

fn trusting(folder: &TempDir, authorities: &[&Authority]) -> Connector {
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, authorities.iter().map(|it| it.pem()).collect::<String>()).unwrap();
    Connector::new(file)
}

async fn refusal(connector: &Connector, url: &ControlUrl) -> String {
    connector.connect(url, 0).await.unwrap_err().to_string()
}

#[tokio::test]
async fn each_certificate_that_is_not_good_is_refused_with_what_is_wrong() {
    let (folder, own, other) = (TempDir::new().unwrap(), authority(), authority());
    let connector = trusting(&folder, &[&own]);
    let (later, before) = (SystemTime::now() + HOUR, SystemTime::now() - HOUR);
    let said = refusal(&connector, &operator(&other, "127.0.0.1", later).await).await;
    assert!(said.contains("none of the authorities in") && said.contains("ca.crt has signed it"), "{said}");
    let said = refusal(&connector, &operator(&own, "127.0.0.1", before).await).await;
    assert!(said.contains("the certificate of 127.0.0.1 is refused: it is expired"), "{said}");
    let said = refusal(&connector, &operator(&own, "elsewhere", later).await).await;
    assert!(said.contains("it is for other names"), "{said}");
}

#[tokio::test]
async fn all_authorities_of_the_file_are_trusted_and_the_file_is_read_anew() {
    let (folder, old, new) = (TempDir::new().unwrap(), authority(), authority());
    let connector = trusting(&folder, &[&old]);
    let later = SystemTime::now() + HOUR;
    let (by_old, by_new) = (operator(&old, "127.0.0.1", later).await, operator(&new, "127.0.0.1", later).await);
    assert!(connector.connect(&by_old, 0).await.is_ok());
    assert!(connector.connect(&by_new, 0).await.is_err());
    trusting(&folder, &[&old, &new]);
    assert!(connector.connect(&by_old, 0).await.is_ok() && connector.connect(&by_new, 0).await.is_ok());
    trusting(&folder, &[&new]);
    assert!(connector.connect(&by_old, 0).await.is_err() && connector.connect(&by_new, 0).await.is_ok());
}
