//! The filter against a simulated Envoy: every way that a request can take.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable
)]

mod configured;
mod let_go;
mod midnight;
mod noted;
mod payloads;
mod queries;
mod revoked_on_the_way;
mod simulation;
mod unknown_tokens;
mod waiting;

use membrane_filter::abi_numbers::{DataStatus, HeadersStatus, TrailersStatus};
use simulation::{Bench, LAMBDA, START, feed_answer, grant_answer, token};

/// A bench whose worker has the grant of `token(1)` in its cache.
fn warm(config: &str, export: &str) -> Bench {
    let mut bench = Bench::with_feed(config);
    let (context, _) = bench.headers(token(1).expose(), &[(":method", "POST")], true);
    bench.answer_lookup(200, &grant_answer(&token(1), export, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context), "{:?}", bench.envoy.replies);
    assert_eq!(bench.envoy.resumed, [context]);
    bench
}

#[test]
fn a_bodyless_request_is_rewritten_signed_and_let_go_at_once() {
    let mut bench = warm("", LAMBDA);
    let more = [
        ("x-membrane-route", "control"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-envoy-original-path", "/x"),
        ("x-http-method-override", "DELETE"),
        ("x-pinned", "theirs"),
        ("x-other", "1"),
        ("x-amz-date", "19990101T000000Z"),
        ("x-amz-security-token", "theirs"),
        ("x-amz-user-agent", "sdk"),
        ("amz-sdk-request", "attempt=1"),
        ("x-amz-invocation-type", "Event"),
        ("accept", "text/plain"),
        ("connection", "accept-language, close"),
        ("accept-language", "de"),
        (":path", "/?theirs=1"),
    ];
    let (context, status) = bench.headers(token(1).expose(), &more, true);
    assert_eq!(status, HeadersStatus::Continue);
    let names: Vec<_> = bench.envoy.sent[&context].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            ":method",
            ":scheme",
            ":authority",
            ":path",
            "x-amz-invocation-type",
            "accept",
            "x-pinned",
            "content-length",
            "authorization",
            "x-amz-date",
            "x-forwarded-proto",
            "x-membrane-route"
        ]
    );
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "lambda.us-east-1.amazonaws.com"),
        (":path", "/2015-03-31/functions/f/invocations?Qualifier=1"),
        ("x-pinned", "mine"),
        ("content-length", "0"),
        ("x-amz-date", "20260101T000000Z"),
        ("x-membrane-route", "https"),
    ] {
        assert_eq!(bench.sent(context, name).as_deref(), Some(value), "{name}");
    }
    let authorization = bench.sent(context, "authorization").unwrap();
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/lambda/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-invocation-type;x-pinned, Signature="
        ),
        "{authorization}"
    );
    assert!(!authorization.contains("canary"));
}

#[test]
fn bodies_are_hashed_as_they_arrive_whatever_way_they_are_cut() {
    let body: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let mut signatures = std::collections::HashSet::new();
    for cuts in [vec![200_000], vec![1, 199_999], vec![65_536, 65_536, 68_928], vec![100_000, 0, 100_000]] {
        for cold in [false, true] {
            let mut bench = if cold { Bench::with_feed("") } else { warm("", LAMBDA) };
            let (context, status) =
                bench.headers(token(1).expose(), &[("content-type", "text/plain")], false);
            assert_eq!(status, HeadersStatus::Stop);
            let mut at = 0;
            for (index, cut) in cuts.iter().enumerate() {
                let last = index + 1 == cuts.len();
                if cold && last {
                    // The record arrives before the last piece of the body.
                    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
                }
                let status = bench.body(context, &body[at..at + cut], last);
                assert_eq!(status, if last { DataStatus::Continue } else { DataStatus::StopAndBuffer });
                at += cut;
            }
            assert_eq!(bench.sent(context, "content-length").as_deref(), Some("200000"));
            signatures.insert(bench.sent(context, "authorization").unwrap());
            let read: Vec<_> =
                bench.envoy.reads.iter().filter(|(c, _)| *c == context).map(|(_, r)| r.clone()).collect();
            assert!(read.iter().all(|range| range.len() <= 65_536));
            assert_eq!(
                read.iter().map(|range| range.len()).sum::<usize>(),
                200_000,
                "each byte is read once"
            );
        }
    }
    assert_eq!(signatures.len(), 1);
}

#[test]
fn a_body_that_is_complete_before_its_record_is_read_in_the_answers_callback() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    assert_eq!(bench.body(context, b"hello", true), DataStatus::StopAndBuffer);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.sent(context, "content-length").as_deref(), Some("5"));
    assert_eq!(bench.envoy.resumed, [context]);
}

#[test]
fn trailers_are_dropped() {
    let mut bench = warm("", LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    assert_eq!(bench.body(context, b"hello", false), DataStatus::StopAndBuffer);
    assert_eq!(bench.trailers(context), TrailersStatus::Continue);
    assert_eq!(bench.envoy.trailers_cleared, [context]);
    assert_eq!(bench.sent(context, "content-length").as_deref(), Some("5"));
    // And where the body streams.
    let plain = r#"{"uri": "http://example.com/"}"#;
    let mut bench = warm("", plain);
    let (context, status) = bench.headers(token(1).expose(), &[], false);
    assert_eq!(status, HeadersStatus::Continue);
    assert_eq!(bench.body(context, b"hello", false), DataStatus::Continue);
    assert_eq!(bench.trailers(context), TrailersStatus::Continue);
    assert_eq!(bench.envoy.trailers_cleared, [context]);
}

#[test]
fn large_bodies_are_refused_or_held_whole() {
    let mut bench = warm(r#"{"max_body": 100000}"#, LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[("content-length", "100001")], false);
    assert_eq!(bench.status(context), Some(413));
    assert!(bench.envoy.replies[&context].1.contains("max_body"));
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    assert_eq!(bench.body(context, &[0; 100_000], false), DataStatus::StopAndBuffer);
    assert_eq!(bench.body(context, &[0; 1], false), DataStatus::StopNoBuffer);
    assert_eq!(bench.status(context), Some(413));
    assert_eq!(bench.body(context, &[0; 1], true), DataStatus::StopNoBuffer);

    // Unknown yet: what would not fit is slowed down, and refused or let through once it is known.
    let mut bench = Bench::with_feed(r#"{"max_body": 100000}"#);
    let (context, status) = bench.headers(token(1).expose(), &[("content-length", "100001")], false);
    assert_eq!(status, HeadersStatus::StopAllAndWatermark);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.status(context), Some(413));
    let hash = ("x-amz-content-sha256", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    let mut bench = Bench::with_feed(r#"{"max_body": 100000}"#);
    let (context, status) = bench.headers(token(1).expose(), &[("content-length", "100001"), hash], false);
    assert_eq!(status, HeadersStatus::StopAllAndWatermark);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.sent(context, "content-length").as_deref(), Some("100001"));
    assert_eq!(bench.body(context, &[0; 100_001], true), DataStatus::Continue);
    assert!(bench.envoy.reads.is_empty(), "what need not be hashed is not read");
}

#[test]
fn what_is_held_whole_is_refused_without_waiting_for_its_body() {
    // Small enough to be read before a refusal, but no body callback will come.
    let mut bench = Bench::with_feed(r#"{"max_body": 1000}"#);
    let (context, status) = bench.headers(token(1).expose(), &[("content-length", "1001")], false);
    assert_eq!(status, HeadersStatus::StopAllAndWatermark);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.status(context), Some(413));
}

#[test]
fn one_lookup_however_many_wait_and_a_leader_that_goes_away_strands_nobody() {
    let mut bench = Bench::with_feed("");
    let (leader, _) = bench.headers(token(1).expose(), &[], true);
    let waiting: Vec<u32> = (0..10).map(|_| bench.headers(token(1).expose(), &[], true).0).collect();
    assert_eq!(bench.lookups(), 1);
    bench.worker.on_delete(leader);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.envoy.resumed, waiting);
    assert!(!bench.envoy.sent.contains_key(&leader));
}

#[test]
fn unknown_tokens_are_refused_and_remembered_for_a_moment() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(404, r#"{"as_of": {"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 10}}"#);
    assert_eq!(bench.status(context), Some(401));
    assert_eq!(bench.outcome(&token(1)), Err(Some(401)));
    assert_eq!(bench.lookups(), 0);
    bench.envoy.seconds += 2.0;
    assert_eq!(bench.outcome(&token(1)), Err(None));
    assert_eq!(bench.lookups(), 1);
}

#[test]
fn a_record_that_does_not_open_is_as_unknown() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(2), LAMBDA, None, 1, 10));
    assert_eq!(bench.status(context), Some(401));
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    let moved = grant_answer(&token(1), LAMBDA, None, 1, 10)
        .replace("AgICAgICAgICAgICAgICAg", "AwMDAwMDAwMDAwMDAwMDAw");
    bench.answer_lookup(200, &moved);
    assert_eq!(bench.status(context), Some(401));
}

#[test]
fn a_revocation_ends_what_is_cached_held_or_on_its_way() {
    // Cached.
    let mut bench = warm("", LAMBDA);
    assert_eq!(bench.outcome(&token(1)), Ok(()));
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
    assert_eq!(bench.outcome(&token(1)), Err(None), "it must be looked up again");
    // Held with half a body.
    let mut bench = warm("", LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    bench.body(context, b"half", false);
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
    assert_eq!(bench.body(context, b"whole", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.status(context), Some(401));
    // A lookup answered before the revocation and arriving after it.
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.status(context), Some(401));
    assert_eq!(bench.outcome(&token(1)), Err(None), "and it is not cached");
    // The same answer, with nothing of it revoked.
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 3)]));
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
}

#[test]
fn answers_of_another_epoch_are_asked_for_again_and_end_in_503() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    for attempt in 1..=3 {
        assert_eq!(bench.status(context), None, "attempt {attempt}");
        bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 2, 10));
    }
    assert_eq!(bench.status(context), Some(503));
}

#[test]
fn beyond_the_lease_what_is_cached_is_confirmed_or_refused() {
    let mut bench = warm("", LAMBDA);
    bench.envoy.seconds = 59.0;
    assert_eq!(bench.outcome(&token(1)), Ok(()), "within the lease");
    bench.envoy.seconds = 61.0;
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    assert_eq!(bench.lookups(), 1, "beyond it, the registry is asked");
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.envoy.seconds = 63.5;
    bench.fail_lookup();
    assert_eq!(bench.status(context), Some(503));
    assert!(bench.envoy.replies[&context].1.contains("registry"));
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(503, "no healthy upstream");
    assert_eq!(bench.status(context), None, "a failure that comes at once is tried again, once");
    bench.answer_lookup(503, "no healthy upstream");
    assert_eq!(bench.status(context), Some(503));
}

#[test]
fn a_clock_that_jumps_ends_the_lease() {
    let mut bench = warm("", LAMBDA);
    bench.envoy.seconds = -10.0;
    assert_eq!(bench.outcome(&token(1)), Err(None));
    assert_eq!(bench.lookups(), 1);
}

#[test]
fn an_upload_that_outlives_the_lease_is_judged_anew() {
    let mut bench = warm("", LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    bench.body(context, b"slow ", false);
    bench.envoy.seconds = 100.0;
    assert_eq!(bench.body(context, b"upload", true), DataStatus::StopAndBuffer);
    assert_eq!(bench.lookups(), 1);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!(bench.sent(context, "content-length").as_deref(), Some("11"));
    let reads: usize = bench.envoy.reads.iter().map(|(_, range)| range.len()).sum();
    assert_eq!(reads, 11, "what was hashed is not read again");
}

#[test]
fn expired_capabilities_are_refused_even_if_cached() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, Some(START + 10), 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
    assert_eq!(bench.outcome(&token(1)), Ok(()));
    bench.envoy.seconds = 10.0;
    assert_eq!(bench.outcome(&token(1)), Err(Some(401)));
}

#[test]
fn without_a_feed_every_request_is_looked_up() {
    let mut bench = Bench::new("");
    for _ in 0..2 {
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
        assert!(bench.envoy.sent.contains_key(&context));
    }
    bench.envoy.refuse_calls = true;
    assert_eq!(bench.outcome(&token(1)), Err(Some(503)));
}

#[test]
fn workers_share_sealed_answers_that_only_the_feeds_key_authenticates() {
    let first = warm("", LAMBDA);
    let mut second = Bench::with_feed("");
    second.envoy.shared = first.envoy.shared.clone();
    assert_eq!(second.outcome(&token(1)), Ok(()));
    assert_eq!(second.lookups(), 0);
    // Tampered with, it is looked up.
    let mut third = Bench::with_feed("");
    third.envoy.shared = first.envoy.shared.clone();
    third.envoy.shared.values_mut().for_each(|slot| *slot.last_mut().unwrap() ^= 1);
    assert_eq!(third.outcome(&token(1)), Err(None));
    assert_eq!(third.lookups(), 1);
    // Of another time, when the membrane lived, it is looked up too.
    let mut fourth = Bench::with_feed("");
    fourth.envoy.shared = first.envoy.shared.clone();
    fourth.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
    assert_eq!(fourth.outcome(&token(1)), Err(None));
    // Of those who follow a feed with another key, it is looked up.
    let mut other = Bench::new("");
    other.worker.on_tick(&mut other.envoy);
    other.answer_feed(200, &feed_answer(1, 10, &[]).replace("CQkJ", "AQEB"));
    other.envoy.shared = first.envoy.shared.clone();
    assert_eq!((other.outcome(&token(1)), other.lookups()), (Err(None), 1));
    // Switched off.
    let mut fifth = Bench::with_feed(r#"{"shared_data": false}"#);
    fifth.envoy.shared = first.envoy.shared.clone();
    assert_eq!(fifth.outcome(&token(1)), Err(None));
    first.envoy.shared.keys().for_each(|key| assert!(!key.contains(&token(1).lookup_id().to_string())));
}

#[test]
fn controls_go_to_the_control_listener_rebuilt() {
    let mut bench = Bench::with_feed("");
    let more = [
        (":path", "/?id=a%20b&x=1&limit=5"),
        (":method", "DELETE"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "1"),
        ("x-membrane-route", "https"),
        ("x-request-id", "r"),
    ];
    let control = r#"{"kind": "control", "as_of": {"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 10}}"#;
    for cached in [false, true] {
        let (context, _) = bench.headers(token(1).expose(), &more, true);
        if !cached {
            bench.answer_lookup(200, control);
        }
        let bearer = format!("Bearer {}", token(1).expose());
        for (name, value) in [
            (":method", "DELETE"),
            (":authority", "membrane.registry"),
            (":path", "/?id=a%20b&limit=5"),
            ("authorization", bearer.as_str()),
            ("x-request-id", "r"),
            ("x-membrane-route", "control"),
        ] {
            assert_eq!(bench.sent(context, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(bench.envoy.sent[&context].len(), 8);
    }
    let (context, _) = bench.headers(token(1).expose(), &[(":path", "/v1/records/x")], true);
    assert_eq!(bench.status(context), Some(404));
}

#[test]
fn what_a_grant_does_not_allow_is_refused() {
    let mut bench = warm("", LAMBDA);
    for (header, status) in [
        ((":path", "/other"), 404),
        ((":path", "//"), 404),
        ((":path", "/."), 404),
        ((":path", "*"), 404),
        ((":method", "HEAD"), 405),
        (("x-amz-copy-source", "b/k"), 400),
        (("x-amz-acl", "public-read"), 400),
        (("x-amz-target", "T"), 400),
        (("x-amz-content-sha256", "junk"), 400),
    ] {
        let (context, answered) = bench.headers(token(1).expose(), &[header], true);
        assert_eq!((bench.status(context), answered), (Some(status), HeadersStatus::Stop), "{header:?}");
        if header.0.starts_with("x-amz") {
            assert!(bench.envoy.replies[&context].1.contains(header.0), "the message names the header");
        }
    }
    let mut head = warm("", &LAMBDA.replace("POST", "GET"));
    let (context, _) = head.headers(token(1).expose(), &[(":method", "HEAD")], true);
    assert_eq!(head.status(context), Some(405));
    let mut pinned_head = Bench::with_feed("");
    let (context, _) = pinned_head.headers(token(1).expose(), &[(":method", "GET")], true);
    pinned_head.answer_lookup(200, &grant_answer(&token(1), &LAMBDA.replace("POST", "HEAD"), None, 1, 10));
    assert_eq!(pinned_head.status(context), Some(405));
}

#[test]
fn a_pinned_target_pins_the_protocol() {
    let export = LAMBDA.replace(r#""x-pinned": "mine""#, r#""X-Amz-Target": "DynamoDB_20120810.GetItem""#);
    let json = ("content-type", "application/x-amz-json-1.0");
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[json], true);
    bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
    assert_eq!(bench.sent(context, "x-amz-target").as_deref(), Some("DynamoDB_20120810.GetItem"));
    for refused in [
        vec![],
        vec![("content-type", "application/x-www-form-urlencoded")],
        vec![("content-type", "application/x-amz-json-1.0;a, application/x-www-form-urlencoded")],
        vec![json, json],
    ] {
        let (context, _) = bench.headers(token(1).expose(), &refused, true);
        assert_eq!(bench.status(context), Some(400), "{refused:?}");
    }
    let theirs = ("x-amz-target", "DynamoDB_20120810.DeleteTable");
    let (context, _) = bench.headers(token(1).expose(), &[theirs, json], true);
    assert_eq!(bench.sent(context, "x-amz-target").as_deref(), Some("DynamoDB_20120810.GetItem"));
}

#[test]
fn timeouts_above_the_gateways_own_are_ignored() {
    for (timeout, expected) in [(5_000, Some("5000")), (300_000, Some("300000")), (300_001, None)] {
        let mut bench =
            warm("", &LAMBDA.replace("{\"uri\"", &format!("{{\"timeoutMs\": {timeout}, \"uri\"")));
        let (context, _) = bench.headers(token(1).expose(), &[("x-envoy-upstream-rq-timeout-ms", "1")], true);
        assert_eq!(bench.sent(context, "x-envoy-upstream-rq-timeout-ms").as_deref(), expected);
    }
}

#[test]
fn requests_without_a_bearer() {
    let mut bench = Bench::with_feed(r#"{"on_missing": "pass"}"#);
    bench
        .envoy
        .requests
        .insert(1, vec![("x-membrane-route".into(), b"control".to_vec()), ("a".into(), b"b".to_vec())]);
    assert_eq!(bench.worker.on_request_headers(&mut bench.envoy, 1, false), HeadersStatus::Continue);
    assert_eq!(bench.envoy.requests[&1], [("a".to_owned(), b"b".to_vec())]);
    assert_eq!(bench.body(1, b"x", true), DataStatus::Continue);
    let mut bench = Bench::with_feed("");
    bench.envoy.requests.insert(1, vec![]);
    assert_eq!(bench.worker.on_request_headers(&mut bench.envoy, 1, true), HeadersStatus::Stop);
    assert_eq!(bench.status(1), Some(401));
}

#[test]
fn malformed_tokens_cost_no_lookup() {
    let mut bench = Bench::with_feed("");
    let good = token(1).expose().to_owned();
    for bad in [&good[..93], &good.to_lowercase(), "CPBLTY1-", "x", &format!("{good}=")] {
        let (context, _) = bench.headers(bad, &[], true);
        assert_eq!(bench.status(context), Some(401));
    }
    assert_eq!(bench.lookups(), 0);
}

#[test]
fn a_body_that_never_comes_is_answered_where_envoy_may_be_misconfigured() {
    let mut bench = warm("", LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[("content-length", "5")], false);
    for second in 1..=14 {
        bench.envoy.seconds = f64::from(second);
        bench.worker.on_tick(&mut bench.envoy);
        assert_eq!(bench.status(context), None);
    }
    bench.envoy.seconds = 16.5;
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.status(context), Some(408));
    assert!(bench.envoy.warnings.iter().any(|warning| warning.contains("allow_on_headers_stop_iteration")));
}

#[test]
fn a_feed_that_fails_is_asked_again_after_growing_pauses() {
    let mut bench = Bench::with_feed("");
    let mut asked = Vec::new();
    bench.answer_feed(503, "");
    for tenth in 1..=100 {
        bench.envoy.seconds = f64::from(tenth) / 10.0;
        bench.worker.on_tick(&mut bench.envoy);
        if bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events")) {
            asked.push(tenth);
            bench.answer_feed(503, "");
        }
    }
    assert_eq!(asked[..4], [1, 3, 7, 15], "{asked:?}");
    assert!(asked.len() < 12);
}

#[test]
fn a_feed_that_failed_is_asked_soon_once_the_registry_answers_anything() {
    let mut bench = Bench::with_feed("");
    let asked = |bench: &Bench| bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events"));
    for second in 0..70 {
        bench.envoy.seconds = f64::from(second);
        bench.worker.on_tick(&mut bench.envoy);
        if asked(&bench) {
            bench.answer_feed(503, "");
        }
    }
    // It has failed for longer than the lease, and would now be left alone for two seconds.
    bench.envoy.seconds += 2.0;
    bench.worker.on_tick(&mut bench.envoy);
    bench.answer_feed(503, "");
    bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    for (later, expected) in [(0.05, false), (0.1, true)] {
        bench.envoy.seconds += later;
        bench.worker.on_tick(&mut bench.envoy);
        assert_eq!(asked(&bench), expected);
    }
}

#[test]
fn a_feed_that_does_not_hold_back_is_not_asked_without_pause() {
    let mut bench = Bench::with_feed("");
    bench.answer_feed(200, &feed_answer(1, 10, &[]));
    assert!(!bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events")));
    bench.envoy.seconds = 0.2;
    bench.worker.on_tick(&mut bench.envoy);
    assert!(bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events")));
}

#[test]
fn a_flood_of_random_tokens_is_bounded() {
    for (config, bound) in [("", 256), (r#"{"registry": {"max_lookups": 7}}"#, 7)] {
        let mut bench = Bench::with_feed(config);
        for n in 0..3_000u32 {
            let mut bytes = [0; 64];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            bench.headers(capability::Token::mint(bytes).expose(), &[], true);
        }
        assert_eq!(bench.lookups(), bound);
        let refused = bench.envoy.replies.values().filter(|(status, _)| *status == 503).count();
        assert_eq!(refused, 3_000 - bound);
    }
}

#[test]
fn a_feed_that_begins_anew_forgets_no_revocation_that_it_acknowledged() {
    for body in [feed_answer(2, 3, &[]), feed_answer(1, 13, &[(13, 3)]), feed_answer(1, 5, &[])] {
        for status in [200, 410] {
            let mut bench = warm("", LAMBDA);
            let (context, _) = bench.headers(token(1).expose(), &[], false);
            bench.body(context, b"half", false);
            bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
            bench.answer_feed(status, &body);
            assert_eq!(bench.body(context, b"whole", true), DataStatus::StopAndBuffer, "{status} {body}");
            assert_eq!(bench.lookups(), 1, "it is asked anew");
        }
    }
}

#[test]
fn an_answer_asked_for_before_the_feed_began_anew_is_not_used() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_feed(410, &feed_answer(1, 9, &[]));
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert!(!bench.envoy.sent.contains_key(&context));
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
}

#[test]
fn without_a_lease_an_answer_admits_for_a_moment_only() {
    let mut bench = Bench::new("");
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    bench.envoy.seconds = 3.0;
    assert_eq!(bench.body(context, b"late", true), DataStatus::StopAndBuffer);
    assert_eq!(bench.lookups(), 1);
}

#[test]
fn a_feed_that_always_starts_over_is_not_asked_without_pause() {
    let mut bench = Bench::with_feed("");
    let mut asked = 0;
    for tenth in 0..100 {
        bench.envoy.seconds = f64::from(tenth) / 10.0;
        bench.worker.on_tick(&mut bench.envoy);
        while bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events")) {
            asked += 1;
            assert!(asked < 1_000);
            bench.answer_feed(410, &feed_answer(1, 10, &[]));
        }
    }
    assert!((3..15).contains(&asked), "{asked} times in ten seconds");
}

#[test]
fn the_dead_are_refused_before_anything_is_said_of_their_form() {
    let mut bench = Bench::with_feed("");
    bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, Some(START + 10), 1, 10));
    bench.envoy.seconds = 10.0;
    for odd in [(":path", "/x"), (":method", "HEAD"), ("x-amz-acl", "private")] {
        let (context, _) = bench.headers(token(1).expose(), &[odd], true);
        if bench.lookups() > 0 {
            bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, Some(START + 10), 1, 10));
        }
        assert_eq!(bench.status(context), Some(401), "{odd:?}");
    }
}

#[test]
fn what_is_held_is_bounded() {
    let mut bench = Bench::with_feed("");
    let large = "x".repeat(50_000);
    let mut held = 0;
    loop {
        let (context, _) = bench.headers(token(1).expose(), &[("x-large", &large)], false);
        if bench.status(context) == Some(503) {
            break;
        }
        held += 1;
        assert!(held < 2_000);
    }
    assert!(held > 1_000);
    // Those that end make room again.
    for context in 101..=200 {
        bench.worker.on_delete(context);
    }
    let (context, _) = bench.headers(token(1).expose(), &[("x-large", &large)], false);
    assert_eq!(bench.status(context), None);
}

#[test]
fn a_request_that_is_not_known_lets_nothing_through() {
    let mut bench = warm("", LAMBDA);
    assert_eq!(bench.body(9_999, b"x", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.trailers(9_999), TrailersStatus::Stop);
}

#[test]
fn a_new_configuration_refuses_what_waits_and_lets_go_on_what_streams() {
    let mut bench = warm("", LAMBDA);
    let (waiting, _) = bench.headers(token(1).expose(), &[], false);
    let hash = ("x-amz-content-sha256", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    let (streaming, status) = bench.headers(token(1).expose(), &[hash], false);
    assert_eq!(status, HeadersStatus::Continue);
    let mut bench = bench.reconfigured("");
    assert_eq!(bench.status(waiting), Some(503));
    assert_eq!(bench.body(waiting, b"x", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.body(streaming, b"x", false), DataStatus::Continue);
    // The new worker knows nothing yet, so that its end is looked up.
    assert_eq!(bench.body(streaming, b"x", true), DataStatus::StopAndBuffer);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert_eq!((bench.status(streaming), bench.envoy.resumed.last()), (None, Some(&streaming)));
}

#[test]
fn whoever_sends_tokens_does_not_drive_the_log() {
    let mut bench = Bench::with_feed("");
    bench.envoy.refuse_calls = true;
    for n in 0..100 {
        bench.headers(token(n).expose(), &[], true);
    }
    assert_eq!(bench.envoy.warnings.len(), 1);
    bench.envoy.seconds = 1.0;
    bench.headers(token(200).expose(), &[], true);
    assert!(bench.envoy.warnings[1].contains("99 more"), "{:?}", bench.envoy.warnings);
}

#[test]
fn a_small_body_is_read_before_its_request_is_refused() {
    let mut bench = warm("", LAMBDA);
    for (length, waits) in [("5", true), ("65536", true), ("65537", false)] {
        let refused = [("content-length", length), (":path", "/x")];
        let (context, status) = bench.headers(token(1).expose(), &refused, false);
        assert_eq!((status, bench.status(context).is_none()), (HeadersStatus::Stop, waits), "{length}");
        assert_eq!(bench.body(context, b"he", false), DataStatus::StopNoBuffer);
        assert_eq!(bench.status(context).is_none(), waits);
        assert_eq!(bench.body(context, b"llo", true), DataStatus::StopNoBuffer);
        assert_eq!(bench.status(context), Some(404));
    }
    let (context, _) = bench.headers("malformed", &[("content-length", "5")], false);
    assert_eq!(bench.status(context), None);
    assert_eq!(bench.trailers(context), TrailersStatus::Stop);
    assert_eq!(bench.status(context), Some(401));
}

#[test]
fn a_start_over_empties_the_cache() {
    let mut bench = warm("", LAMBDA);
    assert_eq!(bench.outcome(&token(1)), Ok(()));
    bench.answer_feed(410, &feed_answer(2, 3, &[]));
    assert_eq!(bench.outcome(&token(1)), Err(None));
    assert_eq!(bench.lookups(), 1, "what was cached before may have been revoked unheard");
}

#[test]
fn a_later_lease_counts_from_its_question_too() {
    let mut bench = warm("", LAMBDA);
    // Asked at 0, held back, answered at 20.
    bench.envoy.seconds = 20.0;
    bench.answer_feed(200, &feed_answer(1, 10, &[]));
    bench.envoy.seconds = 61.0;
    assert_eq!(bench.outcome(&token(1)), Err(None));
    assert_eq!(bench.lookups(), 1);
}
