//! What the Secret holds: the authority that signs, the one that will, and the one that did.
//!
//! `ca.crt` and `ca.key` are always the authority that signs, as they were before there was a rotation, so that an older
//! operator beside this one signs what everybody trusts. It must not talk to the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::bundle::Bundle;
use super::error::CertificateError;
use super::rotation::{Action, NextTimes, Schedule, Times};
use super::tls::{Credentials, Names};

/// The Secret with the authorities. It keeps the name it had before they were rotated.
pub const SECRET: &str = "fusebox-control-ca";

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const ROTATION: &str = "rotation.json";

/// The stored authorities; cheap to clone, one shared content.
#[derive(Clone)]
pub(super) struct Keyring {
    current: Arc<Authority>,
    next: Option<Next>,
    previous: Option<Previous>,
    bundle: Bundle,
}

/// The authority that will sign.
#[derive(Clone)]
struct Next {
    authority: Arc<Authority>,
    published_at: Option<SystemTime>,
}

/// The certificate of the authority that signed before. Its key is gone.
#[derive(Clone)]
struct Previous {
    certificate: String,
    until: SystemTime,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRotation {
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<StoredNext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<StoredPrevious>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredNext {
    certificate: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPrevious {
    certificate: String,
    until: Timestamp,
}

impl Keyring {
    /// One new authority, which signs at once because nobody trusts another.
    pub(super) fn generate(schedule: &Schedule, now: SystemTime) -> Result<Self, CertificateError> {
        Self::of(Arc::new(Authority::generate(schedule.validity(), now)?), None, None)
    }

    fn of(current: Arc<Authority>, next: Option<Next>, previous: Option<Previous>) -> Result<Self, CertificateError> {
        let texts = [
            Some(current.certificate_pem()),
            next.as_ref().map(|next| next.authority.certificate_pem()),
            previous.as_ref().map(|previous| previous.certificate.as_str()),
        ];
        let bundle = Bundle::new(SECRET, texts.into_iter().flatten())?;
        Ok(Self { current, next, previous, bundle })
    }

    /// Reads the Secret's data.
    pub(super) fn decode(data: &BTreeMap<String, ByteString>) -> Result<Self, CertificateError> {
        let current = Arc::new(Authority::parse(part(data, CERTIFICATE)?, part(data, KEY)?)?);
        let stored: StoredRotation = match data.get(ROTATION) {
            Some(bytes) => serde_json::from_slice(&bytes.0).map_err(|_| incomplete(ROTATION))?,
            None => StoredRotation::default(),
        };
        let next = stored.next.map(|StoredNext { certificate, key, published_at }| {
            let authority = Arc::new(Authority::parse(&certificate, &key)?);
            Ok::<_, CertificateError>(Next { authority, published_at: published_at.map(SystemTime::from) })
        });
        let previous =
            stored.previous.map(|StoredPrevious { certificate, until }| Previous { certificate, until: until.into() });
        Self::of(current, next.transpose()?, previous)
    }

    /// The Secret's data.
    pub(super) fn encode(&self) -> Result<BTreeMap<String, ByteString>, CertificateError> {
        let time = |time: SystemTime| Timestamp::try_from(time).map_err(|_| incomplete(ROTATION));
        let next = self.next.as_ref().map(|next| {
            Ok::<_, CertificateError>(StoredNext {
                certificate: next.authority.certificate_pem().to_owned(),
                key: next.authority.key_pem().to_owned(),
                published_at: next.published_at.map(time).transpose()?,
            })
        });
        let previous = self.previous.as_ref().map(|previous| {
            let until = time(previous.until)?;
            Ok::<_, CertificateError>(StoredPrevious { certificate: previous.certificate.clone(), until })
        });
        let rotation = StoredRotation { next: next.transpose()?, previous: previous.transpose()? };
        let mut data = BTreeMap::from([
            (CERTIFICATE.to_owned(), bytes(self.current.certificate_pem())),
            (KEY.to_owned(), bytes(self.current.key_pem())),
        ]);
        if rotation.next.is_some() || rotation.previous.is_some() {
            let text = serde_json::to_string(&rotation).map_err(|_| incomplete(ROTATION))?;
            data.insert(ROTATION.to_owned(), bytes(&text));
        }
        Ok(data)
    }

    /// The keyring after an action.
    pub(super) fn after(&self, action: Action, schedule: &Schedule, now: SystemTime) -> Result<Self, CertificateError> {
        let Self { current, next, previous, bundle: _ } = self.clone();
        match (action, next) {
            (Action::Wait, next) => Self::of(current, next, previous),
            (Action::Announce, _) => {
                let authority = Arc::new(Authority::generate(schedule.validity(), now)?);
                Self::of(current, Some(Next { authority, published_at: None }), previous)
            }
            (Action::NotePublished, next) => {
                Self::of(current, next.map(|next| Next { published_at: Some(now), ..next }), previous)
            }
            (Action::Promote(_), Some(next)) => {
                let certificate = current.certificate_pem().to_owned();
                let previous = Previous { certificate, until: schedule.trusted_until(now) };
                Self::of(next.authority, None, Some(previous))
            }
            (Action::Promote(_), None) => Self::of(current, None, previous),
            (Action::Forget, next) => Self::of(current, next, None),
        }
    }

    /// What the state machine decides from.
    pub(super) fn times(&self) -> Times {
        Times {
            current: self.current.validity(),
            next: self.next.as_ref().map(|next| NextTimes { published_at: next.published_at }),
            previous: self.previous.as_ref().map(|previous| previous.until),
        }
    }

    /// All of its certificates.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The certificate of the authority that signs.
    pub(super) fn signer(&self) -> &str {
        self.current.certificate_pem()
    }

    /// New leaves.
    pub(super) fn credentials(
        &self,
        names: &Names,
        leaf: Duration,
        now: SystemTime,
    ) -> Result<Credentials, CertificateError> {
        Credentials::signed(&self.current, self.bundle.clone(), names, leaf, now)
    }
}

fn part<'a>(data: &'a BTreeMap<String, ByteString>, key: &'static str) -> Result<&'a str, CertificateError> {
    let text = data.get(key).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    text.ok_or(incomplete(key))
}

fn incomplete(key: &'static str) -> CertificateError {
    CertificateError::Incomplete { secret: SECRET, key }
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::rotation::Why;
    use super::*;

    fn after(keyring: &Keyring, action: Action) -> Keyring {
        keyring.after(action, &Schedule::default(), SystemTime::now()).unwrap()
    }

    fn stored(keyring: &Keyring) -> Keyring {
        Keyring::decode(&keyring.encode().unwrap()).unwrap()
    }

    fn generate() -> Keyring {
        Keyring::generate(&Schedule::default(), SystemTime::now()).unwrap()
    }

    #[test]
    fn a_whole_rotation_is_stored_and_read_back_and_promotion_changes_no_bundle() {
        let alone = generate();
        let announced = after(&alone, Action::Announce);
        assert_eq!((alone.bundle().certificates().len(), announced.bundle().certificates().len()), (1, 2));
        assert_eq!(announced.signer(), alone.signer(), "what is announced does not sign");
        let published = after(&announced, Action::NotePublished);
        let promoted = after(&published, Action::Promote(Why::Known));
        assert_ne!(promoted.signer(), alone.signer());
        assert_eq!(promoted.bundle(), announced.bundle());
        let ended = after(&promoted, Action::Forget);
        assert_eq!(ended.bundle().certificates().len(), 1);
        for keyring in [alone, announced, published, promoted, ended] {
            let read = stored(&keyring);
            assert_eq!((read.bundle(), read.signer()), (keyring.bundle(), keyring.signer()));
            assert_eq!(read.times().next.is_some(), keyring.times().next.is_some());
        }
    }

    #[test]
    fn an_older_operator_reads_what_signs_and_its_secret_is_read() {
        let promoted = after(&after(&generate(), Action::Announce), Action::Promote(Why::Known));
        let data = promoted.encode().unwrap();
        let older = Authority::parse(part(&data, CERTIFICATE).unwrap(), part(&data, KEY).unwrap()).unwrap();
        assert_eq!(older.certificate_pem(), promoted.signer());
        let ended = after(&promoted, Action::Forget).encode().unwrap();
        assert_eq!(ended.keys().collect::<Vec<_>>(), [CERTIFICATE, KEY], "without a rotation it is the older form");
    }

    #[test]
    fn a_secret_that_lacks_a_part_is_refused_by_its_name() {
        let mut data = generate().encode().unwrap();
        data.insert(ROTATION.to_owned(), bytes("nonsense"));
        let said = |data: &BTreeMap<String, ByteString>| Keyring::decode(data).err().unwrap().to_string();
        assert!(said(&data).contains("no usable rotation.json"), "{}", said(&data));
        data.remove(KEY);
        assert!(said(&data).contains("no usable ca.key"), "{}", said(&data));
    }
}
