//! What access logs are told: the outcome, and which capability and membrane it was without saying which they are.

use crate::simulation::{Bench, LAMBDA, grant_answer, token, uid};
use membrane_filter::noted::{Note, hashed};
use std::time::Duration;

const ON: &str = r#"{"access_log": true}"#;

/// Outcome, capability, membrane.
fn notes(bench: &Bench, context: u32) -> [Option<&str>; 3] {
    let note = |note| bench.envoy.notes.get(&(context, note)).map(String::as_str);
    [note(Note::Outcome), note(Note::Capability), note(Note::Membrane)]
}

#[test]
fn a_request_is_noted_cold_and_warm_and_refused() {
    let mut bench = Bench::with_feed(ON);
    let (capability, membrane) = (hashed(&token(1).lookup_id().0), hashed(&uid(2).0));
    let (cold, _) = bench.headers(token(1).expose(), &[], true);
    bench.envoy.seconds += 0.25;
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    let (warm, _) = bench.headers(token(1).expose(), &[], true);
    for context in [cold, warm] {
        assert_eq!(notes(&bench, context), [Some("granted"), Some(&*capability), Some(&*membrane)]);
    }
    assert_eq!(bench.envoy.lookup_times, [Duration::from_millis(250)]);
    // Refused for its form: whose capability was tried is known all the same.
    let (refused, _) = bench.headers(token(1).expose(), &[(":path", "/x")], true);
    assert_eq!(notes(&bench, refused), [Some("refused"), Some(&*capability), Some(&*membrane)]);

    let (unknown, _) = bench.headers(token(3).expose(), &[], true);
    bench.answer_lookup(404, r#"{"as_of": {"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 10}}"#);
    assert_eq!(notes(&bench, unknown), [Some("unauthorized"), Some(&*hashed(&token(3).lookup_id().0)), None]);
    let (malformed, _) = bench.headers("CPBLTY1-x", &[], true);
    assert_eq!(notes(&bench, malformed), [Some("unauthorized"), None, None]);
}

#[test]
fn a_control_is_noted_cold_and_warm() {
    let mut bench = Bench::with_feed(ON);
    let answer = r#"{"kind": "control", "as_of": {"epoch": "AQEBAQEBAQEBAQEBAQEBAQ", "seq": 10}}"#;
    let (cold, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, answer);
    let (warm, _) = bench.headers(token(1).expose(), &[], true);
    for context in [cold, warm] {
        assert_eq!(notes(&bench, context), [Some("control"), Some(&*hashed(&token(1).lookup_id().0)), None]);
    }
}

/// Each note is a call of the host on the way of every request: nobody pays for a log that they do not keep.
#[test]
fn nothing_is_noted_unasked() {
    let mut bench = Bench::with_feed("{}");
    let (context, _) = bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
    bench.headers(token(1).expose(), &[(":path", "/x")], true);
    bench.headers("CPBLTY1-x", &[], true);
    assert!(bench.envoy.notes.is_empty());
}
