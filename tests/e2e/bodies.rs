//! Bodies arrive intact and correctly signed, whatever is known about the capability when they come.

use crate::{assert_error, assert_signed, membrane, own, recorded, shared, warm};
use harness::gateway::Gateway;
use harness::origin::Recorded;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// The sizes at which something changes: nothing, the least, a whole number of 64 KiB slices, the default `max_body`.
const SIZES: [usize; 4] = [0, 1, 65_536, 1_000_000];

/// Bytes without a pattern that a shifted or doubled slice would keep.
fn bytes(length: usize) -> Vec<u8> {
    let blocks = (0u64..).flat_map(|block| Sha256::digest(block.to_be_bytes()));
    blocks.take(length).collect()
}

fn last(gateway: &Gateway, target: &str) -> Recorded {
    gateway.origin().requests(target).pop().expect("a request at the origin")
}

/// The body in chunks of uneven sizes, without a content-length.
fn chunked(gateway: &Gateway, capability: &str, body: &[u8], pause: Duration) -> harness::http::Response {
    let token = capability.rsplit('#').next().unwrap();
    let port = gateway.ports.gateway.number();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut connection = gateway.client.connect().unwrap();
    connection.write(head.as_bytes()).unwrap();
    let mut rest = body;
    for size in [1, 7, 4_096, 16_385, 70_001].iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(rest.len().min(*size));
        connection.write(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).unwrap();
        rest = after;
        std::thread::sleep(pause);
    }
    connection.write(b"0\r\n\r\n").unwrap();
    connection.read(false).unwrap()
}

#[test]
fn with_a_warm_cache() {
    let gateway = own("warm");
    let membrane = gateway.create_membrane("warm").unwrap();
    let capability = gateway.export(&membrane, &recorded(&gateway, Some("POST"), "/bodies/warm")).unwrap();
    warm(&gateway, &capability, "POST");
    for size in SIZES {
        let body = bytes(size);
        let answer = gateway.request(&capability, "POST", "/").body(body.clone()).send().unwrap();
        assert_eq!(answer.status, 200, "{size} bytes: {}", answer.text());
        assert!(last(&gateway, "/bodies/warm").body == body, "{size} bytes arrived changed");
        assert_eq!(
            chunked(&gateway, &capability, &body, Duration::ZERO).status,
            200,
            "{size} bytes in chunks"
        );
        assert!(last(&gateway, "/bodies/warm").body == body, "{size} bytes in chunks arrived changed");
    }
    assert_signed(&gateway, "/bodies/warm");
    gateway.stop().unwrap();
}

#[test]
fn during_a_cold_lookup_of_300_ms() {
    const DELAY: Duration = Duration::from_millis(300);
    let gateway = own("cold");
    let membrane = gateway.create_membrane("cold").unwrap();
    // The connection to the registry is made, so that the delay is the lookup's own.
    let first = gateway.export(&membrane, &recorded(&gateway, Some("POST"), "/bodies/first")).unwrap();
    for _ in 0..8 {
        assert_eq!(gateway.request(&first, "POST", "/").send().unwrap().status, 200);
    }
    for size in SIZES {
        for framing in ["length", "chunks", "trickle"] {
            let target = format!("/bodies/cold/{framing}/{size}/");
            let capability = gateway.export(&membrane, &recorded(&gateway, Some("POST"), &target)).unwrap();
            let body = bytes(size);
            gateway.registry_link().delay(DELAY);
            let start = Instant::now();
            let answer = match framing {
                "length" => gateway.request(&capability, "POST", "/").body(body.clone()).send().unwrap(),
                "chunks" => chunked(&gateway, &capability, &body, Duration::ZERO),
                _ => chunked(&gateway, &capability, &body, Duration::from_millis(10)),
            };
            let took = start.elapsed();
            gateway.registry_link().delay(Duration::ZERO);
            assert_eq!(answer.status, 200, "{size} bytes, {framing}: {}", answer.text());
            assert!(took >= DELAY, "the lookup was not slow: {took:?}");
            assert!(
                gateway.origin().only(&target).unwrap().body == body,
                "{size} bytes, {framing}: arrived changed"
            );
        }
    }
    assert_signed(&gateway, "/bodies/cold/");
    gateway.stop().unwrap();
}

#[test]
fn requests_that_wait_for_the_same_lookup_are_all_answered() {
    let gateway = own("together");
    let membrane = gateway.create_membrane("together").unwrap();
    let capability =
        gateway.export(&membrane, &recorded(&gateway, Some("POST"), "/bodies/together")).unwrap();
    gateway.registry_link().delay(Duration::from_millis(300));
    std::thread::scope(|scope| {
        for number in 0..24 {
            let (gateway, capability) = (&gateway, &capability);
            scope.spawn(move || {
                let body = bytes(number * 1_000);
                let answer = gateway.request(capability, "POST", "/").body(body).send().unwrap();
                assert_eq!(answer.status, 200, "request {number}: {}", answer.text());
            });
        }
    });
    let mut sizes: Vec<_> =
        gateway.origin().requests("/bodies/together").iter().map(|request| request.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (0..24).map(|number| number * 1_000).collect::<Vec<_>>());
    assert_signed(&gateway, "/bodies/together");
    gateway.stop().unwrap();
}

#[test]
fn a_body_past_max_body_is_413_in_our_words() {
    let gateway = shared();
    let membrane = membrane("bodies/large");
    for (framing, known) in [("length", true), ("chunks", true), ("length", false), ("chunks", false)] {
        let target = format!("/bodies/large/{framing}/{known}/");
        let capability = gateway.export(&membrane, &recorded(gateway, Some("POST"), &target)).unwrap();
        let before = if known { warm(gateway, &capability, "POST") } else { 0 };
        let body = bytes(1_000_001);
        let answer = match framing {
            "length" => gateway.request(&capability, "POST", "/").body(body).send().unwrap(),
            _ => chunked(gateway, &capability, &body, Duration::ZERO),
        };
        assert_error(&answer, 413, "max_body");
        assert_eq!(gateway.origin().requests(&target).len(), before, "nothing of it may reach the origin");
    }
}
