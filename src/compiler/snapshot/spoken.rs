//! What is spoken on a Service's port, from the word of its owner: `appProtocol`.
//!
//! Port names decide nothing here: Kubernetes has a field for it, and a name that was given for
//! people must not make bytes be refused. Where nobody says, the proxy looks at the first bytes.

use fusebox_policy::config::Protocol;

/// HTTP/1.1 and HTTP/2 without TLS, and what begins as one of them. Those with a slash are Kubernetes' own
/// (<https://gateway-api.sigs.k8s.io/geps/gep-1911/>).
const HTTP: [&str; 8] = ["http", "http2", "h2c", "grpc", "grpc-web", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"];

/// TLS that the application speaks itself, and protocols that are no HTTP; in most of the latter the server speaks first, so
/// that nothing could be recognised by waiting for the client.
const TCP: [&str; 27] = [
    "tcp",
    "tls",
    "https",
    "wss",
    "kubernetes.io/wss",
    "mysql",
    "mariadb",
    "postgres",
    "postgresql",
    "redis",
    "mongo",
    "mongodb",
    "amqp",
    "amqps",
    "kafka",
    "nats",
    "mqtt",
    "memcached",
    "cassandra",
    "ldap",
    "ldaps",
    "mssql",
    "smtp",
    "imap",
    "pop3",
    "ftp",
    "ssh",
];

/// What `appProtocol` says; nothing where it is a word that is not known.
pub(super) fn spoken(app_protocol: &str) -> Protocol {
    let word = app_protocol.to_ascii_lowercase();
    if HTTP.contains(&word.as_str()) {
        Protocol::Http
    } else if TCP.contains(&word.as_str()) {
        Protocol::Tcp
    } else {
        Protocol::Detect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_says_what_is_spoken_and_unknown_words_say_nothing() {
        for http in ["http", "HTTP", "kubernetes.io/h2c", "kubernetes.io/ws", "grpc", "h2c"] {
            assert_eq!(spoken(http), Protocol::Http, "{http}");
        }
        for tcp in ["tcp", "tls", "https", "kubernetes.io/wss", "mysql", "postgresql", "redis", "mongo"] {
            assert_eq!(spoken(tcp), Protocol::Tcp, "{tcp}");
        }
        for unknown in ["", "example.com/own", "http/1", "kubernetes.io/unknown"] {
            assert_eq!(spoken(unknown), Protocol::Detect, "{unknown}");
        }
    }
}
