//! Bodies of any size, in every payload mode, into an S3 that verifies signatures, those of chunks included.

use crate::{assert_error, own};
use harness::bearer_proxy::BearerProxy;
use harness::clients::S3Client;
use harness::gateway::{Gateway, Membrane};
use harness::http::{Client, Response};
use harness::origin::RECORDER;
use harness::s3::{BUCKET, HOST, S3};
use harness::upstream::{Script, Upstream};
use harness::verifier::{Expected, verify, verify_chunks};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Nothing, the least, more than Envoy holds, and far more than that.
const SIZES: [usize; 4] = [0, 1, 5 << 20, 64 << 20];

/// What clients of S3 add by default, and a grant must name to let through.
const FROM_CLIENTS: [&str; 3] =
    ["x-amz-checksum-crc32", "x-amz-checksum-mode", "x-amz-sdk-checksum-algorithm"];

struct Rig {
    gateway: Gateway,
    membrane: Membrane,
    s3: S3,
}

impl Rig {
    /// A capability for one object.
    fn capability(&self, method: &str, key: &str) -> String {
        self.export(method, HOST, &format!("/{BUCKET}/{key}"))
    }

    fn export(&self, method: &str, host: &str, path: &str) -> String {
        let what = json!({
            "uri": format!("https://{host}{path}"), "method": method, "hmac": self.gateway.aws4("s3"),
            "allowHeaders": FROM_CLIENTS,
        });
        self.gateway.export(&self.membrane, &what).unwrap()
    }

    /// A capability that leads to an upstream of one's own, and that upstream's host.
    fn scripted(&self, upstream: &Upstream, method: &str) -> (String, String) {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let host = format!("scripted-{}.us-east-1.amazonaws.com", NEXT.fetch_add(1, Ordering::Relaxed));
        self.gateway.origin().route(&host, upstream.port.number());
        (self.export(method, &host, "/key"), host)
    }

    /// Waits until the heads of so many requests have come to `host`.
    #[track_caller]
    fn wait_for_heads(&self, host: &str, count: usize) {
        let start = Instant::now();
        let came = || {
            self.gateway.origin().requests("/key").iter().filter(|head| head.all("host") == [host]).count()
        };
        while came() < count {
            assert!(start.elapsed() < Duration::from_secs(10), "{} requests came, not {count}", came());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.s3.object(key)
    }
}

/// The gateway that these tests share: its own, since they log little and send much.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let gateway = own("streaming");
        let membrane = gateway.create_membrane("streaming").unwrap();
        let s3 = S3::start(&gateway.dir, &gateway.aws.key.id, &gateway.aws.key.secret).unwrap();
        gateway.origin().route(HOST, s3.port.number());
        Rig { gateway, membrane, s3 }
    })
}

/// Bytes without a pattern that a shifted or doubled piece would keep.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Sizes of pieces, drawn from a seed.
struct Pieces(u64);

impl Pieces {
    fn next(&mut self, at_most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let random = usize::try_from(self.0 >> 16).unwrap();
        1 + random % if self.0.is_multiple_of(4) { 40 } else { at_most }
    }
}

/// How a requester sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Unsigned,
    Hash,
    UnsignedTrailer,
    Signed,
    SignedTrailer,
}

/// Bodies that pass as they are, and those that the filter signs again.
const PASSED: [Mode; 4] = [Mode::Plain, Mode::Unsigned, Mode::Hash, Mode::UnsignedTrailer];
const SIGNED_AGAIN: [Mode; 2] = [Mode::Signed, Mode::SignedTrailer];

/// A body and the headers that describe it.
struct Upload {
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

const CHECKSUM: &str = "x-amz-checksum-sha256";

impl Upload {
    /// Chunks of random sizes. Signatures are of the right form and wrong: the requester has no AWS key.
    fn new(mode: Mode, data: &[u8], seed: u64) -> Self {
        let payload = match mode {
            Mode::Plain => return Self { headers: Vec::new(), body: data.to_vec() },
            Mode::Unsigned => "UNSIGNED-PAYLOAD".into(),
            Mode::Hash => Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect(),
            Mode::UnsignedTrailer => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".into(),
            Mode::Signed => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".into(),
            Mode::SignedTrailer => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER".into(),
        };
        let mut headers = vec![("x-amz-content-sha256", payload)];
        if matches!(mode, Mode::Unsigned | Mode::Hash) {
            return Self { headers, body: data.to_vec() };
        }
        headers.push(("content-encoding", "aws-chunked".into()));
        headers.push(("x-amz-decoded-content-length", data.len().to_string()));
        let signature = "0123456789abcdef".repeat(4);
        let extension = match mode {
            Mode::UnsignedTrailer => String::new(),
            _ => format!(";chunk-signature={signature}"),
        };
        let (mut body, mut rest, mut pieces) = (Vec::new(), data, Pieces(seed));
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(pieces.next(300_000).min(rest.len()));
            body.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
            rest = after;
        }
        body.extend(format!("0{extension}\r\n").bytes());
        if mode != Mode::Signed {
            use base64::Engine;
            headers.push(("x-amz-trailer", CHECKSUM.into()));
            let sum = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(data));
            body.extend(format!("{CHECKSUM}:{sum}\r\n").bytes());
        }
        if mode == Mode::SignedTrailer {
            body.extend(format!("x-amz-trailer-signature:{signature}\r\n").bytes());
        }
        body.extend_from_slice(b"\r\n");
        Self { headers, body }
    }

    fn head(&self, rig: &Rig, capability: &str, framing: &str) -> String {
        let token = capability.rsplit('#').next().unwrap();
        let mut head = format!(
            "PUT / HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n",
            rig.gateway.client.authority()
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + framing + "\r\n"
    }

    /// Sends it in random pieces, with a content-length.
    fn send(&self, rig: &Rig, capability: &str, seed: u64) -> Response {
        self.send_to(&rig.gateway.client, rig, capability, seed)
    }

    fn send_to(&self, client: &Client, rig: &Rig, capability: &str, seed: u64) -> Response {
        let mut connection = client.connect().unwrap();
        let head = self.head(rig, capability, &format!("content-length: {}\r\n", self.body.len()));
        connection.write(head.as_bytes()).unwrap();
        let (mut rest, mut pieces) = (&self.body[..], Pieces(seed));
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next(100_000).min(rest.len()));
            connection.write(piece).unwrap();
            rest = after;
        }
        connection.read(false).unwrap()
    }

    /// Sends it in random chunks of HTTP's own, without a content-length.
    fn send_chunked(&self, rig: &Rig, capability: &str, seed: u64) -> Response {
        let mut connection = rig.gateway.client.connect().unwrap();
        let head = self.head(rig, capability, "transfer-encoding: chunked\r\n");
        connection.write(head.as_bytes()).unwrap();
        let (mut rest, mut pieces) = (&self.body[..], Pieces(seed));
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next(100_000).min(rest.len()));
            connection
                .write(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                .unwrap();
            rest = after;
        }
        connection.write(b"0\r\n\r\n").unwrap();
        connection.read(false).unwrap()
    }
}

/// Up in that mode and down again, in all sizes, cut at random; with a content-length and, if framed, without.
fn there_and_back(mode: Mode) {
    let rig = rig();
    for (index, size) in SIZES.into_iter().enumerate() {
        let key = format!("there-{mode:?}-{size}");
        let (put, get) = (rig.capability("PUT", &key), rig.capability("GET", &key));
        let data = bytes(size);
        let seed = 7 + index as u64;
        let upload = Upload::new(mode, &data, seed);
        let answer = upload.send(rig, &put, seed);
        assert_eq!(answer.status, 200, "{mode:?}, {size} bytes: {}", answer.text());
        assert!(rig.stored(&key).as_deref() == Some(&data[..]), "{mode:?}, {size} bytes: stored changed");
        let got = rig.gateway.request(&get, "GET", "/").send().unwrap();
        assert!(got.status == 200 && got.body == data, "{mode:?}, {size} bytes: came back changed");
        if mode == Mode::UnsignedTrailer || SIGNED_AGAIN.contains(&mode) {
            let answer = upload.send_chunked(rig, &put, seed + 1);
            assert_eq!(answer.status, 200, "{mode:?}, {size} bytes in chunks: {}", answer.text());
            assert!(rig.stored(&key).as_deref() == Some(&data[..]), "{mode:?}, {size} bytes: stored changed");
        }
    }
}

#[test]
fn plain_bodies() {
    there_and_back(Mode::Plain);
}

#[test]
fn unsigned_bodies() {
    there_and_back(Mode::Unsigned);
}

#[test]
fn hashed_bodies() {
    there_and_back(Mode::Hash);
}

#[test]
fn chunks_with_trailers() {
    there_and_back(Mode::UnsignedTrailer);
}

#[test]
fn signed_chunks() {
    there_and_back(Mode::Signed);
}

#[test]
fn signed_chunks_with_signed_trailers() {
    there_and_back(Mode::SignedTrailer);
}

/// What passes as it is reaches the origin unchanged, and botocore finds it signed.
#[test]
fn bodies_that_pass_as_they_are() {
    let rig = rig();
    let key = &rig.gateway.aws.key;
    let (id, secret, region) = (&key.id, &key.secret, harness::aws::REGION);
    let expected = Expected { access_key_id: id, secret_access_key: secret, region, service: "s3" };
    for mode in PASSED {
        let target = format!("/passed-{mode:?}");
        let upload = Upload::new(mode, &bytes(300_000), 9);
        let answer = upload.send(rig, &rig.export("PUT", RECORDER, &target), 9);
        assert_eq!(answer.status, 200, "{mode:?}: {}", answer.text());
        let request = rig.gateway.origin().only(&target).unwrap();
        assert!(request.body == upload.body, "{mode:?}: arrived changed");
        assert_eq!(request.one("content-length").unwrap(), upload.body.len().to_string());
        verify(&[request], &expected).unwrap();
    }
}

/// Not only by the S3 that we have: recomputed from what reached the origin, by botocore and by a verifier of chunks that shares no code
/// with us. Lengths are what they should be.
#[test]
fn signatures_of_chunks_by_another_verifier() {
    let rig = rig();
    let key = &rig.gateway.aws.key;
    let (id, secret, region) = (&key.id, &key.secret, harness::aws::REGION);
    let expected = Expected { access_key_id: id, secret_access_key: secret, region, service: "s3" };
    for mode in SIGNED_AGAIN {
        for size in [0, 1, 65_535, 65_536, 65_537, 1 << 20] {
            let target = format!("/verified-{mode:?}-{size}");
            let put = rig.export("PUT", RECORDER, &target);
            let data = bytes(size);
            let answer = Upload::new(mode, &data, 9).send(rig, &put, 9);
            assert_eq!(answer.status, 200, "{mode:?}, {size} bytes: {}", answer.text());
            let request = rig.gateway.origin().only(&target).unwrap();
            assert!(verify_chunks(&request, &expected).unwrap() == data, "{mode:?}, {size} bytes");
            assert_eq!(request.one("x-amz-decoded-content-length").unwrap(), size.to_string());
            assert_eq!(request.one("content-length").unwrap(), request.body.len().to_string());
            verify(&[request], &expected).unwrap();
        }
    }
}

/// `payload: signed`: the filter frames a plain body, and refuses to let one go unsigned.
#[test]
fn plain_bodies_that_a_grant_wants_signed() {
    let rig = rig();
    let export = |method: &str, key: &str| {
        let mut what: Value = json!({
            "uri": format!("https://{HOST}/{BUCKET}/{key}"), "method": method, "hmac": rig.gateway.aws4("s3"),
        });
        what["hmac"]["aws4-hmac-sha256"]["payload"] = "signed".into();
        rig.gateway.export(&rig.membrane, &what).unwrap()
    };
    for size in SIZES {
        let key = format!("signed-{size}");
        let data = bytes(size);
        let answer = Upload::new(Mode::Plain, &data, 1).send(rig, &export("PUT", &key), 3);
        assert_eq!(answer.status, 200, "{size} bytes: {}", answer.text());
        assert!(rig.stored(&key).as_deref() == Some(&data[..]), "{size} bytes: stored changed");
    }
    let last = rig.gateway.origin().requests("/signed-").pop().unwrap();
    assert_eq!(last.one("x-amz-content-sha256").unwrap(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    assert_eq!(last.one("x-amz-decoded-content-length").unwrap(), SIZES[3].to_string());
    let answer = Upload::new(Mode::Unsigned, b"data", 1).send(rig, &export("PUT", "signed-not"), 3);
    assert_error(&answer, 400, "UNSIGNED-PAYLOAD");
    assert_eq!(rig.stored("signed-not"), None);
}

/// Each client sends its bodies as it does by default; `expected` says which `x-amz-content-sha256` that gives, by size.
fn by_client(client: S3Client, tls: bool, expected: impl Fn(usize, &str) -> bool) {
    let rig = rig();
    let gateway = &rig.gateway;
    let ca = gateway.dir.join("ca.pem");
    let folder = gateway.dir.join(format!("{client:?}-{tls}"));
    std::fs::create_dir_all(&folder).unwrap();
    let (up, down) = (folder.join("up"), folder.join("down"));
    for (index, size) in SIZES.into_iter().enumerate() {
        let key = format!("by-{client:?}-{tls}-{size}");
        let (put, get) = (rig.capability("PUT", &key), rig.capability("GET", &key));
        let run = tls.then_some(gateway.dir.as_path());
        let head = rig.capability("HEAD", &key);
        let capabilities = [("PUT", &*put), ("GET", &get), ("HEAD", &head)];
        let proxy = BearerProxy::start(&gateway.client, &capabilities, run).unwrap();
        proxy.cut(11 + index as u64);
        let data = bytes(size);
        std::fs::write(&up, &data).unwrap();
        // The client's own names for the object: the capability leads to its own.
        client.put(&proxy.url(), &ca, "bucket", "any/key", &up).unwrap();
        assert!(rig.stored(&key).as_deref() == Some(&data[..]), "{client:?}, {size} bytes: stored changed");
        client.get(&proxy.url(), &ca, "bucket", "any/key", &down).unwrap();
        assert!(std::fs::read(&down).unwrap() == data, "{client:?}, {size} bytes: came back changed");
        let seen = proxy.seen();
        let payload = seen[0].one("x-amz-content-sha256").unwrap();
        assert!(expected(size, &payload), "{client:?} sent {size} bytes as {payload}");
        // One request each: in parts it would be another test.
        let count = |method: &str| seen.iter().filter(|request| request.method == method).count();
        assert_eq!((count("PUT"), count("GET")), (1, 1), "{client:?}, {size} bytes");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

const TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

#[test]
fn boto3_over_tls() {
    by_client(S3Client::Boto3, true, |_, payload| payload == TRAILER);
}

/// Without TLS it hashes its bodies.
#[test]
fn boto3_in_the_clear() {
    by_client(S3Client::Boto3, false, |_, payload| payload.len() == 64);
}

#[test]
fn the_aws_cli() {
    by_client(S3Client::Cli, true, |_, payload| payload == TRAILER);
}

#[test]
fn javascript_streams() {
    by_client(S3Client::JavaScript, true, |_, payload| payload == TRAILER);
}

/// What it has in memory it hashes.
#[test]
fn javascript_buffers() {
    by_client(S3Client::JavaScriptBuffer, true, |_, payload| payload.len() == 64);
}

/// What is wrong with a body that its signature covers, S3 says: nothing is stored.
#[test]
fn a_wrong_hash_stores_nothing() {
    let rig = rig();
    let key = "wrong-hash";
    let mut upload = Upload::new(Mode::Hash, &bytes(200_000), 1);
    upload.body[150_000] ^= 1;
    let answer = upload.send(rig, &rig.capability("PUT", key), 1);
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(rig.stored(key), None);
}

/// A fault in the framing: 400 from the filter that says what is wrong, and an upstream that sees a body cut off.
#[test]
fn broken_framing_is_refused_and_never_whole_upstream() {
    type Break = fn(&mut Upload);
    let breaks: [(&str, Break, &str); 6] = [
        ("a chunk's size", |upload| upload.body[0] = b'x', "size"),
        (
            "no line end after a chunk",
            |upload| {
                let end = upload.body.windows(3).rposition(|three| three == b"\r\n0").unwrap();
                upload.body[end] = b'x';
            },
            "CR LF",
        ),
        ("declared too little", |upload| upload.headers[2].1 = "199999".into(), "more than was declared"),
        ("declared too much", |upload| upload.headers[2].1 = "200001".into(), "less than was declared"),
        ("cut off", |upload| upload.body.truncate(150_000), "ends before"),
        (
            "something after the end",
            |upload| upload.body.extend_from_slice(b"GET / HTTP/1.1\r\n"),
            "follows the end",
        ),
    ];
    let rig = rig();
    let mut missed = Vec::new();
    for mode in [Mode::UnsignedTrailer, Mode::Signed, Mode::SignedTrailer] {
        for (what, spoil, says) in breaks {
            let upstream = Upstream::start(Script::Take).unwrap();
            let (capability, _) = rig.scripted(&upstream, "PUT");
            let mut upload = Upload::new(mode, &bytes(200_000), 5);
            spoil(&mut upload);
            let answer = upload.send(rig, &capability, 5);
            let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
            let whole =
                upstream.wait_for(1, Duration::from_millis(300)).iter().any(|received| received.whole);
            // Of what had gone upstream by then, nothing may look whole.
            if answer.status != 400 || !message.contains(says) || whole {
                missed.push(format!(
                    "{mode:?}, {what}: {} {}, whole upstream: {whole}",
                    answer.status,
                    answer.text()
                ));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn without_a_length_nothing_goes_upstream() {
    let rig = rig();
    let upstream = Upstream::start(Script::Take).unwrap();
    let (capability, _) = rig.scripted(&upstream, "PUT");
    let answer = Upload::new(Mode::Plain, b"data", 1).send_chunked(rig, &capability, 1);
    assert_error(&answer, 411, "length");
    let mut upload = Upload::new(Mode::UnsignedTrailer, b"data", 1);
    upload.headers.retain(|(name, _)| *name != "x-amz-decoded-content-length");
    assert_error(&upload.send(rig, &capability, 1), 411, "length");
    assert!(upstream.received().is_empty());
}

/// The requests that Envoy is busy with, from clients and to upstreams.
fn active(gateway: &Gateway) -> u64 {
    ["http.gateway.downstream_rq_active", "cluster.local_aws.upstream_rq_active"]
        .iter()
        .map(|name| gateway.stat(name).unwrap().unwrap_or(0))
        .sum()
}

#[track_caller]
fn assert_idle(gateway: &Gateway) {
    let start = Instant::now();
    while active(gateway) > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{} requests are still under way",
            active(gateway)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Gateways of their own, since what is counted there is the whole gateway.
fn alone(name: &str) -> Rig {
    let gateway = own(name);
    let membrane = gateway.create_membrane(name).unwrap();
    let s3 = S3::start(&gateway.dir, &gateway.aws.key.id, &gateway.aws.key.secret).unwrap();
    gateway.origin().route(HOST, s3.port.number());
    Rig { gateway, membrane, s3 }
}

#[test]
fn clients_that_reset_midway_leave_nothing_behind() {
    clients_reset("reset", &PASSED);
}

#[test]
fn clients_that_reset_what_is_signed_again_leave_nothing_behind() {
    clients_reset("reset-signed", &SIGNED_AGAIN);
}

fn clients_reset(name: &str, modes: &[Mode]) {
    const TIMES: usize = 8;
    let rig = alone(name);
    for &mode in modes {
        let upstream = Upstream::start(Script::Take).unwrap();
        let (capability, host) = rig.scripted(&upstream, "PUT");
        let upload = Upload::new(mode, &bytes(1 << 20), 3);
        for part in 0..TIMES {
            let mut connection = rig.gateway.client.connect().unwrap();
            let head = upload.head(&rig, &capability, &format!("content-length: {}\r\n", upload.body.len()));
            connection.write(head.as_bytes()).unwrap();
            connection.write(&upload.body[..upload.body.len() * part / TIMES]).unwrap();
            rig.wait_for_heads(&host, part + 1);
            drop(connection);
        }
        // They ended upstream too, and none of them whole.
        let received = upstream.wait_for(TIMES, Duration::from_secs(10));
        assert!(received.len() == TIMES && received.iter().all(|one| !one.whole), "{mode:?}: {received:?}");
        assert_idle(&rig.gateway);
        // And the gateway goes on.
        let key = format!("after-{mode:?}");
        let data = bytes(100_000);
        let answer = Upload::new(mode, &data, 1).send(&rig, &rig.capability("PUT", &key), 1);
        assert_eq!(answer.status, 200, "{mode:?}: {}", answer.text());
        assert!(rig.stored(&key).as_deref() == Some(&data[..]));
    }
    // Aborted uploads are no objects, nor are parts of them.
    let mut stored: Vec<_> =
        rig.s3.files().iter().filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect();
    stored.retain(|name| name.starts_with("after-") && !name.contains('.'));
    assert_eq!(stored.len(), modes.len(), "{stored:?}");
    rig.gateway.stop().unwrap();
}

#[test]
fn upstreams_that_answer_early_block_nobody() {
    upstreams_answer_early("early", &[Mode::Plain, Mode::Hash, Mode::UnsignedTrailer]);
}

#[test]
fn upstreams_that_answer_early_what_is_signed_again_block_nobody() {
    upstreams_answer_early("early-signed", &SIGNED_AGAIN);
}

fn upstreams_answer_early(name: &str, modes: &[Mode]) {
    const REDIRECT: &str = "HTTP/1.1 307 Temporary Redirect\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\
                            connection: close\r\n\r\n";
    const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\ncontent-length: 8\r\nconnection: close\r\n\r\n<Error/>";
    let rig = alone(name);
    for (after, with, status) in [(0, REDIRECT, 307), (0, REFUSAL, 400), (100_000, REFUSAL, 400)] {
        for &mode in modes {
            let upstream = Upstream::start(Script::Answer { after, with }).unwrap();
            let (capability, _) = rig.scripted(&upstream, "PUT");
            // More than all buffers on the way can hold.
            let upload = Upload::new(mode, &bytes(16 << 20), 3);
            // The answer comes while the body is still going up. Our client reads only when it has sent all; the proxy reads both ways.
            let proxy = BearerProxy::start(&rig.gateway.client, &[("PUT", &capability)], None).unwrap();
            let answer = upload.send_to(&proxy.client(), &rig, &capability, 3);
            assert_eq!(answer.status, status, "{mode:?}: {}", answer.text());
            assert_eq!(answer.text(), with.split("\r\n\r\n").nth(1).unwrap(), "{mode:?}");
            assert!(upstream.received().iter().all(|received| !received.whole), "{mode:?}");
        }
    }
    assert_idle(&rig.gateway);
    rig.gateway.stop().unwrap();
}

/// The client is told to go on, and a 100 from upstream is not taken for the answer.
#[test]
fn clients_that_wait_for_100_get_it() {
    clients_wait_for_100(&[Mode::Plain, Mode::Hash, Mode::UnsignedTrailer]);
}

#[test]
fn clients_that_wait_for_100_to_be_signed_again_get_it() {
    clients_wait_for_100(&SIGNED_AGAIN);
}

fn clients_wait_for_100(modes: &[Mode]) {
    let rig = rig();
    let upstream = Upstream::start(Script::Continue).unwrap();
    let (capability, _) = rig.scripted(&upstream, "PUT");
    for &mode in modes {
        let data = bytes(300_000);
        let upload = Upload::new(mode, &data, 3);
        let mut connection = rig.gateway.client.connect().unwrap();
        let framing = format!("expect: 100-continue\r\ncontent-length: {}\r\n", upload.body.len());
        connection.write(upload.head(rig, &capability, &framing).as_bytes()).unwrap();
        assert!(connection.more().unwrap() > 0, "no 100 came");
        connection.write(&upload.body).unwrap();
        assert_eq!(connection.read(false).unwrap().status, 200, "{mode:?}");
        let received = upstream.wait_for(1, Duration::from_secs(5)).pop().unwrap();
        assert!(received.whole, "{mode:?}: {received:?}");
        if !SIGNED_AGAIN.contains(&mode) {
            assert_eq!(received.length, upload.body.len() as u64, "{mode:?}");
            assert_eq!(received.sha256, <[u8; 32]>::from(Sha256::digest(&upload.body)), "{mode:?}");
        }
        // That is between the client and us.
        assert!(received.head.all("expect").is_empty(), "{mode:?}");
    }
}
