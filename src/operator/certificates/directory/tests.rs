//! Good files are taken, and each way of being bad is refused by its own reason and keeps what was good.

use std::time::Duration;

use fusebox_testkit::certificates::{Authority, Signed};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::health::{Component, Health, State};
use crate::metrics::Metrics;

const SERVICE: &str = "fusebox-operator.fusebox-system.svc";
const BOTH: [ExtendedKeyUsagePurpose; 2] = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// An authority as cert-manager has one.
struct Issuing {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Issuing {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::from_ca_cert_pem(&certificate, key).unwrap(), certificate }
    }

    fn sign(&self, name: &str, usages: &[ExtendedKeyUsagePurpose], ends: SystemTime) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = usages.to_vec();
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = ends.into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    fn good(&self) -> Signed {
        self.sign(SERVICE, &BOTH, tomorrow())
    }
}

fn tomorrow() -> SystemTime {
    SystemTime::now() + Duration::from_secs(24 * 3600)
}

fn write(folder: &Path, authority: &str, signed: &Signed) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, text) in [(AUTHORITY, authority), (CERTIFICATE, &signed.certificate), (KEY, &signed.key)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// What a keeper says of a directory with these files.
fn refusal(authority: &str, signed: &Signed) -> (String, String) {
    let folder = TempDir::new().unwrap();
    write(folder.path(), authority, signed);
    let error = keeper(folder.path()).round().unwrap_err();
    (error.reason().to_owned(), error.to_string())
}

fn keeper(path: &Path) -> DirectoryKeeper {
    let names = Names::new("fusebox-system", []);
    let reporter = Reporter { health: Health::starting([]), metrics: Metrics::new().unwrap() };
    let (tls, _) = watch::channel(None);
    DirectoryKeeper {
        directory: Directory { path: path.to_owned(), names },
        schedule: Schedule::new(Duration::from_secs(60), Duration::from_secs(1), Duration::from_secs(1)).unwrap(),
        trust: Trust::new(Duration::from_secs(60)),
        tls,
        reporter,
        memory: None,
    }
}

#[test]
fn good_files_are_taken_and_published() {
    let (folder, issuing) = (TempDir::new().unwrap(), Issuing::new());
    write(folder.path(), &issuing.certificate, &issuing.good());
    let mut keeper = keeper(folder.path());
    keeper.round().unwrap();
    assert_eq!(keeper.trust.known().unwrap(), Bundle::new("test", [issuing.certificate.as_str()]).unwrap());
    let tls = keeper.tls.borrow().clone().unwrap();
    let shown: Vec<_> = certificates("test", &issuing.good().certificate).map(Result::unwrap).collect();
    assert!(tls.is_peer(Some(&shown)), "another certificate of the operator is a peer's");
    let stranger: Vec<_> = certificates("test", &issuing.sign("web.shop.svc", &BOTH, tomorrow()).certificate)
        .map(Result::unwrap)
        .collect();
    assert!(!tls.is_peer(Some(&stranger)));
}

#[test]
fn each_bad_file_is_named_with_what_is_wrong() {
    let (issuing, other) = (Issuing::new(), Issuing::new());
    let (good, authority) = (issuing.good(), issuing.certificate.as_str());

    let (reason, said) = refusal(&other.certificate, &good);
    assert!(reason == "CertificateRefused" && said.contains("tls.crt would be refused by sidecars"), "{said}");
    let (reason, said) = refusal(authority, &issuing.sign("localhost", &BOTH, tomorrow()));
    assert!(reason == "CertificateRefused" && said.contains(SERVICE), "{said}");
    let (reason, said) = refusal(authority, &issuing.sign(SERVICE, &BOTH, SystemTime::now() - Duration::from_secs(60)));
    assert!(reason == "CertificateRefused" && said.contains("expired"), "{said}");
    let (reason, said) = refusal(authority, &issuing.sign(SERVICE, &BOTH[..1], tomorrow()));
    assert!(reason == "CertificateRefused" && said.contains("client auth"), "{said}");
    let (reason, said) = refusal(authority, &Signed { key: issuing.good().key, ..good.clone() });
    assert!(reason == "KeyMismatch" && said.contains("tls.key is not the key"), "{said}");
    let (reason, said) = refusal(authority, &Signed { key: "nonsense".into(), ..good.clone() });
    assert!(reason == "FileMissing" && said.contains("tls.key"), "{said}");
    let (reason, said) = refusal("", &good);
    assert!(reason == "NotACertificate" && said.contains("ca.crt holds no PEM"), "{said}");

    let missing = keeper(Path::new("/nowhere")).round().unwrap_err().to_string();
    assert!(missing.contains("/nowhere/tls.crt can't be read"), "{missing}");
}

#[tokio::test]
async fn a_swapped_link_is_followed_and_bad_files_keep_the_last_good_ones() {
    let (folder, issuing) = (TempDir::new().unwrap(), Issuing::new());
    let swap = |name: &str, authority: &str, signed: &Signed| {
        write(&folder.path().join(name), authority, signed);
        let (link, temporary) = (folder.path().join(SWAPPED), folder.path().join("..data_tmp"));
        std::os::unix::fs::symlink(name, &temporary).unwrap();
        std::fs::rename(temporary, link).unwrap();
    };
    swap("..1", &issuing.certificate, &issuing.good());
    let mut keeper = keeper(folder.path());
    keeper.reporter.health = Health::starting([Component::Certificates]);
    keeper.round().unwrap();
    let (tls, health, trust) =
        (keeper.tls.borrow().clone().unwrap(), keeper.reporter.health.clone(), keeper.trust.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper.run(stop.clone()));
    let said = async |expected: State, word: &str| {
        fusebox_testkit::eventually(Duration::from_secs(10), word, async || {
            let status = health.get(Component::Certificates).unwrap();
            anyhow::ensure!(status.status == expected && status.message.contains(word), "{status:?}");
            Ok(())
        })
        .await
        .unwrap();
    };
    said(State::Healthy, "").await;

    let first = tls.validity();
    swap("..2", &issuing.certificate, &Signed { key: "nonsense".into(), ..issuing.good() });
    said(State::Degraded, "the last good certificates stay").await;
    assert_eq!(tls.validity(), first);

    let other = Authority::new("another").unwrap();
    swap("..3", &other.certificate(), &issuing.good());
    said(State::Degraded, "would be refused by sidecars").await;
    assert_eq!(trust.known().unwrap(), Bundle::new("test", [issuing.certificate.as_str()]).unwrap());

    let later = SystemTime::now() + Duration::from_secs(48 * 3600);
    swap("..4", &issuing.certificate, &issuing.sign(SERVICE, &BOTH, later));
    said(State::Healthy, "").await;
    assert!(tls.validity().ends > first.ends);
    stop.cancel();
    running.await.unwrap();
}
