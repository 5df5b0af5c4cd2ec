//! What becomes of decisions while the store is away, slow, wrong or closed to us, and once it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fusebox_policy::config::{RedisTls, Reference, ReferenceKind};
use fusebox_testkit::certificates::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

/// Longest that a decision takes beyond its limit, on a machine on which many tests run.
const SLACK: Duration = Duration::from_secs(5);

fn with_timeout(store: RedisStore, timeout_ms: u64) -> RedisStore {
    RedisStore { timeout_ms, ..store }
}

#[tokio::test]
async fn a_redis_that_died_is_lost_at_once_and_used_again_once_it_is_back() -> Result {
    let mut redis = Redis::start().await?;
    let store = started(&single(redis.address()));
    assert!(passes(&store, &hourly("a", 1)).await);
    redis.kill();
    let error = is_lost(&store).await?;
    assert!(error.contains(&redis.address().to_string()), "{error}");
    let asked = Instant::now();
    assert_eq!(store.decide(&[hourly("a", 1)]).await.unwrap_err(), StoreLost::NotConnected);
    assert!(asked.elapsed() < SLACK);
    redis.restart().await?;
    is_connected(&store).await?;
    assert!(passes(&store, &hourly("a", 1)).await);
    Ok(())
}

#[tokio::test]
async fn a_frozen_redis_costs_five_timeouts_and_then_nothing() -> Result {
    let limit = Duration::from_millis(100);
    let redis = Redis::start().await?;
    let store = started(&with_timeout(single(redis.address()), 100));
    is_connected(&store).await?;
    redis.pause().await?;
    for _ in 0..5 {
        let asked = Instant::now();
        let error = store.decide(&[hourly("a", 9)]).await.unwrap_err();
        assert!(matches!(error, StoreLost::Timeout { .. }), "{error}");
        assert!(asked.elapsed() >= limit && asked.elapsed() < limit + SLACK, "{:?}", asked.elapsed());
    }
    let error = store.decide(&[hourly("a", 9)]).await.unwrap_err();
    assert!(!matches!(error, StoreLost::Timeout { .. }), "nobody waits any more: {error}");
    is_lost(&store).await?;
    redis.resume()?;
    is_connected(&store).await?;
    assert!(store.decide(&[hourly("a", 9)]).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn requests_that_their_clients_give_up_do_not_make_the_store_look_lost() -> Result {
    let redis = Redis::start().await?;
    let store = started(&single(redis.address()));
    is_connected(&store).await?;
    redis.pause().await?;
    for _ in 0..50 {
        let demands = [hourly("a", 1_000)];
        let given_up = tokio::time::timeout(Duration::from_millis(1), store.decide(&demands)).await;
        assert!(given_up.is_err());
    }
    redis.resume()?;
    assert!(passes(&store, &hourly("a", 1_000)).await);
    assert!(matches!(store.state(), StoreState::Connected { .. }));
    Ok(())
}

/// Accepts connections, and says `words` to each again and again, as fast as it is heard; counts what was heard.
async fn says(words: &'static [u8]) -> Result<(String, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let heard = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                if words.is_empty() {
                    let mut ignored = [0; 1024];
                    while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
                }
                while !words.is_empty() && stream.write_all(words).await.is_ok() {
                    counted.fetch_add(words.len() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    Ok((address, heard))
}

#[tokio::test]
async fn garbage_is_an_error_and_never_a_verdict() -> Result {
    for words in
        [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"*1\r\n:0\r\n", b"*99999999999999\r\n", b"+OK\r\n", b"$-1\r\n", b":-5\r\n"]
    {
        let (address, _) = says(words).await?;
        let store = started(&single(address));
        assert!(store.decide(&[hourly("a", 1)]).await.is_err(), "{words:?}");
        let error = is_lost(&store).await?;
        assert!(error.contains("127.0.0.1") && !error.contains("HTTP"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_never_ends_its_answer_is_cut_off() -> Result {
    // One text of a petabyte: whoever believed it would wait and keep all of it.
    static ENDLESS: [u8; 64 * 1024] = {
        let mut bytes = [b'7'; 64 * 1024];
        let length = *b"$1000000000000000\r\n";
        let mut at = 0;
        while at < length.len() {
            bytes[at] = length[at];
            at += 1;
        }
        bytes
    };
    let (address, heard) = says(&ENDLESS).await?;
    let store = started(&single(address));
    is_lost(&store).await?;
    // What the kernel's buffers took comes on top of the megabyte.
    let heard = heard.load(Ordering::Relaxed);
    assert!(heard < 32 << 20, "{heard} bytes");
    Ok(())
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_costs_a_decision_its_time_and_no_more() -> Result {
    let (address, _) = says(b"").await?;
    let store = started(&with_timeout(single(address), 20));
    let asked = Instant::now();
    assert!(store.decide(&[hourly("a", 1)]).await.is_err());
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    is_lost(&store).await?;
    let asked = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(store.decide(&[hourly("a", 1)]).await.unwrap_err(), StoreLost::NotConnected);
    }
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_store_slower_than_decisions_may_be_is_not_used() -> Result {
    let redis = Redis::start().await?;
    let (slow, ahead) = (TcpListener::bind("127.0.0.1:0").await?, redis.address());
    let address = slow.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = slow.accept().await {
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(ahead).await?;
                let mut bytes = vec![0; 64 * 1024];
                loop {
                    let read = client.read(&mut bytes).await?;
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    server.write_all(&bytes[..read]).await?;
                    let read = server.read(&mut bytes).await?;
                    client.write_all(&bytes[..read]).await?;
                    if read == 0 {
                        return std::io::Result::Ok(());
                    }
                }
            });
        }
    });
    let error = is_lost(&started(&with_timeout(single(address), 20))).await?;
    assert!(error.contains("20ms"), "{error}");
    Ok(())
}

fn reference(key: &str) -> Option<Reference> {
    let (namespace, name) = ("shop".to_owned(), "redis".to_owned());
    Some(Reference { kind: ReferenceKind::Secret, namespace, name, key: key.to_owned() })
}

/// A store over TLS, with a user that may do what the documentation says and nothing else.
fn guarded(redis: &Redis) -> RedisStore {
    RedisStore {
        username: reference("username"),
        password: reference("password"),
        tls: Some(RedisTls { authorities: reference("ca.crt"), ..RedisTls::default() }),
        ..single(redis.address())
    }
}

const ACL: &str = "user limits on >secret1 >secret2 resetchannels -@all ~fusebox:* \
                   +evalsha +eval +get +set +del +time +ping +select";

#[tokio::test]
async fn tls_and_the_narrowest_acl_are_enough_and_new_credentials_are_used_without_a_gap() -> Result {
    let authority = Authority::new("redis")?;
    let redis = Redis::builder().tls(&authority)?.setting(ACL).start().await?;
    let with = |password: &str| {
        let values = [("username", "limits"), ("password", password), ("ca.crt", &authority.certificate())];
        let values = values.map(|(key, value)| (key, value.to_owned()));
        StoreSettings::resolve(&guarded(&redis), |wanted| {
            values.iter().find(|(key, _)| *key == wanted.key).map(|(_, value)| value.clone())
        })
        .map_err(|unresolved| anyhow::anyhow!("{unresolved}"))
    };
    let store = SharedStore::start();
    store.configure(with("secret1\n")?);
    is_connected(&store).await?;
    assert!(passes(&store, &hourly("a", 1_000)).await);
    // A wrong one is told of, and what stands goes on.
    store.configure(with("wrong")?);
    eventually(PATIENCE, "the refusal is told of", async || {
        let state = store.state();
        let StoreState::Connected { warning } = &state else { anyhow::bail!("{state:?}") };
        anyhow::ensure!(warning.contains("refused the username or the password"), "{warning}");
        anyhow::ensure!(!warning.contains("wrong"), "{warning}");
        Ok(())
    })
    .await?;
    assert!(passes(&store, &hourly("a", 1_000)).await);
    store.configure(with("secret2")?);
    eventually(PATIENCE, "the new connection stands", async || {
        anyhow::ensure!(store.state() == StoreState::Connected { warning: String::new() }, "{:?}", store.state());
        assert!(passes(&store, &hourly("a", 1_000)).await);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_keeps_a_store_from_being_used_is_told_with_the_next_step() -> Result {
    let authority = Authority::new("redis")?;
    let narrow = ACL.replace(" +set", "");
    let redis = Redis::builder().tls(&authority)?.setting(narrow).setting("requirepass other").start().await?;
    let refused = async |change: &dyn Fn(&mut RedisStore), authorities: String| {
        let mut store = guarded(&redis);
        change(&mut store);
        let values = [("username", "limits".to_owned()), ("password", "secret1".to_owned()), ("ca.crt", authorities)];
        let shared = SharedStore::start();
        let find =
            |wanted: &Reference| values.iter().find(|(key, _)| *key == wanted.key).map(|(_, value)| value.clone());
        shared.configure(StoreSettings::resolve(&store, find).map_err(|unresolved| anyhow::anyhow!("{unresolved}"))?);
        let error = is_lost(&shared).await?;
        anyhow::ensure!(!error.contains("secret1"), "{error}");
        Ok::<_, anyhow::Error>(error)
    };
    let good = authority.certificate();
    let other = Authority::new("other")?.certificate();
    for (error, words) in [
        (refused(&|_| {}, good.clone()).await?, "ACL lacks a command"),
        (refused(&|store| store.key_prefix = "other".to_owned(), good.clone()).await?, "NOPERM"),
        (refused(&|store| store.password = None, good.clone()).await?, "NOAUTH"),
        (refused(&|_| {}, other).await?, "UnknownIssuer"),
        (refused(&|store| store.tls = None, good).await?, "ended"),
    ] {
        assert!(error.contains(words), "{error}, not {words}");
    }
    Ok(())
}

#[test]
fn a_value_that_cant_be_used_is_named_and_never_shown() -> Result {
    let tls =
        RedisTls { authorities: reference("ca.crt"), certificate: reference("crt"), private_key: reference("key") };
    let store = RedisStore { tls: Some(tls), ..single("redis:6379") };
    let authority = Authority::new("redis")?;
    let own = authority.client("proxy", None)?;
    let resolve = |authorities: &str, certificate: &str, key: &str| {
        let values = [("ca.crt", authorities), ("crt", certificate), ("key", key)];
        let values = values.map(|(name, value)| (name, value.to_owned()));
        let found = StoreSettings::resolve(&store, |wanted| {
            values.iter().find(|(name, _)| *name == wanted.key).map(|(_, value)| value.clone())
        });
        found.map(|_| ()).map_err(|unresolved| unresolved.to_string())
    };
    assert_eq!(resolve(&authority.certificate(), &own.certificate, &own.key), Ok(()));
    let other = Authority::new("other")?.client("proxy", None)?;
    for (wrong, words) in [
        (resolve("", &own.certificate, &own.key), "ca.crt of Secret shop/redis can't be used: it holds no certificate"),
        (resolve(&authority.certificate(), "hunter2", &own.key), "crt of Secret shop/redis can't be used"),
        (resolve(&authority.certificate(), &own.certificate, "hunter2"), "it is no private key in PEM"),
        (resolve(&authority.certificate(), &own.certificate, &other.key), "does not belong to the certificate"),
    ] {
        let error = wrong.unwrap_err();
        assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
    }
    let missing = StoreSettings::resolve(&store, |_| None).unwrap_err();
    assert_eq!(missing, Unresolved::Missing(reference("ca.crt").unwrap()));
    assert!(missing.to_string().contains("Secret shop/redis has sent no value for ca.crt"));
    Ok(())
}

#[test]
fn addresses_that_cant_be_one_are_refused() {
    for wrong in ["", ":", "redis:0", "redis:99999", "redis:port", "re dis:1", "http://redis:1/", "[]:1"] {
        assert!(StoreSettings::resolve(&single(wrong), |_| None).is_err(), "{wrong}");
    }
    for right in ["redis", "redis:1", "10.0.0.1:6379", "[::1]:6379"] {
        assert!(StoreSettings::resolve(&single(right), |_| None).is_ok(), "{right}");
    }
}
