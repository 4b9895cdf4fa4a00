//! A client that tries tokens which nobody knows is no longer asked for, and nobody else notices.

use crate::simulation::{Bench, LAMBDA, grant_answer, token};
use capability::Token;

/// A bench whose worker has the grant of `token(1)` in its cache, and lets each address try two unknown tokens a second: ten at once.
fn bench() -> Bench {
    let mut bench = Bench::with_feed(r#"{"registry": {"max_unknown": 2}, "shared_data": false}"#);
    bench.envoy.source = "192.0.2.1:1000".into();
    bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    bench
}

fn random(n: u32) -> Token {
    let mut bytes = [0xee; 64];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Token::mint(bytes)
}

fn unknown_answer() -> String {
    let as_of = serde_json::json!({"epoch": crate::simulation::epoch(1), "seq": 10});
    serde_json::json!({ "as_of": as_of }).to_string()
}

/// Tries a token that nobody knows: the answer's status, and whether the registry was asked.
fn attempt(bench: &mut Bench, n: u32) -> (Option<u16>, bool) {
    let (context, _) = bench.headers(random(n).expose(), &[], true);
    let asked = bench.lookups() > 0;
    if asked {
        bench.answer_lookup(404, &unknown_answer());
    }
    (bench.status(context), asked)
}

#[test]
fn past_its_budget_a_client_is_not_asked_for() {
    let mut bench = bench();
    for n in 0..10 {
        assert_eq!(attempt(&mut bench, n), (Some(401), true), "{n}");
    }
    assert_eq!(attempt(&mut bench, 10), (Some(429), false));
    let (context, _) = bench.headers(random(11).expose(), &[], true);
    assert_eq!(bench.status(context), Some(429));
    // From another port it is the same client; from another address it is not.
    bench.envoy.source = "192.0.2.1:2000".into();
    assert_eq!(attempt(&mut bench, 12), (Some(429), false));
    bench.envoy.source = "192.0.2.2:1000".into();
    assert_eq!(attempt(&mut bench, 13), (Some(401), true));
    // What is known goes on, whoever asks; what has just been found unknown is told so.
    bench.envoy.source = "192.0.2.1:1000".into();
    assert_eq!(bench.outcome(&token(1)), Ok(()));
    assert_eq!(attempt(&mut bench, 9), (Some(401), false));
    // Half a second makes up for one.
    bench.envoy.seconds = 0.5;
    assert_eq!(attempt(&mut bench, 14), (Some(401), true));
    assert_eq!(attempt(&mut bench, 15), (Some(429), false));
}

#[test]
fn what_is_known_costs_nothing() {
    let mut bench = bench();
    for n in 2..100 {
        let (context, _) = bench.headers(token(n).expose(), &[], true);
        bench.answer_lookup(200, &grant_answer(&token(n), LAMBDA, None, 1, 10));
        assert_eq!(bench.status(context), None);
    }
    assert_eq!(attempt(&mut bench, 1), (Some(401), true));
}

#[test]
fn zero_is_no_bound() {
    let mut bench = Bench::with_feed(r#"{"registry": {"max_unknown": 0}, "shared_data": false}"#);
    assert!((0..1_000).all(|n| attempt(&mut bench, n) == (Some(401), true)));
}
