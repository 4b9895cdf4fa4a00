//! The attacks over HTTP/1.1: requests as bytes.

use super::Control::{self, Fault, None as Unseen, Refused as EnvoyRefuses};
use super::Expected::{self, AsGranted, AsGrantedWith, Refused, Unanswered};
use super::{Attack, Grant, Seen, TOKEN};
use harness::http::Connection;

/// Writes all of it, and reads as many answers as should come.
pub(super) fn send(connection: &mut Connection, bytes: &[u8], attack: &Attack) -> Vec<Seen> {
    // A gateway that has seen enough may stop reading.
    let _ = connection.write(bytes);
    let mut seen = Vec::new();
    while seen.len() < attack.answers() {
        match connection.read(false) {
            Ok(answer) => seen.push(Seen::Status(answer.status)),
            Err(failure) if failure.to_string().contains("was closed") => {
                seen.push(Seen::Ended);
                break;
            }
            Err(_) => {
                seen.push(Seen::Nothing);
                break;
            }
        }
    }
    seen
}

fn attack(name: &'static str, bytes: Vec<u8>, expected: Expected, control: Control) -> Attack {
    Attack { name, bytes, grant: Grant::Post, expected, control, headers: &[] }
}

/// Everything after the header that presents the capability is `rest`.
fn rest(name: &'static str, rest: &[u8], expected: Expected, control: Control) -> Attack {
    attack(name, [start("POST / HTTP/1.1").as_slice(), rest].concat(), expected, control)
}

fn start(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: gateway.example\r\nAuthorization: Bearer {TOKEN}\r\n").into_bytes()
}

/// A good request with these lines in its head too.
fn lines(name: &'static str, lines: &[u8], expected: Expected, control: Control) -> Attack {
    rest(name, &[lines, b"\r\nContent-Length: 4\r\n\r\nbody"].concat(), expected, control)
}

/// A request whose first line is this.
fn first(name: &'static str, line: &[u8], expected: Expected, control: Control) -> Attack {
    let tail = [&start("")[..], b"Content-Length: 0\r\n\r\n"].concat();
    attack(name, [line, &tail].concat(), expected, control)
}

/// A request for this target.
fn target(name: &'static str, target: &[u8], expected: Expected, control: Control) -> Attack {
    first(name, &[b"POST ", target, b" HTTP/1.1"].concat(), expected, control)
}

fn on(grant: Grant, attack: Attack) -> Attack {
    Attack { grant, ..attack }
}

/// What a smuggler hides behind or within a request.
const HIDDEN: &[u8] =
    b"POST /evil HTTP/1.1\r\nHost: recorder.us-east-1.amazonaws.com\r\nContent-Length: 0\r\n\r\n";

fn hidden(name: &'static str, before: &[u8], expected: Expected, control: Control) -> Attack {
    rest(name, &[before, HIDDEN].concat(), expected, control)
}

pub(super) fn attacks() -> Vec<Attack> {
    [framing(), heads(), first_lines(), paths(), queries(), headers(), exhaustion()]
        .into_iter()
        .flatten()
        .collect()
}

fn framing() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let comes = Fault("authorization");
    let length = format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{:x}\r\n", HIDDEN.len());
    vec![
        hidden("CL.TE", b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad, Fault("target /evil")),
        rest("TE.CL", &[length.as_bytes(), HIDDEN, b"\r\n0\r\n\r\n"].concat(), bad, comes),
        hidden("TE.TE", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Refused(&[400, 501]), EnvoyRefuses),
        hidden("TE not chunked", b"Transfer-Encoding: xchunked\r\n\r\n", Refused(&[400, 501]), EnvoyRefuses),
        hidden("TE chunked first", b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(&[400, 501]), EnvoyRefuses),
        hidden("TE chunked twice", b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(&[400, 501]), EnvoyRefuses),
        hidden("TE before its colon", b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", bad, EnvoyRefuses),
        hidden("TE behind a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused(&[400, 501]), EnvoyRefuses),
        hidden("two lengths, the same", b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", bad, EnvoyRefuses),
        hidden("two lengths", b"Content-Length: 0\r\nContent-Length: 90\r\n\r\n", bad, EnvoyRefuses),
        hidden("a list of lengths", b"Content-Length: 0, 90\r\n\r\n", bad, EnvoyRefuses),
        hidden("a length with a sign", b"Content-Length: +0\r\n\r\n", bad, EnvoyRefuses),
        hidden("a negative length", b"Content-Length: -1\r\n\r\n", bad, EnvoyRefuses),
        hidden("a hexadecimal length", b"Content-Length: 0x0\r\n\r\n", bad, EnvoyRefuses),
        hidden("a length beyond 64 bits", b"Content-Length: 18446744073709551616\r\n\r\n", bad, EnvoyRefuses),
        hidden("a chunk beyond 64 bits", b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", bad, EnvoyRefuses),
        hidden("a negative chunk", b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", bad, comes),
        hidden("a chunk's size with 0x", b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n", bad, EnvoyRefuses),
        hidden("a chunk without its end", b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", AsGranted(1), comes),
        hidden("a chunk's line with LF alone", b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", bad, Unseen),
        hidden("LF in a chunk extension", b"Transfer-Encoding: chunked\r\n\r\n1;a=\"\n\"\r\na\r\n0\r\n\r\n", bad, Unseen),
        rest("chunk extensions", b"Transfer-Encoding: chunked\r\n\r\n4;evil=\"evil\"\r\nbody\r\n0;evil\r\n\r\n", AsGranted(1), comes),
        rest("trailers", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nAuthorization: evil\r\nX-Amz-Acl: evil\r\nHost: evil\r\n\r\n", AsGranted(1), comes),
        on(Grant::Stream, rest("trailers of a stream", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nAuthorization: evil\r\nX-Amz-Acl: evil\r\n\r\n", Refused(&[411]), comes)).with(&["transfer-encoding", "x-amz-content-sha256"]),
        on(Grant::Stream, rest("a request as a streamed chunk", &[format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", HIDDEN.len()).as_bytes(), HIDDEN, b"\r\n0\r\n\r\n"].concat(), Refused(&[411]), comes)).with(&["transfer-encoding", "x-amz-content-sha256"]),
        on(Grant::Stream, rest("a request as a streamed body", &[format!("Content-Length: {}\r\n\r\n", HIDDEN.len()).as_bytes(), HIDDEN].concat(), AsGranted(1), comes)).with(&["x-amz-content-sha256"]),
        hidden("a request behind one of no length", b"\r\n", AsGranted(1), Fault("target /evil")),
        hidden("a request behind one of length 0", b"Content-Length: 0\r\n\r\n", AsGranted(1), Fault("target /evil")),
        rest("less than announced", b"Content-Length: 10\r\n\r\nbody", Unanswered, comes),
        rest("no last chunk", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", Unanswered, comes),
        rest("half a head", b"X-Evil: ", Unanswered, Unseen),
        rest("three at once", &[b"Content-Length: 0\r\n\r\n", &start("POST / HTTP/1.1")[..], b"Content-Length: 0\r\n\r\n", &start("POST / HTTP/1.1")[..], b"Content-Length: 0\r\n\r\n"].concat(), AsGranted(3), comes),
    ]
}

fn heads() -> Vec<Attack> {
    let bad = Refused(&[400]);
    vec![
        attack(
            "LF alone",
            String::from_utf8(start("POST / HTTP/1.1"))
                .unwrap()
                .replace("\r\n", "\n")
                .into_bytes()
                .into_iter()
                .chain(*b"X-Evil: evil\nContent-Length: 0\n\n")
                .collect(),
            AsGranted(1),
            Fault("planted in x-evil"),
        ),
        lines("a CR in a value", b"X-A: a\rX-Evil: evil", AsGranted(1), Fault("planted in")),
        lines("a LF in a value", b"X-A: a\nX-Amz-Acl: evil", bad, Unseen),
        lines("a folded line", b"X-A: a\r\n X-Amz-Acl: evil", AsGranted(1), Fault("planted in")),
        lines("a CR in a value that is let through", b"Accept: a\rX-Amz-Acl: b", AsGranted(1), Unseen)
            .with(&["accept"]),
        lines("a folded line that is let through", b"Accept: a\r\n X-Amz-Acl: b", AsGranted(1), Unseen)
            .with(&["accept"]),
        lines("a folded authorization", b"Authorization:\r\n Bearer evil", Refused(&[400, 401]), Unseen),
        lines("a NUL in a value", b"X-A: a\0evil", bad, EnvoyRefuses),
        lines("a NUL in a name", b"X-A\0: evil", bad, EnvoyRefuses),
        lines("space in a name", b"X-Amz Acl: evil", bad, EnvoyRefuses),
        lines("space before a colon", b"X-Amz-Acl : evil", bad, EnvoyRefuses),
        lines("tab before a colon", b"X-Amz-Acl\t: evil", bad, EnvoyRefuses),
        lines("no colon", b"evil", bad, EnvoyRefuses),
        lines("no name", b": evil", bad, EnvoyRefuses),
        lines("a name beyond ASCII", b"X-\xc3\xa9vil: evil", bad, EnvoyRefuses),
        lines("a name with a parenthesis", b"X-(A): evil", bad, EnvoyRefuses),
        lines("a name with a quote", b"\"Host\": evil", bad, EnvoyRefuses),
        lines("a value beyond UTF-8", b"X-A: \xff\xfeevil", AsGranted(1), Fault("planted in x-a")),
        attack(
            "space before the first header",
            [
                b"POST / HTTP/1.1\r\n X-Evil: evil\r\n".as_slice(),
                &start("")[2..],
                b"Content-Length: 0\r\n\r\n",
            ]
            .concat(),
            bad,
            Unseen,
        ),
    ]
}

fn first_lines() -> Vec<Attack> {
    let bad = Refused(&[400]);
    vec![
        target("an absolute target elsewhere", b"http://evil.example/", AsGranted(1), Fault("planted in host")),
        target("an absolute target upstream", b"https://recorder.us-east-1.amazonaws.com/evil", Refused(&[404]), Fault("target /evil")),
        target("an absolute target with a user", b"http://recorder.us-east-1.amazonaws.com@evil.example/", AsGranted(1), Fault("planted in host")),
        target("a target without its slash", b"evil", Refused(&[400, 404]), EnvoyRefuses),
        target("an authority for a target", b"evil.example:443", Refused(&[400, 404]), EnvoyRefuses),
        target("an asterisk", b"*", Refused(&[400, 404]), EnvoyRefuses),
        first("OPTIONS of an asterisk", b"OPTIONS * HTTP/1.1", Refused(&[400, 404]), Unseen),
        first("CONNECT", b"CONNECT evil.example:443 HTTP/1.1", Refused(&[400, 404, 405]), Fault("method CONNECT")),
        first("CONNECT to the registry", b"CONNECT membrane.registry:9444 HTTP/1.1", Refused(&[400, 404, 405]), Fault("method CONNECT")),
        first("TRACE", b"TRACE / HTTP/1.1", Refused(&[400, 405]), Fault("method TRACE")),
        first("a method in lower case", b"post / HTTP/1.1", Refused(&[400]), EnvoyRefuses),
        first("another method", b"DELETE / HTTP/1.1", AsGranted(1), Fault("method DELETE")),
        first("a method of nobody's", b"EVIL / HTTP/1.1", Refused(&[400]), EnvoyRefuses),
        first("PRI, without HTTP/2", b"PRI * HTTP/1.1", Refused(&[400, 404]), EnvoyRefuses),
        first("HTTP/1.0", b"POST / HTTP/1.0", Refused(&[400, 426]), Fault("authorization")),
        first("HTTP/0.9", b"POST /", Refused(&[400, 426]), EnvoyRefuses),
        first("HTTP/2.0 in a line", b"POST / HTTP/2.0", Refused(&[400, 426, 505]), Fault("authorization")),
        first("HTTP/1.9", b"POST / HTTP/1.9", Refused(&[400, 426, 505]), Unseen),
        first("a tab in the line", b"POST\t/\tHTTP/1.1", AsGranted(1), Fault("authorization")),
        first("a third word in the line", b"POST / /evil HTTP/1.1", bad, EnvoyRefuses),
        first("a CR in the line", b"POST /\revil HTTP/1.1", bad, EnvoyRefuses),
        attack("no host", format!("POST / HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n").into_bytes(), bad, EnvoyRefuses),
        lines("two hosts", b"Host: evil.example", AsGranted(1), Fault("planted in host")),
        attack("another host", format!("POST / HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n").into_bytes(), AsGranted(1), Fault("planted in host")),
        attack("a host with a user", format!("POST / HTTP/1.1\r\nHost: a@evil.example\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n").into_bytes(), AsGranted(1), Fault("planted in host")),
    ]
}

fn paths() -> Vec<Attack> {
    let no = Refused(&[404]);
    let goes = Fault("target /");
    vec![
        target("a path of one's own", b"/evil", no, goes),
        target("dots", b"/../evil", no, goes),
        target("dots in escapes", b"/%2e%2e/evil", no, goes),
        target("dots in escapes of escapes", b"/%252e%252e/evil", no, goes),
        target("dots that lead back", b"/evil/..", no, goes),
        target("two slashes", b"//evil.example/", no, Fault("target //")),
        target("a backslash", b"/\\evil", no, goes),
        target("a parameter", b"/;evil", no, goes),
        target("an escaped slash", b"/%2fevil", Refused(&[400]), goes),
        target("an escaped backslash", b"/%5cevil", Refused(&[400]), goes),
        target("an escaped NUL", b"/%00", Refused(&[400, 404]), Unseen),
        target("a broken escape", b"/%zz", Refused(&[400, 404]), Unseen),
        target("a fragment", b"/#evil", Refused(&[400, 404]), Unseen),
        target("bytes beyond ASCII", b"/\xff\xfe", Refused(&[400, 404]), Unseen),
        target("an escaped line end", b"/%0d%0aX-Evil:evil", no, goes),
    ]
}

fn queries() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let goes = Fault("target /?");
    let many: Vec<u8> = [b"/?".as_slice(), &b"a=1&".repeat(300)].concat();
    let mut queries = vec![
        target("a name of the grant's", b"/?own=evil", bad, goes),
        target("a name of the grant's, in escapes", b"/?%6f%77%6e=evil", bad, goes),
        target("a name of the grant's, without a value", b"/?own", bad, goes),
        target("a name of the grant's, second", b"/?a=1&own=evil", bad, goes),
        target("a signature in the query", b"/?X-Amz-Signature=evil", bad, goes),
        target("a signature in escapes", b"/?X%2dAmz%2dCredential=evil", bad, goes),
        target("a signature in other letters", b"/?x-aMz-security-token=evil", bad, goes),
        target("a semicolon", b"/?a=1;own=2", AsGrantedWith("?own=1&a=1%3Bown%3D2"), goes),
        target("an escaped ampersand", b"/?a=1%26own=2", AsGrantedWith("?own=1&a=1%26own%3D2"), goes),
        target("a plus", b"/?a=1+2", AsGrantedWith("?own=1&a=1%202"), goes),
        target("an escape of an escape", b"/?a=%2526own", AsGrantedWith("?own=1&a=%2526own"), goes),
        target("a second question mark", b"/?a=1?own=2", AsGrantedWith("?own=1&a=1%3Fown%3D2"), goes),
        target("an escaped NUL in the query", b"/?a=%00", AsGrantedWith("?own=1&a=%00"), goes),
        target(
            "an escaped line end in the query",
            b"/?a=%0d%0aX-A:b",
            AsGrantedWith("?own=1&a=%0D%0AX-A%3Ab"),
            goes,
        ),
        target("too many parameters", &many, bad, goes),
    ];
    queries.iter_mut().for_each(|query| query.grant = Grant::Query);
    queries.push(target(
        "a query where none is let through",
        b"/?Action=evil&X-Amz-Signature=evil&acl",
        AsGranted(1),
        goes,
    ));
    queries
}

fn headers() -> Vec<Attack> {
    let bad = Refused(&[400]);
    let dropped = AsGranted(1);
    let goes = Fault("planted in");
    let who = Refused(&[401]);
    vec![
        lines("two bearers", format!("Authorization: Bearer {TOKEN}").as_bytes(), who, Fault("authorization")),
        lines("another authorization", b"Authorization: AWS4-HMAC-SHA256 Credential=evil", who, goes),
        attack("two bearers in one", format!("POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}, Bearer evil\r\nContent-Length: 0\r\n\r\n").into_bytes(), who, goes),
        lines("Proxy-Authorization", b"Proxy-Authorization: Bearer evil", dropped, goes),
        lines("cookies", b"Cookie: evil=1\r\nCookie: evil=2", dropped, goes),
        lines("method overrides", b"X-HTTP-Method-Override: EVIL\r\nX-HTTP-Method: EVIL\r\nX-Method-Override: EVIL", dropped, goes),
        lines("X-Forwarded-*", b"X-Forwarded-For: evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=evil\r\nX-Real-IP: evil", dropped, goes),
        lines("X-Original-URL", b"X-Original-URL: /evil\r\nX-Rewrite-URL: /evil\r\nX-Host: evil", dropped, goes),
        lines("x-amz-acl", b"x-amz-acl: evil", bad, goes),
        lines("x-amz-copy-source", b"x-amz-copy-source: /evil/key", bad, goes),
        lines("x-amz-grant-full-control", b"x-amz-grant-full-control: id=evil", bad, goes),
        lines("x-amz-tagging", b"x-amz-tagging: evil=1", bad, goes),
        lines("a customer's key", b"x-amz-server-side-encryption-customer-key: evil", bad, goes),
        lines("x-amz-target", b"x-amz-target: Evil.Invoke", bad, goes),
        lines("x-amz-invocation-type", b"x-amz-invocation-type: Evil", bad, goes),
        lines("x-amz-security-token", b"x-amz-security-token: evil", dropped, goes),
        lines("x-amz-date", b"x-amz-date: 19990101T000000Zevil", dropped, goes),
        lines("x-amz-content-sha256", b"x-amz-content-sha256: evil", bad, goes),
        lines("x-amz-content-sha256 twice", b"x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-content-sha256: evil", bad, goes),
        lines("underscores", b"x_amz_acl: evil", bad, goes),
        lines("x-membrane-route", b"x-membrane-route: evil", dropped, goes),
        lines("x-membrane-route to the registry", b"x-membrane-route: control", dropped, Fault("header x-membrane-route")),
        lines("x-membrane-body", b"x-membrane-body: 6576696c", dropped, Fault("header x-membrane-body")),
        lines("x-envoy-*: paths", b"x-envoy-original-path: /evil\r\nx-envoy-original-host: evil\r\nx-envoy-original-dst-host: 127.0.0.1:9444", dropped, goes),
        lines("x-envoy-*: the router", b"x-envoy-upstream-alt-stat-name: evil\r\nx-envoy-retry-on: evil\r\nx-envoy-max-retries: 9\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-hedge-on-per-try-timeout: true", dropped, Unseen),
        lines("x-envoy-*: the edge", b"x-envoy-internal: evil\r\nx-envoy-external-address: evil\r\nx-envoy-decorator-operation: evil\r\nx-envoy-force-trace: true\r\nx-envoy-ip-tags: evil", dropped, Unseen),
        lines("Connection names the bearer", b"Connection: authorization, x-amz-date\r\nX-Evil: evil", Refused(&[401]), Unseen),
        lines("Connection names what signs", b"Connection: content-length, x-amz-date, x-membrane-route", AsGranted(1), Unseen),
        lines("TE", b"TE: trailers, gzip;q=0.1\r\nTrailer: authorization", dropped, Fault("header trailer")),
        lines("Keep-Alive", b"Keep-Alive: timeout=evil\r\nProxy-Connection: evil", dropped, Unseen),
        lines("Upgrade: websocket", b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: evil", Refused(&[405]), Unseen),
        lines("Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", AsGranted(1), Unseen),
        lines("Expect: 100-continue", b"Expect: 100-continue", dropped, Unseen),
        lines("Expect: something else", b"Expect: evil", AsGranted(1), goes),
        lines("a range, which is let through", b"Range: bytes=0-1", dropped, Fault("authorization")).with(&["range"]),
        lines("a header of nobody's", b"X-Anything: evil", dropped, goes),
    ]
}

fn exhaustion() -> Vec<Attack> {
    let large = Refused(&[400, 431]);
    let long = |name: &str, length: usize| [name.as_bytes(), b": ", &vec![b'a'; length]].concat();
    vec![
        lines("a long header", &long("X-Evil", 70_000), large, Unseen),
        lines("a long name", &long(&"x".repeat(70_000), 1), large, Unseen),
        lines(
            "long headers",
            &(0..20).map(|n| long(&format!("X-{n}"), 4_000)).collect::<Vec<_>>().join(&b"\r\n"[..]),
            large,
            Unseen,
        ),
        lines(
            "many headers",
            &(0..200).map(|n| long(&format!("X-{n}"), 1)).collect::<Vec<_>>().join(&b"\r\n"[..]),
            large,
            Unseen,
        ),
        target(
            "a long target",
            &[b"/?".as_slice(), &vec![b'a'; 70_000]].concat(),
            Refused(&[400, 414, 431]),
            Unseen,
        ),
        lines("a long authorization", &long("Authorization", 20_000), Refused(&[401]), Unseen),
        rest(
            "a body beyond what is held",
            &[format!("Content-Length: {}\r\n\r\n", 2 << 20).as_bytes(), &vec![b'a'; 2 << 20]].concat(),
            Refused(&[413]),
            Unseen,
        ),
    ]
}

impl Attack {
    fn with(self, headers: &'static [&'static str]) -> Attack {
        Attack { headers, ..self }
    }
}
