//! A capability that is revoked while a request's body comes: upstream never has a whole.

use crate::payloads::{CRC, SIGNED, body, framed, s3};
use crate::simulation::{Bench, LAMBDA, epoch, feed_answer, grant_answer, token};
use crate::warm;
use membrane_filter::abi_numbers::{DataStatus, TrailersStatus};

/// The membrane of [`grant_answer`]'s grants is revoked, as event 11.
fn revoke(bench: &mut Bench) {
    // Held for a while: an answer that comes at once and empty would pause the feed.
    bench.envoy.seconds += 0.2;
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
}

type Headers = Vec<(&'static str, String)>;

/// The ways in which a body streams: the grant, the request's headers, the body on the wire.
fn streams() -> Vec<(&'static str, String, Headers, Vec<u8>)> {
    let wire = framed(&body());
    let length = |wire: &[u8]| ("content-length", wire.len().to_string());
    let unsigned = || {
        let mode = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned());
        vec![mode, ("x-amz-decoded-content-length", "200000".to_owned()), (CRC.0, CRC.1.to_owned())]
    };
    let hash = vec![("x-amz-content-sha256", "ab".repeat(32)), length(&body())];
    let with_length = [unsigned(), vec![length(&wire)]].concat();
    vec![
        ("as it is", s3("https", ""), vec![length(&body())], body()),
        ("as it is, with its hash", s3("https", ""), hash, body()),
        ("as it is, length unknown", r#"{"uri": "http://example.com/"}"#.into(), vec![], body()),
        ("checked", s3("https", ""), with_length.clone(), wire.clone()),
        ("checked, length unknown", s3("https", ""), unsigned(), wire.clone()),
        ("signed again", s3("https", SIGNED), with_length, wire),
        ("framed", s3("https", SIGNED), vec![length(&body())], body()),
    ]
}

fn begin(bench: &mut Bench, headers: &[(&'static str, String)]) -> u32 {
    let mut all = vec![(":method", "PUT")];
    all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
    bench.headers(token(1).expose(), &all, false).0
}

#[test]
fn a_body_that_streams_is_broken_off_with_401() {
    for (name, export, headers, wire) in streams() {
        let (first, last) = wire.split_at(wire.len() - 1_000);
        for piecemeal in [false, true] {
            let mut bench = warm("", &export);
            let context = begin(&mut bench, &headers);
            assert_eq!(bench.stream(context, first, false), DataStatus::Continue, "{name}");
            revoke(&mut bench);
            let had = bench.envoy.upstream.get(&context).map_or(0, Vec::len);
            let status = bench.stream(context, if piecemeal { &last[..10] } else { last }, !piecemeal);
            assert_eq!((status, bench.status(context)), (DataStatus::StopNoBuffer, Some(401)), "{name}");
            // Nothing that still comes goes on.
            if piecemeal {
                assert_eq!(bench.stream(context, &last[10..], true), DataStatus::StopNoBuffer, "{name}");
            }
            assert_eq!(bench.envoy.upstream[&context].len(), had, "{name}");
        }
    }
}

/// As HTTP/2 does it: the last bytes first, and that it was the last then.
#[test]
fn an_end_that_is_said_later_is_judged_with_the_last_byte() {
    for (name, export, headers, wire) in streams() {
        let announced = headers.iter().any(|(name, _)| *name == "content-length");
        let rewritten = ["signed again", "framed"].contains(&name);
        for before in [true, false] {
            let mut bench = warm("", &export);
            let context = begin(&mut bench, &headers);
            assert_eq!(bench.stream(context, &wire[..1_000], false), DataStatus::Continue, "{name}");
            // Only the clock tells, so that nothing but the judgement with the last byte can notice.
            if before {
                bench.envoy.seconds += 100.0;
                let status = bench.stream(context, &wire[1_000..], false);
                let held = announced && !rewritten;
                let expected = if held { DataStatus::StopAndBuffer } else { DataStatus::Continue };
                assert_eq!((status, bench.lookups()), (expected, usize::from(held)), "{name}");
                assert_eq!(bench.stream(context, b"", true), DataStatus::StopAndBuffer, "{name}");
                assert_eq!(bench.lookups(), 1, "{name}");
                let sent = bench.envoy.upstream[&context].len();
                bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
                assert_eq!(bench.status(context), None, "{name}");
                assert!(bench.envoy.whole.contains(&context), "{name}");
                assert!(!held || bench.envoy.upstream[&context].len() > sent, "{name}");
            } else {
                assert_eq!(bench.stream(context, &wire[1_000..], false), DataStatus::Continue, "{name}");
                revoke(&mut bench);
                // What upstream has whole it has; what is not whole without its end is refused.
                let whole = announced && !rewritten;
                bench.stream(context, b"", true);
                assert_eq!(bench.status(context), (!whole).then_some(401), "{name}");
            }
        }
    }
}

#[test]
fn when_it_cannot_be_known_the_end_waits_for_a_lookup() {
    for (name, export, headers, wire) in streams() {
        let (first, last) = wire.split_at(wire.len() - 1_000);
        for (answer, expected) in [
            (Some((200, grant_answer(&token(1), &export, None, 1, 10))), None),
            (Some((404, format!(r#"{{"as_of":{{"epoch":"{}","seq":11}}}}"#, epoch(1)))), Some(401)),
            (
                Some((200, format!(r#"{{"kind":"control","as_of":{{"epoch":"{}","seq":11}}}}"#, epoch(1)))),
                Some(401),
            ),
            (Some((500, String::new())), Some(503)),
            (None, Some(503)),
        ] {
            let mut bench = warm("", &export);
            let context = begin(&mut bench, &headers);
            assert_eq!(bench.stream(context, first, false), DataStatus::Continue, "{name}");
            // The feed is not heard of again, for longer than the lease.
            bench.envoy.seconds += 61.0;
            let had = bench.envoy.upstream.get(&context).map_or(0, Vec::len);
            assert_eq!(bench.stream(context, last, true), DataStatus::StopAndBuffer, "{name}");
            assert_eq!(bench.lookups(), 1, "{name}");
            let resumed = bench.envoy.resumed.len();
            // A failure that comes at once is tried a second time.
            match &answer {
                Some((status, body)) => bench.answer_lookup(*status, body),
                None => bench.fail_lookup(),
            }
            if expected == Some(503) {
                bench.fail_lookup();
            }
            assert_eq!(bench.status(context), expected, "{name}");
            assert_eq!(bench.envoy.resumed.len() > resumed, expected.is_none(), "{name}");
            assert_eq!(bench.envoy.upstream[&context].len() > had, expected.is_none(), "{name}");
            assert_eq!(bench.envoy.whole.contains(&context), expected.is_none(), "{name}");
        }
    }
    // The registry cannot even be called.
    let mut bench = warm("", r#"{"uri": "http://example.com/"}"#);
    let context = begin(&mut bench, &[]);
    assert_eq!(bench.stream(context, b"a", false), DataStatus::Continue);
    bench.envoy.seconds += 61.0;
    bench.envoy.refuse_calls = true;
    assert_eq!(bench.stream(context, b"b", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.status(context), Some(503));
}

#[test]
fn a_lookup_that_the_feed_overtakes_lets_no_end_go_on() {
    let export = s3("https", "");
    let mut bench = warm("", &export);
    let context = begin(&mut bench, &[("content-length", "2".into())]);
    assert_eq!(bench.stream(context, b"a", false), DataStatus::Continue);
    bench.envoy.seconds += 61.0;
    assert_eq!(bench.stream(context, b"b", true), DataStatus::StopAndBuffer);
    bench.answer_feed(200, &feed_answer(1, 11, &[(11, 2)]));
    bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
    assert_eq!(bench.status(context), Some(401));
    assert_eq!(bench.envoy.upstream[&context], b"a");
    bench.worker.on_delete(context);
}

#[test]
fn trailers_of_http_end_nothing_that_is_dead() {
    for (lives, status) in [(false, Some(401)), (true, None)] {
        let mut bench = warm("", r#"{"uri": "http://example.com/"}"#);
        let context = begin(&mut bench, &[]);
        assert_eq!(bench.stream(context, b"a", false), DataStatus::Continue);
        if lives {
            bench.envoy.seconds += 61.0;
        } else {
            revoke(&mut bench);
        }
        assert_eq!(bench.trailers(context), TrailersStatus::Stop);
        if lives {
            let answer = grant_answer(&token(1), r#"{"uri": "http://example.com/"}"#, None, 1, 10);
            bench.answer_lookup(200, &answer);
            assert!(bench.envoy.whole.contains(&context) && bench.envoy.trailers_cleared == [context]);
        }
        assert_eq!(bench.status(context), status);
    }
}

/// The worker remembers some thousand revocations; an upload that outlives them must not be refused for that.
#[test]
fn a_long_upload_goes_on_however_much_else_is_revoked() {
    let mut bench = warm("", r#"{"uri": "http://example.com/"}"#);
    let context = begin(&mut bench, &[]);
    let mut seq = 10;
    for _ in 0..10 {
        assert_eq!(bench.stream(context, b"a", false), DataStatus::Continue);
        bench.envoy.seconds += 0.2;
        let events: Vec<(u64, u8)> = (1..=1_000).map(|n| (seq + n, 200)).collect();
        seq += 1_000;
        bench.answer_feed(200, &feed_answer(1, seq, &events));
    }
    assert_eq!(bench.stream(context, b"a", true), DataStatus::Continue);
    assert_eq!((bench.status(context), bench.lookups()), (None, 0));
}

/// A new configuration means a new feed, in which what the old one said counts for nothing.
#[test]
fn an_upload_outlives_a_new_configuration() {
    for (revoked, status) in [(false, None), (true, Some(401))] {
        let export = r#"{"uri": "http://example.com/"}"#;
        let mut bench = warm("", export);
        let context = begin(&mut bench, &[]);
        assert_eq!(bench.stream(context, b"a", false), DataStatus::Continue);
        bench = bench.reconfigured("");
        bench.envoy.calls.clear();
        bench.worker.on_tick(&mut bench.envoy);
        let head = if revoked { 11 } else { 12 };
        bench.answer_feed(200, &feed_answer(1, head, &[]));
        assert_eq!(bench.stream(context, b"b", true), DataStatus::StopAndBuffer);
        if revoked {
            bench.answer_lookup(404, &format!(r#"{{"as_of":{{"epoch":"{}","seq":11}}}}"#, epoch(1)));
        } else {
            bench.answer_lookup(200, &grant_answer(&token(1), export, None, 1, 12));
        }
        assert_eq!(bench.status(context), status);
    }
}

#[test]
fn a_body_that_is_held_to_be_hashed_is_refused_when_it_is_complete() {
    let mut bench = warm("", LAMBDA);
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    assert_eq!(bench.body(context, b"hello", false), DataStatus::StopAndBuffer);
    revoke(&mut bench);
    assert_eq!(bench.body(context, b" world", true), DataStatus::StopNoBuffer);
    assert_eq!(bench.status(context), Some(401));
    assert!(!bench.envoy.sent.contains_key(&context));
}

/// The registry judges a control, whatever its body.
#[test]
fn a_control_request_streams_on_without_a_lease() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(2).expose(), &[], false);
    bench.answer_lookup(200, &format!(r#"{{"kind":"control","as_of":{{"epoch":"{}","seq":10}}}}"#, epoch(1)));
    bench.envoy.seconds += 61.0;
    assert_eq!(bench.stream(context, b"{}", true), DataStatus::Continue);
    assert_eq!((bench.status(context), bench.lookups()), (None, 0));
}
