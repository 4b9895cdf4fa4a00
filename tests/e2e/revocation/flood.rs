//! Random tokens beside good traffic.

use super::report::{self, millis};
use super::{Sizes, targets::Targets};
use crate::folder;
use harness::fleet::Fleet;
use harness::load::{Load, Sample, Source, percentile};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Requests for tokens that nobody has, each another one.
#[derive(Default)]
struct Random(AtomicU64);

impl Source for Random {
    fn next(&self, _connection: usize, _turn: usize) -> Option<(usize, Vec<u8>)> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Some((0, request(&number.to_be_bytes())))
    }
}

struct Malformed;

impl Source for Malformed {
    fn next(&self, _connection: usize, _turn: usize) -> Option<(usize, Vec<u8>)> {
        let bearer = "x".repeat(94);
        let head =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer CPBLTY1-{bearer}\r\n\r\n");
        Some((0, head.into_bytes()))
    }
}

fn request(seed: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let mut bytes = [7; 64];
    bytes[..seed.len()].copy_from_slice(seed);
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer CPBLTY1-{token}\r\n\r\n").into_bytes()
}

fn lookups(fleet: &Fleet) -> u64 {
    let count = |result| {
        fleet
            .gateway
            .registry_metric(&format!("membrane_registry_lookups_total{{result=\"{result}\"}}"))
            .unwrap()
    };
    count("none") + count("grant") + count("control")
}

#[test]
fn lookups_are_bounded_by_configuration() {
    const AT_ONCE: u32 = 2;
    const WORKERS: u32 = 4;
    const DELAY: Duration = Duration::from_millis(50);
    let settings = format!(
        r#""registry": {{"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "2s", "max_lookups": {AT_ONCE}, "max_unknown": 0}}"#
    );
    let fleet = Fleet::start(folder("revocation-flood-bounded"), WORKERS / 2, &settings).unwrap();
    let targets = Arc::new(Targets::make(&fleet, "bounded", 0));
    let good = Load::start(&fleet.clients(), 8, Duration::from_millis(10), Arc::clone(&targets));
    targets.turn_to(0, 400);
    fleet.links().iter().for_each(|link| link.delay(DELAY));
    let (before, began) = (lookups(&fleet), Instant::now());
    let flood = Load::start(&fleet.clients(), 32, Duration::from_millis(5), Arc::new(Random::default()));
    std::thread::sleep(Duration::from_millis(1_500));
    let flooded = flood.stop();
    let (asked, rounds) = (lookups(&fleet) - before, began.elapsed().as_secs_f64() / DELAY.as_secs_f64());
    fleet.links().iter().for_each(|link| link.delay(Duration::ZERO));

    // Each worker has so many under way, and each takes at least the delay; one round more for what was under way at either end.
    let bound = (f64::from(AT_ONCE * WORKERS) * (rounds + 1.0)).ceil() as u64;
    assert!(asked <= bound, "{asked} lookups, where {bound} are the most that can be");
    assert!(asked > 0 && flooded.len() as u64 > 2 * bound, "{asked} lookups for {} requests", flooded.len());
    let status = |status| flooded.iter().filter(|sample| sample.status == Some(status)).count();
    assert_eq!(status(401) + status(503), flooded.len());
    assert!(status(401) > 0 && status(503) > 0);
    assert!(good.stop().iter().all(Sample::is_admitted), "what is known goes on");

    // One unknown token, however often, is one question a worker until it is forgotten after two seconds.
    let client = &fleet.gateway.client;
    let (before, began) = (lookups(&fleet), Instant::now());
    for _ in 0..100 {
        assert_eq!(client.raw(&request(b"always the same"), false).unwrap().status, 401);
    }
    let times = began.elapsed().as_secs() / 2 + 1;
    let asked = lookups(&fleet) - before;
    assert!((1..=2 * times).contains(&asked), "{asked} lookups of one token by two workers");
}

/// What stands beside good traffic for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    /// As many requests whose bearers are no tokens, so that nothing is looked up: what the mere requests cost.
    Malformed,
    Random,
}

/// Some 4,000 requests a second: what two cores can carry together with those who send them, who stand back for the rest.
fn flood(fleet: &Fleet, beside: Beside, random: &Arc<Random>) -> Option<Load> {
    let every = Duration::from_millis(4);
    match beside {
        Beside::Nothing => None,
        Beside::Malformed => Some(Load::start_aside(&fleet.clients(), 20, every, Arc::new(Malformed))),
        Beside::Random => Some(Load::start_aside(&fleet.clients(), 20, every, Arc::clone(random))),
    }
}

#[test]
fn good_traffic_goes_on_beside_a_flood() {
    let sizes = Sizes::asked();
    let fleet = Fleet::start(folder("revocation-flood"), 2, r#""staleness": "60s""#).unwrap();
    let targets = Arc::new(Targets::make(&fleet, "flood", 0));
    let good = Load::start(&fleet.clients(), 8, Duration::from_millis(10), Arc::clone(&targets));
    targets.turn_to(0, 400);
    let random = Arc::new(Random::default());
    let mut windows: Vec<(Beside, Instant, Instant)> = Vec::new();
    let (mut flooded, mut floods) = (0, Duration::ZERO);
    for round in 0..sizes.rounds {
        // Whatever comes first after quiet is slower, so they take turns at that.
        let [first, second] = if round % 2 == 0 {
            [Beside::Random, Beside::Malformed]
        } else {
            [Beside::Malformed, Beside::Random]
        };
        for beside in [Beside::Nothing, first, second, Beside::Nothing] {
            let began = Instant::now();
            let flood = flood(&fleet, beside, &random);
            std::thread::sleep(sizes.window);
            windows.push((beside, began, Instant::now()));
            let took = began.elapsed();
            let samples = flood.map(Load::stop).unwrap_or_default();
            assert!(samples.iter().all(|sample| matches!(sample.status, Some(401 | 429 | 503))));
            if beside == Beside::Random {
                floods += took;
                flooded += samples.len();
            }
        }
    }
    let samples = good.stop();
    assert!(samples.iter().all(Sample::is_admitted), "good requests all succeed");
    let p99 = |beside: Beside| {
        let mut each: Vec<Duration> = windows
            .iter()
            .filter(|(other, ..)| *other == beside)
            .map(|(_, began, ended)| {
                let within = samples.iter().filter(|s| s.began >= *began && s.ended <= *ended);
                let mut took: Vec<Duration> = within.map(|sample| sample.ended - sample.began).collect();
                took.sort();
                percentile(&took, 0.99)
            })
            .collect();
        each.sort();
        percentile(&each, 0.5)
    };
    let [quiet, malformed, loud] = [Beside::Nothing, Beside::Malformed, Beside::Random].map(p99);
    report::write(
        "flood",
        &format!(
            "Good requests (800 a second) beside {:.0} random tokens a second: p99 {} ms; beside as many bearers that are no tokens, for which \
             nothing is looked up: {} ms; beside nothing: {} ms. Medians over {} interleaved rounds.\n",
            flooded as f64 / floods.as_secs_f64(),
            millis(loud),
            millis(malformed),
            millis(quiet),
            sizes.rounds,
        ),
    );
    if sizes.judged {
        assert!(loud <= quiet * 2, "p99 {loud:?} beside a flood, {quiet:?} without");
    }
}
