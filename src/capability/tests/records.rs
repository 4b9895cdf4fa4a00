//! Sealed records beside a second implementation (tests/tools/records.py): what it sealed opens here and is sealed the same to the byte, and
//! the reverse. And no bit of a record, or of what stands beside it in the clear, can be another.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record::{self, Header, Kek, Keks, Kind};
use capability::{Content, Export, Exported, LookupId, Token, Uid, UnitPair, Units};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VECTORS: &str = include_str!("../../../tests/vectors/records/python.json");

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vector {
    token: String,
    kek: String,
    kind: u8,
    expires_at: Option<u64>,
    units: Units,
    content: String,
    nonce: String,
    outer_nonce: String,
    lookup: String,
    inner: String,
    outer: String,
}

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    B64.decode(text).unwrap().try_into().unwrap()
}

fn script(command: &str, input: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("MEMBRANE_PYTHON")
        .map_or_else(|| folder.join("../../.tools/venv/bin/python"), PathBuf::from);
    let mut child = Command::new(&python)
        .arg(folder.join("../../tests/tools/records.py"))
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run `make tools`", python.display()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may end before it has read everything; its status says why.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_second_implementation_sealed_opens_and_is_sealed_the_same() {
    let vectors: Vec<Vector> = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(vectors.len(), 42);
    for (number, vector) in vectors.iter().enumerate() {
        let token = Token::parse(vector.token.as_bytes()).unwrap();
        let lookup = token.lookup_id();
        assert_eq!(lookup.to_string(), vector.lookup, "{number}");
        let kind = Kind::from_number(vector.kind).unwrap();
        let header = Header { kind, lookup, expires_at: vector.expires_at, units: &vector.units };
        let keks = Keks::parse(vector.kek.as_bytes()).unwrap();
        let outer = B64.decode(&vector.outer).unwrap();
        let inner = keks.unwrap(lookup, &outer).unwrap();
        assert_eq!(B64.encode(inner.as_bytes()), vector.inner, "{number}");
        let content = record::open(&token, &header, inner.as_bytes()).unwrap();
        assert_eq!(content.as_slice(), vector.content.as_bytes(), "{number}");

        let sealed = record::seal(&token, &header, vector.content.as_bytes(), bytes(&vector.nonce)).unwrap();
        assert_eq!(sealed, inner, "{number}");
        assert_eq!(keks.wrap(lookup, &sealed, bytes(&vector.outer_nonce)).unwrap(), outer, "{number}");
    }
}

#[test]
fn the_vectors_are_what_the_script_makes() {
    assert!(
        script("make", "") == VECTORS,
        "run tests/tools/records.py make > tests/vectors/records/python.json"
    );
}

/// The same for ever.
fn drawn<const N: usize>(number: usize, name: &str) -> [u8; N] {
    let mut out = [0; N];
    for (index, chunk) in out.chunks_mut(32).enumerate() {
        let hash = Sha256::digest(format!("{number} {name} {index}"));
        chunk.copy_from_slice(&hash[..chunk.len()]);
    }
    out
}

#[test]
fn what_is_sealed_here_opens_in_the_second_implementation() {
    let mut lines = String::new();
    let lengths = [0, 1, 2, 511, 512, 513, 1_023, 1_024, 1_025, 4_000, 16_384, 65_000, 65_534, 65_536];
    const COUNT: usize = 140;
    for number in 0..COUNT {
        let token = Token::mint(drawn(number, "token"));
        let own =
            UnitPair { tenant: Uid(drawn(number, "tenant")), membrane: Some(Uid(drawn(number, "own"))) };
        let mut units = Units::own(own);
        for pair in 0..number % 16 {
            let pair = UnitPair {
                tenant: Uid(drawn(number, &format!("tenant {pair}"))),
                membrane: (pair % 2 == 0).then(|| Uid(drawn(number, &format!("membrane {pair}")))),
            };
            units = Units::join(own, &[&units, &Units::own(pair)]).unwrap();
        }
        for source in 0..number % 17 {
            units = units.re_exporting(LookupId(drawn(number, &format!("source {source}")))).unwrap();
        }
        let kind = [Kind::Grant, Kind::Control, Kind::Credential][number % 3];
        let lookup = token.lookup_id();
        let expires_at = [None, Some(1_900_000_000), Some(u64::MAX)][number / 3 % 3];
        let content = "\u{1f980}".repeat(lengths[number % lengths.len()] / 4);
        let content = format!("{content}{}", "x".repeat(lengths[number % lengths.len()] % 4));
        let header = Header { kind, lookup, expires_at, units: &units };
        let (nonce, outer_nonce) = (drawn(number, "nonce"), drawn(number, "outer nonce"));
        let inner = record::seal(&token, &header, content.as_bytes(), nonce).unwrap();
        let mut kek: [u8; 32] = drawn(number, "kek");
        let text = B64.encode(kek);
        let outer = Keks::new(Kek::new(&mut kek), vec![]).wrap(lookup, &inner, outer_nonce).unwrap();
        let vector = Vector {
            token: token.expose().to_owned(),
            kek: text,
            kind: kind as u8,
            expires_at,
            units,
            content,
            nonce: B64.encode(nonce),
            outer_nonce: B64.encode(outer_nonce),
            lookup: lookup.to_string(),
            inner: B64.encode(inner.as_bytes()),
            outer: B64.encode(outer),
        };
        lines += &serde_json::to_string(&vector).unwrap();
        lines.push('\n');
    }
    assert_eq!(script("open", &lines).trim(), COUNT.to_string());
}

/// As `export` seals one: a grant with an AWS credential, made through a delegation, a re-export of a re-export.
#[test]
fn no_bit_of_a_record_or_of_what_is_bound_to_it_can_be_another() {
    let export = Export::parse(
        br#"{"uri":"https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/f/invocations","hmac":{"aws4-hmac-sha256":
            {"awsAccessKeyId":"AKIDEXAMPLE","region":"us-east-1","service":"lambda","secretAccessKey":"wJalrXUtnFEMI/K7MDENG"}}}"#,
    );
    let Ok(Export { what: Exported::Grant(grant), .. }) = export else { panic!("the export is well-formed") };
    let json = Content::Grant(grant).to_json();
    let pair = |tenant: u8, membrane: Option<u8>| UnitPair {
        tenant: Uid([tenant; 16]),
        membrane: membrane.map(|uid| Uid([uid; 16])),
    };
    let units = Units::join(pair(1, Some(2)), &[&Units::own(pair(3, None)), &Units::own(pair(4, Some(5)))]);
    let units =
        units.unwrap().re_exporting(LookupId([6; 32])).unwrap().re_exporting(LookupId([7; 32])).unwrap();
    let token = Token::mint(drawn(0, "token"));
    let lookup = token.lookup_id();
    let header = Header { kind: Kind::Grant, lookup, expires_at: Some(1_900_000_000), units: &units };
    let inner = record::seal(&token, &header, json.expose(), [7; 24]).unwrap();
    let keks = Keks::new(Kek::new(&mut [9; 32]), vec![Kek::new(&mut [10; 32])]);
    let outer = keks.wrap(lookup, &inner, [8; 24]).unwrap();
    // Untouched, it opens.
    let opens = |header: &Header<'_>, inner: &[u8]| record::open(&token, header, inner).is_ok();
    assert!(opens(&header, keks.unwrap(lookup, &outer).unwrap().as_bytes()));

    let mut tried = 0;
    let mut flips = |bytes: &[u8]| -> Vec<Vec<u8>> {
        tried += bytes.len() * 8;
        (0..bytes.len() * 8)
            .map(|bit| {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            })
            .collect()
    };
    for flipped in flips(&outer) {
        assert!(keks.unwrap(lookup, &flipped).is_err());
    }
    for flipped in flips(inner.as_bytes()) {
        assert!(!opens(&header, &flipped));
    }
    for flipped in flips(&lookup.0) {
        let lookup = LookupId(flipped.try_into().unwrap());
        assert!(keks.unwrap(lookup, &outer).is_err(), "the outer layer");
        assert!(!opens(&Header { lookup, ..header }, inner.as_bytes()), "the inner one");
    }
    for flipped in flips(&[header.kind as u8]) {
        let kind = Kind::from_number(flipped[0]);
        assert!(kind.is_none_or(|kind| !opens(&Header { kind, ..header }, inner.as_bytes())));
    }
    for flipped in flips(&1_900_000_000_u64.to_be_bytes()) {
        let expires_at = Some(u64::from_be_bytes(flipped.try_into().unwrap()));
        assert!(!opens(&Header { expires_at, ..header }, inner.as_bytes()));
    }
    assert!(!opens(&Header { expires_at: None, ..header }, inner.as_bytes()));
    for flipped in flips(&units.to_bytes()) {
        let flipped = Units::from_bytes(&flipped);
        assert!(flipped.is_none_or(|units| !opens(&Header { units: &units, ..header }, inner.as_bytes())));
    }
    for flipped in flips(&B64.decode(&token.expose()["CPBLTY1-".len()..]).unwrap()) {
        let other = Token::mint(flipped.try_into().unwrap());
        assert!(
            record::open(&other, &header, inner.as_bytes()).is_err(),
            "another token under this lookup id"
        );
    }
    assert!(tried > 10_000, "{tried}");
}
