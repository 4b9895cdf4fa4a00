//! No memory is given back to the allocator with a secret in it: not when a signer is dropped, and not when a buffer grows.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used)]

use signing::aws4::{self, Credential, Payload, Service, SessionToken};
use signing::{Scheme, Secret, Timestamp, cap1};

#[path = "../../capability/tests/common/freed.rs"]
mod freed;

use freed::{CANARY, found};

#[test]
fn a_secret_is_wiped() {
    let secret = Secret::new(CANARY.to_owned());
    assert_eq!(found(|| drop(secret)), 0);
}

#[test]
fn aws4() {
    let service = Service::new("s3").unwrap();
    let target = aws4::Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let credential = Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new(CANARY.to_owned()),
        session_token: Some(SessionToken::Sts(Secret::new(CANARY.to_owned()))),
    };
    let mut signer = aws4::Signer::new(credential, "us-east-1", service).unwrap();
    let found = found(move || {
        let (now, mut out) = (Timestamp::from_unix(1_767_268_800), String::new());
        // Long enough to outgrow every buffer, and then short again.
        for length in [1, 100, 1000, 10_000, 1] {
            let value = "x".repeat(length);
            let headers = [(&b"x-amz-zz"[..], value.as_bytes())];
            signer.sign(&now, "GET", &target, headers, Payload::Streaming, &mut out).unwrap();
        }
        let chunks = signer.chunk_signer().unwrap();
        drop((signer.clone(), signer, chunks));
    });
    assert_eq!(found, 0);
}

#[test]
fn cap1() {
    let target = cap1::Target::new(Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = cap1::Signer::new("id", Secret::new(CANARY.to_owned())).unwrap();
    let found = found(move || {
        let (now, mut out) = (Timestamp::from_unix(1_767_268_800), String::new());
        signer.sign(&now, "GET", &target, [], &mut out).unwrap();
        drop((signer.clone(), signer));
    });
    assert_eq!(found, 0);
}
