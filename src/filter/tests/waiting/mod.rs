//! Requests that wait for a lookup or for their body: how long, and how they are refused.

use crate::simulation::{Bench, LAMBDA, grant_answer, token};
use crate::warm;
use membrane_filter::abi_numbers::{DataStatus, HeadersStatus};
use membrane_filter::stats::Counter;

/// As it is before a refusal that needs no lookup: clients that are still sending take an early answer for an error.
#[test]
fn a_small_body_is_read_before_its_request_is_refused_after_a_lookup() {
    let unknown = r#"{"as_of": {"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 10}}"#;
    let another = grant_answer(&token(2), LAMBDA, None, 1, 10);
    for (status, answer) in [(404, unknown), (200, another.as_str())] {
        for (length, waits) in [("5", true), ("65537", false)] {
            let mut bench = Bench::with_feed("");
            let (context, _) = bench.headers(token(1).expose(), &[("content-length", length)], false);
            bench.answer_lookup(status, answer);
            assert_eq!(bench.status(context), (!waits).then_some(401), "{status} {length}");
            assert_eq!(bench.body(context, b"hello", true), DataStatus::StopNoBuffer);
            assert_eq!(bench.status(context), Some(401));
        }
        // What has come already is not waited for.
        let mut bench = Bench::with_feed("");
        let (context, _) = bench.headers(token(1).expose(), &[("content-length", "5")], false);
        assert_eq!(bench.body(context, b"hello", true), DataStatus::StopAndBuffer);
        bench.answer_lookup(status, answer);
        assert_eq!(bench.status(context), Some(401));
    }
}

/// With the longest `registry.timeout` that can be set.
#[test]
fn what_waits_for_a_lookup_is_not_taken_for_a_body_that_never_comes() {
    let mut bench = Bench::with_feed(r#"{"registry": {"timeout": "60s"}, "max_body": 1000}"#);
    let (bodyless, _) = bench.headers(token(1).expose(), &[], true);
    // No callback comes of what is held whole, however much of it has come.
    let (whole, status) = bench.headers(token(2).expose(), &[("content-length", "1001")], false);
    assert_eq!(status, HeadersStatus::StopAllAndWatermark);
    let (awaited, _) = bench.headers(token(3).expose(), &[("content-length", "5")], false);
    bench.envoy.seconds = 50.0;
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!([bodyless, whole, awaited].map(|context| bench.status(context)), [None, None, Some(408)]);
}

#[test]
fn a_refusal_waits_for_a_small_body_that_comes_slowly() {
    let mut bench = warm("", LAMBDA);
    let refused = [("content-length", "5"), (":path", "/x")];
    let (context, _) = bench.headers(token(1).expose(), &refused, false);
    assert_eq!(bench.body(context, b"he", false), DataStatus::StopNoBuffer);
    bench.envoy.seconds = 20.0;
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.status(context), None, "it has begun to come, so that Envoy is set up as it should");
    assert_eq!(bench.body(context, b"llo", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.status(context), Some(404));
}

/// The registry is told for how long its answer may be acted on, and holds back that a revocation has reached everybody.
#[test]
fn an_answer_admits_for_as_long_as_its_question_said() {
    for (config, lease) in
        [("", 2.0), (r#"{"staleness": "1s"}"#, 1.0), (r#"{"registry": {"timeout": "5s"}}"#, 5.0)]
    {
        for (later, admitted) in [(lease, true), (lease + 0.1, false)] {
            let mut bench = Bench::new(config);
            let (context, _) = bench.headers(token(1).expose(), &[], true);
            let question = bench.envoy.calls[0].1.clone();
            assert!(question.ends_with(&format!("&lease={lease}")), "{question}");
            bench.envoy.seconds = later;
            bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
            assert_eq!(bench.envoy.sent.contains_key(&context), admitted, "{config} {later}");
        }
    }
}

#[test]
fn each_header_that_is_left_out_is_counted() {
    let dropped = |more: &[(&str, &str)]| {
        let mut bench = warm("", LAMBDA);
        bench.headers(token(1).expose(), more, true);
        bench.counted(Counter::HeadersDropped)
    };
    let passing = ("accept", "text/plain");
    assert_eq!(dropped(&[passing, ("cookie", "a=b"), ("x-other", "1")]), dropped(&[passing]) + 2);
}
