//! Two registries on one PostgreSQL behind Envoy's load balancing. Either may die at any moment: nobody is refused who may, and nobody is
//! let in whose capability is revoked.

use crate::{folder, postgres};
use harness::gateway::Membrane;
use harness::load::{Load, Sample, Source};
use harness::replicas::Replicas;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 16;
/// Many times more than a worker caches: each request for one of them is a lookup.
const COLD: usize = 200;
const STALENESS: Duration = Duration::from_secs(2);
/// How often each of the two dies.
const DEATHS: usize = 2;

/// A capability that is revoked while it is used.
struct Doomed {
    membrane: Membrane,
    request: Vec<u8>,
    admitted: AtomicU32,
    refused: AtomicU32,
    /// From when on nobody may be let in.
    over: OnceLock<Instant>,
}

/// Numbers from 0 are capabilities that live and are looked up each time; from [`COLD`] on those that are revoked one by one. Each
/// connection takes both in turn.
struct Requests {
    cold: Vec<Vec<u8>>,
    doomed: Vec<Doomed>,
    current: AtomicUsize,
    paused: AtomicBool,
}

impl Source for Requests {
    fn next(&self, connection: usize, turn: usize) -> Option<(usize, Vec<u8>)> {
        if self.paused.load(Ordering::Relaxed) {
            return None;
        }
        if turn % 4 == 3 {
            let current = self.current.load(Ordering::Relaxed);
            return Some((COLD + current, self.doomed[current].request.clone()));
        }
        let number = (connection * 13 + turn) % COLD;
        Some((number, self.cold[number].clone()))
    }

    fn done(&self, sample: &Sample) {
        if let Some(doomed) = sample.about.checked_sub(COLD).map(|number| &self.doomed[number]) {
            match sample.status {
                Some(200) => doomed.admitted.fetch_add(1, Ordering::Relaxed),
                Some(401) => doomed.refused.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
        }
    }
}

#[track_caller]
fn wait_for(what: &str, within: Duration, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < within, "no {what} within {within:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn requests(replicas: &Replicas, doomed: usize) -> Requests {
    let what = json!({
        "uri": "https://lambda.us-east-1.amazonaws.com/", "method": "GET",
        "hmac": {"aws4-hmac-sha256": {
            "awsAccessKeyId": "AKIDEXAMPLE", "secretAccessKey": "x", "region": "us-east-1", "service": "lambda",
        }},
    });
    let request = |membrane: &Membrane| {
        let capability = replicas.export(membrane, &what).unwrap();
        replicas.client.request("GET", "/").bearer(&capability).bytes()
    };
    let lives = replicas.create_membrane("lives").unwrap();
    let cold = (0..COLD).map(|_| request(&lives)).collect();
    let doomed = (0..doomed).map(|number| {
        let membrane = replicas.create_membrane(&format!("doomed/{number}")).unwrap();
        let request = request(&membrane);
        let (admitted, refused) = Default::default();
        Doomed { membrane, request, admitted, refused, over: OnceLock::new() }
    });
    Requests { cold, doomed: doomed.collect(), current: AtomicUsize::new(0), paused: AtomicBool::new(false) }
}

#[test]
fn either_of_two_may_die_and_nobody_notices() {
    let server = postgres::Server::own();
    let settings = r#""staleness": "2s", "cache": {"entries": 8, "bytes": 1048576}, "shared_data": false"#;
    let mut replicas = Replicas::start(&folder("replicas"), &server.schema(), settings).unwrap();
    // Two are revoked around each death, and one more each time by `wait=fleet`.
    let requests = Arc::new(requests(&replicas, 2 * DEATHS * 3));
    let load =
        Load::start(&[replicas.client.clone()], CONNECTIONS, Duration::from_millis(4), Arc::clone(&requests));
    // When a replica died, and when Envoy's requests to it had all come to an end.
    let deaths: Mutex<Vec<Instant>> = Mutex::default();
    let used = |doomed: &Doomed| {
        let before = doomed.admitted.load(Ordering::Relaxed);
        wait_for("admissions", Duration::from_secs(20), || {
            doomed.admitted.load(Ordering::Relaxed) >= before + 8
        });
    };
    let refused = |doomed: &Doomed| {
        wait_for("refusals", Duration::from_secs(20), || doomed.refused.load(Ordering::Relaxed) >= 8);
    };
    let mut next = 0;
    for death in 0..2 * DEATHS {
        let (dies, stays) = (death % 2, 1 - death % 2);
        let found = "membrane_registry_lookups_total{result=\"grant\"}";
        let asked = [0, 1].map(|which| replicas.both[which].metric(found).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        for which in [0, 1] {
            let now = replicas.both[which].metric(found).unwrap();
            assert!(now > asked[which], "replica {which} is asked nothing: the load is not balanced");
        }

        // Revoked through the one that dies at once: the other one has it, for whoever asks and for whoever follows the feed.
        requests.current.store(next, Ordering::Relaxed);
        let doomed = &requests.doomed[next];
        used(doomed);
        replicas.both[dies].revoke(&doomed.membrane, "/").unwrap();
        doomed.over.set(Instant::now() + STALENESS).unwrap();
        deaths.lock().unwrap().push(Instant::now());
        replicas.both[dies].kill();
        refused(doomed);

        // While one is away, and the load goes on, and everything can be done through the gateway.
        next += 1;
        requests.current.store(next, Ordering::Relaxed);
        let doomed = &requests.doomed[next];
        used(doomed);
        let membrane = replicas.create_membrane(&format!("during/{death}")).unwrap();
        replicas.export(&membrane, &json!({"uri": "https://lambda.us-east-1.amazonaws.com/"})).unwrap();
        replicas.both[stays].revoke(&doomed.membrane, "/").unwrap();
        doomed.over.set(Instant::now() + STALENESS).unwrap();
        refused(doomed);

        // It comes back, and says at once what it did not hear; and it waits for workers that it has never heard of.
        replicas.both[dies].restart().unwrap();
        next += 1;
        requests.current.store(next, Ordering::Relaxed);
        let doomed = &requests.doomed[next];
        used(doomed);
        let answer = replicas.both[dies].revoke(&doomed.membrane, "/?wait=fleet").unwrap().json();
        assert_eq!(answer["unconfirmed"], 0, "{answer}");
        doomed.over.set(Instant::now()).unwrap();
        refused(doomed);
        next += 1;
        // Envoy goes back to it.
        wait_for("balance", Duration::from_secs(30), || {
            let before = replicas.both[dies].metric(found).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            replicas.both[dies].metric(found).unwrap() > before
        });
    }
    let samples = load.stop();
    replicas.check_alive().unwrap();

    let deaths = deaths.into_inner().unwrap();
    let in_flight = |sample: &Sample| {
        deaths
            .iter()
            .any(|death| sample.began <= *death + Duration::from_millis(20) && sample.ended >= *death)
    };
    let failed: Vec<&Sample> =
        samples.iter().filter(|sample| !matches!(sample.status, Some(200 | 401))).collect();
    let others: Vec<_> = failed.iter().filter(|sample| !in_flight(sample)).collect();
    let retried = replicas.stat("cluster.membrane_registry.upstream_rq_retry_success").unwrap();
    println!(
        "{} requests, {} failed in flight, {retried} lookups were asked again",
        samples.len(),
        failed.len()
    );
    assert!(others.is_empty(), "{} failed that were not in flight, as {:?}", others.len(), others.first());
    assert!(failed.len() <= CONNECTIONS * deaths.len(), "{} failed", failed.len());
    assert!(retried > 0, "no lookup was ever asked again: nothing died under it");
    // Revoked is revoked, and alive is alive.
    for sample in &samples {
        match sample.about.checked_sub(COLD) {
            None => assert_ne!(sample.status, Some(401), "a living capability was refused"),
            Some(number) => {
                let late = requests.doomed[number].over.get().is_some_and(|over| sample.began > *over);
                assert!(!(late && sample.is_admitted()), "{number} was let in after the bound: {sample:?}");
            }
        }
    }
    assert!(samples.iter().filter(|sample| sample.is_admitted()).count() > 1_000);
}
