//! What is sent is what was signed: whatever stands in a grant's uri, in its pinned headers and in what the requester adds, an origin
//! that recomputes the signature from what it received, with botocore, comes to the same one. Over HTTP/1.1 and HTTP/2.

use crate::{folder, options, shared};
use harness::aws::REGION;
use harness::envoy::aws_over_http2;
use harness::gateway::{Gateway, Membrane};
use harness::origin::{RECORDER, Recorded};
use harness::verifier::{Expected, verify};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Batches of requests, each verified by one Python process: 200 requests on each protocol.
const BATCHES: u32 = 20;
const BATCH: usize = 10;

/// A grant, and one request through it.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    /// After a first segment that tells requests apart.
    path: String,
    query: String,
    pinned: String,
    requester_query: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

/// What an export takes in a path: RFC 3986's `pchar` and percent-encoded bytes, the more awkward the likelier.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        2 => "[a-zA-Z0-9._~-]{1,5}",
        4 => select(vec![
            "/", "//", "/.", "/..", "/./", "/../", "/...", "%2F", "%2f", "%2E", "%2e%2e", "%25", "%252F", "%20", "+", "%2B", ":",
            "%3A", "@", "=", ",", ";", "&", "$", "!", "*", "'", "(", ")", "~", "%7E", "%41", "[", "]", "%00", "%0d%0a", "%FF",
            "%C3%A9", "%E2%98%83", "%5C", "%7B", "%22", "%3F", "%23",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

/// `name` keeps the requester's parameters apart from the grant's own, which it may not give again.
fn query(name: &'static str) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        2 => "[a-zA-Z0-9._~-]{1,4}",
        4 => select(vec![
            "=", "==", "+", "%20", "%2B", "%2F", "%2f", "/", "?", ":", "@", "!", "*", "'", "(", ")", ",", ";", "$", "%26", "%3D",
            "%25", "[0]", "%C3%A9", "%F0%90%8D%88", "%FF", "%00", "%0A", "%23", "~", "%7e",
        ]).prop_map(str::to_owned),
    ];
    let pair =
        prop::collection::vec(piece, 0..5).prop_map(move |pieces| format!("{name}{}", pieces.concat()));
    let empty = select(vec!["", "&"]).prop_map(str::to_owned);
    prop::collection::vec(prop_oneof![6 => pair, 1 => empty], 0..5).prop_map(|pairs| pairs.join("&"))
}

/// Without tabs and Unicode's white space, which botocore folds and other verifiers do not.
fn value() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => "[!-~]{1,6}",
        4 => select(vec![" ", "  ", "     ", ",", ", ", " ,", "\"a   b\"", "=", ";", "é", "☃", "\u{10348}"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn asked() -> impl Strategy<Value = Asked> {
    let header =
        (select(vec!["x-amz-meta-a", "x-amz-meta-b", "X-Amz-Meta-A", "accept", "x-unsigned"]), value());
    let content_type = prop::option::of(value().prop_map(|value| ("Content-Type", value)));
    (
        select(vec!["GET", "PUT", "POST", "DELETE", "PATCH"]),
        path(),
        query("g"),
        value(),
        query("r"),
        (prop::collection::vec(header, 0..5), content_type),
        prop::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(|(method, path, query, pinned, requester_query, (mut headers, content_type), body)| {
            headers.extend(content_type);
            let body = (method != "GET" && method != "DELETE").then_some(body);
            Asked { method, path, query, pinned, requester_query, headers, body }
        })
}

fn asked_plainly() -> Asked {
    Asked {
        method: "PUT",
        path: "a%2Bb//c".into(),
        query: "g=1".into(),
        pinned: "pinned".into(),
        requester_query: "r=2".into(),
        headers: Vec::new(),
        body: Some(b"body".to_vec()),
    }
}

/// Sends a batch through grants for `service`; gives what the origin received, in order.
fn send(
    gateway: &Gateway,
    membrane: &Membrane,
    service: &str,
    batch: &[Asked],
) -> Result<Vec<Recorded>, TestCaseError> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut received = Vec::new();
    for asked in batch {
        let mark = format!("/sent-{}-", NUMBER.fetch_add(1, Ordering::Relaxed));
        // Deep enough that no `..` climbs past the mark.
        let climbs = 1 + asked.path.matches("/..").count();
        let path = format!("{mark}/{}{}", "y/".repeat(climbs), asked.path);
        let what = json!({
            "uri": format!("https://{RECORDER}{path}?{}", asked.query),
            "method": asked.method,
            "allowQuery": true,
            "allowHeaders": ["x-amz-meta-a", "x-amz-meta-b", "x-unsigned"],
            "headers": {"X-Amz-Meta-Pinned": asked.pinned, "x-pinned": asked.pinned},
            "hmac": gateway.aws4(service),
        });
        let capability = gateway.export(membrane, &what).map_err(fail)?;
        let mut request = gateway.request(&capability, asked.method, &format!("/?{}", asked.requester_query));
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &asked.body {
            request = request.body(body.clone());
        }
        let answer = request.send().map_err(fail)?;
        prop_assert_eq!(answer.status, 200, "{}", answer.text());
        let recorded = gateway.origin().only(&mark).map_err(fail)?;
        prop_assert_eq!(recorded.body.as_slice(), asked.body.as_deref().unwrap_or_default());
        received.push(recorded);
    }
    Ok(received)
}

fn fail(failure: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(failure.to_string())
}

/// `over` tells of a recorded request whether it came over the protocol that is meant.
fn check(gateway: &Gateway, membrane: &Membrane, over: impl Fn(&Recorded) -> bool) {
    let services =
        ["s3", "s3express", "s3-object-lambda", "lambda", "bedrock", "execute-api", "es", "vpc-lattice-svcs"];
    let key = &gateway.aws.key;
    let strategy = (select(services.to_vec()), prop::collection::vec(asked(), BATCH));
    // Each try costs a batch: shrinking is bounded by time too.
    let config = Config {
        cases: BATCHES,
        max_shrink_iters: 200,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |(service, batch)| {
        let received = send(gateway, membrane, service, &batch)?;
        prop_assert!(received.iter().all(&over), "over the wrong protocol");
        let expected =
            Expected { access_key_id: &key.id, secret_access_key: &key.secret, region: REGION, service };
        verify(&received, &expected).map_err(fail)?;
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\n{case:#?}"),
        Err(abort) => panic!("{abort}"),
    }
    // The positive control: one byte of a path or of a header, as a proxy might have changed it, is noticed.
    let batch = [asked_plainly()];
    let received = send(gateway, membrane, "s3", &batch).unwrap();
    let expected =
        Expected { access_key_id: &key.id, secret_access_key: &key.secret, region: REGION, service: "s3" };
    verify(&received, &expected).unwrap();
    type Change = fn(&mut Recorded);
    let changes: [Change; 3] = [
        |request| request.target = request.target.replacen("%2B", "+", 1),
        |request| request.target = request.target.replacen("//", "/", 1),
        |request| request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-amz-meta-pinned")),
    ];
    for change in changes {
        let mut changed = received[0].clone();
        change(&mut changed);
        let seen = verify(&[changed.clone()], &expected);
        assert!(seen.is_err(), "not noticed: {} {:?}", changed.target, changed.headers);
    }
}

#[test]
fn over_http1() {
    let gateway = shared();
    check(gateway, &crate::membrane("sent/http1"), |request| {
        String::from_utf8_lossy(&request.head).contains(" HTTP/1.1\r\n")
    });
}

#[test]
fn over_http2() {
    let gateway = Gateway::start_with(options(folder("http2")), aws_over_http2).unwrap();
    check(&gateway, &gateway.create_membrane("sent/http2").unwrap(), |request| request.head.is_empty());
    let streams = gateway.stat("cluster.local_aws.upstream_cx_http2_total").unwrap();
    assert!(streams.is_some_and(|count| count > 0), "Envoy spoke HTTP/2: {streams:?}");
    gateway.stop().unwrap();
}
