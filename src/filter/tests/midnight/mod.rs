//! What is kept for a grant signs for one day; the next day's key comes from the sealed record and the token of the request.

use crate::simulation::{Bench, KEK, LAMBDA, START, feed_answer, grant_answer, token};
use capability::Export;
use capability::configured::ConfiguredRecord;
use capability::record::Keks;
use membrane_filter::abi_numbers::DataStatus;
use signing::aws4::{Credential, Payload, Service, Signer, Target};
use signing::{Scheme, Secret, Timestamp};

const DAY: f64 = 86_400.0;

/// What a signer that keeps the secret says of this request at this second.
fn expected(second: u64, body: Option<&[u8]>) -> String {
    let service = Service::new("lambda").unwrap();
    let (path, query) = (b"/2015-03-31/functions/f/invocations", b"Qualifier=1");
    let host = "lambda.us-east-1.amazonaws.com";
    let target = Target::new(&service, Scheme::Https, host, path, query).unwrap();
    let credential = Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new("canary-secret".into()),
        session_token: None,
    };
    let payload = body.map_or(Payload::Empty, |body| {
        use sha2::Digest;
        Payload::Sha256(sha2::Sha256::digest(body).into())
    });
    let mut signer = Signer::new(credential, "us-east-1", service).unwrap();
    let (now, mut out) = (Timestamp::from_unix(START + second), String::new());
    let headers = [(&b"x-pinned"[..], &b"mine"[..])];
    signer.sign(&now, "POST", &target, headers, payload, &mut out).unwrap().authorization.to_owned()
}

/// A bench with `token(1)`'s grant in its cache, whose feed has just answered at `seconds`.
fn warm_until(seconds: f64) -> Bench {
    let mut bench = Bench::with_feed("");
    bench.headers(token(1).expose(), &[], true);
    bench.answer_lookup(200, &grant_answer(&token(1), LAMBDA, None, 1, 10));
    go_on(&mut bench, seconds);
    bench
}

/// Time passes, and the feed is alive at the end of it: its answer counts from when it was asked.
fn go_on(bench: &mut Bench, seconds: f64) {
    bench.envoy.seconds = seconds;
    bench.worker.on_tick(&mut bench.envoy);
    for _ in 0..2 {
        if bench.envoy.calls.iter().any(|(_, path)| path.starts_with("/v1/events")) {
            bench.answer_feed(200, &feed_answer(1, 10, &[]));
            bench.worker.on_tick(&mut bench.envoy);
        }
    }
}

#[test]
fn a_cached_grant_signs_on_the_next_day_without_a_lookup() {
    let mut bench = warm_until(DAY - 1.0);
    for second in [86_399_u64, 86_400, 86_401, 3 * 86_400] {
        go_on(&mut bench, second as f64);
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        assert_eq!(bench.sent(context, "authorization"), Some(expected(second, None)), "{second}");
    }
    assert_eq!(bench.lookups(), 0);
}

#[test]
fn a_body_that_ends_on_the_next_day_is_signed_for_that_day() {
    let mut bench = warm_until(DAY - 1.0);
    let (context, _) = bench.headers(token(1).expose(), &[("content-length", "5")], false);
    assert_eq!(bench.body(context, b"hel", false), DataStatus::StopAndBuffer);
    go_on(&mut bench, DAY + 1.0);
    assert_eq!(bench.body(context, b"lo", true), DataStatus::Continue);
    assert_eq!(bench.sent(context, "authorization"), Some(expected(86_401, Some(b"hello"))));
}

#[test]
fn a_record_of_the_configuration_likewise() {
    let export = Export::parse(LAMBDA.as_bytes()).unwrap();
    let keks = Keks::parse(KEK.as_bytes()).unwrap();
    let record = ConfiguredRecord::seal(export, &token(1), &keks, [[1; 24], [2; 24]]).unwrap();
    let mut bench = Bench::new(&format!(r#"{{"records": [{}]}}"#, serde_json::to_string(&record).unwrap()));
    for second in [0_u64, 86_399, 86_400, 10 * 86_400] {
        bench.envoy.seconds = second as f64;
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        assert_eq!(bench.sent(context, "authorization"), Some(expected(second, None)), "{second}");
    }
}
