//! A simulated Envoy: it keeps headers, bodies, calls and time, and notes what the worker asks of it.
#![allow(unreachable_pub)] // A module of a test: `pub` is for the test.

use capability::record::{Header, Kind};
use capability::{Content, Export, Exported, Token, Uid, UnitPair, Units, record};
use membrane_filter::abi_numbers::{DataStatus, HeadersStatus, TrailersStatus};
use membrane_filter::config::Config;
use membrane_filter::feed::Now;
use membrane_filter::noted::Note;
use membrane_filter::outgoing::Outgoing;
use membrane_filter::pairs::{self, Edit, Edits, Pairs};
use membrane_filter::records::Records;
use membrane_filter::reply::Reply;
use membrane_filter::stats::Counter;
use membrane_filter::worker::Again;
use membrane_filter::{Host, Worker};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// 2026-01-01T00:00:00Z.
pub const START: u64 = 1_767_225_600;

type HeaderList = Vec<(String, Vec<u8>)>;

#[derive(Default)]
pub struct Envoy {
    pub seconds: f64,
    pub requests: HashMap<u32, HeaderList>,
    pub bodies: HashMap<u32, Vec<u8>>,
    pub sent: HashMap<u32, HeaderList>,
    pub trailers_cleared: Vec<u32>,
    pub replies: HashMap<u32, (u16, String)>,
    pub resumed: Vec<u32>,
    /// Requests whose body Envoy gathers in its buffer, since the last body callback answered so.
    gathers: HashSet<u32>,
    /// Requests that stand still.
    stopped: HashSet<u32>,
    /// Pieces that the filter has seen, and that go on with what follows.
    seen: HashMap<u32, Vec<u8>>,
    /// Calls made: id, path.
    pub calls: Vec<(u32, String)>,
    pub shared: HashMap<String, Vec<u8>>,
    pub warnings: Vec<String>,
    pub reads: Vec<(u32, std::ops::Range<usize>)>,
    /// What of a body went on to upstream.
    pub upstream: HashMap<u32, Vec<u8>>,
    /// Requests that have come to their end.
    pub ended: HashSet<u32>,
    /// Requests of which upstream has all.
    pub whole: HashSet<u32>,
    pub refuse_calls: bool,
    /// Where requests come from.
    pub source: String,
    /// What access logs are told.
    pub notes: HashMap<(u32, Note), String>,
    pub lookup_times: Vec<Duration>,
    /// What was added to counters.
    counts: Vec<(Counter, u32)>,
    next_call: u32,
}

impl Host for Envoy {
    fn now(&self) -> Now {
        Now {
            wall: Duration::from_secs_f64(START as f64 + self.seconds),
            monotonic: Duration::from_secs_f64(3_600.0 + self.seconds),
        }
    }

    fn request_headers(&mut self, context: u32) -> Option<Pairs> {
        let headers = self.requests.get(&context)?;
        let bytes = pairs::encode(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_slice()))).ok()?;
        Pairs::parse(bytes.to_vec())
    }

    fn set_request_headers(&mut self, context: u32, before: &Pairs, outgoing: &Outgoing<'_>) -> bool {
        assert!(!self.resumed.contains(&context), "headers are set before a request is resumed");
        let came = self.requests.get(&context).into_iter().flatten();
        assert!(
            before.iter().eq(came.map(|(name, value)| (name.as_bytes(), value.as_slice()))),
            "changes count from what the request's headers are"
        );
        let headers: HeaderList =
            outgoing.iter().map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.to_vec())).collect();
        if let Some(edits) = Edits::between(before, outgoing.iter()) {
            let mut map: Vec<(&[u8], &[u8])> = before.iter().collect();
            for edit in edits.iter(outgoing.iter()) {
                let (Edit::Set(name, _) | Edit::Remove(name)) = edit;
                map.retain(|(other, _)| *other != name);
                if let Edit::Set(name, value) = edit {
                    map.push((name, value));
                }
            }
            let mut wanted: Vec<(&[u8], &[u8])> = outgoing.iter().collect();
            map.sort_unstable();
            wanted.sort_unstable();
            assert!(map == wanted, "single changes make of the headers what was built");
        }
        assert!(self.sent.insert(context, headers).is_none(), "headers are set once");
        true
    }

    fn remove_request_header(&mut self, context: u32, name: &[u8]) {
        self.requests.get_mut(&context).unwrap().retain(|(other, _)| other.as_bytes() != name);
    }

    fn clear_request_trailers(&mut self, context: u32) {
        self.trailers_cleared.push(context);
    }

    fn request_body(&mut self, context: u32, range: std::ops::Range<usize>) -> Option<Vec<u8>> {
        self.reads.push((context, range.clone()));
        self.bodies.get(&context)?.get(range).map(<[u8]>::to_vec)
    }

    fn replace_request_body(&mut self, context: u32, length: usize, with: &[u8]) -> bool {
        // Envoy has no buffer before the first byte.
        let Some(body) = self.bodies.get_mut(&context) else { return false };
        body.splice(..length, with.iter().copied());
        true
    }

    fn reply(&mut self, context: u32, reply: &Reply) {
        assert!(!self.whole.contains(&context), "what upstream has whole is not answered by us too");
        assert!(self.replies.insert(context, (reply.status, reply.body())).is_none(), "answered once");
    }

    fn source(&mut self, _context: u32) -> Option<Vec<u8>> {
        Some(self.source.clone().into_bytes())
    }

    fn resume(&mut self, context: u32) {
        self.resumed.push(context);
        self.stopped.remove(&context);
        for held in [self.seen.remove(&context), self.bodies.remove(&context)].into_iter().flatten() {
            self.upstream.entry(context).or_default().extend(held);
        }
        if self.ended.contains(&context) {
            self.whole.insert(context);
        }
    }

    fn get(
        &mut self,
        _cluster: &str,
        _authority: &str,
        path: &str,
        _timeout: Duration,
        again: Again,
    ) -> Option<u32> {
        // What is held back must not be asked for a second time, when most of the time for it is over.
        assert_eq!(again == Again::Yes, path.starts_with("/v1/records/"), "{path}");
        if self.refuse_calls {
            return None;
        }
        self.next_call += 1;
        self.calls.push((self.next_call, path.to_owned()));
        Some(self.next_call)
    }

    fn shared(&mut self, key: &str) -> Option<Vec<u8>> {
        self.shared.get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8]) {
        self.shared.insert(key.to_owned(), value.to_vec());
    }

    fn note(&mut self, context: u32, note: Note, value: &str) {
        self.notes.insert((context, note), value.to_owned());
    }

    fn count(&mut self, counter: Counter, by: u32) {
        self.counts.push((counter, by));
    }

    fn lookup_took(&mut self, time: Duration) {
        self.lookup_times.push(time);
    }

    fn gauges(&mut self, _cache_entries: u64, _feed_age_seconds: u64) {}
    fn warn(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

pub fn uid(n: u8) -> Uid {
    Uid([n; 16])
}

pub fn epoch(n: u8) -> String {
    uid(n).to_string()
}

pub fn token(n: u8) -> Token {
    Token::mint([n; 64])
}

pub const LAMBDA: &str = r#"{"uri": "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations?Qualifier=1", "method": "POST",
    "headers": {"x-pinned": "mine"}, "allowHeaders": ["x-amz-invocation-type"],
    "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "region": "us-east-1", "service": "lambda", "secretAccessKey": "canary-secret"}}}"#;

/// The registry's answer to a lookup of a grant, whose membrane's uid is 2 and whose tenant's is 1.
pub fn grant_answer(
    token: &Token,
    export: &str,
    expires_at: Option<u64>,
    epoch_byte: u8,
    seq: u64,
) -> String {
    let export = Export::parse(export.as_bytes()).unwrap();
    let Exported::Grant(grant) = export.what else { panic!("a grant was expected") };
    let units = Units::own(UnitPair { tenant: uid(1), membrane: Some(uid(2)) });
    let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units: &units };
    let json = Content::Grant(grant).to_json();
    let inner = record::seal(token, &header, json.expose(), [7; 24]).unwrap();
    let record = {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(inner.as_bytes())
    };
    serde_json::json!({
        "kind": "grant", "record": record, "units": units, "expiresAt": expires_at,
        "as_of": {"epoch": epoch(epoch_byte), "seq": seq},
    })
    .to_string()
}

pub fn feed_answer(epoch_byte: u8, seq: u64, revoked: &[(u64, u8)]) -> String {
    let events: Vec<_> =
        revoked.iter().map(|(seq, unit)| serde_json::json!({"seq": seq, "unit": uid(*unit)})).collect();
    let slot_key = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk";
    serde_json::json!({"position": {"epoch": epoch(epoch_byte), "seq": seq}, "events": events, "slot_key": slot_key})
        .to_string()
}

/// The key of configured records, as it stands in the environment.
pub const KEK: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk";

fn configured(config: &str) -> (Config, Records) {
    let mut config = Config::parse(config.as_bytes()).unwrap();
    let records = Records::take(&mut config, Some(KEK.as_bytes())).unwrap();
    (config, records)
}

/// A worker in a simulated Envoy.
pub struct Bench {
    pub envoy: Envoy,
    pub worker: Worker,
    next_context: u32,
}

impl Bench {
    pub fn new(config: &str) -> Bench {
        let (config, records) = configured(config);
        let worker = Worker::new(config, records, [1; 16]);
        Bench { envoy: Envoy::default(), worker, next_context: 100 }
    }

    /// With a feed that has answered at (epoch 1, seq 10).
    pub fn with_feed(config: &str) -> Bench {
        let mut bench = Bench::new(config);
        bench.worker.on_tick(&mut bench.envoy);
        bench.answer_feed(200, &feed_answer(1, 10, &[]));
        bench
    }

    pub fn reconfigured(mut self, config: &str) -> Bench {
        let (config, records) = configured(config);
        self.worker = self.worker.reconfigured(&mut self.envoy, config, records, [2; 16]);
        self
    }

    pub fn headers(&mut self, bearer: &str, more: &[(&str, &str)], ended: bool) -> (u32, HeadersStatus) {
        self.next_context += 1;
        let context = self.next_context;
        let mut headers: HeaderList = Vec::new();
        for (name, value) in
            [(":method", "POST"), (":path", "/"), (":authority", "localhost:8443"), (":scheme", "https")]
        {
            if !more.iter().any(|(other, _)| *other == name) {
                headers.push((name.into(), value.into()));
            }
        }
        headers.push(("authorization".into(), format!("Bearer {bearer}").into_bytes()));
        headers.extend(more.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())));
        self.envoy.requests.insert(context, headers);
        self.envoy.ended.extend(ended.then_some(context));
        let status = self.worker.on_request_headers(&mut self.envoy, context, ended);
        self.note_whole(context, status == HeadersStatus::Continue);
        (context, status)
    }

    pub fn body(&mut self, context: u32, more: &[u8], ended: bool) -> DataStatus {
        let body = self.envoy.bodies.entry(context).or_default();
        body.extend(more);
        let size = body.len();
        self.envoy.ended.extend(ended.then_some(context));
        let status = self.worker.on_request_body(&mut self.envoy, context, size, ended);
        self.note_status(context, size, status);
        self.note_whole(context, status == DataStatus::Continue);
        status
    }

    fn note_status(&mut self, context: u32, size: usize, status: DataStatus) {
        let (gathered, stood) =
            (self.envoy.gathers.contains(&context), self.envoy.stopped.contains(&context));
        assert!(
            status != DataStatus::Continue || !gathered || stood || size == 0,
            "an Envoy without its fix loses this piece: envoyproxy/envoy#46842"
        );
        match status {
            DataStatus::StopAndBuffer => self.envoy.gathers.insert(context),
            _ => self.envoy.gathers.remove(&context),
        };
        match status {
            DataStatus::Continue => self.envoy.stopped.remove(&context),
            _ => self.envoy.stopped.insert(context),
        };
    }

    fn note_whole(&mut self, context: u32, goes_on: bool) {
        if goes_on && self.envoy.ended.contains(&context) {
            self.envoy.whole.insert(context);
        }
    }

    /// More of a body whose request was let go: Envoy hands over what is new, and passes on what it then finds there. What is held
    /// until the next tick is so here.
    pub fn stream(&mut self, context: u32, more: &[u8], ended: bool) -> DataStatus {
        let status = self.piece(context, more, ended);
        if status != DataStatus::StopAndWatermark {
            return status;
        }
        self.worker.on_tick(&mut self.envoy);
        assert!(!self.envoy.stopped.contains(&context), "it goes on with the next tick");
        DataStatus::Continue
    }

    /// The same, without a tick.
    pub fn piece(&mut self, context: u32, more: &[u8], ended: bool) -> DataStatus {
        let held = self.envoy.bodies.entry(context).or_default();
        held.extend(more);
        let size = held.len();
        self.envoy.ended.extend(ended.then_some(context));
        let status = self.worker.on_request_body(&mut self.envoy, context, size, ended);
        self.note_status(context, size, status);
        // What is held comes with what follows, or when the request is resumed.
        if status != DataStatus::StopAndBuffer {
            let piece = self.envoy.bodies.remove(&context).unwrap();
            match status {
                DataStatus::Continue => {
                    let seen = self.envoy.seen.remove(&context).unwrap_or_default();
                    self.envoy.upstream.entry(context).or_default().extend(seen.into_iter().chain(piece));
                }
                DataStatus::StopAndWatermark => self.envoy.seen.entry(context).or_default().extend(piece),
                _ => {}
            }
        }
        self.note_whole(context, status == DataStatus::Continue);
        status
    }

    pub fn trailers(&mut self, context: u32) -> TrailersStatus {
        self.envoy.ended.insert(context);
        let status = self.worker.on_request_trailers(&mut self.envoy, context);
        self.note_whole(context, status == TrailersStatus::Continue);
        status
    }

    fn answer(&mut self, prefix: &str, status: Option<u16>, body: &str) {
        let at =
            self.envoy.calls.iter().position(|(_, path)| path.starts_with(prefix)).expect("a call under way");
        let (call, _) = self.envoy.calls.remove(at);
        self.worker.on_answer(&mut self.envoy, call, status, body.as_bytes());
    }

    pub fn answer_feed(&mut self, status: u16, body: &str) {
        self.answer("/v1/events", Some(status), body);
    }

    pub fn answer_lookup(&mut self, status: u16, body: &str) {
        self.answer("/v1/records/", Some(status), body);
    }

    pub fn fail_lookup(&mut self) {
        self.answer("/v1/records/", None, "");
    }

    pub fn lookups(&self) -> usize {
        self.envoy.calls.iter().filter(|(_, path)| path.starts_with("/v1/records/")).count()
    }

    /// What a counter has come to by the next tick.
    pub fn counted(&mut self, counter: Counter) -> u32 {
        self.worker.on_tick(&mut self.envoy);
        self.envoy.counts.iter().filter(|(other, _)| *other == counter).map(|(_, by)| by).sum()
    }

    pub fn sent(&self, context: u32, name: &str) -> Option<String> {
        let headers = self.envoy.sent.get(&context).expect("the request was let go");
        let values: Vec<_> = headers.iter().filter(|(other, _)| other == name).collect();
        assert!(values.len() <= 1, "{name} stands once");
        values.first().map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    }

    pub fn status(&self, context: u32) -> Option<u16> {
        self.envoy.replies.get(&context).map(|(status, _)| *status)
    }

    /// A bodyless request with a capability whose record is known: sent, or the status with which it was refused.
    pub fn outcome(&mut self, token: &Token) -> Result<(), Option<u16>> {
        let (context, _) = self.headers(token.expose(), &[], true);
        if self.envoy.sent.contains_key(&context) { Ok(()) } else { Err(self.status(context)) }
    }
}
