//! What `aws4::Signer` decides beyond the arithmetic: which headers it sends, signs, ignores and refuses, and what it never shows.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::panic)]

use signing::aws4::{Credential, Payload, Service, SessionToken, Signer, Target};
use signing::{Error, Scheme, Secret, Timestamp};

const CANARY: &str = "CANARY/SECRET";
const TOKEN: &str = "CANARY+TOKEN";
const NOON: u64 = 1_767_268_800;

fn credential(session_token: Option<SessionToken>) -> Credential {
    Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new(CANARY.into()),
        session_token,
    }
}

struct Outcome {
    headers: Vec<(String, String)>,
}

impl Outcome {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn signed_headers(&self) -> &str {
        let (_, rest) = self.header("authorization").unwrap().split_once("SignedHeaders=").unwrap();
        rest.split_once(", ").unwrap().0
    }
}

fn sign(
    service: &str,
    token: Option<SessionToken>,
    headers: &[(&str, &str)],
    payload: Payload,
) -> Result<Outcome, Error> {
    let service = Service::new(service).unwrap();
    let target = Target::new(&service, Scheme::Https, "a.example", b"/", b"")?;
    let mut signer = Signer::new(credential(token), "us-east-1", service)?;
    let mut out = String::new();
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let signed = signer.sign(&Timestamp::from_unix(NOON), "GET", &target, headers, payload, &mut out)?;
    let headers = signed.headers().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(Outcome { headers })
}

#[test]
fn content_sha256_where_it_is_demanded() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for service in ["s3", "s3express", "s3-outposts", "s3-object-lambda", "aoss", "es", "glacier"] {
        let outcome = sign(service, None, &[], Payload::Empty).unwrap();
        assert_eq!(outcome.header("x-amz-content-sha256"), Some(empty), "{service}");
        assert_eq!(outcome.signed_headers(), "host;x-amz-content-sha256;x-amz-date");
    }
    for service in ["lambda", "dynamodb", "sts"] {
        let outcome = sign(service, None, &[], Payload::Empty).unwrap();
        assert_eq!(outcome.header("x-amz-content-sha256"), None, "{service}");
        assert_eq!(outcome.signed_headers(), "host;x-amz-date");
        // A literal that nobody is told of could not be verified.
        let outcome = sign(service, None, &[], Payload::Unsigned).unwrap();
        assert_eq!(outcome.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    }
    for payload in [Payload::Empty, Payload::Sha256([1; 32]), Payload::Streaming] {
        let outcome = sign("vpc-lattice-svcs", None, &[], payload).unwrap();
        assert_eq!(outcome.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    }
}

#[test]
fn session_tokens_are_sent_and_signed() {
    for (token, name) in [
        (SessionToken::Sts(Secret::new(TOKEN.into())), "x-amz-security-token"),
        (SessionToken::S3Express(Secret::new(TOKEN.into())), "x-amz-s3session-token"),
    ] {
        let outcome = sign("lambda", Some(token), &[], Payload::Empty).unwrap();
        assert_eq!(outcome.header(name), Some(TOKEN));
        assert!(outcome.signed_headers().split(';').any(|signed| signed == name));
        assert_eq!(outcome.headers.len(), 3);
    }
}

/// Whatever the requester says of these has no part in the signature.
#[test]
fn headers_left_out() {
    let plain = sign("s3", None, &[], Payload::Empty).unwrap();
    for name in [
        "host",
        "authorization",
        "x-amz-date",
        "x-amz-content-sha256",
        "x-amz-security-token",
        "x-amz-s3session-token",
        "user-agent",
        "expect",
        "content-length",
        "connection",
        "transfer-encoding",
        "te",
        "x-amzn-trace-id",
        "x-forwarded-for",
        "x-envoy-anything",
        "traceparent",
        "x-b3-sampled",
    ] {
        let outcome = sign("s3", None, &[(name, "requester's")], Payload::Empty).unwrap();
        assert_eq!(outcome.headers, plain.headers, "{name}");
    }
    let outcome = sign("s3", None, &[("content-type", "a"), ("x-amz-acl", "b")], Payload::Empty).unwrap();
    assert_eq!(outcome.signed_headers(), "content-type;host;x-amz-acl;x-amz-content-sha256;x-amz-date");
}

/// Values need not be UTF-8: they are signed byte by byte.
#[test]
fn bytes_are_signed_as_they_are() {
    let service = Service::new("lambda").unwrap();
    let target = Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = Signer::new(credential(None), "us-east-1", service).unwrap();
    let mut out = String::new();
    let mut sign = |value: &[u8]| {
        let headers = [(&b"x-amz-meta-a"[..], value)];
        let now = Timestamp::from_unix(NOON);
        signer.sign(&now, "GET", &target, headers, Payload::Empty, &mut out).unwrap().signature.to_owned()
    };
    assert_ne!(sign(b"\xff"), sign(b"\xfe"));
    assert_ne!(sign(b"\xff"), sign("\u{fffd}".as_bytes()));
}

#[test]
fn refusals() {
    let error = |header: (&str, &str)| sign("s3", None, &[header], Payload::Empty).err();
    assert_eq!(error(("X-Amz-Acl", "a")), Some(Error::HeaderName));
    assert_eq!(error(("x-amz-acl", "a\nx-amz-b:c")), Some(Error::HeaderValue));

    let service = || Service::new("s3").unwrap();
    let with = |change: fn(&mut Credential), region: &str| {
        let mut credential = credential(None);
        change(&mut credential);
        Signer::new(credential, region, service()).err()
    };
    for region in ["", "us/east", "us east", "eu,x", "é"] {
        assert_eq!(with(|_| (), region), Some(Error::Region), "{region}");
    }
    assert_eq!(with(|it| it.access_key_id = String::new(), "a"), Some(Error::KeyId));
    assert_eq!(with(|it| it.access_key_id = "AKID/x".into(), "a"), Some(Error::KeyId));
    assert_eq!(with(|it| it.access_key_id = "AKID\n".into(), "a"), Some(Error::KeyId));
    assert_eq!(with(|it| it.secret_access_key = Secret::new(String::new()), "a"), Some(Error::SecretKey));
    let token = |text: &str| Some(SessionToken::Sts(Secret::new(text.into())));
    for text in ["", "a b", "a\nb", "é"] {
        let signer = Signer::new(credential(token(text)), "us-east-1", service());
        assert_eq!(signer.err(), Some(Error::SessionToken), "{text}");
    }
    for name in ["", "s3/x", "s 3", "é"] {
        assert_eq!(Service::new(name).err(), Some(Error::Service), "{name}");
    }
    let target = Target::new(&service(), Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = Signer::new(credential(None), "us-east-1", service()).unwrap();
    let now = Timestamp::from_unix(NOON);
    for method in ["", "G T", "GET\n"] {
        let mut out = String::new();
        let refused = signer.sign(&now, method, &target, [], Payload::Empty, &mut out).err();
        assert_eq!(refused, Some(Error::Method));
    }
}

#[test]
fn one_timestamp_at_midnight() {
    let service = Service::new("s3").unwrap();
    let target = Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = Signer::new(credential(None), "us-east-1", service).unwrap();
    let mut out = String::new();
    for (second, date, time) in [
        (1_767_225_599, "20251231", "20251231T235959Z"),
        (1_767_225_600, "20260101", "20260101T000000Z"),
        (1_767_225_599, "20251231", "20251231T235959Z"),
    ] {
        let now = Timestamp::from_unix(second);
        let signed = signer.sign(&now, "GET", &target, [], Payload::Empty, &mut out).unwrap();
        let scope = format!("Credential=AKIDEXAMPLE/{date}/us-east-1/s3/aws4_request, ");
        assert!(signed.authorization.contains(&scope), "{}", signed.authorization);
        assert_eq!(signed.amz_date, time);
    }
}

#[test]
fn one_day_without_the_secret() {
    let service = Service::new("s3").unwrap();
    let target = Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut keeps = Signer::new(credential(None), "us-east-1", service).unwrap();
    let mut forgets = keeps.clone();
    let sign = |signer: &mut Signer, second| {
        let (now, mut out) = (Timestamp::from_unix(second), String::new());
        let signed = signer.sign(&now, "GET", &target, [], Payload::Empty, &mut out)?;
        Ok::<_, Error>(signed.authorization.to_owned())
    };
    let (today, tomorrow) = (1_767_225_599, 1_767_225_600);
    assert!(forgets.is_ready(&Timestamp::from_unix(tomorrow)));
    forgets.keep_day_key(&Timestamp::from_unix(today));
    // It is gone: asking again for another day derives nothing.
    forgets.keep_day_key(&Timestamp::from_unix(tomorrow));
    assert_eq!(sign(&mut forgets, today), sign(&mut keeps, today));
    assert!(!forgets.is_ready(&Timestamp::from_unix(tomorrow)));
    assert_eq!(sign(&mut forgets, tomorrow), Err(Error::AnotherDay));
    assert_eq!(sign(&mut forgets, today), sign(&mut keeps, today));
    forgets.renew(&credential(None).secret_access_key, &Timestamp::from_unix(tomorrow));
    assert!(forgets.is_ready(&Timestamp::from_unix(tomorrow)));
    assert_eq!(sign(&mut forgets, tomorrow), sign(&mut keeps, tomorrow));
    assert_eq!(sign(&mut forgets, today), Err(Error::AnotherDay));
}

/// The chunks of a body go on from the signature of its own request, not of an earlier one.
#[test]
fn chunks_begin_at_the_seed() {
    let service = Service::new("s3").unwrap();
    let target = Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = Signer::new(credential(None), "us-east-1", service.clone()).unwrap();
    assert!(signer.chunk_signer().is_none());
    let mut out = String::new();
    for second in [NOON, NOON + 86_400] {
        let now = Timestamp::from_unix(second);
        let signed = signer.sign(&now, "PUT", &target, [], Payload::Streaming, &mut out).unwrap();
        let seed = signed.signature.as_bytes().try_into().unwrap();
        let key = signing::aws4::DayKey::derive(&Secret::new(CANARY.into()), &now, "us-east-1", &service);
        let (mut ours, mut expected) = (Vec::new(), Vec::new());
        signer.chunk_signer().unwrap().chunk(b"data", &mut ours);
        signing::aws4::ChunkSigner::new(&key, &now, "us-east-1", &service, &seed)
            .chunk(b"data", &mut expected);
        assert_eq!(ours, expected);
    }
}

#[test]
fn nothing_shows_a_secret() {
    let token = SessionToken::Sts(Secret::new(TOKEN.into()));
    let mut signer = Signer::new(credential(Some(token)), "us-east-1", Service::new("s3").unwrap()).unwrap();
    let target = Target::new(signer.service(), Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut out = String::new();
    let now = Timestamp::from_unix(NOON);
    signer.sign(&now, "GET", &target, [], Payload::Empty, &mut out).unwrap();
    let shown = format!("{signer:?} {:?} {out}", signer.chunk_signer());
    assert!(shown.contains("us-east-1") && !shown.contains("CANARY"), "{shown}");
}
