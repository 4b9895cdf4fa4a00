//! Abuse for a while beside good traffic: some 40 s here, ten minutes with `make soak`, which judges how fast good requests are meanwhile, too.

use crate::{folder, options};
use harness::fleet::{with_settings, with_upstream};
use harness::gateway::{Gateway, Options};
use harness::http::{Client, Connection};
use harness::judging::Judging;
use harness::load::{Load, Sample, Source, percentile, stand_aside};
use harness::memory::Memory;
use harness::origin::{RECORDER, Recorded};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most by which Envoy may grow.
const GROWTH: u64 = 64 * 1024 * 1024;

struct Sizes {
    /// Of good traffic alone, and of abuse beside it.
    quiet: Duration,
    abuse: Duration,
    /// Bodies that come a byte a second, at once.
    slow: usize,
    /// Connections that each send a random token every 4 ms.
    random: usize,
    /// Whether recovery is held to its bound, which a busy machine would spoil.
    judged: bool,
}

impl Sizes {
    fn asked() -> Self {
        match std::env::var("MEMBRANE_SOAK").as_deref() {
            Ok("full") => {
                let (quiet, abuse) = (Duration::from_secs(30), Duration::from_secs(600));
                Self { quiet, abuse, slow: 1_000, random: 20, judged: true }
            }
            _ => {
                let (quiet, abuse) = (Duration::from_secs(4), Duration::from_secs(30));
                Self { quiet, abuse, slow: 200, random: 2, judged: false }
            }
        }
    }
}

/// What is wrong with a request that came upstream: everything that comes is the one that the good capability stands for.
pub(super) fn judge(request: &Recorded) -> Option<String> {
    let signed = request.one("authorization").is_ok_and(|value| {
        value.starts_with("AWS4-HMAC-SHA256 Credential=") && value.contains("/lambda/aws4_request")
    });
    let good = signed
        && request.method == "POST"
        && request.target == "/good"
        && request.all("host") == [RECORDER]
        && !String::from_utf8_lossy(&request.head).contains("CPBLTY1-");
    (!good).then(|| String::from_utf8_lossy(&request.head).into_owned())
}

/// A gateway before an upstream that judges, a token for `POST /good` there, and a request with it.
pub(super) fn gateway(name: &str, change: impl Fn(String) -> String) -> (Gateway, Judging, Arc<Good>) {
    let upstream = Judging::start(judge).unwrap();
    let options = Options { trace: false, observed: false, ..options(folder(name)) };
    let port = upstream.port.number();
    // With the bound on unknown tokens that everybody has, although everything comes from one address.
    let gateway = Gateway::start_with(options, |config| {
        with_settings(with_upstream(change(config), port)?, r#""staleness": "60s""#)
    })
    .unwrap();
    let membrane = gateway.create_membrane(name).unwrap();
    let what = json!({
        "uri": format!("https://{RECORDER}/good"), "method": "POST", "hmac": gateway.aws4("lambda"),
    });
    let capability = gateway.export(&membrane, &what).unwrap();
    let request = gateway.request(&capability, "POST", "/").body("good").bytes();
    (gateway, upstream, Arc::new(Good(request)))
}

pub(super) struct Good(pub(super) Vec<u8>);

impl Source for Good {
    fn next(&self, _connection: usize, _turn: usize) -> Option<(usize, Vec<u8>)> {
        Some((0, self.0.clone()))
    }
}

/// Tokens that nobody has, each another one.
#[derive(Default)]
struct Random(AtomicU64);

impl Source for Random {
    fn next(&self, _connection: usize, _turn: usize) -> Option<(usize, Vec<u8>)> {
        use base64::Engine as _;
        let mut bytes = [7; 64];
        bytes[..8].copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer CPBLTY1-{token}\r\n\r\n");
        Some((0, head.into_bytes()))
    }
}

/// The head of a good request whose body is announced longer.
fn with_length(good: &Good, length: usize) -> Vec<u8> {
    let text = String::from_utf8(good.0.clone()).unwrap();
    let (head, _) = text.split_once("Content-Length: ").unwrap();
    format!("{head}Content-Length: {length}\r\n\r\n").into_bytes()
}

/// Keeps `count` uploads open, each of which gets a byte a second. They are never whole.
fn slow_bodies(client: &Client, good: &Good, count: usize, ending: &AtomicBool) -> usize {
    let head = with_length(good, 100_000);
    let mut open: Vec<Connection> = Vec::new();
    let mut most = 0;
    while !ending.load(Ordering::Relaxed) {
        let round = Instant::now();
        while open.len() < count && !ending.load(Ordering::Relaxed) {
            let Ok(mut connection) = client.connect() else { break };
            if connection.write(&head).is_err() {
                break;
            }
            open.push(connection);
        }
        most = most.max(open.len());
        // Spread over the second, as from clients that know nothing of each other.
        let mut alive = Vec::with_capacity(count);
        let due = |number: usize| Duration::from_secs(1) * number as u32 / count as u32;
        for (number, mut connection) in open.into_iter().enumerate() {
            if number % 10 == 0 {
                std::thread::sleep(due(number).saturating_sub(round.elapsed()));
            }
            alive.extend(connection.write(b"x").is_ok().then_some(connection));
        }
        open = alive;
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    most
}

/// Connections that are cut off within a head, within a body, and before the answer, in turn.
fn resets(client: &Client, good: &Good, ending: &AtomicBool) -> usize {
    let cut = with_length(good, 50_000);
    let mut count = 0;
    while !ending.load(Ordering::Relaxed) {
        let Ok(mut connection) = client.connect() else { continue };
        let bytes = match count % 3 {
            0 => good.0[..60].to_vec(),
            1 => [cut.as_slice(), &[b'x'; 20_000]].concat(),
            _ => good.0.clone(),
        };
        let _ = connection.write(&bytes).and_then(|()| connection.abort());
        count += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    count
}

/// Heads larger than a gateway takes, and such as it just takes.
fn huge_headers(client: &Client, ending: &AtomicBool) -> usize {
    let mut count = 0;
    while !ending.load(Ordering::Relaxed) {
        let length = if count % 2 == 0 { 200_000 } else { 50_000 };
        let value = "a".repeat(length);
        let request = client.request("POST", "/").bearer("CPBLTY1-x").header("X-Large", &value);
        let _ = client.raw(&request.bytes(), false);
        count += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    count
}

/// Abuse by somebody who in the world would have a machine of their own.
fn aside(abuse: impl FnOnce() -> usize) -> usize {
    stand_aside();
    abuse()
}

fn p99(samples: &[Sample], began: Instant, ended: Instant) -> Duration {
    let within = samples.iter().filter(|sample| sample.began >= began && sample.ended <= ended);
    let mut took: Vec<Duration> = within.map(|sample| sample.ended - sample.began).collect();
    took.sort();
    percentile(&took, 0.99)
}

#[test]
fn abuse_beside_good_traffic_neither_grows_nor_gets_anything() {
    let sizes = Sizes::asked();
    let (mut gateway, upstream, good) = gateway("hostile-soak", |config| config);
    let clients = [gateway.client.clone()];
    let load = Load::start(&clients, 4, Duration::from_millis(20), Arc::clone(&good));
    std::thread::sleep(sizes.quiet);
    let memory: Memory = gateway.memory();
    let (before, began) = (memory.resident().unwrap(), Instant::now());
    memory.forget_peak().unwrap();

    let ending = AtomicBool::new(false);
    let (client, good) = (&gateway.client, good.as_ref());
    let (flooded, slow, cut, huge) = std::thread::scope(|scope| {
        let flood =
            Load::start_aside(&clients, sizes.random, Duration::from_millis(4), Arc::new(Random::default()));
        let slow = scope.spawn(|| aside(|| slow_bodies(client, good, sizes.slow, &ending)));
        let cut = scope.spawn(|| aside(|| resets(client, good, &ending)));
        let huge = scope.spawn(|| aside(|| huge_headers(client, &ending)));
        std::thread::sleep(sizes.abuse);
        ending.store(true, Ordering::Relaxed);
        (flood.stop(), slow.join().unwrap(), cut.join().unwrap(), huge.join().unwrap())
    });
    let (ended, peak) = (Instant::now(), memory.peak().unwrap());
    let samples = load.stop();
    let (quiet, loud) = (p99(&samples, began - sizes.quiet / 2, began), p99(&samples, began, ended));
    let growth = peak.saturating_sub(before);
    let seconds = ended.duration_since(began).as_secs_f64();
    println!(
        "{seconds:.0} s: {:.0} random tokens/s, {slow} slow bodies, {:.0} resets/s, {:.0} huge heads/s; Envoy grew by {} KiB; good p99 \
         {quiet:?} before, {loud:?} beside ({:.1} times)",
        flooded.len() as f64 / seconds,
        cut as f64 / seconds,
        huge as f64 / seconds,
        growth / 1024,
        loud.as_secs_f64() / quiet.as_secs_f64(),
    );

    // The abuse took place.
    assert!(
        slow >= sizes.slow && cut > 20 && huge > 20 && flooded.len() > 100,
        "{slow} {cut} {huge} {}",
        flooded.len()
    );
    assert!(flooded.iter().all(|sample| !sample.is_admitted()), "a random token was let in");
    let failed = samples.iter().filter(|sample| !sample.is_admitted()).count();
    assert_eq!(failed, 0, "good requests of {} that failed", samples.len());
    assert!(growth <= GROWTH, "Envoy grew by {growth} bytes");
    if sizes.judged {
        assert!(loud <= 2 * quiet, "good p99 {loud:?} beside abuse, {quiet:?} before");
    }
    let (faulty, faults) = upstream.faults();
    assert!(upstream.requests() >= samples.len() as u64);
    assert_eq!(faulty, 0, "{faults:?}");
    gateway.check_alive().unwrap();
    let reloads = gateway.stats_with("vm_reload").unwrap();
    assert!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
}

/// The control: what is not signed, and what goes elsewhere, is noticed.
#[test]
fn the_upstream_that_judges_finds_what_is_wrong() {
    let upstream = Judging::start(judge).unwrap();
    let client = Client::plain(upstream.port.number());
    let good = || {
        let signed = "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/lambda/aws4_request";
        client.request("POST", "/good").host(RECORDER).header("Authorization", signed)
    };
    assert_eq!(good().send().unwrap().status, 200);
    assert_eq!(upstream.faults().0, 0);
    client.request("POST", "/good").host(RECORDER).bearer("CPBLTY1-x").send().unwrap();
    client.request("POST", "/good").host(RECORDER).send().unwrap();
    good().host("evil.example").send().unwrap();
    good().header("X-Token", "CPBLTY1-x").send().unwrap();
    assert_eq!((upstream.requests(), upstream.faults().0), (5, 4));
}

/// A fault of the filter's own. The module is a copy of the shipped one, in which a request with 70 headers traps its VM.
#[test]
fn a_trap_is_recovered_from_and_lets_nothing_through() {
    const HEADERS: usize = 70;
    let module = harness::module().unwrap();
    let trapping = folder("hostile-trap-module").join("trapping.wasm");
    std::fs::create_dir_all(trapping.parent().unwrap()).unwrap();
    let made = std::process::Command::new("node")
        .arg(harness::repository().join("tests/tools/trapping.mjs"))
        .args([&module, &trapping])
        .arg(HEADERS.to_string())
        .status()
        .unwrap();
    assert!(made.success(), "a module that traps");
    let (from, to) = (module.display().to_string(), trapping.display().to_string());
    let (mut gateway, upstream, good) = gateway("hostile-trap", |config| {
        assert!(config.contains(&from));
        config.replace(&from, &to)
    });
    let load = Load::start(&[gateway.client.clone()], 4, Duration::from_millis(5), Arc::clone(&good));
    std::thread::sleep(Duration::from_millis(500));
    let text = String::from_utf8(good.0.clone()).unwrap();
    let trap = (0..HEADERS).fold(text, |text, n| text.replacen("\r\n", &format!("\r\nX-{n}: a\r\n"), 1));
    let mut slowest = Duration::ZERO;
    for _ in 0..6 {
        let mut connection = gateway.client.connect().unwrap();
        // Whoever traps a VM may wait: until Envoy's idle timeout ends the stream.
        connection.patience(Duration::from_millis(300)).unwrap();
        connection.write(trap.as_bytes()).unwrap();
        let answer = connection.read(false);
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status >= 500));
        let began = Instant::now();
        // Both workers: nobody is refused in a row of new connections.
        let mut row = 0;
        while row < 12 {
            let answer = gateway.client.raw(&good.0, false);
            row = if answer.is_ok_and(|answer| answer.status == 200) { row + 1 } else { 0 };
            assert!(began.elapsed() < Duration::from_secs(20), "it does not recover");
        }
        slowest = slowest.max(began.elapsed());
    }
    let samples = load.stop();
    println!("a trap is recovered from within {slowest:?}");
    let refused = samples.iter().filter(|sample| !sample.is_admitted()).count();
    assert!(refused < samples.len() / 2, "{refused} of {} refused", samples.len());
    // The traps were traps.
    let reloads = gateway.stats_with("vm_reload_success").unwrap();
    assert!(reloads.iter().map(|(_, count)| count).sum::<u64>() >= 1, "{reloads:?}");
    let (faulty, faults) = upstream.faults();
    assert!(upstream.requests() > 0);
    assert_eq!(faulty, 0, "{faults:?}");
    gateway.check_alive().unwrap();
    if Sizes::asked().judged {
        assert!(slowest <= Duration::from_secs(2), "{slowest:?}");
    }
}
