//! Bodies in aws-chunked framing, as clients send them and as nobody should: read, passed on and signed again.
//!
//! What is signed is verified by `tests/tools/verify_chunks.py`, which shares no code with us. `MEMBRANE_FUZZ_CASES` sets how many
//! random bodies (default 300, less where each is signed); `MEMBRANE_PYTHON` the interpreter.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use signing::aws4::{
    CHUNK_SIZE, Checksum, ChunkSigner, DayKey, Fault, Framer, Framing, Payload, Reader, Resigner, Service,
    TrailerNames, framed_length,
};
use signing::{Secret, Timestamp};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SEED: &str = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
const SIGNATURE: &str = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648";

fn now() -> Timestamp {
    Timestamp::from_unix(1_369_353_600)
}

fn signer() -> ChunkSigner {
    let s3 = Service::new("s3").unwrap();
    let key = DayKey::derive(&Secret::new(SECRET.into()), &now(), "us-east-1", &s3);
    ChunkSigner::new(&key, &now(), "us-east-1", &s3, SEED.as_bytes().try_into().unwrap())
}

fn announced(names: &[&str]) -> TrailerNames {
    TrailerNames::parse(names.iter().map(|name| name.as_bytes())).unwrap()
}

/// What came of a body.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    verdict: Result<Vec<(String, String)>, Fault>,
    data: Vec<u8>,
    position: u64,
}

/// Reads a body cut into pieces that end at `cuts`.
fn read(mut reader: Reader, body: &[u8], cuts: &[usize]) -> Outcome {
    let mut data = Vec::new();
    let mut failed = None;
    for piece in pieces(body, cuts) {
        let read = reader.push(piece, |span| data.extend_from_slice(span));
        match (failed, read) {
            (None, Ok(())) => {}
            (None, Err(fault)) => failed = Some(fault),
            // Once wrong, a body stays so.
            (Some(fault), again) => assert_eq!(again, Err(fault)),
        }
    }
    let position = reader.position();
    let verdict = reader.finish().map(|trailers| {
        let text =
            |(name, value): (&str, &[u8])| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap());
        trailers.iter().map(text).collect()
    });
    if let Some(fault) = failed {
        assert_eq!(verdict, Err(fault));
    }
    Outcome { verdict, data, position }
}

fn pieces<'a>(body: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.sort_unstable();
    let mut start = 0;
    let mut all = Vec::new();
    for end in cuts.into_iter().chain([body.len()]) {
        all.push(&body[start..end]);
        start = end;
    }
    all
}

/// In one piece, in two at every place, and byte by byte: always the same.
fn read_however_cut(reader: &Reader, body: &[u8]) -> Outcome {
    let whole = read(reader.clone(), body, &[]);
    for cut in 0..body.len() {
        assert_eq!(read(reader.clone(), body, &[cut]), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (0..body.len()).collect();
    assert_eq!(read(reader.clone(), body, &every), whole, "byte by byte");
    whole
}

const CRC32: &str = "x-amz-checksum-crc32";

/// `hello world` in the framings of the clients in the wild, by who sends them.
fn framings() -> Vec<(&'static str, Framing, Vec<&'static str>, String)> {
    let signature = format!(";chunk-signature={SIGNATURE}");
    let trailer_signature = format!("x-amz-trailer-signature:{SIGNATURE}");
    vec![
        // One chunk for each MiB.
        (
            "botocore",
            Framing::UnsignedTrailer,
            vec![CRC32],
            format!("b\r\nhello world\r\n0\r\n{CRC32}:DUoRhQ==\r\n\r\n"),
        ),
        // One chunk for each piece of the stream.
        (
            "@smithy/util-stream",
            Framing::UnsignedTrailer,
            vec![CRC32],
            format!("6\r\nhello \r\n5\r\nworld\r\n0\r\n{CRC32}:DUoRhQ==\r\n\r\n"),
        ),
        // One chunk for all, its size in upper case.
        (
            "aws-c-s3, SDK for .NET",
            Framing::UnsignedTrailer,
            vec!["x-amz-checksum-crc64nvme"],
            "B\r\nhello world\r\n0\r\nx-amz-checksum-crc64nvme:jSnVw/bqjr4=\r\n\r\n".into(),
        ),
        // As AWS describes it: `\n\r\n` after a trailer, CR LF at the end.
        (
            "minio-go",
            Framing::UnsignedTrailer,
            vec!["x-amz-checksum-crc32c"],
            "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32c:yZRlqg==\n\r\n\r\n".into(),
        ),
        ("no checksum", Framing::UnsignedTrailer, vec![], "b\r\nhello world\r\n0\r\n\r\n".into()),
        (
            "SDK for Java 1, minio-go",
            Framing::Signed,
            vec![],
            format!("b{signature}\r\nhello world\r\n0{signature}\r\n\r\n"),
        ),
        (
            "SDKs for Java 2 and .NET",
            Framing::SignedTrailer,
            vec![CRC32],
            format!(
                "B{signature}\r\nhello world\r\n0{signature}\r\n{CRC32}:DUoRhQ==\r\n{trailer_signature}\r\n\r\n"
            ),
        ),
        (
            "minio-go, signed trailers",
            Framing::SignedTrailer,
            vec![CRC32],
            format!(
                "b{signature}\r\nhello world\r\n0{signature}\r\n{CRC32}:DUoRhQ==\n\r\n{trailer_signature}\r\n\r\n"
            ),
        ),
        (
            "white space and case",
            Framing::SignedTrailer,
            vec!["X-Amz-Checksum-Sha1", CRC32],
            format!(
                "b{signature}\r\nhello world\r\n0{signature}\r\nX-Amz-Checksum-SHA1 : Kq5sNclPz7QV2+lfQIuc6R7oRu0=\r\n\
                 {CRC32}:\tDUoRhQ== \r\nX-Amz-Trailer-Signature: {SIGNATURE}\r\n\r\n"
            ),
        ),
    ]
}

#[test]
fn reads_what_clients_send() {
    for (who, framing, names, body) in framings() {
        let reader = Reader::new(framing, 11, announced(&names)).unwrap();
        let outcome = read_however_cut(&reader, body.as_bytes());
        assert_eq!(outcome.data, b"hello world", "{who}");
        assert_eq!(outcome.position, body.len() as u64, "{who}");
        let trailers = outcome.verdict.unwrap_or_else(|fault| panic!("{who}: {fault}"));
        assert!(trailers.is_sorted(), "{who}");
        assert_eq!(trailers.len(), names.len(), "{who}");
        for (name, value) in trailers {
            assert!(
                body.contains(&value) && names.iter().any(|other| other.eq_ignore_ascii_case(&name)),
                "{who}"
            );
        }
    }
}

#[test]
fn empty_bodies() {
    let signature = format!(";chunk-signature={SIGNATURE}");
    for (framing, names, body) in [
        (Framing::UnsignedTrailer, vec![CRC32], format!("0\r\n{CRC32}:AAAAAA==\r\n\r\n")),
        (Framing::UnsignedTrailer, vec![], "0\r\n\r\n".into()),
        (Framing::Signed, vec![], format!("0{signature}\r\n\r\n")),
        (
            Framing::SignedTrailer,
            vec![CRC32],
            format!("0{signature}\r\n{CRC32}:AAAAAA==\r\nx-amz-trailer-signature:{SIGNATURE}\r\n\r\n"),
        ),
    ] {
        let outcome = read_however_cut(&Reader::new(framing, 0, announced(&names)).unwrap(), body.as_bytes());
        assert!(outcome.verdict.is_ok() && outcome.data.is_empty(), "{body:?}: {outcome:?}");
    }
}

/// Each with the fault, how much of the body was read before it, and what had been decoded by then.
#[test]
fn refuses_everything_else() {
    let s = format!(";chunk-signature={SIGNATURE}");
    let (unsigned, signed, both) = (Framing::UnsignedTrailer, Framing::Signed, Framing::SignedTrailer);
    let crc = format!("{CRC32}:AAAAAA==\r\n");
    let trailer_signature = format!("x-amz-trailer-signature:{SIGNATURE}\r\n");
    let cases: Vec<(Framing, &[&str], String, Fault, usize)> = vec![
        (unsigned, &[CRC32], String::new(), Fault::Truncated, 0),
        (unsigned, &[CRC32], "\r\n".into(), Fault::ChunkSize, 0),
        (unsigned, &[CRC32], "g\r\n".into(), Fault::ChunkSize, 0),
        (unsigned, &[CRC32], "-3\r\n".into(), Fault::ChunkSize, 0),
        (unsigned, &[CRC32], "0x3\r\n".into(), Fault::ChunkSize, 1),
        (unsigned, &[CRC32], " 3\r\nabc\r\n".into(), Fault::ChunkSize, 0),
        (unsigned, &[CRC32], "00000000000000003\r\n".into(), Fault::ChunkSize, 16),
        (unsigned, &[CRC32], "ffffffffffffffff\r\n".into(), Fault::TooLong, 17),
        (unsigned, &[CRC32], "4\r\nabcd\r\n".into(), Fault::TooLong, 2),
        (unsigned, &[CRC32], "2\r\nab\r\n2\r\ncd".into(), Fault::TooLong, 9),
        (unsigned, &[CRC32], format!("2\r\nab\r\n0\r\n{crc}\r\n"), Fault::TooShort, 9),
        (unsigned, &[CRC32], "3\nabc\r\n".into(), Fault::ChunkSize, 1),
        (unsigned, &[CRC32], "3\rabc".into(), Fault::LineEnd, 2),
        (unsigned, &[CRC32], "3\r\nabcd".into(), Fault::LineEnd, 6),
        (unsigned, &[CRC32], "3\r\nabc\r0".into(), Fault::LineEnd, 7),
        (unsigned, &[CRC32], "3\r\nabc\n0".into(), Fault::LineEnd, 6),
        (unsigned, &[CRC32], format!("3{s}\r\nabc\r\n"), Fault::ChunkExtension, 1),
        (signed, &[], "3\r\nabc\r\n".into(), Fault::ChunkExtension, 1),
        (signed, &[], format!("3;chunk-Signature={SIGNATURE}\r\nabc\r\n"), Fault::ChunkExtension, 8),
        (signed, &[], "3;a=b\r\nabc\r\n".into(), Fault::ChunkExtension, 2),
        (signed, &[], format!("3;chunk-signature={}\r\n", &SIGNATURE[1..]), Fault::ChunkSignature, 81),
        (signed, &[], format!("3{s}0\r\n"), Fault::ChunkSignature, 82),
        (signed, &[], format!("3;chunk-signature=g{SIGNATURE}\r\n"), Fault::ChunkSignature, 18),
        (signed, &[], format!("3{s}\r\nabc\r\n0{s}\r\n"), Fault::Truncated, 173),
        (signed, &[], format!("3{s}\r\nabc\r\n0{s}\r\n{crc}"), Fault::LineEnd, 173),
        (signed, &[], format!("3{s}\r\nabc\r\n0{s}\r\n\r\n\r\n"), Fault::AfterEnd, 175),
        (signed, &[], format!("3{s}\r\nabc\r\n0{s}\r\n\r\n0"), Fault::AfterEnd, 175),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\n".into(), Fault::Truncated, 11),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\n\r\n".into(), Fault::TrailerMissing, 13),
        // The empty chunk that the SDK for .NET once sent twice: S3 refuses it too.
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n\r\n0\r\n{crc}\r\n"), Fault::TrailerLine, 15),
        (unsigned, &[], "3\r\nabc\r\n0\r\n\r\n0".into(), Fault::AfterEnd, 13),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{crc}"), Fault::Truncated, 42),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{crc}\r"), Fault::Truncated, 43),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{crc}\r\nGET"), Fault::AfterEnd, 44),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{crc}{crc}\r\n"), Fault::TrailerRepeated, 72),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{crc}\r\n\r\n\r\n\r\n\r\n"), Fault::AfterEnd, 51),
        (unsigned, &[], format!("3\r\nabc\r\n0\r\n{crc}\r\n"), Fault::TrailerNotAnnounced, 41),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\nx-amz-acl:public\r\n".into(), Fault::TrailerNotAnnounced, 28),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n {crc}\r\n"), Fault::TrailerNotAnnounced, 42),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\n:\r\n".into(), Fault::TrailerNotAnnounced, 13),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\nabc\r\n".into(), Fault::TrailerLine, 15),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\na:b\rc\n".into(), Fault::TrailerLine, 15),
        (unsigned, &[CRC32], "3\r\nabc\r\n0\r\na:\0\n".into(), Fault::TrailerLine, 13),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{}", "a".repeat(1_000)), Fault::TrailerLine, 171),
        (unsigned, &[CRC32], format!("3\r\nabc\r\n0\r\n{CRC32}:AAAA\r\n"), Fault::TrailerValue, 37),
        (
            unsigned,
            &[CRC32],
            format!("3\r\nabc\r\n0\r\n{crc}{trailer_signature}"),
            Fault::TrailerSignature,
            131,
        ),
        (both, &[CRC32], format!("3{s}\r\nabc\r\n0{s}\r\n{crc}\r\n"), Fault::TrailerMissing, 206),
        (
            both,
            &[CRC32],
            format!("3{s}\r\nabc\r\n0{s}\r\n{trailer_signature}\r\n"),
            Fault::TrailerMissing,
            265,
        ),
        (
            both,
            &[CRC32],
            format!("3{s}\r\nabc\r\n0{s}\r\n{trailer_signature}{crc}\r\n"),
            Fault::TrailerSignature,
            293,
        ),
        (
            both,
            &[CRC32],
            format!("3{s}\r\nabc\r\n0{s}\r\n{crc}x-amz-trailer-signature:{}\r\n", &SIGNATURE[1..]),
            Fault::TrailerSignature,
            292,
        ),
    ];
    for (framing, names, body, fault, position) in cases {
        let reader = Reader::new(framing, 3, announced(names)).unwrap();
        let outcome = read_however_cut(&reader, body.as_bytes());
        assert_eq!((outcome.verdict, outcome.position), (Err(fault), position as u64), "{body:?}");
        assert!(b"abc".starts_with(&outcome.data), "{body:?}");
    }
    assert_eq!(Reader::new(signed, 3, announced(&[CRC32])).err(), Some(Fault::TrailersAnnounced));
}

#[test]
fn no_part_of_a_body_is_a_whole_one() {
    for (who, framing, names, body) in framings() {
        let reader = Reader::new(framing, 11, announced(&names)).unwrap();
        for end in 0..body.len() {
            let part = read(reader.clone(), &body.as_bytes()[..end], &[]);
            // minio-go ends with an empty line more than needed.
            let optional = who == "minio-go" && end == body.len() - 2;
            assert_eq!(part.verdict.is_ok(), optional, "{who}: {:?}", &body[..end]);
            // Nor is it signed as if it were.
            let mut resigner = Resigner::new(reader.clone(), signer());
            let mut out = Vec::new();
            resigner.push(&body.as_bytes()[..end], &mut out).unwrap();
            let begun = out.len();
            assert_eq!(resigner.finish(&mut out).err(), part.verdict.err(), "{who}: {:?}", &body[..end]);
            assert_eq!(out.len() > begun, optional, "{who}: {:?}", &body[..end]);
        }
    }
}

/// Any byte of the framing replaced by any other, left out, or doubled: refused, or the data is what it was.
#[test]
fn no_byte_of_the_framing_changes_the_data() {
    for (who, framing, names, body) in framings() {
        let reader = Reader::new(framing, 11, announced(&names)).unwrap();
        let body = body.as_bytes();
        let (mut refused, mut harmless) = (0, 0);
        let mut judge = |changed: &[u8]| match read(reader.clone(), changed, &[]) {
            Outcome { verdict: Ok(_), data, .. } => {
                assert_eq!(data, b"hello world", "{who}: {:?}", String::from_utf8_lossy(changed));
                harmless += 1;
            }
            Outcome { data, .. } => {
                assert!(data.len() <= 11, "{who}");
                refused += 1;
            }
        };
        let is_data = |at: usize| {
            let text = String::from_utf8_lossy(body);
            ["hello world", "hello ", "world"]
                .iter()
                .any(|part| text.find(part).is_some_and(|start| (start..start + part.len()).contains(&at)))
        };
        for at in (0..body.len()).filter(|at| !is_data(*at)) {
            for byte in (0..=255).filter(|byte| *byte != body[at]) {
                judge(&[&body[..at], &[byte], &body[at + 1..]].concat());
            }
            judge(&[&body[..at], &body[at + 1..]].concat());
            judge(&[&body[..at], &body[at..=at], &body[at..]].concat());
        }
        // Signatures and checksums may be others of their kind; sizes, line ends and names may not.
        assert!(refused > 4 * harmless, "{who}: {refused} refused, {harmless} harmless");
    }
}

fn random_body() -> impl Strategy<Value = (Framing, Vec<Checksum>, Vec<Vec<u8>>)> {
    // Around the size of our own chunks, and small.
    let size = prop_oneof![
        4 => 1..300_usize,
        2 => (CHUNK_SIZE - 2)..(CHUNK_SIZE + 3),
        1 => 1..(3 * CHUNK_SIZE),
    ];
    let chunk = (size, any::<u8>())
        .prop_map(|(size, seed)| (0..size).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect());
    let framing = select(vec![Framing::UnsignedTrailer, Framing::Signed, Framing::SignedTrailer]);
    let checksums = prop::sample::subsequence(Checksum::ALL.to_vec(), 0..=4);
    (framing, checksums, prop::collection::vec(chunk, 0..6)).prop_map(|(framing, checksums, chunks)| {
        let checksums = if framing == Framing::Signed { Vec::new() } else { checksums };
        (framing, checksums, chunks)
    })
}

/// A value of the right form.
fn value(checksum: Checksum) -> String {
    let size = checksum.value_length() / 4 * 3;
    let raw = (0_u8..=255).map(|i| i.wrapping_mul(7)).take(size).collect::<Vec<u8>>();
    (0..3).map(|short| STANDARD.encode(&raw[short..])).find(|text| is_value(checksum, text)).unwrap()
}

fn is_value(checksum: Checksum, text: &str) -> bool {
    let body = format!("0\r\n{}:{text}\r\n\r\n", checksum.header());
    let reader = Reader::new(Framing::UnsignedTrailer, 0, announced(&[checksum.header()])).unwrap();
    read(reader, body.as_bytes(), &[]).verdict.is_ok()
}

fn write(framing: Framing, checksums: &[Checksum], chunks: &[Vec<u8>]) -> Vec<u8> {
    let extension = match framing {
        Framing::UnsignedTrailer => String::new(),
        _ => format!(";chunk-signature={SIGNATURE}"),
    };
    let mut body = Vec::new();
    for chunk in chunks {
        body.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("0{extension}\r\n").as_bytes());
    for checksum in checksums.iter().rev() {
        body.extend_from_slice(format!("{}:{}\r\n", checksum.header(), value(*checksum)).as_bytes());
    }
    if framing == Framing::SignedTrailer {
        body.extend_from_slice(format!("x-amz-trailer-signature:{SIGNATURE}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}

fn runner(default: u32) -> TestRunner {
    let cases = std::env::var("MEMBRANE_FUZZ_CASES")
        .map_or(default, |count| count.parse().expect("MEMBRANE_FUZZ_CASES is a number"));
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..40)
}

fn reader_of(framing: Framing, checksums: &[Checksum], declared: u64) -> Reader {
    let names: Vec<&str> = checksums.iter().map(|checksum| checksum.header()).collect();
    Reader::new(framing, declared, announced(&names)).unwrap()
}

/// Bodies good and spoilt, cut in any way: the same data, the same trailers, the same fault at the same place.
#[test]
fn any_cutting_gives_the_same() {
    // Replaced, left out, put in; and what was declared.
    let spoil = prop_oneof![
        2 => Just(None),
        3 => (any::<usize>(), any::<Option<u8>>(), any::<bool>()).prop_map(Some),
    ];
    let off = prop_oneof![4 => Just(0_i64), 1 => -2..3_i64];
    runner(300)
        .run(
            &(random_body(), spoil, off, cuts(), cuts()),
            |((framing, checksums, chunks), spoil, off, one, two)| {
                let mut body = write(framing, &checksums, &chunks);
                if let Some((at, byte, keep)) = spoil {
                    let at = at % body.len();
                    body.splice(at..(at + usize::from(!keep)), byte);
                }
                let length: usize = chunks.iter().map(Vec::len).sum();
                let declared = (length as u64).saturating_add_signed(off);
                let reader = reader_of(framing, &checksums, declared);
                let whole = read(reader.clone(), &body, &[]);
                prop_assert!(whole.data.len() as u64 <= declared);
                if spoil.is_none() && declared == length as u64 {
                    prop_assert!(whole.verdict.is_ok() && whole.data == chunks.concat());
                }
                prop_assert_eq!(whole.verdict.is_ok() && whole.data.len() as u64 != declared, false);
                for cuts in [one, two] {
                    prop_assert!(read(reader.clone(), &body, &cuts) == whole);
                    // Signed again, it is refused with the same, or gives the same however it is cut.
                    let resign = |cuts: &[usize]| {
                        let mut resigner = Resigner::new(reader.clone(), signer());
                        let mut out = Vec::new();
                        let pushed = pieces(&body, cuts)
                            .into_iter()
                            .try_for_each(|piece| resigner.push(piece, &mut out));
                        let verdict = pushed.and_then(|()| resigner.finish(&mut out));
                        (verdict, out)
                    };
                    let (verdict, out) = resign(&cuts);
                    prop_assert_eq!(verdict.err(), whole.verdict.as_ref().err().copied());
                    prop_assert!(resign(&[]) == (verdict, out.clone()));
                    if verdict.is_ok() {
                        prop_assert_eq!(reader.resigned_length(), Some(out.len() as u64));
                    }
                }
                Ok(())
            },
        )
        .unwrap();
}

/// A Python process that verifies signed bodies.
struct Verifier {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Verifier {
    fn start() -> Self {
        let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("MEMBRANE_PYTHON")
            .map_or_else(|| crate_folder.join("../../.tools/venv/bin/python"), PathBuf::from);
        let mut child = Command::new(&python)
            .arg(crate_folder.join("../../tests/tools/verify_chunks.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run `make tools`", python.display()));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, body: &[u8], trailer: bool) -> Value {
        let question = json!({
            "secretAccessKey": SECRET, "date": now().amz(), "region": "us-east-1", "service": "s3", "seed": SEED,
            "trailer": trailer, "body": STANDARD.encode(body),
        });
        writeln!(self.input, "{question}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("verify_chunks.py died")
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_signed_again_verifies() {
    let verifier = std::cell::RefCell::new(Verifier::start());
    runner(150)
        .run(&(random_body(), cuts()), |((framing, checksums, chunks), cuts)| {
            let data = chunks.concat();
            let reader = reader_of(framing, &checksums, data.len() as u64);
            let trailer = reader.resigned_payload() == Payload::StreamingTrailer;
            prop_assert_eq!(trailer, !checksums.is_empty());
            let mut resigner = Resigner::new(reader, signer());
            let mut out = Vec::new();
            for piece in pieces(&write(framing, &checksums, &chunks), &cuts) {
                resigner.push(piece, &mut out).unwrap();
            }
            resigner.finish(&mut out).unwrap();
            let answer = verifier.borrow_mut().ask(&out, trailer);
            prop_assert_eq!(&answer["body"], &Value::from(STANDARD.encode(&data)), "{}", answer["error"]);
            let expected: Vec<_> =
                checksums.iter().map(|checksum| json!([checksum.header(), value(*checksum)])).collect();
            prop_assert_eq!(&answer["trailers"], &Value::from(expected));
            let mut sizes: Vec<usize> = data.chunks(CHUNK_SIZE).map(<[u8]>::len).collect();
            sizes.push(0);
            prop_assert_eq!(&answer["chunks"], &json!(sizes));
            Ok(())
        })
        .unwrap();
}

#[test]
fn plain_bodies_framed_verify_too() {
    let verifier = std::cell::RefCell::new(Verifier::start());
    runner(150)
        .run(&(random_body(), cuts()), |((_, _, chunks), cuts)| {
            let data = chunks.concat();
            let mut framer = Framer::new(signer(), data.len() as u64);
            let mut out = Vec::new();
            for piece in pieces(&data, &cuts) {
                framer.push(piece, &mut out).unwrap();
            }
            framer.finish(None, &mut out).unwrap();
            prop_assert_eq!(framed_length(data.len() as u64, None), Some(out.len() as u64));
            let answer = verifier.borrow_mut().ask(&out, false);
            prop_assert_eq!(&answer["body"], &Value::from(STANDARD.encode(&data)), "{}", answer["error"]);
            Ok(())
        })
        .unwrap();
}

/// The verifier is worth something: it takes AWS's published example, and refuses it with any one byte changed.
#[test]
fn the_verifier_verifies() {
    let mut verifier = Verifier::start();
    let body = format!(
        "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n{}\r\n\
         400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n{}\r\n\
         0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n\
         x-amz-checksum-crc32c:sOO8/Q==\r\n\
         x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
        "a".repeat(65_536),
        "a".repeat(1_024),
    );
    let answer = verifier.ask(body.as_bytes(), true);
    assert_eq!(answer["chunks"], json!([65_536, 1_024, 0]), "{}", answer["error"]);
    // All of the framing, and some of the data.
    let end = body.len();
    for at in (0..100).chain((65_600..65_720).step_by(3)).chain(end - 260..end) {
        let mut changed = body.clone().into_bytes();
        changed[at] ^= 1;
        assert!(verifier.ask(&changed, true)["error"].is_string(), "byte {at} may change");
    }
    assert!(verifier.ask(body.as_bytes(), false)["error"].is_string());
}

#[test]
fn a_plain_body_must_be_as_long_as_declared() {
    let mut framer = Framer::new(signer(), 3);
    let mut out = Vec::new();
    framer.push(b"ab", &mut out).unwrap();
    assert_eq!(framer.clone().finish(None, &mut out), Err(Fault::TooShort));
    assert_eq!(framer.push(b"cd", &mut out), Err(Fault::TooLong));
    assert!(out.is_empty(), "not one chunk of it may have gone out");
    // It stays wrong, even if what follows would fit.
    assert_eq!(framer.push(b"c", &mut out), Err(Fault::TooLong));
    assert_eq!(framer.finish(None, &mut out), Err(Fault::TooLong));
    assert!(out.is_empty());
}

/// However large the requester's chunks: what has come and is not yet out is less than one of ours.
#[test]
fn at_most_one_chunk_is_held() {
    const SIZE: usize = 5 * CHUNK_SIZE + 17;
    let body = write(Framing::Signed, &[], &[vec![7; SIZE]]);
    let mut resigner = Resigner::new(reader_of(Framing::Signed, &[], SIZE as u64), signer());
    let mut out = Vec::new();
    let head = body.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for (index, piece) in body.chunks(1_000).enumerate() {
        resigner.push(piece, &mut out).unwrap();
        let came = ((index + 1) * 1_000).saturating_sub(head).min(SIZE);
        assert!(came < out.len() + CHUNK_SIZE, "{came} bytes came, {} went", out.len());
    }
}
