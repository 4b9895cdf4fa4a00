//! What a requester adds to a request gets nowhere.

use crate::{assert_error, assert_signed, membrane, recorded, shared};
use harness::origin::RECORDER;
use std::collections::BTreeSet;

#[test]
fn only_allowed_headers_reach_the_origin() {
    let gateway = shared();
    let membrane = membrane("requesters/headers");
    let target = "/requesters/headers";
    let capability = gateway.export(&membrane, &recorded(gateway, Some("POST"), target)).unwrap();
    let answer = gateway
        .request(&capability, "POST", "/?Action=DeleteEverything&X-Amz-Signature=x")
        .host("evil.example")
        .header("Cookie", "session=1")
        .header("X-Membrane-Route", "control")
        .header("X-Forwarded-For", "10.0.0.1")
        .header("X-Forwarded-Host", "evil.example")
        .header("Forwarded", "for=10.0.0.1")
        .header("X-Envoy-Upstream-Rq-Timeout-Ms", "1")
        .header("X-Envoy-Retry-On", "5xx")
        .header("X-Http-Method-Override", "DELETE")
        .header("X-Amz-Date", "20200101T000000Z")
        .header("X-Amz-Security-Token", "junk")
        .header("X-Amz-User-Agent", "sdk")
        .header("Amz-Sdk-Request", "attempt=1")
        .header("X-Custom", "1")
        .header("Connection", "keep-alive, x-named")
        .header("X-Named", "1")
        .header("Te", "trailers")
        .header("Content-Type", "application/json")
        .header("Accept", "application/json")
        .body("{}")
        .send()
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = gateway.origin().only(target).unwrap();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", target),
        "the query is the grant's"
    );
    assert_eq!(request.one("host").unwrap(), RECORDER);
    assert_eq!(request.body, b"{}");
    let allowed: BTreeSet<&str> =
        ["host", "authorization", "x-amz-date", "content-length", "content-type", "accept", "x-request-id"]
            .into();
    for (name, _) in &request.headers {
        assert!(allowed.contains(name.to_ascii_lowercase().as_str()), "{name} reached the origin");
    }
    assert_signed(gateway, target);
}

/// Single headers are changed where that can be, and all are set where there are many or one stands twice: nothing is left over either way.
#[test]
fn however_many_headers_come_and_however_often() {
    let gateway = shared();
    let membrane = membrane("requesters/many");
    for (name, many, twice, body) in [
        ("few", 20, false, false),
        ("few-held", 20, false, true),
        ("twice", 20, true, false),
        ("twice-held", 20, true, true),
        ("many", 85, false, false),
        ("many-held", 85, false, true),
    ] {
        let target = format!("/requesters/many/{name}");
        let method = if body { "POST" } else { "GET" };
        let capability = gateway.export(&membrane, &recorded(gateway, Some(method), &target)).unwrap();
        let mut request = gateway.request(&capability, method, "/").header("Accept-Language", "de");
        if twice {
            request = request.header("Accept-Language", "en");
        }
        for number in 0..many {
            // Some of them twice: of what does not leave, nothing may be left.
            request = request.header(&format!("X-Evil-{}", number / 2), "1");
        }
        let request = if body { request.body("{}") } else { request };
        let answer = request.send().unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let request = gateway.origin().only(&target).unwrap();
        let languages = request.all("accept-language").join(",").replace(' ', "");
        assert_eq!(languages, if twice { "de,en" } else { "de" }, "{name}");
        assert!(!String::from_utf8_lossy(&request.head).to_ascii_lowercase().contains("evil"), "{name}");
        assert_signed(gateway, &target);
    }
}

#[test]
fn headers_that_change_what_aws_does_are_refused_by_name() {
    let gateway = shared();
    let membrane = membrane("requesters/amz");
    let target = "/requesters/amz";
    let capability = gateway.export(&membrane, &recorded(gateway, Some("PUT"), target)).unwrap();
    for name in [
        "x-amz-copy-source",
        "x-amz-acl",
        "x-amz-grant-read",
        "x-amz-tagging",
        "x-amz-target",
        "x-amz-invocation-type",
        "x-amz-server-side-encryption-customer-key",
    ] {
        let answer = gateway
            .request(&capability, "PUT", "/")
            .header(name, "other-bucket/key")
            .body("x")
            .send()
            .unwrap();
        assert_error(&answer, 400, name);
    }
    assert!(gateway.origin().requests(target).is_empty());
}

#[test]
fn the_routing_header_of_a_requester_opens_nothing() {
    let gateway = shared();
    let before = gateway.origin().requests("/").len();
    for (host, route) in [(RECORDER, "https"), (RECORDER, "http"), ("membrane.registry", "control")] {
        for path in ["/", "/v1/events", "/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let request = gateway.client.request("GET", path).host(host).header("x-membrane-route", route);
            assert_error(&request.send().unwrap(), 401, "");
        }
    }
    // A holder of a control cannot reach the lookups either.
    let membrane = membrane("requesters/route");
    for path in ["/v1/events", "/v1/records/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let asked = gateway
            .request(&membrane.export, "GET", path)
            .host("membrane.registry")
            .header("x-membrane-route", "control");
        let answer = asked.send().unwrap();
        assert!(matches!(answer.status, 404 | 405), "{path}: {} {}", answer.status, answer.text());
        assert!(!answer.text().contains("as_of") && !answer.text().contains("slot_key"));
    }
    // Others use the origin meanwhile, but not for these.
    let foreign = gateway.origin().requests("/v1/").len();
    assert!(before <= gateway.origin().requests("/").len() && foreign == 0);
}

#[test]
fn a_path_of_the_requesters_own_is_refused() {
    let gateway = shared();
    let membrane = membrane("requesters/path");
    let target = "/requesters/path";
    let capability = gateway.export(&membrane, &recorded(gateway, None, target)).unwrap();
    for path in ["/x", "//", "/.", "/..", "/x/..", "/%2e", "/;a", "/requesters/path"] {
        assert_error(&gateway.request(&capability, "GET", path).send().unwrap(), 404, "");
    }
    for path in ["/%2f", "/%5c"] {
        let status = gateway.request(&capability, "GET", path).send().unwrap().status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    assert!(gateway.origin().requests(target).is_empty());
    assert_eq!(gateway.request(&capability, "GET", "/").send().unwrap().status, 200, "the control");
}

#[test]
fn head_and_a_pinned_method_do_not_mix() {
    let gateway = shared();
    let membrane = membrane("requesters/head");
    let get = gateway.export(&membrane, &recorded(gateway, Some("GET"), "/requesters/pinned-get")).unwrap();
    let head =
        gateway.export(&membrane, &recorded(gateway, Some("HEAD"), "/requesters/pinned-head")).unwrap();
    let open = gateway.export(&membrane, &recorded(gateway, None, "/requesters/open")).unwrap();
    let ask = |capability: &str, method: &str| gateway.request(capability, method, "/").send().unwrap();
    assert_eq!(ask(&get, "HEAD").status, 405);
    assert_error(&ask(&head, "GET"), 405, "HEAD");
    assert!(gateway.origin().requests("/requesters/pinned").is_empty());
    // The controls: what fits is served, and any other method gives way to the pinned one.
    assert_eq!(
        (ask(&head, "HEAD").status, ask(&open, "HEAD").status, ask(&get, "POST").status),
        (200, 200, 200)
    );
    assert_eq!(gateway.origin().only("/requesters/pinned-get").unwrap().method, "GET");
    assert_signed(gateway, "/requesters/pinned-get");

    // On one connection: nothing of a refused HEAD's answer is left for the next request to read.
    let mut connection = gateway.client.connect().unwrap();
    connection.write(&gateway.request(&get, "HEAD", "/").bytes()).unwrap();
    assert_eq!(connection.read(true).unwrap().status, 405);
    connection.write(&gateway.request(&get, "GET", "/").bytes()).unwrap();
    let after = connection.read(false).unwrap();
    assert_eq!((after.status, after.text().as_str()), (200, harness::origin::ANSWER));
}

#[test]
fn edge_settings_refuse_what_is_ambiguous() {
    let gateway = shared();
    let membrane = membrane("requesters/edge");
    let target = "/requesters/edge";
    let capability = gateway.export(&membrane, &recorded(gateway, None, target)).unwrap();
    let underscore = gateway.request(&capability, "GET", "/").header("x_amz_acl", "public-read");
    assert_eq!(underscore.send().unwrap().status, 400);
    let both =
        gateway.request(&capability, "POST", "/").header("Transfer-Encoding", "chunked").body("0\r\n\r\n");
    assert_eq!(both.send().unwrap().status, 400, "content-length and transfer-encoding");
    let upgrade = gateway
        .request(&capability, "GET", "/")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    assert!(upgrade.send().unwrap().status >= 400);
    let mut trace = gateway.request(&capability, "TRACE", "/").send().unwrap();
    assert!(trace.status >= 400, "{}", trace.status);
    trace = gateway
        .client
        .raw(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", false)
        .unwrap();
    assert!(trace.status >= 400, "{}", trace.status);
    assert!(gateway.origin().requests(target).is_empty());
}
