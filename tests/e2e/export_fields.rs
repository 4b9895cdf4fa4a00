//! Every field of an export does what it says, as seen at the origin.

use crate::{
    TICKS, assert_error, assert_signed, eventually, folder, membrane, options, recorded, shared, warm,
};
use harness::gateway::{Gateway, Membrane};
use harness::http::Response;
use harness::origin::{ANSWER, RECORDER};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

fn exported(membrane: &Membrane, target: &str, fields: &[(&str, Value)]) -> String {
    let mut what = recorded(shared(), None, target);
    for (name, value) in fields {
        what[name] = value.clone();
    }
    shared().export(membrane, &what).unwrap()
}

fn ask(capability: &str, method: &str, target: &str) -> Response {
    shared().request(capability, method, target).send().unwrap()
}

/// Seconds since 1970 as RFC 3339, by the system's own `date`.
fn rfc_3339(seconds: u64, format: &str) -> String {
    let output = Command::new("date").args(["-u", "-d", &format!("@{seconds}"), format]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[test]
fn pinned_headers_override_the_requesters() {
    let membrane = membrane("fields/headers");
    let target = "/fields/headers";
    let pinned = json!({
        "Content-Type": "application/x-amz-json-1.0", "X-Api-Key": "pinned", "Accept": " trimmed ", "user-agent": "grant",
        "X-Amz-Target": "Service.Operation", "x-empty": "",
        // Hop-by-hop names are ignored.
        "Connection": "close", "Keep-Alive": "1", "TE": "trailers", "Transfer-Encoding": "chunked", "Upgrade": "h2c",
        "Proxy-Authorization": "x", "Trailer": "x",
    });
    let capability = exported(&membrane, target, &[("headers", pinned), ("method", json!("POST"))]);
    let answer = shared()
        .request(&capability, "PUT", "/")
        .header("Content-Type", "text/plain")
        .header("X-Api-Key", "requester")
        .header("Accept", "requester/*")
        .header("User-Agent", "requester")
        .header("X-Empty", "requester")
        .header("X-Amz-Target", "Service.Other")
        .header("Accept-Language", "de")
        .body("{}")
        .send()
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = shared().origin().only(target).unwrap();
    assert_eq!(request.method, "POST", "the pinned method too");
    for (name, value) in [
        ("content-type", "application/x-amz-json-1.0"),
        ("x-api-key", "pinned"),
        ("accept", "trimmed"),
        ("user-agent", "grant"),
        ("x-empty", ""),
        ("x-amz-target", "Service.Operation"),
        ("accept-language", "de"),
        ("content-length", "2"),
    ] {
        assert_eq!(request.one(name).unwrap(), value, "{name}");
    }
    for name in
        ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "proxy-authorization", "trailer"]
    {
        assert!(request.all(name).is_empty(), "{name}");
    }
    assert!(!String::from_utf8_lossy(&request.head).contains("requester"));
    assert_signed(shared(), target);
}

#[test]
fn allow_headers_lets_named_headers_through() {
    let membrane = membrane("fields/allow");
    let target = "/fields/allow-headers";
    let names = json!(["X-Amz-Invocation-Type", "x-custom"]);
    let capability = exported(&membrane, target, &[("allowHeaders", names)]);
    let answer = shared()
        .request(&capability, "POST", "/")
        .header("X-AMZ-Invocation-Type", "Event")
        .header("X-Custom", "1")
        .header("X-Custom", "2")
        .header("X-Other", "3")
        .body("{}")
        .send()
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = shared().origin().only(target).unwrap();
    assert_eq!(request.one("x-amz-invocation-type").unwrap(), "Event");
    assert_eq!(request.all("x-custom").join(", ").replace(',', ", ").replace("  ", " "), "1, 2");
    assert!(request.all("x-other").is_empty());
    let signed = request.one("authorization").unwrap();
    assert!(signed.contains("x-amz-invocation-type"), "what AWS acts on is signed");
    assert_signed(shared(), target);
    // Not beyond what is named.
    let refused = shared().request(&capability, "POST", "/").header("X-Amz-Acl", "public-read").send();
    assert_error(&refused.unwrap(), 400, "x-amz-acl");
    for name in ["authorization", "cookie", "host", "x-amz-date", "x-amz-security-token", "x-envoy-retry-on"]
    {
        let mut what = recorded(shared(), None, target);
        what["allowHeaders"] = json!([name]);
        assert_error(&shared().try_export(&membrane, &what).unwrap(), 400, "allowHeaders");
    }
}

#[test]
fn the_requesters_query_goes_as_far_as_it_is_allowed() {
    let membrane = membrane("fields/query");
    let closed = exported(&membrane, "/fields/query/closed?own=1", &[]);
    let explicit = exported(&membrane, "/fields/query/false?own=1", &[("allowQuery", json!(false))]);
    let open = exported(&membrane, "/fields/query/open?own=1", &[("allowQuery", json!(true))]);
    let bare = exported(&membrane, "/fields/query/bare", &[("allowQuery", json!(true))]);
    let named =
        exported(&membrane, "/fields/query/named", &[("allowQueryNames", json!(["acl", "versionId"]))]);
    let came = |part: &str| shared().origin().only(part).unwrap().target;
    for (capability, query, target) in [
        (&closed, "/?a=1", "/fields/query/closed?own=1"),
        (&explicit, "/?a=1", "/fields/query/false?own=1"),
        (&open, "/?z=%2F&b=2", "/fields/query/open?own=1&"),
        (&bare, "/?b=1&a=%20", "/fields/query/bare?"),
        (&named, "/?acl&versionId=3", "/fields/query/named?"),
    ] {
        let answer = ask(capability, "GET", query);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert!(came(target).starts_with(target), "{}", came(target));
    }
    // Whatever order the signature asks for, each parameter comes once and with its value.
    let parameters = |part: &str| {
        let target = came(part);
        let query = target.split_once('?').unwrap().1;
        let mut all: Vec<String> =
            query.split('&').map(|pair| pair.trim_end_matches('=').to_owned()).collect();
        all.sort();
        all
    };
    assert_eq!(came("/query/closed"), "/fields/query/closed?own=1");
    assert_eq!(parameters("/query/open"), ["b=2", "own=1", "z=%2F"]);
    assert_eq!(parameters("/query/bare"), ["a=%20", "b=1"]);
    assert_eq!(parameters("/query/named"), ["acl", "versionId=3"]);
    // Refused rather than dropped, and never with what could replace the grant's own.
    for (capability, query, names) in [
        (&named, "/?policy", "allowQueryNames"),
        (&named, "/?acl&policy", "allowQueryNames"),
        (&open, "/?own=2", "own"),
        (&open, "/?%6fwn=2", "own"),
        (&open, "/?X-Amz-Signature=x", "X-Amz-"),
        (&open, "/?x-amz-expires=1", "X-Amz-"),
    ] {
        assert_error(&ask(capability, "GET", query), 400, names);
    }
    assert_signed(shared(), "/fields/query/");
}

#[test]
fn a_session_token_is_sent_and_signed() {
    let membrane = membrane("fields/session");
    let target = "/fields/session";
    let token = "session/token+with=every/kind+of==character";
    let mut what = recorded(shared(), None, target);
    what["hmac"]["aws4-hmac-sha256"]["sessionToken"] = token.into();
    let capability = shared().export(&membrane, &what).unwrap();
    let forged = shared().request(&capability, "POST", "/").header("X-Amz-Security-Token", "requester's");
    assert_eq!(forged.body("a body").send().unwrap().status, 200);
    let request = shared().origin().only(target).unwrap();
    assert_eq!(request.one("x-amz-security-token").unwrap(), token);
    let authorization = request.one("authorization").unwrap();
    let signed = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    assert!(signed.split(';').any(|name| name == "x-amz-security-token"), "{signed}");
    assert_signed(shared(), target);
}

#[test]
fn expires_at_ends_a_capability_and_what_is_made_of_it() {
    let membrane = membrane("fields/expiry");
    let end = now() + 4;
    let at = |seconds: u64| json!(rfc_3339(seconds, "+%Y-%m-%dT%H:%M:%SZ"));
    let short = exported(&membrane, "/fields/expiry/short", &[("expiresAt", at(end))]);
    // Fractions are rounded down; offsets are read.
    let offset = rfc_3339(end + 5_400, "+%Y-%m-%dT%H:%M:%S.9+01:30");
    let elsewhere = exported(&membrane, "/fields/expiry/offset", &[("expiresAt", json!(offset))]);
    let long = exported(&membrane, "/fields/expiry/long", &[("expiresAt", at(now() + 3_600))]);
    let re_export = |capability: &str, expires: Option<Value>| {
        let mut what = json!({ "capability": capability });
        if let Some(expires) = expires {
            what["expiresAt"] = expires;
        }
        shared().export(&membrane, &what).unwrap()
    };
    // The earlier of the two: never longer than its source, and shorter if so asked.
    let inherits = re_export(&short, None);
    let asks_longer = re_export(&short, Some(at(now() + 3_600)));
    let asks_shorter = re_export(&long, Some(at(end)));
    // What is made through a control that expires expires with it.
    let control = re_export(&membrane.export, Some(at(end)));
    let through = Membrane { export: control.clone(), revoke: String::new() };
    let made = shared().export(&through, &recorded(shared(), None, "/fields/expiry/made")).unwrap();
    let ending = [&short, &elsewhere, &inherits, &asks_longer, &asks_shorter, &made];
    for capability in ending {
        // On both workers, so that they know them when they expire.
        for _ in 0..6 {
            assert_eq!(ask(capability, "GET", "/").status, 200, "before its time ({} to go)", end - now());
        }
    }
    while now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let uniform = ask("CPBLTY1-x", "GET", "/");
    for capability in ending.into_iter().chain([&control]) {
        for _ in 0..6 {
            let answer = shared().request(capability, "POST", "/").body("{}").send().unwrap();
            assert_eq!((answer.status, &answer.body), (401, &uniform.body), "as unknown as any other");
        }
    }
    assert_eq!(ask(&long, "GET", "/").status, 200, "its source is not touched");
    // What is past already can be asked for, and is dead; a re-export of what has expired is refused.
    let past = exported(&membrane, "/fields/expiry/past", &[("expiresAt", json!("1999-12-31T23:59:59Z"))]);
    assert_eq!(ask(&past, "GET", "/").status, 401);
    let dead = shared().try_export(&membrane, &json!({ "capability": short })).unwrap();
    assert_error(&dead, 400, "capability");
    assert!(shared().origin().requests("/fields/expiry/past").is_empty());
}

#[test]
fn timeout_ms_bounds_the_answer() {
    let membrane = membrane("fields/timeout");
    let late = exported(&membrane, "/fields/late/1500/bounded", &[("timeoutMs", json!(200))]);
    let start = Instant::now();
    let answer = ask(&late, "GET", "/");
    assert_error(&answer, 504, "");
    assert!(start.elapsed() < Duration::from_millis(1_400), "{:?}", start.elapsed());
    // The controls: without it, and with one that is long enough, the same origin is waited for.
    for fields in [&[][..], &[("timeoutMs", json!(20_000))]] {
        let patient = exported(&membrane, "/fields/late/1500/patient", fields);
        // The requester's own say in it counts for nothing.
        let asked = shared().request(&patient, "GET", "/").header("X-Envoy-Upstream-Rq-Timeout-Ms", "10");
        let answer = asked.send().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
    }
    let request = shared().origin().requests("/late/1500/bounded").pop().unwrap();
    assert!(
        request.headers.iter().all(|(name, _)| !name.starts_with("x-envoy")),
        "it is Envoy's own business"
    );
}

/// A gateway whose `max_timeout` is 1 s: a grant's longer one is ignored, neither refused nor cut.
#[test]
fn a_timeout_above_the_gateways_is_ignored() {
    let gateway = Gateway::start_with(options(folder("max-timeout")), |yaml| {
        Ok(yaml.replace(r#""timeout": "2s" }"#, r#""timeout": "2s" }, "max_timeout": "1s""#))
    })
    .unwrap();
    let membrane = gateway.create_membrane("max-timeout").unwrap();
    let export = |path: &str, millis: u32| {
        let mut what = recorded(&gateway, None, path);
        what["timeoutMs"] = millis.into();
        gateway.export(&membrane, &what).unwrap()
    };
    let within = export("/fields/late/1500/within", 1_000);
    let above = export("/fields/late/1500/above", 1_001);
    assert_eq!(gateway.request(&within, "GET", "/").send().unwrap().status, 504, "its own is obeyed");
    let answer = gateway.request(&above, "GET", "/").send().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "it is ignored");
    gateway.stop().unwrap();
}

#[test]
fn every_method_can_be_pinned_and_a_uri_is_kept_byte_for_byte() {
    let membrane = membrane("fields/uri");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let target = format!("/fields/pinned/{method}");
        let capability = exported(&membrane, &target, &[("method", json!(method))]);
        for requesters in ["GET", "POST", "DELETE"] {
            assert_eq!(ask(&capability, requesters, "/").status, 200);
        }
        let came = shared().origin().requests(&target);
        assert!(came.len() == 3 && came.iter().all(|request| request.method == method), "{method}");
    }
    assert_signed(shared(), "/fields/pinned/");
    // Dots, doubled slashes and escapes are the target's own; without a signature nobody has a reason to touch them.
    for target in
        ["/fields/a/./b/../c//d", "/fields/%7Ea/%2e%2E/%2f", "/fields/q?x=1&x=1;y=%20+&&z", "/fields/e?"]
    {
        let what = json!({"uri": format!("https://{RECORDER}:443{target}")});
        let capability = shared().export(&membrane, &what).unwrap();
        let answer = ask(&capability, "GET", "/?dropped=1");
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let request = shared().origin().only(target).unwrap();
        assert_eq!((request.target.as_str(), request.one("host").unwrap().as_str()), (target, RECORDER));
        assert!(request.all("authorization").is_empty(), "nothing signs it, and a bearer goes nowhere");
    }
}

/// A field of a grant is not confused by another of the same membrane, once both are in a worker's cache.
#[test]
fn a_warm_worker_keeps_grants_apart() {
    let membrane = membrane("fields/apart");
    let first = exported(&membrane, "/fields/apart/1", &[("headers", json!({"x-which": "first"}))]);
    let second = exported(&membrane, "/fields/apart/2", &[("headers", json!({"x-which": "second"}))]);
    warm(shared(), &first, "GET");
    warm(shared(), &second, "GET");
    for (target, which) in [("/fields/apart/1", "first"), ("/fields/apart/2", "second")] {
        let came = shared().origin().requests(target);
        assert!(came.len() >= 16 && came.iter().all(|request| request.all("x-which") == [which]));
    }
    shared().revoke(&membrane).unwrap();
    std::thread::sleep(TICKS);
    for capability in [&first, &second] {
        eventually(401, Duration::from_secs(5), || ask(capability, "GET", "/"));
    }
}
