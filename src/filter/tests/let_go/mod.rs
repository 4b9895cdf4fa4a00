//! Bodies that were held in part, and go on.

use crate::simulation::{Bench, epoch, grant_answer, token};
use membrane_filter::abi_numbers::{DataStatus, TrailersStatus};

const PLAIN: &str = r#"{"uri": "https://plain.example/key", "method": "PUT"}"#;

/// An upload of which a part was held is let go, and its next piece with what follows: another piece, trailers, the next tick.
#[test]
fn the_piece_after_a_held_one_goes_on_with_what_follows() {
    let length = [("content-length", "9")];
    let begin = |more: &[(&str, &str)]| {
        let mut bench = Bench::with_feed("");
        let (context, _) = bench.headers(token(1).expose(), more, false);
        assert_eq!(bench.body(context, b"one", false), DataStatus::StopAndBuffer);
        bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
        assert_eq!(bench.envoy.upstream[&context], b"one");
        assert_eq!(bench.piece(context, b"two", false), DataStatus::StopAndWatermark);
        assert_eq!(bench.envoy.upstream[&context], b"one");
        (bench, context)
    };
    let (mut bench, context) = begin(&length);
    assert_eq!(bench.piece(context, b"end", true), DataStatus::Continue);
    assert_eq!(bench.envoy.upstream[&context], b"onetwoend");
    // Nothing is left to be let go, which would be done twice.
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.envoy.resumed, [context]);

    let (mut bench, context) = begin(&length);
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.envoy.upstream[&context], b"onetwo");
    assert_eq!(bench.piece(context, b"end", true), DataStatus::Continue);
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(
        (&bench.envoy.upstream[&context][..], &bench.envoy.resumed[..]),
        (&b"onetwoend"[..], &[context; 2][..])
    );

    let (mut bench, context) = begin(&[]);
    assert_eq!(bench.trailers(context), TrailersStatus::Continue);
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.envoy.resumed, [context]);

    let (mut bench, context) = begin(&length);
    bench.worker.on_delete(context);
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.envoy.resumed, [context]);

    // Nothing of this one was held.
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &length, false);
    bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
    assert_eq!(bench.piece(context, b"onetwoend", true), DataStatus::Continue);
}

/// The last piece after a held one goes on later than it came, and so by a judgement of then.
#[test]
fn the_last_piece_after_a_held_one_is_let_go_by_a_lookup() {
    let revoked = format!(r#"{{"as_of":{{"epoch":"{}","seq":11}}}}"#, epoch(1));
    // The end is said with it, or later.
    for ended in [true, false] {
        for (status, answer, expected) in
            [(200, grant_answer(&token(1), PLAIN, None, 1, 11), None), (404, revoked.clone(), Some(401))]
        {
            let mut bench = Bench::with_feed("");
            let (context, _) = bench.headers(token(1).expose(), &[("content-length", "9")], false);
            assert_eq!(bench.body(context, b"one", false), DataStatus::StopAndBuffer);
            bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
            assert_eq!(bench.piece(context, b"twoend", ended), DataStatus::StopAndBuffer);
            bench.worker.on_tick(&mut bench.envoy);
            assert_eq!((bench.lookups(), &bench.envoy.upstream[&context][..]), (1, &b"one"[..]));
            bench.answer_lookup(status, &answer);
            if !ended && expected.is_none() {
                assert_eq!(bench.piece(context, b"", true), DataStatus::Continue);
            }
            assert_eq!(bench.status(context), expected, "{ended}");
            let sent = &bench.envoy.upstream[&context][..];
            assert_eq!(sent, if expected.is_none() { &b"onetwoend"[..] } else { b"one" }, "{ended}");
            assert_eq!(bench.envoy.whole.contains(&context), expected.is_none());
        }
    }
}

/// Envoy's codecs let no body be longer than it said; should one be, none of it is lost, and nothing passes unjudged.
#[test]
fn what_follows_a_held_end_is_held_too() {
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &[("content-length", "6")], false);
    assert_eq!(bench.body(context, b"one", false), DataStatus::StopAndBuffer);
    bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
    for (piece, so_far) in [("two", "onetwo"), ("more", "onetwomore")] {
        assert_eq!(bench.piece(context, piece.as_bytes(), false), DataStatus::StopAndBuffer);
        bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 11));
        assert_eq!(bench.envoy.upstream[&context], so_far.as_bytes());
    }
    assert_eq!(bench.piece(context, b"", true), DataStatus::Continue);
    assert!(bench.envoy.whole.contains(&context));
}
