//! What becomes of bodies, by payload mode.

use crate::simulation::{Bench, LAMBDA, feed_answer, grant_answer, token};
use crate::warm;
use membrane_filter::abi_numbers::{DataStatus, HeadersStatus, TrailersStatus};
use signing::aws4::{Framing, Reader, TrailerNames};

#[test]
fn a_pinned_body_is_signed_and_handed_to_the_stage_behind() {
    let export = LAMBDA.replace(r#""headers""#, r#""body": "pinned \u00fc", "headers""#);
    let bench = |config| {
        let mut bench = Bench::with_feed(config);
        let (context, _) = bench.headers(token(1).expose(), &[], true);
        bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
        (bench, context)
    };
    let (mut cold, context) = bench(r#"{"pinned_bodies": true}"#);
    let handed = |bench: &Bench, context| {
        (bench.sent(context, "x-membrane-body").unwrap(), bench.sent(context, "content-length"))
    };
    let expected = ("70696e6e656420c3bc".to_owned(), None);
    assert_eq!(handed(&cold, context), expected);
    let authorization = cold.sent(context, "authorization");
    // Warm; and with a body that turns out to be empty.
    let (context, _) = cold.headers(token(1).expose(), &[("x-membrane-body", "00")], true);
    assert_eq!(handed(&cold, context), expected);
    assert_eq!(cold.sent(context, "authorization"), authorization);
    let (context, status) = cold.headers(token(1).expose(), &[], false);
    assert_eq!(status, HeadersStatus::Stop);
    assert_eq!(cold.body(context, b"", true), DataStatus::Continue);
    assert_eq!(handed(&cold, context), expected);
    // Or is announced to be.
    let (context, _) = cold.headers(token(1).expose(), &[("content-length", "0")], true);
    assert_eq!(handed(&cold, context), expected);
    // The requester describes it in nothing.
    let theirs = [("content-type", "text/html"), ("content-encoding", "gzip")];
    let (context, _) = cold.headers(token(1).expose(), &theirs, true);
    assert_eq!((cold.sent(context, "content-type"), cold.sent(context, "content-encoding")), (None, None));
    // What a body of the requester's gets, announced or not.
    let (context, _) = cold.headers(token(1).expose(), &[("content-length", "100000")], false);
    assert_eq!(cold.status(context), Some(400));
    let (context, _) = cold.headers(token(1).expose(), &[], false);
    assert_eq!(cold.body(context, b"x", false), DataStatus::StopNoBuffer);
    assert_eq!(cold.status(context), Some(400));

    // Without that stage nothing goes out.
    let (bench, context) = bench("");
    assert_eq!(bench.status(context), Some(500));
    assert!(bench.envoy.warnings[0].contains("pinned_bodies"), "{:?}", bench.envoy.warnings);
}

#[test]
fn cap1_signs_what_is_sent_and_lets_the_body_stream() {
    let export = r#"{"uri": "https://Api.example.com/a?x=1", "headers": {"x-key": "k"}, "allowQuery": true,
        "hmac": {"cap1-hmac-sha512": {"key": "canary", "keyId": "id"}}}"#;
    let mut bench = warm("", export);
    let more =
        [(":path", "/?q=%20"), ("content-type", "text/plain"), ("x-cap-date", "theirs"), ("x-amz-acl", "x")];
    let (context, status) = bench.headers(token(1).expose(), &more, false);
    assert_eq!(status, HeadersStatus::Continue);
    assert_eq!(bench.body(context, &[0; 5_000_000], true), DataStatus::Continue);
    assert_eq!(bench.sent(context, ":path").as_deref(), Some("/a?x=1&q=%20"));
    assert_eq!(bench.sent(context, "x-cap-date").as_deref(), Some("20260101T000000Z"));
    assert_eq!(bench.sent(context, "x-amz-acl"), None);
    let authorization = bench.sent(context, "authorization").unwrap();
    let expected = "CAP1-HMAC-SHA512 Credential=id/20260101/api.example.com/cap1_request,\
                    SignedHeaders=content-type;host;x-cap-date;x-key,Signature=";
    assert!(authorization.starts_with(expected), "{authorization}");
    for (path, status) in [("/?q=%FF", 400), ("/?x=2", 400), ("/?a;x=2", 400)] {
        let (context, _) = bench.headers(token(1).expose(), &[(":path", path)], true);
        assert_eq!(bench.status(context), Some(status), "{path}");
    }
}

pub(crate) fn s3(scheme: &str, payload: &str) -> String {
    format!(
        r#"{{"uri": "{scheme}://b.s3.amazonaws.com/k", "method": "PUT", "hmac": {{"aws4-hmac-sha256": {{
            "awsAccessKeyId": "A", "region": "us-east-1", "service": "s3", "secretAccessKey": "canary" {payload}}}}}}}"#
    )
}

pub(crate) const SIGNED: &str = r#", "payload": "signed""#;
pub(crate) const CRC: (&str, &str) = ("x-amz-trailer", "x-amz-checksum-crc32");

pub(crate) fn body() -> Vec<u8> {
    (0..200_000u32).map(|n| (n % 251) as u8).collect()
}

/// As an SDK frames it, unsigned, with a trailer.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(70_000) {
        out.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    out
}

/// What upstream got, read as signed chunks again, with trailers or without.
fn unframed(wire: &[u8], trailers: bool) -> Vec<u8> {
    let names = TrailerNames::parse(trailers.then_some(CRC.1.as_bytes())).unwrap();
    let framing = if trailers { Framing::SignedTrailer } else { Framing::Signed };
    let mut reader = Reader::new(framing, 200_000, names).unwrap();
    let mut out = Vec::new();
    reader.push(wire, |data| out.extend(data)).unwrap();
    assert_eq!(reader.finish().unwrap().is_empty(), !trailers);
    out
}

/// Sends `wire` in such pieces: the first `held` of them while the capability is looked up (warm if none).
fn send(export: &str, headers: &[(&str, &str)], wire: &[u8], piece: usize, held: usize) -> (Bench, u32) {
    let mut bench = if held == 0 { warm("", export) } else { Bench::with_feed("") };
    let length = wire.len().to_string();
    let mut all = vec![(":method", "PUT"), ("content-length", length.as_str())];
    all.extend(headers);
    let (context, status) = bench.headers(token(1).expose(), &all, false);
    assert_eq!(status, if held == 0 { HeadersStatus::Continue } else { HeadersStatus::Stop });
    let pieces: Vec<_> = wire.chunks(piece).collect();
    let (before, after) = pieces.split_at(held.min(pieces.len()));
    for (index, piece) in before.iter().enumerate() {
        let ended = after.is_empty() && index + 1 == before.len();
        assert_eq!(bench.body(context, piece, ended), DataStatus::StopAndBuffer);
    }
    if held > 0 {
        bench.answer_lookup(200, &grant_answer(&token(1), export, None, 1, 10));
        assert_eq!(bench.status(context), None, "{:?}", bench.envoy.replies);
        assert_eq!(bench.envoy.resumed, [context]);
    }
    for (index, piece) in after.iter().enumerate() {
        assert_eq!(bench.stream(context, piece, index + 1 == after.len()), DataStatus::Continue);
    }
    (bench, context)
}

#[test]
fn what_is_signed_in_passing_is_the_same_whatever_way_it_comes() {
    let streaming = |mode| ("x-amz-content-sha256", mode);
    let decoded = ("x-amz-decoded-content-length", "200000");
    let unsigned = streaming("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    for (name, export, headers, wire, trailers) in [
        ("plain", s3("https", SIGNED), vec![], body(), false),
        ("framed, in the clear", s3("http", ""), vec![unsigned, decoded, CRC], framed(&body()), true),
        ("framed, signed", s3("https", SIGNED), vec![unsigned, decoded, CRC], framed(&body()), true),
    ] {
        let mut seen = std::collections::HashSet::new();
        for piece in [1_000, 65_536, 65_537, 1_000_000] {
            for held in [0, 1, 2, usize::MAX] {
                let (bench, context) = send(&export, &headers, &wire, piece, held);
                let sent = &bench.envoy.upstream[&context];
                assert_eq!(bench.sent(context, "content-length"), Some(sent.len().to_string()), "{name}");
                assert_eq!(bench.sent(context, "x-amz-decoded-content-length").as_deref(), Some("200000"));
                assert_eq!(bench.sent(context, "content-encoding").as_deref(), Some("aws-chunked"));
                let mode = if trailers {
                    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
                } else {
                    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
                };
                assert_eq!(bench.sent(context, "x-amz-content-sha256").as_deref(), Some(mode));
                assert_eq!(bench.sent(context, "x-amz-trailer").as_deref(), trailers.then_some(CRC.1));
                assert!(unframed(sent, trailers) == body(), "{name}");
                seen.insert(sent.clone());
            }
        }
        assert_eq!(seen.len(), 1, "{name}");
    }
}

#[test]
fn a_rewritten_body_may_come_after_its_request_was_let_go() {
    let mut bench = Bench::with_feed("");
    let length = [("content-length", "200000")];
    let (context, _) = bench.headers(token(1).expose(), &length, false);
    bench.answer_lookup(200, &grant_answer(&token(1), &s3("https", SIGNED), None, 1, 10));
    assert_eq!(bench.envoy.resumed, [context], "{:?}", bench.envoy.replies);
    assert_eq!(bench.stream(context, &body(), false), DataStatus::Continue);
    assert_eq!(bench.stream(context, b"", true), DataStatus::Continue);
    assert!(unframed(&bench.envoy.upstream[&context], false) == body());
}

#[test]
fn unsigned_chunks_pass_as_they_are() {
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "200000"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        CRC,
    ];
    let wire = framed(&body());
    for (piece, held) in [(1_000, 0), (1_000, 3), (1_000_000, 0), (1_000_000, 1)] {
        let (bench, context) = send(&s3("https", ""), &headers, &wire, piece, held);
        assert!(bench.envoy.upstream[&context] == wire);
        assert_eq!(bench.sent(context, "content-length"), Some(wire.len().to_string()));
        for (name, value) in &headers {
            assert_eq!(bench.sent(context, name).as_deref(), Some(*value));
        }
    }
}

#[test]
fn a_broken_body_is_broken_off_at_the_fault() {
    let headers = |decoded| {
        let mode = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        vec![mode, ("x-amz-decoded-content-length", decoded), CRC]
    };
    let wire = framed(&body());
    let mut broken = wire.clone();
    broken[70_000 + 7] = b'x';
    let shorter = wire[..wire.len() - 40].to_vec();
    for export in [s3("https", ""), s3("https", SIGNED), s3("http", "")] {
        for (decoded, wire) in
            [("199999", &wire), ("200001", &wire), ("200000", &broken), ("200000", &shorter)]
        {
            // In pieces while it streams, and whole while it is looked up.
            let mut bench = warm("", &export);
            let (context, _) = bench.headers(token(1).expose(), &headers(decoded), false);
            let pieces: Vec<_> = wire.chunks(1_000).collect();
            let mut ended_at = None;
            for (index, piece) in pieces.iter().enumerate() {
                let status = bench.stream(context, piece, index + 1 == pieces.len());
                if status == DataStatus::StopNoBuffer {
                    ended_at.get_or_insert(index);
                } else {
                    assert_eq!(ended_at, None, "nothing goes on after the fault");
                }
            }
            assert!(ended_at.is_some());
            assert_eq!(bench.status(context), Some(400));

            let mut bench = Bench::with_feed("");
            let length = wire.len().to_string();
            let mut all = headers(decoded);
            all.push(("content-length", &length));
            let (context, _) = bench.headers(token(1).expose(), &all, false);
            bench.body(context, wire, true);
            bench.answer_lookup(200, &grant_answer(&token(1), &export, None, 1, 10));
            assert_eq!(bench.status(context), Some(400));
            assert!(bench.envoy.resumed.is_empty() && !bench.envoy.upstream.contains_key(&context));
        }
    }
}

#[test]
fn trailers_of_http_end_what_passes_as_it_is_and_nothing_that_needs_an_end_of_ours() {
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "200000"),
        CRC,
    ];
    for (export, trailers) in
        [(s3("https", ""), TrailersStatus::Continue), (s3("https", SIGNED), TrailersStatus::Stop)]
    {
        let mut bench = warm("", &export);
        let (context, _) = bench.headers(token(1).expose(), &headers, false);
        assert_eq!(bench.stream(context, &framed(&body()), false), DataStatus::Continue);
        assert_eq!(bench.trailers(context), trailers);
        assert_eq!(bench.status(context).is_some(), trailers == TrailersStatus::Stop);
    }
    // Cut short by them.
    let mut bench = warm("", &s3("https", ""));
    let (context, _) = bench.headers(token(1).expose(), &headers, false);
    assert_eq!(bench.stream(context, &framed(&body())[..1_000], false), DataStatus::Continue);
    assert_eq!(bench.trailers(context), TrailersStatus::Stop);
    assert_eq!(bench.status(context), Some(400));
}

/// Begins uploads with the capability of `token(n)` until one is refused for want of room: how many were not.
fn uploads(bench: &mut Bench, n: u8) -> usize {
    for count in 0.. {
        let (context, _) = bench.headers(token(n).expose(), &[("content-length", "1000000")], false);
        match bench.status(context) {
            None => {}
            status => {
                assert_eq!(status, Some(503));
                return count;
            }
        }
        assert!(count < 1_000);
    }
    unreachable!()
}

#[test]
fn bodies_that_are_rewritten_are_bounded_in_number() {
    let export = s3("https", SIGNED);
    let mut bench = warm("", &export);
    for n in 2..=4 {
        bench.headers(token(n).expose(), &[("content-length", "0")], true);
        bench.answer_lookup(200, &grant_answer(&token(n), &export, None, 1, 10));
    }
    // One capability's leave as much room for others again, and all together are bounded.
    let first = uploads(&mut bench, 1);
    assert!((200..300).contains(&first), "{first}");
    let ended = *bench.envoy.sent.keys().max().unwrap();
    assert_eq!(uploads(&mut bench, 2), first);
    // What two halves leave by rounding.
    assert!(uploads(&mut bench, 3) <= 1);
    // What is only held, or passes unseen, has room of its own.
    let (context, _) = bench.headers(token(3).expose(), &[("content-length", "0")], true);
    assert_eq!(bench.status(context), None);
    // Those that end make room.
    bench.worker.on_delete(ended);
    assert_eq!((uploads(&mut bench, 3), uploads(&mut bench, 1)), (1, 0));
    bench.answer_feed(200, &feed_answer(1, 11, &[]));
}
