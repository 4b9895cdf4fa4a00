//! Records of the configuration's own, with a registry beside them and without one.

use crate::simulation::{Bench, KEK, LAMBDA, START, grant_answer, token};
use capability::Export;
use capability::configured::ConfiguredRecord;
use capability::record::Keks;
use membrane_filter::config::Config;
use membrane_filter::records::Records;

fn record(n: u8, export: &str) -> String {
    let export = Export::parse(export.as_bytes()).unwrap();
    let keks = Keks::parse(KEK.as_bytes()).unwrap();
    let record = ConfiguredRecord::seal(export, &token(n), &keks, [[n; 24], [n; 24]]).unwrap();
    serde_json::to_string(&record).unwrap()
}

#[test]
fn a_record_is_honoured_without_a_registry_and_nothing_else_is() {
    let mut bench = Bench::new(&format!(r#"{{"records": [{}]}}"#, record(1, LAMBDA)));
    bench.worker.on_tick(&mut bench.envoy);
    for _ in 0..3 {
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        assert_eq!(bench.sent(context, ":authority").as_deref(), Some("lambda.us-east-1.amazonaws.com"));
        assert!(bench.sent(context, "authorization").unwrap().contains("AKIDEXAMPLE"));
    }
    // With a body, and long after: there is no lease to run out.
    bench.envoy.seconds = 1_000_000.0;
    let (context, _) = bench.headers(token(1).expose(), &[], false);
    bench.body(context, b"hello", true);
    assert_eq!(bench.sent(context, "content-length").as_deref(), Some("5"));
    assert_eq!(bench.outcome(&token(2)), Err(Some(401)));
    assert!(bench.envoy.calls.is_empty() && bench.envoy.warnings.is_empty(), "nobody is asked");
}

#[test]
fn it_ends_with_its_time_or_with_the_configuration() {
    // 10 s after the start.
    let export = LAMBDA.replacen('{', r#"{"expiresAt": "2026-01-01T00:00:10Z", "#, 1);
    let config = format!(r#"{{"records": [{}, {}]}}"#, record(1, &export), record(2, LAMBDA));
    let mut bench = Bench::new(&config);
    assert_eq!((bench.outcome(&token(1)), bench.outcome(&token(2))), (Ok(()), Ok(())));
    bench.envoy.seconds = 10.0;
    assert_eq!((bench.outcome(&token(1)), bench.outcome(&token(2))), (Err(Some(401)), Ok(())));
    assert_eq!(START, 1_767_225_600);
    let mut bench = bench.reconfigured(&format!(r#"{{"records": [{}]}}"#, record(3, LAMBDA)));
    assert_eq!((bench.outcome(&token(2)), bench.outcome(&token(3))), (Err(Some(401)), Ok(())));
}

#[test]
fn beside_a_registry_both_are_honoured() {
    let mut bench = Bench::with_feed(&format!(r#"{{"registry": {{}}, "records": [{}]}}"#, record(1, LAMBDA)));
    assert_eq!(bench.outcome(&token(1)), Ok(()));
    assert_eq!(bench.lookups(), 0);
    let (context, _) = bench.headers(token(2).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(2), LAMBDA, None, 1, 10));
    assert!(bench.envoy.sent.contains_key(&context));
}

#[test]
fn what_cannot_be_used_is_refused_when_it_is_loaded() {
    let take = |records: &str, keys: Option<&str>| {
        let mut config = Config::parse(format!(r#"{{"records": [{records}]}}"#).as_bytes()).unwrap();
        Records::take(&mut config, keys.map(str::as_bytes)).map(|_| ()).map_err(|error| error.to_string())
    };
    let (one, two) = (record(1, LAMBDA), record(2, LAMBDA));
    assert_eq!(take(&one, Some(KEK)), Ok(()));
    for (records, keys, message) in [
        (one.clone(), None, "host_env_keys"),
        (one.clone(), Some("x"), "host_env_keys"),
        (one.clone(), Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "records[0] does not open"),
        (format!("{one}, {one}"), Some(KEK), "records[1] stands twice"),
        (
            format!(
                "{two}, {}",
                one.replace(&token(1).lookup_id().to_string(), &token(3).lookup_id().to_string())
            ),
            Some(KEK),
            "records[1] does not open",
        ),
    ] {
        let error = take(&records, keys).unwrap_err();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains(KEK));
    }
}
