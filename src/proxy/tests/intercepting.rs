//! Traffic that nftables leads to the proxy: a pod's network namespace, real rules, real connections.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fusebox_policy::config::{OutboundRoute, ServiceId};

use super::intercepting_support::{
    ADMIN, Sidecar, breaks, echo, get, hear, inbound, is_broken, metric, nothing, outbound, page, redirect, said, serve,
};
use super::namespaces::{Cable, End, POD, PROXY_UID, SERVICES, WORLD, become_proxy, until};
use super::support::DEADLINE;
use super::support_http2::{Http2Client, Http2Upstream};
use crate::{Drained, Proxy};

#[test]
fn a_call_to_a_services_address_meets_its_policy_and_leaves_as_the_proxys_user() {
    let Some(cable) = Cable::lay() else { return };
    let upstream = serve(cable.listen(End::World, &format!("{}:80", SERVICES[0])));
    let sidecar = Sidecar::start(&cable, &outbound());
    println!("start to ready: {:?}", sidecar.took);
    assert!(sidecar.took < Duration::from_secs(1), "{:?}", sidecar.took);
    let mut client = cable.connect(End::Pod, &format!("{}:80", SERVICES[0]));
    assert!(get(&mut client, "/", "anything").starts_with("HTTP/1.1 200"));
    let asked = said(&upstream);
    assert!(asked.head.contains("fusebox-out-"), "{}", asked.head);
    assert_eq!(cable.owner(asked.peer), Some(PROXY_UID), "the connection is the proxy's");
    assert_eq!(cable.owner(client.local_addr().unwrap()), Some(0), "the client's own is not");
    for _ in 0..3 {
        assert!(get(&mut client, "/status/503", "anything").starts_with("HTTP/1.1 503 Told"));
    }
    let refused = get(&mut client, "/", "anything");
    assert!(refused.contains("fusebox-policy: shop/pay; state=open"), "{refused}");
    let state = sidecar.run(Proxy::state);
    let kinds: Vec<_> = state.listeners.iter().map(|one| (one.kind, one.address.to_string())).collect();
    for (kind, address) in [
        ("transparent-inbound", "0.0.0.0:15006"),
        ("transparent-inbound", "[::]:15006"),
        ("transparent-outbound", "127.0.0.1:15001"),
        ("transparent-outbound", "[::1]:15001"),
    ] {
        assert!(kinds.contains(&(kind, address.to_owned())), "{kinds:?}");
    }
}

#[test]
fn ipv6_goes_the_same_way() {
    let Some(cable) = Cable::lay() else { return };
    let address = format!("[{}]:80", SERVICES[1]);
    let upstream = serve(cable.listen(End::World, &address));
    let _sidecar = Sidecar::start(&cable, &outbound());
    let mut client = cable.connect(End::Pod, &address);
    assert!(get(&mut client, "/", "a").starts_with("HTTP/1.1 200"));
    let asked = said(&upstream);
    assert!(asked.head.contains("fusebox-out-"), "{}", asked.head);
    assert_eq!(cable.owner(asked.peer), Some(PROXY_UID));

    let app = serve(cable.listen(End::Pod, &format!("[{}]:9000", POD[1])));
    let mut client = cable.connect(End::World, &format!("[{}]:9000", POD[1]));
    assert!(get(&mut client, "/", "a").starts_with("HTTP/1.1 200"));
    let asked = said(&app);
    assert_eq!(asked.local.to_string(), format!("[{}]:9000", POD[1]), "the original destination");
    assert_eq!(cable.owner(asked.peer), Some(PROXY_UID));
    assert!(!asked.head.contains("via"), "without a policy it is passed on untouched: {}", asked.head);
}

#[test]
fn what_has_no_policy_is_passed_on_at_once_and_untouched() {
    let Some(cable) = Cable::lay() else { return };
    let address = format!("{}:2525", SERVICES[2]);
    let mail = echo(cable.listen(End::World, &address), b"220 mail ready\r\n");
    let _sidecar = Sidecar::start(&cable, &outbound());
    let started = Instant::now();
    let mut client = cable.connect(End::Pod, &address);
    hear(&mut client, b"220 mail ready\r\n");
    let took = started.elapsed();
    println!("a server that speaks first was heard after {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}: nobody waited for the client to speak");
    client.write_all(b"GET / HTTP/1.1\r\nHOST:  a \r\n\r\n").unwrap();
    hear(&mut client, b"GET / HTTP/1.1\r\nHOST:  a \r\n\r\n");
    assert_eq!(cable.owner(said(&mail).peer), Some(PROXY_UID));
    drop(client);
    until("the connection is counted", || {
        metric(&cable, "fusebox_tcp_connections_total", r#"target="",side="client",port="0""#).as_deref() == Some("1")
    });
    let received = metric(&cable, "fusebox_tcp_bytes_total", r#"port="0",rule="",direction="received""#);
    assert_eq!(received.as_deref(), Some("29"));
}

#[test]
fn dns_excluded_ports_and_the_proxys_user_are_left_alone() {
    let Some(cable) = Cable::lay() else { return };
    let _sidecar = Sidecar::start(&cable, &outbound());
    for port in [53, 5432] {
        let address = format!("{}:{port}", SERVICES[2]);
        let server = echo(cable.listen(End::World, &address), b"");
        let client = cable.connect(End::Pod, &address);
        let asked = said(&server);
        assert_eq!(asked.peer, client.local_addr().unwrap(), "port {port}: nobody is between them");
        assert_eq!(cable.owner(asked.peer), Some(0), "port {port}");
    }
    let address = format!("{}:80", SERVICES[2]);
    let server = echo(cable.listen(End::World, &address), b"");
    let own = cable.within(End::Pod, || {
        become_proxy();
        TcpStream::connect(&address).unwrap()
    });
    assert_eq!(said(&server).peer, own.local_addr().unwrap(), "the proxy's user is not led in circles");
    let ssh = echo(cable.listen(End::Pod, &format!("{}:22", POD[0])), b"");
    let client = cable.connect(End::World, &format!("{}:22", POD[0]));
    assert_eq!(said(&ssh).peer, client.local_addr().unwrap(), "excluded on the way in");
    let local = echo(cable.listen(End::Pod, "127.0.0.1:7000"), b"");
    let client = cable.connect(End::Pod, "127.0.0.1:7000");
    assert_eq!(said(&local).peer, client.local_addr().unwrap(), "loopback never leaves the pod");
    let own = echo(cable.listen(End::Pod, &format!("{}:7001", POD[0])), b"");
    let client = cable.connect(End::Pod, &format!("{}:7001", POD[0]));
    assert_eq!(said(&own).peer, client.local_addr().unwrap(), "nor do calls to the pod's own address");
}

#[test]
fn traffic_into_the_pod_meets_its_policy_and_reaches_the_address_that_was_called() {
    let Some(cable) = Cable::lay() else { return };
    let app = serve(cable.listen(End::Pod, "0.0.0.0:8080"));
    let _sidecar = Sidecar::start(&cable, &inbound());
    let address = format!("{}:8080", POD[0]);
    let mut client = cable.connect(End::World, &address);
    assert!(get(&mut client, "/", "a").starts_with("HTTP/1.1 200"));
    let asked = said(&app);
    assert_eq!(asked.local.to_string(), address);
    assert!(asked.head.contains("fusebox-in-"), "{}", asked.head);
    assert!(asked.head.contains(&format!("x-forwarded-for: {}", WORLD[0])), "{}", asked.head);
    assert_eq!(cable.owner(asked.peer), Some(PROXY_UID));
    for _ in 0..3 {
        get(&mut client, "/status/503", "a");
    }
    let refused = get(&mut client, "/", "a");
    assert!(refused.contains("fusebox-policy: shop/pay; state=open"), "{refused}");
    let other = cable.connect(End::World, &address);
    drop(other);
    let (status, _) = page(&cable, End::World, &format!("{}:15020", POD[0]), "/health/ready");
    assert_eq!(status, "HTTP/1.1 200 OK", "the admin port is reached directly");
    let (status, _) = page(&cable, End::World, &format!("{}:15020", POD[0]), "/state");
    assert_eq!(status, "HTTP/1.1 403 Forbidden", "state is for the pod itself");
    let (status, _) = page(&cable, End::Pod, ADMIN, "/state");
    assert_eq!(status, "HTTP/1.1 200 OK");
}

#[test]
fn who_calls_a_transparent_listener_itself_is_refused_and_goes_in_no_circle() {
    let Some(cable) = Cable::lay() else { return };
    let sidecar = Sidecar::start(&cable, &outbound());
    for (from, address) in [
        (End::Pod, "127.0.0.1:15001".to_owned()),
        (End::Pod, "[::1]:15001".to_owned()),
        (End::Pod, format!("{}:15006", POD[0])),
        (End::World, format!("{}:15006", POD[0])),
        (End::World, format!("[{}]:15006", POD[1])),
    ] {
        assert!(breaks(&cable, from, &address), "{address}");
    }
    let refused = metric(&cable, "fusebox_connections_refused_total", r#"reason="not-redirected""#);
    assert_eq!(refused.as_deref(), Some("5"));
    assert_eq!(metric(&cable, "fusebox_tcp_connections_total", "").as_deref(), None, "none was passed on");
    assert_eq!(sidecar.drain().0, Drained::Complete);
}

#[test]
fn a_destination_that_refuses_is_a_broken_connection_to_the_client_too() {
    let Some(cable) = Cable::lay() else { return };
    let _sidecar = Sidecar::start(&cable, &outbound());
    assert!(breaks(&cable, End::Pod, &format!("{}:81", SERVICES[0])));
    let resetting = cable.listen(End::World, &format!("{}:82", SERVICES[0]));
    let mut client = cable.connect(End::Pod, &format!("{}:82", SERVICES[0]));
    let (server, _) = resetting.accept().unwrap();
    client.write_all(b"unread").unwrap();
    until("the bytes are there", || server.peek(&mut [0; 6]).is_ok_and(|length| length == 6));
    // Closed over unread bytes, which is a reset.
    drop(server);
    assert!(is_broken(&mut client), "a reset is passed on");
}

#[test]
fn a_policy_that_comes_later_takes_the_next_request_of_a_connection_that_stands() {
    let Some(cable) = Cable::lay() else { return };
    let upstream = serve(cable.listen(End::World, &format!("{}:80", SERVICES[0])));
    let sidecar = Sidecar::start(&cable, &nothing());
    let mut client = cable.connect(End::Pod, &format!("{}:80", SERVICES[0]));
    get(&mut client, "/", "a");
    assert!(!said(&upstream).head.contains("fusebox-out-"));
    sidecar.run(|proxy| proxy.apply(&outbound()).map(|_| ())).unwrap();
    for _ in 0..3 {
        assert!(get(&mut client, "/status/503", "a").starts_with("HTTP/1.1 503"));
        assert!(said(&upstream).head.contains("fusebox-out-"), "the request was read");
    }
    let refused = get(&mut client, "/", "a");
    assert!(refused.contains("fusebox-policy: shop/pay; state=open"), "{refused}");
    sidecar.run(|proxy| proxy.apply(&nothing()).map(|_| ())).unwrap();
    assert!(get(&mut client, "/", "a").starts_with("HTTP/1.1 200"), "without the policy it goes where it was going");
}

#[test]
fn an_external_name_is_known_by_the_host_header_and_reached_where_the_client_found_it() {
    let Some(cable) = Cable::lay() else { return };
    let upstream = serve(cable.listen(End::World, &format!("{}:8088", SERVICES[2])));
    let mut config = outbound();
    let mut external: OutboundRoute = config.outbound[0].clone();
    external.service = ServiceId { namespace: "shop".into(), name: "rates".into() };
    external.port = 8088;
    external.addresses = vec!["api.example.com:8088".into()];
    external.circuit_breaker.as_mut().unwrap().target.name = "rates".into();
    config.outbound.push(external);
    let _sidecar = Sidecar::start(&cable, &config);
    let address = format!("{}:8088", SERVICES[2]);
    for host in ["API.example.com:8088", "api.example.com", "rates", "rates.shop.svc.cluster.local:8088"] {
        let mut client = cable.connect(End::Pod, &address);
        get(&mut client, "/", host);
        said(&upstream);
        let counted = metric(&cable, "fusebox_requests_total", r#"target="rates""#);
        assert!(counted.is_some(), "{host} names the Service");
    }
    let counted = || metric(&cable, "fusebox_requests_total", r#"target="rates""#).unwrap();
    let before = counted();
    let mut client = cable.connect(End::Pod, &address);
    for host in ["other.example.com", "api.example.com:80", "rates.other"] {
        assert!(get(&mut client, "/", host).starts_with("HTTP/1.1 200"), "{host}");
        said(&upstream);
    }
    assert_eq!((before.as_str(), counted()), ("4", "4".to_owned()), "another name is another's");
    let taken = format!("{}:8088", SERVICES[0]);
    let other = serve(cable.listen(End::World, &taken));
    get(&mut cable.connect(End::Pod, &taken), "/", "api.example.com");
    assert!(!said(&other).head.contains("fusebox-out-"), "an address of another Service is that Service's");
}

#[test]
fn an_http2_client_is_told_to_connect_anew_when_a_policy_comes_and_loses_nothing() {
    let Some(cable) = Cable::lay() else { return };
    let address = format!("{}:80", SERVICES[0]);
    let listener = cable.listen(End::World, &address);
    listener.set_nonblocking(true).unwrap();
    let sidecar = Sidecar::start(&cable, &nothing());
    let connect = || {
        let stream = cable.connect(End::Pod, &address);
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let upstream = Http2Upstream::on(tokio::net::TcpListener::from_std(listener).unwrap(), 100);
        let client = Http2Client::over(tokio::net::TcpStream::from_std(connect()).unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
        let answering = client.try_open("/stall").await.unwrap();
        sidecar.run(|proxy| proxy.apply(&outbound()).map(|_| ())).unwrap();
        // hyper's client looks at what it was told when it is to send the next request.
        let mut answered = 2;
        let told = async {
            while client.try_get("/").await.is_ok() {
                answered += 1;
            }
        };
        tokio::time::timeout(DEADLINE, told).await.unwrap();
        assert_eq!(upstream.requests(), answered, "what it did not take up was not sent either");
        assert_eq!(answering.status(), 200, "what is under way is not cut off");
        assert_eq!(upstream.aborted(), 0);
        let client = Http2Client::over(tokio::net::TcpStream::from_std(connect()).unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
    });
    let counted = metric(&cable, "fusebox_requests_total", r#"target="payments""#);
    assert_eq!(counted.as_deref(), Some("1"), "the next connection met the policy");
}

#[test]
fn draining_waits_for_nobody_whose_application_has_ended() {
    let Some(cable) = Cable::lay() else { return };
    let held = cable.listen(End::World, &format!("{}:3306", SERVICES[2]));
    let upstream = serve(cable.listen(End::World, &format!("{}:80", SERVICES[0])));
    let sidecar = Sidecar::start(&cable, &outbound());
    let database = cable.connect(End::Pod, &format!("{}:3306", SERVICES[2]));
    // A server that does not close when its client does.
    let (_server, _) = held.accept().unwrap();
    let mut client = cable.connect(End::Pod, &format!("{}:80", SERVICES[0]));
    get(&mut client, "/", "a");
    said(&upstream);
    drop((database, client));
    let (drained, took) = sidecar.drain();
    println!("drained in {took:?}");
    assert_eq!(drained, Drained::Complete);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn the_rules_are_those_that_are_printed_and_come_back_the_same_however_often_they_are_installed() {
    let Some(cable) = Cable::lay() else { return };
    let list = |name: &str| {
        let output = std::process::Command::new("ip").args(["netns", "exec", name, "nft", "list", "ruleset"]).output();
        output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let Some(empty) = list(&cable.of(End::Pod)) else {
        eprintln!("NOT RUN: there is no nft to list rules with");
        return;
    };
    assert_eq!(empty, "");
    for _ in 0..3 {
        cable.within(End::Pod, || redirect().install().unwrap());
    }
    let installed = list(&cable.of(End::Pod)).unwrap();
    let printed = redirect().table().unwrap().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &printed).unwrap();
    let world = cable.of(End::World);
    let loaded = std::process::Command::new("ip")
        .args(["netns", "exec", &world, "nft", "-f", &file.path().display().to_string()])
        .status()
        .unwrap();
    assert!(loaded.success(), "nft reads what is printed: {printed}");
    assert_eq!(installed, list(&world).unwrap());
}

#[test]
fn without_net_admin_it_is_said_what_is_missing() {
    let Some(cable) = Cable::lay() else { return };
    let error = cable.within(End::Pod, || {
        become_proxy();
        redirect().install().unwrap_err()
    });
    assert_eq!(error.reason(), "NotPermitted");
    assert!(error.to_string().contains("capabilities: {add: [NET_ADMIN]}"), "{error}");
}
