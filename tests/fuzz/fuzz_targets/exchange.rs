//! The whole exchange: a worker in a simulated Envoy, before an honest registry whose answers may come late, in any order, or not at all.
//! Input: events, two bytes each.
//!
//! The oracle knows when each capability was revoked. Whatever happens: what leaves is signed and for where its grant leads, and nothing
//! leaves, or is completed, for a capability that has expired or was revoked longer ago than the staleness bound. What is held is gone when
//! its request is.

#![no_main]

use capability::record::{self, Header, Kind};
use capability::{Content, Export, Exported, Token, UnitPair, Units};
use libfuzzer_sys::fuzz_target;
use membrane_filter::abi_numbers::HeadersStatus;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

#[path = "../../../src/filter/tests/simulation/mod.rs"]
#[allow(dead_code)]
mod simulation;

use simulation::{Bench, LAMBDA, START, epoch, token, uid};

const STALENESS: f64 = 2.0;
const CONFIG: &str = r#"{"staleness": "2s", "max_body": 3000, "pinned_bodies": true, "cache": {"entries": 2}, "shared_data": true,
    "registry": {"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "1s"}}"#;
/// Seconds after the start at which number 3 expires.
const EXPIRES: u64 = 20;
/// The number whose token is a control's.
const CONTROL: u8 = 5;
const NUMBERS: u8 = 6;

const S3: &str = r#"{"uri": "https://b.s3.amazonaws.com/k", "method": "PUT",
    "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "s3", "secretAccessKey": "canary-secret"PAYLOAD}}}"#;

/// A sealed grant, and where it leads.
struct Known {
    token: Token,
    units: Units,
    record: String,
    expires_at: Option<u64>,
    authority: &'static str,
    signed: bool,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let pinned = LAMBDA.replacen('{', r#"{"body": "pinned", "#, 1);
    let exports = [
        (LAMBDA.to_owned(), "lambda.us-east-1.amazonaws.com", true),
        (S3.replace("PAYLOAD", ""), "b.s3.amazonaws.com", true),
        (S3.replace("PAYLOAD", r#", "payload": "signed""#), "b.s3.amazonaws.com", true),
        (r#"{"uri": "https://plain.example/p", "allowQuery": true}"#.to_owned(), "plain.example", false),
        (pinned, "lambda.us-east-1.amazonaws.com", true),
    ];
    let known = exports.into_iter().zip(0..).map(|((export, authority, signed), number): (_, u8)| {
        let Ok(Export { what: Exported::Grant(grant), .. }) = Export::parse(export.as_bytes()) else {
            panic!("a grant")
        };
        let token = token(number);
        let units = Units::own(UnitPair { tenant: uid(100), membrane: Some(uid(number)) });
        let expires_at = (number == 3).then_some(START + EXPIRES);
        let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units: &units };
        let inner =
            record::seal(&token, &header, Content::Grant(grant).to_json().expose(), [7; 24]).expect("sealed");
        use base64::Engine as _;
        let record = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(inner.as_bytes());
        Known { token, units, record, expires_at, authority, signed }
    });
    known.collect()
});

/// The registry, and the time of each revocation.
struct Registry {
    epoch: u8,
    log: Vec<(u64, u8)>,
    head: u64,
    revoked: HashMap<u8, f64>,
}

impl Registry {
    fn revoke(&mut self, number: u8, now: f64) {
        if self.revoked.contains_key(&number) {
            return;
        }
        self.revoked.insert(number, now);
        self.head += 1;
        self.log.push((self.head, number));
    }

    /// What it answers at this moment.
    fn answer(&self, path: &str, now: f64) -> (u16, String) {
        let position = json!({"epoch": epoch(self.epoch), "seq": self.head});
        let slot_key = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk";
        if let Some(query) = path.strip_prefix("/v1/events?") {
            let get =
                |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            let after = get("after").and_then(|after| after.parse::<u64>().ok());
            return match after {
                None => (200, json!({"position": position, "events": [], "slot_key": slot_key}).to_string()),
                Some(after) if get("epoch") == Some(&epoch(self.epoch)) => {
                    let events: Vec<_> = self
                        .log
                        .iter()
                        .filter(|(seq, _)| *seq > after)
                        .map(|(seq, number)| json!({"seq": seq, "unit": uid(*number)}))
                        .collect();
                    (200, json!({"position": position, "events": events, "slot_key": slot_key}).to_string())
                }
                Some(_) => (410, json!({"position": position, "slot_key": slot_key}).to_string()),
            };
        }
        if path.contains(&token(CONTROL).lookup_id().to_string()) {
            return (200, json!({"kind": "control", "as_of": position}).to_string());
        }
        let found =
            KNOWN.iter().zip(0u8..).find(|(known, _)| path.contains(&known.token.lookup_id().to_string()));
        match found {
            Some((known, number))
                if !self.revoked.contains_key(&number)
                    && known.expires_at.is_none_or(|at| START as f64 + now < at as f64) =>
            {
                let answer = json!({
                    "kind": "grant", "record": known.record, "units": known.units, "expiresAt": known.expires_at, "as_of": position,
                });
                (200, answer.to_string())
            }
            _ => (404, json!({"as_of": position}).to_string()),
        }
    }
}

struct World {
    bench: Bench,
    registry: Registry,
    /// How the head of each request was held whose body is still to come.
    open: HashMap<u32, HeadersStatus>,
    /// Answers that have left the registry.
    answers: HashMap<u32, (u16, String)>,
    judged: HashSet<u32>,
    completed: HashSet<u32>,
    numbers: HashMap<u32, u8>,
}

impl World {
    fn new() -> World {
        let registry = Registry { epoch: 1, log: Vec::new(), head: 10, revoked: HashMap::new() };
        let bench = Bench::new(CONFIG);
        let (open, answers, numbers) = Default::default();
        World { bench, registry, open, answers, judged: HashSet::new(), completed: HashSet::new(), numbers }
    }

    fn begin(&mut self, number: u8, how: u8) {
        let known = KNOWN
            .get(usize::from(number))
            .map_or(token(number).expose().to_owned(), |it| it.token.expose().to_owned());
        let length = ["0", "5", "2000", "100000"][usize::from(how & 3)];
        let mut headers = vec![];
        let ended = how & 4 != 0;
        if !ended && how & 8 != 0 {
            headers.push(("content-length", length));
        }
        match how >> 4 & 7 {
            1 => headers.push(("x-amz-content-sha256", "UNSIGNED-PAYLOAD")),
            2 => headers.extend([
                ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
                ("x-amz-decoded-content-length", "5"),
            ]),
            3 => headers.push(("x-amz-acl", "public-read")),
            4 => headers.push((":method", "HEAD")),
            5 => headers.push((":path", "/?a=1&X-Amz-Date=1")),
            6 => headers.push(("upgrade", "websocket")),
            _ => {}
        }
        let (context, status) = self.bench.headers(&known, &headers, ended);
        self.numbers.insert(context, number);
        if !ended {
            self.open.insert(context, status);
        }
    }

    /// Envoy gives a body's callbacks only while it is to be given them.
    fn body(&mut self, place: u8, how: u8) {
        let mut contexts: Vec<u32> = self.open.keys().copied().collect();
        contexts.sort_unstable();
        let Some(context) = contexts.get(usize::from(place) % contexts.len().max(1)).copied() else { return };
        let (let_go, answered) =
            (self.bench.envoy.sent.contains_key(&context), self.bench.envoy.replies.contains_key(&context));
        let held_whole = self.open[&context] == HeadersStatus::StopAllAndWatermark && !let_go;
        if how & 1 != 0 || answered {
            // The client goes, or Envoy is done with it.
            self.open.remove(&context);
            self.bench.worker.on_delete(context);
            self.bench.envoy.bodies.remove(&context);
            return;
        }
        if held_whole {
            return;
        }
        let ended = how & 2 != 0;
        if ended && how & 4 != 0 {
            self.bench.trailers(context);
        } else {
            let piece: &[u8] = match how >> 3 & 3 {
                0 => b"",
                1 => b"hello",
                2 => b"5\r\nhello\r\n0\r\n\r\n",
                _ => &[b'x'; 1_500],
            };
            if let_go {
                self.bench.stream(context, piece, ended);
            } else {
                self.bench.body(context, piece, ended);
            }
        }
        if ended {
            self.open.remove(&context);
        }
    }

    /// The registry sees a question, or its answer comes, or never does.
    fn registry_acts(&mut self, place: u8, how: u8) {
        let count = self.bench.envoy.calls.len();
        let Some((call, path)) = self.bench.envoy.calls.get(usize::from(place) % count.max(1)).cloned()
        else {
            return;
        };
        let now = self.bench.envoy.seconds;
        if how & 3 == 0 {
            let answer = self.registry.answer(&path, now);
            self.answers.entry(call).or_insert(answer);
            return;
        }
        let (status, body) = match how & 3 {
            1 => (None, String::new()),
            2 if how & 4 != 0 => (Some(500), "no".to_owned()),
            _ => {
                let (status, body) =
                    self.answers.remove(&call).unwrap_or_else(|| self.registry.answer(&path, now));
                (Some(status), body)
            }
        };
        self.bench.envoy.calls.retain(|(other, _)| *other != call);
        self.bench.worker.on_answer(&mut self.bench.envoy, call, status, body.as_bytes());
    }

    fn assert_alive(&self, context: u32, what: &str) {
        let number = self.numbers[&context];
        let now = self.bench.envoy.seconds;
        if let Some(at) = self.registry.revoked.get(&number) {
            assert!(now <= at + STALENESS, "{what}: revoked at {at}, now is {now}");
        }
        if let Some(at) = KNOWN.get(usize::from(number)).and_then(|known| known.expires_at) {
            assert!(START as f64 + now < at as f64, "{what}: expired");
        }
    }

    fn judge(&mut self) {
        let envoy = &self.bench.envoy;
        let new: Vec<u32> =
            envoy.sent.keys().filter(|context| !self.judged.contains(context)).copied().collect();
        for context in new {
            let headers = &envoy.sent[&context];
            let all = |name: &str| -> Vec<&[u8]> {
                headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
            };
            let number = self.numbers[&context];
            assert_eq!(all("x-membrane-route").len(), 1);
            if number == CONTROL {
                assert_eq!(
                    (all("x-membrane-route")[0], all(":authority")),
                    (&b"control"[..], vec![&b"membrane.registry"[..]])
                );
            } else {
                let known = &KNOWN[usize::from(number)];
                assert_eq!(
                    (all("x-membrane-route")[0], all(":authority")),
                    (&b"https"[..], vec![known.authority.as_bytes()])
                );
                let authorization = all("authorization");
                assert_eq!(authorization.len(), usize::from(known.signed));
                assert!(
                    authorization
                        .iter()
                        .all(|value| value.starts_with(b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"))
                );
                self.assert_alive(context, "let go");
            }
            self.judged.insert(context);
        }
        let whole: Vec<u32> = envoy.whole.difference(&self.completed).copied().collect();
        for context in whole {
            assert!(envoy.sent.contains_key(&context), "what nobody let go is complete");
            if self.numbers[&context] != CONTROL {
                self.assert_alive(context, "completed");
            }
            self.completed.insert(context);
        }
        for context in envoy.upstream.keys() {
            assert!(envoy.sent.contains_key(context), "a body without its head");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    for event in input.chunks_exact(2).take(1_000) {
        let (kind, how) = (event[0], event[1]);
        match kind & 15 {
            0..=2 => world.begin(kind >> 4 & 7, how),
            3 | 4 => world.body(kind >> 4, how),
            5..=8 => world.registry_acts(kind >> 4, how),
            9 => world.bench.envoy.seconds += 0.125,
            10 => world.bench.envoy.seconds += f64::from(how) / 64.0,
            11 => {}
            12 => world.registry.revoke(how % NUMBERS, world.bench.envoy.seconds),
            // A restored copy, or a failover: the positions begin anew, what was revoked stays revoked.
            13 if how & 7 == 0 => {
                world.registry.epoch = world.registry.epoch.wrapping_add(1);
                world.registry.log.clear();
                world.answers.clear();
                world.bench.envoy.calls.clear();
            }
            13 => world.bench.envoy.refuse_calls = how & 1 != 0,
            14 => {
                // Another plugin writes where the workers share.
                for value in world.bench.envoy.shared.values_mut() {
                    let place = usize::from(how) % value.len().max(1);
                    if let Some(byte) = value.get_mut(place) {
                        *byte ^= kind | 1;
                    }
                }
            }
            _ if how & 15 == 0 => {
                let World { bench, .. } = world;
                world = World { bench: bench.reconfigured(CONFIG), ..world };
            }
            _ => {}
        }
        world.bench.worker.on_tick(&mut world.bench.envoy);
        world.judge();
    }
    assert!(world.bench.envoy.calls.len() <= 260, "lookups are bounded");
});
