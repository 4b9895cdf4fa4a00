//! A registry that answers lookups and the feed with whatever it likes. It can refuse, and say "control", whereupon the request goes to
//! itself; it cannot make a request that a token does not stand for.
//!
//! Input: pieces that each begin with a byte: which question is answered (the feed's or a lookup's), and with which status, then the answer
//! up to the next 0 byte.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/filter/tests/simulation/mod.rs"]
#[allow(dead_code)]
mod simulation;

use simulation::{Bench, token};

fuzz_target!(|input: &[u8]| {
    let mut bench = Bench::new("{\"cache\": {\"entries\": 4}}");
    let mut contexts = Vec::new();
    for piece in input.split(|byte| *byte == 0).take(40) {
        let Some((how, answer)) = piece.split_first() else { continue };
        bench.worker.on_tick(&mut bench.envoy);
        contexts.push(bench.headers(token(how % 3).expose(), &[], how & 1 == 0).0);
        bench.envoy.seconds += f64::from(how >> 4) / 8.0;
        let prefix = if how & 2 == 0 { "/v1/events" } else { "/v1/records/" };
        let Some(at) = bench.envoy.calls.iter().position(|(_, path)| path.starts_with(prefix)) else {
            continue;
        };
        let (call, _) = bench.envoy.calls.remove(at);
        let status = [Some(200), Some(404), Some(410), None][usize::from(how >> 2 & 3)];
        bench.worker.on_answer(&mut bench.envoy, call, status, answer);
        assert!(bench.envoy.calls.len() < 10, "a lookup a token, and the feed");
    }
    for (context, headers) in &bench.envoy.sent {
        let route =
            headers.iter().find(|(name, _)| name == "x-membrane-route").map(|(_, value)| value.as_slice());
        assert_eq!(route, Some(&b"control"[..]), "{context} was let through as a grant");
        assert!(headers.iter().any(|(name, value)| name == ":authority" && value == b"membrane.registry"));
    }
    for context in contexts {
        bench.worker.on_delete(context);
    }
});
