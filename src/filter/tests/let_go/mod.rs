//! Bodies that were held in part, and go on.

use crate::simulation::{Bench, grant_answer, token};
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

    // The last piece is held, too.
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &length, false);
    assert_eq!(bench.body(context, b"one", false), DataStatus::StopAndBuffer);
    bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
    assert_eq!(bench.piece(context, b"twoend", true), DataStatus::StopAndWatermark);
    let mut bench = bench.reconfigured("");
    bench.worker.on_tick(&mut bench.envoy);
    assert_eq!(bench.envoy.upstream[&context], b"onetwoend");

    // Nothing of this one was held.
    let mut bench = Bench::with_feed("");
    let (context, _) = bench.headers(token(1).expose(), &length, false);
    bench.answer_lookup(200, &grant_answer(&token(1), PLAIN, None, 1, 10));
    assert_eq!(bench.piece(context, b"onetwoend", true), DataStatus::Continue);
}
