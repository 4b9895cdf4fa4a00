//! The attacks over HTTP/2 (RFC 9113, RFC 7541): frames as bytes. Header fields are literals that are neither indexed nor coded, so that any
//! byte can stand in a name or a value.

use super::Control::{self, Fault, None as Unseen, Refused as EnvoyRefuses};
use super::Expected::{self, AsGranted, Refused, Whatever};
use super::{Attack, Grant, Seen, TOKEN};
use harness::http::Connection;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 §5.1, with a prefix of 7 bits.
fn integer(value: usize) -> Vec<u8> {
    if value < 127 {
        return vec![value as u8];
    }
    let (mut bytes, mut rest) = (vec![127], value - 127);
    while rest >= 128 {
        bytes.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// RFC 7541 §6.2.2.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &integer(name.len()), name, &integer(value.len()), value].concat()
}

fn fields(list: &[(&[u8], &[u8])]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn bearer() -> Vec<u8> {
    field(b"authorization", format!("Bearer {TOKEN}").as_bytes())
}

fn pseudo() -> Vec<u8> {
    fields(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"gateway.example"),
        (b":path", b"/"),
    ])
}

/// The header block of a good request.
fn good() -> Vec<u8> {
    [pseudo(), bearer()].concat()
}

/// The same with one of its pseudo-headers replaced.
fn with_pseudo(name: &[u8], value: &[u8]) -> Vec<u8> {
    let all: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"gateway.example"),
        (b":path", b"/"),
    ];
    let replaced = all.map(|(other, old)| if other == name { (other, value) } else { (other, old) });
    [fields(&replaced), bearer()].concat()
}

fn without(name: &[u8]) -> Vec<u8> {
    let all: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"gateway.example"),
        (b":path", b"/"),
    ];
    let kept: Vec<_> = all.into_iter().filter(|(other, _)| *other != name).collect();
    [fields(&kept), bearer()].concat()
}

/// What begins a connection of ours: no dynamic table for what is answered, so that a status can be read without one.
fn begun() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])].concat()
}

fn attack(name: &'static str, frames: &[Vec<u8>], expected: Expected, control: Control) -> Attack {
    let bytes = [begun(), frames.concat()].concat();
    Attack { name, bytes, grant: Grant::Post, expected, control, headers: &[] }
}

/// One request that ends with this header block.
fn block(name: &'static str, block: &[u8], expected: Expected, control: Control) -> Attack {
    attack(name, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, block)], expected, control)
}

/// A good request with these fields behind its own.
fn more(name: &'static str, list: &[(&[u8], &[u8])], expected: Expected, control: Control) -> Attack {
    block(name, &[good(), fields(list)].concat(), expected, control)
}

/// A good header block with `list`, then these bodies, the last of which ends the stream.
fn body(
    name: &'static str,
    list: &[(&[u8], &[u8])],
    bodies: &[&[u8]],
    expected: Expected,
    control: Control,
) -> Attack {
    let mut frames = vec![frame(HEADERS, END_HEADERS, 1, &[good(), fields(list)].concat())];
    for (number, body) in bodies.iter().enumerate() {
        let flags = if number + 1 == bodies.len() { END_STREAM } else { 0 };
        frames.push(frame(DATA, flags, 1, body));
    }
    attack(name, &frames, expected, control)
}

pub(super) fn attacks() -> Vec<Attack> {
    [pseudo_headers(), names_and_values(), ours(), framing(), protocol(), exhaustion()]
        .into_iter()
        .flatten()
        .collect()
}

/// Envoy 1.36 looks less closely at some fields: what it lets come is the filter's to refuse or to set anew.
fn is_lenient() -> bool {
    harness::envoy::version().unwrap().starts_with("1.36.")
}

fn pseudo_headers() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let scheme = if is_lenient() { AsGranted(1) } else { bad };
    let path =
        |name, path: &[u8], expected, control| block(name, &with_pseudo(b":path", path), expected, control);
    let authority =
        |name, it: &[u8], expected, control| block(name, &with_pseudo(b":authority", it), expected, control);
    let method =
        |name, it: &[u8], expected, control| block(name, &with_pseudo(b":method", it), expected, control);
    vec![
        more(":method twice", &[(b":method", b"EVIL")], bad, EnvoyRefuses),
        block(":path twice", &[pseudo(), field(b":path", b"/evil"), bearer()].concat(), bad, EnvoyRefuses),
        block(
            ":authority twice",
            &[pseudo(), field(b":authority", b"evil.example"), bearer()].concat(),
            bad,
            EnvoyRefuses,
        ),
        block(":scheme twice", &[pseudo(), field(b":scheme", b"http"), bearer()].concat(), bad, EnvoyRefuses),
        more("a pseudo-header behind the others", &[(b"x-a", b"b"), (b":path", b"/evil")], bad, EnvoyRefuses),
        block(
            "an unknown pseudo-header",
            &[pseudo(), field(b":evil", b"evil"), bearer()].concat(),
            bad,
            EnvoyRefuses,
        ),
        block(
            ":status in a request",
            &[pseudo(), field(b":status", b"200"), bearer()].concat(),
            bad,
            EnvoyRefuses,
        ),
        block("no :method", &without(b":method"), bad, EnvoyRefuses),
        block("no :path", &without(b":path"), bad, EnvoyRefuses),
        block("no :scheme", &without(b":scheme"), bad, EnvoyRefuses),
        block("no :authority", &without(b":authority"), Refused(&[400]), EnvoyRefuses),
        path("an empty :path", b"", bad, EnvoyRefuses),
        path(":path with a line in it", b"/ HTTP/1.1\r\nX-Evil: evil", bad, EnvoyRefuses),
        path(":path without its slash", b"evil", Refused(&[400, 404]), EnvoyRefuses),
        path(
            ":path that is absolute",
            b"https://recorder.us-east-1.amazonaws.com/evil",
            Refused(&[400, 404]),
            EnvoyRefuses,
        ),
        path("dots", b"/%2e%2e/evil", Refused(&[404]), Fault("target /")),
        path("an escaped slash", b"/%2fevil", bad, Fault("target /")),
        path("a fragment", b"/#evil", Refused(&[400, 404]), Unseen),
        path("bytes beyond ASCII", b"/\xff\xfe", Refused(&[400, 404]), Unseen),
        path("an asterisk", b"*", Refused(&[400, 404]), EnvoyRefuses),
        path(
            "a signature in the query",
            b"/?X-Amz-Signature=evil&own=evil",
            AsGranted(1),
            Fault("target /?"),
        ),
        method(":method with spaces", b"POST /evil HTTP/1.1\r\nHost: evil", bad, EnvoyRefuses),
        method("an empty :method", b"", bad, EnvoyRefuses),
        method("another method", b"DELETE", AsGranted(1), Fault("method DELETE")),
        method("TRACE", b"TRACE", Refused(&[400, 405]), Fault("method TRACE")),
        authority("another :authority", b"evil.example", AsGranted(1), Fault("planted in host")),
        authority(":authority with a user", b"gateway.example@evil.example", bad, EnvoyRefuses),
        authority(":authority with a line in it", b"a\r\nx-evil: evil", bad, EnvoyRefuses),
        authority(":authority of the registry", b"membrane.registry", AsGranted(1), Fault("host")),
        block(
            "CONNECT",
            &[fields(&[(b":method", b"CONNECT"), (b":authority", b"evil.example:443")]), bearer()].concat(),
            Refused(&[400, 404, 405]),
            Fault("method CONNECT"),
        ),
        block(
            "CONNECT with :protocol",
            &[pseudo(), field(b":protocol", b"websocket"), bearer()].concat().replace_method(),
            Refused(&[400, 403, 404, 405]),
            Unseen,
        ),
        block(":scheme of nobody's", &with_pseudo(b":scheme", b"evil://x"), scheme, Unseen),
    ]
}

/// For the one block that says CONNECT with all pseudo-headers.
trait ReplaceMethod {
    fn replace_method(self) -> Vec<u8>;
}

impl ReplaceMethod for Vec<u8> {
    fn replace_method(self) -> Vec<u8> {
        let old = field(b":method", b"POST");
        [field(b":method", b"CONNECT"), self[old.len()..].to_vec()].concat()
    }
}

fn names_and_values() -> Vec<Attack> {
    let bad = Refused(&[400]);
    vec![
        more("a name in upper case", &[(b"X-Amz-Acl", b"evil")], bad, EnvoyRefuses),
        more("a name with a colon", &[(b"x-a: evil\r\nx-amz-acl", b"evil")], bad, EnvoyRefuses),
        more("an empty name", &[(b"", b"evil")], bad, EnvoyRefuses),
        more("a name with a space", &[(b"x-amz-acl ", b"evil")], bad, EnvoyRefuses),
        more("a value with a line in it", &[(b"x-a", b"a\r\nx-amz-acl: evil")], bad, EnvoyRefuses),
        more("a value with LF", &[(b"x-a", b"a\nevil")], bad, EnvoyRefuses),
        more("a value with NUL", &[(b"x-a", b"a\0evil")], bad, EnvoyRefuses),
        more(
            "a bearer with a line in it",
            &[(b"proxy-authorization", b"a\r\nauthorization: evil")],
            bad,
            EnvoyRefuses,
        ),
        more("underscores", &[(b"x_amz_acl", b"evil")], bad, Fault("planted in x_amz_acl")),
        more("transfer-encoding", &[(b"transfer-encoding", b"chunked")], bad, EnvoyRefuses),
        more("connection", &[(b"connection", b"authorization, x-amz-date")], bad, EnvoyRefuses),
        more("keep-alive", &[(b"keep-alive", b"evil")], bad, EnvoyRefuses),
        more("proxy-connection", &[(b"proxy-connection", b"evil")], bad, EnvoyRefuses),
        more("upgrade", &[(b"upgrade", b"evil")], Refused(&[400, 405]), EnvoyRefuses),
        more("http2-settings", &[(b"http2-settings", b"AAMAAABk")], Refused(&[400, 405]), Unseen),
        more("te", &[(b"te", b"gzip")], bad, EnvoyRefuses),
    ]
}

fn ours() -> Vec<Attack> {
    let goes = Fault("planted in");
    let bad = Refused(&[400]);
    vec![
        more("host beside :authority", &[(b"host", b"evil.example")], AsGranted(1), Unseen),
        more(
            "two bearers",
            &[(b"authorization", format!("Bearer {TOKEN}").as_bytes())],
            Refused(&[401]),
            Fault("authorization"),
        ),
        more(
            "another authorization",
            &[(b"authorization", b"AWS4-HMAC-SHA256 Credential=evil")],
            Refused(&[401]),
            goes,
        ),
        more(
            "cookie crumbs",
            &[(b"cookie", b"evil=1"), (b"cookie", b"evil=2"), (b"cookie", b"evil=3")],
            AsGranted(1),
            goes,
        ),
        more("x-amz-acl", &[(b"x-amz-acl", b"evil")], bad, goes),
        more(
            "x-amz-security-token",
            &[(b"x-amz-security-token", b"evil"), (b"x-amz-date", b"evil")],
            AsGranted(1),
            goes,
        ),
        more(
            "x-membrane-*",
            &[(b"x-membrane-route", b"evil"), (b"x-membrane-body", b"evil")],
            AsGranted(1),
            goes,
        ),
        more(
            "x-envoy-*",
            &[
                (b"x-envoy-original-path", b"/evil"),
                (b"x-envoy-upstream-rq-timeout-ms", b"1"),
                (b"x-envoy-retry-on", b"evil"),
            ],
            AsGranted(1),
            goes,
        ),
        more(
            "x-forwarded-*",
            &[(b"x-forwarded-host", b"evil"), (b"x-forwarded-proto", b"http"), (b"x-forwarded-for", b"evil")],
            AsGranted(1),
            goes,
        ),
        more(
            "method overrides",
            &[(b"x-http-method-override", b"evil"), (b"x-method-override", b"evil")],
            AsGranted(1),
            goes,
        ),
        more("expect", &[(b"expect", b"evil")], AsGranted(1), goes),
        more(
            "priority and more of nobody's",
            &[(b"priority", b"u=evil"), (b"x-anything", b"evil")],
            AsGranted(1),
            goes,
        ),
    ]
}

fn framing() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let signed = if is_lenient() { Unseen } else { EnvoyRefuses };
    let trailers = |name, list: &[(&[u8], &[u8])], expected, control| {
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &good()),
            frame(DATA, 0, 1, b"body"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(list)),
        ];
        attack(name, &frames, expected, control)
    };
    let comes = Fault("authorization");
    let hidden: &[u8] =
        b"POST /evil HTTP/1.1\r\nHost: recorder.us-east-1.amazonaws.com\r\nContent-Length: 0\r\n\r\n";
    let streamed = body(
        "a request as a streamed body",
        &[(b"content-length", b"164")],
        &[hidden, hidden],
        AsGranted(1),
        comes,
    );
    let mut short =
        body("a request behind a streamed body", &[(b"content-length", b"1")], &[b"a", hidden], bad, Unseen);
    short.grant = Grant::Stream;
    vec![
        body("less than announced", &[(b"content-length", b"9")], &[b"body"], bad, Unseen),
        body("more than announced", &[(b"content-length", b"2")], &[b"body"], bad, Unseen),
        body(
            "two lengths",
            &[(b"content-length", b"4"), (b"content-length", b"9")],
            &[b"body"],
            bad,
            EnvoyRefuses,
        ),
        body("a length with a sign", &[(b"content-length", b"+4")], &[b"body"], bad, signed),
        Attack { grant: Grant::Stream, headers: &["x-amz-content-sha256"], ..streamed },
        trailers("trailers", &[(b"authorization", b"evil"), (b"x-amz-acl", b"evil")], AsGranted(1), comes),
        trailers("a pseudo-header among trailers", &[(b":path", b"/evil")], bad, Unseen),
        attack(
            "more after the end",
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &good()), frame(DATA, END_STREAM, 1, hidden)],
            Whatever,
            Unseen,
        ),
        attack(
            "headers after the end",
            &[
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &good()),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &with_pseudo(b":path", b"/evil")),
            ],
            Whatever,
            Unseen,
        ),
        attack(
            "a body after a reset",
            &[
                frame(HEADERS, END_HEADERS, 1, &good()),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(DATA, END_STREAM, 1, hidden),
            ],
            Expected::Unanswered,
            Unseen,
        ),
        attack(
            "three at once",
            &[
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &good()),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, &good()),
                frame(HEADERS, END_HEADERS | END_STREAM, 5, &good()),
            ],
            AsGranted(3),
            comes,
        ),
        attack(
            "a head in pieces of a byte",
            &[in_pieces(&pseudo(), 1, false), vec![frame(CONTINUATION, END_HEADERS, 1, &bearer())]].concat(),
            AsGranted(1),
            comes,
        ),
    ]
}

/// HEADERS and CONTINUATION frames of at most `size` bytes; whether the last of them `ends` the head.
fn in_pieces(block: &[u8], size: usize, ends: bool) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = block.chunks(size).collect();
    let last = pieces.len() - 1;
    pieces
        .iter()
        .enumerate()
        .map(|(number, piece)| {
            let end = if ends && number == last { END_HEADERS } else { 0 };
            match number {
                0 => frame(HEADERS, END_STREAM | end, 1, piece),
                _ => frame(CONTINUATION, end, 1, piece),
            }
        })
        .collect()
}

fn protocol() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let single = |name, frame: Vec<u8>| attack(name, &[frame], bad, EnvoyRefuses);
    let between = [
        frame(HEADERS, END_STREAM, 1, &good()[..20]),
        frame(DATA, 0, 1, b"evil"),
        frame(CONTINUATION, END_HEADERS, 1, &good()[20..]),
    ];
    vec![
        single("headers on stream 0", frame(HEADERS, END_HEADERS | END_STREAM, 0, &good())),
        single("headers on the server's stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &good())),
        single("a body without a head", frame(DATA, END_STREAM, 1, b"evil")),
        single("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &good())),
        single(
            "a client's push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &good()].concat()),
        ),
        single(
            "padding longer than its frame",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[255], &good()[..20]].concat()),
        ),
        single(
            "a frame longer than may be",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[good(), field(b"x-evil", &[b'a'; 17_000])].concat(),
            ),
        ),
        single("settings of five bytes", frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0])),
        single(
            "a window beyond 31 bits",
            [
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            ]
            .concat(),
        ),
        single("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        single(
            "an index of no table",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[good(), vec![0xff, 0xff, 0xff, 0x7f]].concat()),
        ),
        single(
            "a string longer than its block",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[good(), vec![0, 1, b'x', 0x7f, 0xff, 0xff, 0x03]].concat(),
            ),
        ),
        single(
            "a code that ends nowhere",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[good(), vec![0, 1, b'x', 0x84, 255, 255, 255, 255]].concat(),
            ),
        ),
        attack("a body between a head's pieces", &between, bad, EnvoyRefuses),
        attack(
            "a stream that depends on itself",
            &[frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 16][..], &good()].concat(),
            )],
            Whatever,
            Unseen,
        ),
        attack(
            "priorities of nobody",
            &(0..500).map(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 16])).collect::<Vec<_>>(),
            Whatever,
            Unseen,
        ),
        attack(
            "a request after saying goodbye",
            &[frame(GOAWAY, 0, 0, &[0; 8]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &good())],
            Whatever,
            Unseen,
        ),
    ]
}

fn exhaustion() -> Vec<Attack> {
    let large = Refused(&[400, 431]);
    let many: Vec<u8> = (0..200).flat_map(|n| field(format!("x-{n}").as_bytes(), b"a")).collect();
    let long = field(b"x-evil", &[b'a'; 100_000]);
    // An entry of 4,000 bytes in the table, and a byte for each time that it is meant.
    let entry = [&[0x40][..], &integer(6), b"x-evil", &integer(4_000), &[b'a'; 4_000]].concat();
    let bomb = [good(), entry, vec![0xbe; 12_000]].concat();
    let mut endless = vec![frame(HEADERS, END_STREAM, 1, &good())];
    endless.extend(
        (0..5_000).map(|n| frame(CONTINUATION, 0, 1, &field(format!("x-{n}").as_bytes(), &[b'a'; 100]))),
    );
    let empty: Vec<_> = [frame(HEADERS, END_STREAM, 1, &good())]
        .into_iter()
        .chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, b"")))
        .collect();
    let rapid: Vec<_> = (0..1_000)
        .flat_map(|n| {
            [
                frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &good()),
                frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]),
            ]
        })
        .collect();
    let streams: Vec<_> = (0..300).map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &good())).collect();
    let empties: Vec<_> = [frame(HEADERS, END_HEADERS, 1, &good())]
        .into_iter()
        .chain((0..20_000).map(|_| frame(DATA, 0, 1, b"")))
        .collect();
    let mut zero = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0])].concat();
    zero.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &good()));
    let zero = Attack { bytes: zero, ..attack("a window of nothing", &[], AsGranted(1), Unseen) };
    vec![
        attack("many headers", &in_pieces(&[good(), many].concat(), 16_000, true), large, Unseen),
        attack("a long header", &in_pieces(&[good(), long].concat(), 16_000, true), large, Unseen),
        attack("a table entry meant 12,000 times", &in_pieces(&bomb, 16_000, true), large, Unseen),
        attack("continuations without end", &endless, large, Unseen),
        attack("empty continuations without end", &empty, large, Unseen),
        attack("empty bodies without end", &empties, large, Unseen),
        attack("rapid resets", &rapid, Whatever, Unseen),
        attack("more streams than may be", &streams, Whatever, Unseen),
        attack(
            "settings without end",
            &vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]); 20_000],
            Whatever,
            Unseen,
        ),
        attack("pings without end", &vec![frame(PING, 0, 0, &[0; 8]); 20_000], Whatever, Unseen),
        zero,
    ]
}

/// Writes all of it, and reads frames until as many streams were answered as should be.
pub(super) fn send(connection: &mut Connection, bytes: &[u8], attack: &Attack) -> Vec<Seen> {
    // A gateway that has seen enough may stop reading.
    let _ = connection.write(bytes);
    let (mut seen, mut unread) = (Vec::new(), Vec::new());
    while seen.len() < attack.answers() {
        match connection.more() {
            Ok(0) => {
                seen.push(Seen::Ended);
                break;
            }
            Ok(_) => unread.extend(connection.take_unread()),
            Err(_) => {
                seen.push(Seen::Nothing);
                break;
            }
        }
        while let Some(frame) = take_frame(&mut unread) {
            seen.extend(meaning(&frame));
        }
    }
    seen.truncate(attack.answers());
    seen
}

struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

fn take_frame(unread: &mut Vec<u8>) -> Option<Frame> {
    let head: [u8; 9] = unread.get(..9)?.try_into().ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    unread.get(..9 + length)?;
    let payload = unread.drain(..9 + length).skip(9).collect();
    Some(Frame { kind: head[3], payload })
}

fn meaning(frame: &Frame) -> Option<Seen> {
    match frame.kind {
        // Envoy neither pads nor says a priority.
        HEADERS => Some(Seen::Status(status(&frame.payload))).filter(|seen| *seen != Seen::Status(100)),
        RST_STREAM => Some(Seen::Ended),
        // 0 announces an end, and what was asked before it is answered.
        GOAWAY => (frame.payload.get(4..8) != Some(&[0; 4])).then_some(Seen::Ended),
        _ => None,
    }
}

/// The `:status` with which a header block begins: from the static table, or a literal (RFC 7541 §6, appendices A and B).
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // Updates of the table's size may come first.
    let block = &block[block.iter().take_while(|byte| *byte & 0xe0 == 0x20).count()..];
    if let Some(status) = block[0].checked_sub(0x88).and_then(|index| INDEXED.get(usize::from(index))) {
        return *status;
    }
    assert!(block[0] & 0x3f == 8 || block[0] & 0x0f == 8, "a block that begins with {:#x}", block[0]);
    let (coded, length) = (block[1] & 0x80 != 0, usize::from(block[1] & 0x7f));
    let value = &block[2..2 + length];
    let text = if coded { digits(value) } else { String::from_utf8(value.to_vec()).unwrap() };
    text.parse().unwrap()
}

/// Three digits in HPACK's code: 0, 1, 2 have five bits, the others six, beginning with 25.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |at: usize, length: usize| bits[at..at + length].iter().fold(0, |sum, bit| sum << 1 | bit);
    let (mut text, mut at) = (String::new(), 0);
    while text.len() < 3 {
        let five = number(at, 5);
        let (digit, length) = if five < 3 { (five, 5) } else { (number(at, 6) - 25 + 3, 6) };
        text.push(char::from(b'0' + digit));
        at += length;
    }
    text
}

#[test]
fn statuses_are_read_in_all_their_forms() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x20, 0x8d, 0x00]), 404);
    assert_eq!(status(&[0x48, 3, b'4', b'0', b'1']), 401);
    // 4: 011010, 0: 00000, 5: 011011, and ones to the end of the byte.
    assert_eq!(status(&[0x08, 0x83, 0b0110_1000, 0b0000_1101, 0b1111_1111]), 405);
}
