//! Every request that the reference implementation of CAP1-HMAC-SHA512 signed (`tests/vectors/cap1-hmac-sha512.json`), stage by
//! stage and as one.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use serde::Deserialize;
use signing::cap1::{self, DayKey, Signer, Target, stages};
use signing::{Scheme, Secret, Timestamp};

#[derive(Deserialize)]
struct Vector {
    request: Request,
    result: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    headers: BTreeMap<String, String>,
    http_request_method: String,
    key: String,
    key_id: String,
    path: String,
    query_string: String,
}

impl Request {
    /// As Node puts them on the wire: one byte a character.
    fn wire_headers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let latin1 = |text: &String| text.chars().map(|c| u8::try_from(c).unwrap()).collect();
        self.headers.iter().map(|(name, value)| (name.to_lowercase().into_bytes(), latin1(value))).collect()
    }
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("../../../tests/vectors/cap1-hmac-sha512.json")).unwrap()
}

fn pairs(headers: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
}

/// The second that `20240826T022955Z` names, found by bisection: `Timestamp` has no parser, and needs none.
fn timestamp(text: &str) -> Timestamp {
    let (mut low, mut high) = (0_u64, 4_102_444_800);
    while low < high {
        let middle = low + (high - low) / 2;
        if Timestamp::from_unix(middle).amz() < text { low = middle + 1 } else { high = middle }
    }
    let found = Timestamp::from_unix(low);
    assert_eq!(found.amz(), text);
    found
}

#[test]
fn stage_by_stage() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 160);
    for Vector { request, result } in vectors {
        let (host, now) = (&request.headers["host"], timestamp(&request.headers["x-cap-date"]));
        let target = stages::target(host, request.path.as_bytes(), request.query_string.as_bytes()).unwrap();
        let mut headers = request.wire_headers();
        headers.retain(|(name, _)| !cap1::is_unsigned_by_nature(name));
        let canonical =
            stages::canonical_request(&request.http_request_method, &target, pairs(&headers)).unwrap();
        let canonical_text = String::from_utf8(canonical.clone()).unwrap();
        assert_eq!(canonical_text.lines().last().unwrap(), result["signedHeaders"]);
        assert_eq!(
            format!("{}/{}", request.key_id, stages::credential_scope(&now, host)),
            result["credential"]
        );
        let key = DayKey::derive(&Secret::new(request.key), &now, host);
        let signature = key.sign(&stages::string_to_sign(&now, host, &canonical));
        assert_eq!(signature, result["signature"], "\n{canonical_text}");
    }
}

#[test]
fn as_one() {
    let mut out = String::new();
    for Vector { request, result } in vectors() {
        let host = &request.headers["host"];
        let target = stages::target(host, request.path.as_bytes(), request.query_string.as_bytes()).unwrap();
        let mut signer = Signer::new(request.key_id.as_str(), Secret::new(request.key.clone())).unwrap();
        let now = timestamp(&request.headers["x-cap-date"]);
        let headers = request.wire_headers();
        // At other moments, on another host, and twice: what the signer remembers must not show.
        let elsewhere = Target::new(Scheme::Https, "elsewhere.example", b"/", b"").unwrap();
        for earlier in [now.unix() - 86_400, now.unix() + 1, now.unix()] {
            signer.sign(&Timestamp::from_unix(earlier), "GET", &elsewhere, [], &mut out).unwrap();
        }
        for _ in 0..2 {
            let method = &request.http_request_method;
            let signed = signer.sign(&now, method, &target, pairs(&headers), &mut out).unwrap();
            assert_eq!(signed.authorization, result["authorization"]);
            assert_eq!(signed.cap_date, result["x-cap-date"]);
            assert_eq!(signed.signature, result["signature"]);
        }
    }
}

/// The vectors hold no repeated header, no method but in letters, no odd key ids; what we refuse is ours to decide.
#[test]
fn refusals() {
    use signing::Error;
    let key = || Secret::new("key".into());
    for key_id in ["", "a/b", "a,b", "a b", "é"] {
        assert_eq!(Signer::new(key_id, key()).err(), Some(Error::KeyId), "{key_id}");
    }
    assert_eq!(Signer::new("id", Secret::new(String::new())).err(), Some(Error::SecretKey));
    let mut signer = Signer::new("id", key()).unwrap();
    let target = Target::new(Scheme::Https, "a.example", b"/", b"").unwrap();
    let (now, mut out) = (Timestamp::from_unix(0), String::new());
    let mut sign = |method: &str, name: &'static [u8], value: &'static [u8]| {
        signer.sign(&now, method, &target, [(name, value)], &mut out).err()
    };
    assert_eq!(sign("G T", b"a", b"b"), Some(Error::Method));
    assert_eq!(sign("GET", b"A", b"b"), Some(Error::HeaderName));
    assert_eq!(sign("GET", b"a", b"b\nc"), Some(Error::HeaderValue));
    assert_eq!(sign("GET", b"a", b"b\"\tc"), Some(Error::HeaderQuotes));
    // Not signed, so not refused either.
    assert_eq!(sign("GET", b"connection", b"b\"\tc"), None);
}
