//! A requester's headers, folded into the request that leaves.
//!
//! Input: a byte (how the grant signs, whether a body follows), then a header a line, `name:value`.

#![no_main]

#[path = "../opening.rs"]
mod opening;

use capability::{Export, Exported, Uid, UnitPair, Units};
use libfuzzer_sys::fuzz_target;
use membrane_filter::config::OnMissing;
use membrane_filter::incoming::{Arrival, Incoming};
use membrane_filter::opened::Opened;
use membrane_filter::{outgoing, pairs, payload};
use serde_json::json;
use signing::aws4::Payload;
use std::cell::OnceCell;

const BEARER: &[u8] = b"CPBLTY1-the-requesters-own";

/// For Lambda, for S3 with streams signed and not, by CAP1, unsigned.
fn made() -> Vec<Opened> {
    let aws4 = |service: &str, payload: Option<&str>| {
        let mut key = json!({"awsAccessKeyId": "AKID", "secretAccessKey": "secret", "region": "us-east-1", "service": service});
        if let Some(payload) = payload {
            key["payload"] = payload.into();
        }
        json!({"aws4-hmac-sha256": key})
    };
    let ways = [
        Some(aws4("lambda", None)),
        Some(aws4("s3", None)),
        Some(aws4("s3", Some("signed"))),
        Some(json!({"cap1-hmac-sha512": {"key": "a2V5", "keyId": "id"}})),
        None,
    ];
    let opened = ways.into_iter().map(|hmac| {
        let mut export = json!({
            "uri": "https://a.example/k?own=1", "method": "POST", "headers": {"x-pinned": "mine"}, "allowHeaders": ["x-amz-meta-a", "x-let"],
        });
        if let Some(hmac) = hmac {
            export["hmac"] = hmac;
        }
        let Ok(Export { what: Exported::Grant(grant), .. }) = Export::parse(export.to_string().as_bytes()) else {
            panic!("a grant");
        };
        let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: None });
        opening::opened(grant, &units, None).expect("can be signed")
    });
    opened.collect()
}

thread_local! {
    static GRANTS: OnceCell<Vec<Opened>> = const { OnceCell::new() };
}

/// As Envoy hands them over: names are tokens in lower case (RFC 9110 §5.6.2), values hold no line end.
fn is_possible(name: &[u8], value: &[u8]) -> bool {
    let token =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(token) && !value.iter().any(|byte| matches!(byte, b'\r' | b'\0'))
}

const NEVER: [&[u8]; 12] = [
    b"connection",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"x-http-method-override",
];
const ONCE: [&[u8]; 9] = [
    b":authority",
    b":method",
    b":path",
    b":scheme",
    b"authorization",
    b"content-length",
    b"x-amz-content-sha256",
    b"x-amz-date",
    b"x-pinned",
];

fn judge(out: &outgoing::Outgoing<'_>, mode: usize) {
    let mut text = Vec::new();
    for (name, value) in out.iter() {
        assert!(!NEVER.contains(&name), "{}", String::from_utf8_lossy(name));
        assert!(!name.starts_with(b"x-forwarded-") || name == b"x-forwarded-proto");
        assert!(!name.starts_with(b"x-envoy-"));
        text.extend([name, b"\n", value, b"\n"].concat());
    }
    let count = |name: &[u8]| out.iter().filter(|(other, _)| *other == name).count();
    for name in ONCE {
        assert!(count(name) <= 1, "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(
        (count(b"x-membrane-route"), count(b"x-forwarded-proto"), count(b"x-membrane-body")),
        (1, 1, 0)
    );
    assert_eq!(count(b"authorization"), usize::from(mode < 4));
    let value = |name: &[u8]| out.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_vec());
    assert_eq!(value(b"x-pinned").as_deref(), Some(&b"mine"[..]));
    assert_eq!(value(b":path").as_deref(), Some(&b"/k?own=1"[..]));
    assert_eq!(value(b":authority").as_deref(), Some(&b"a.example"[..]));
    assert!(!text.windows(BEARER.len()).any(|window| window == BEARER), "the bearer goes on");
    if mode < 3 {
        // Every x-amz-* header that leaves is signed: an unsigned one could be another's.
        let authorization = value(b"authorization").expect("a signature");
        let authorization = String::from_utf8(authorization).expect("text");
        let signed = authorization
            .split("SignedHeaders=")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .expect("a list");
        for (name, _) in out.iter().filter(|(name, _)| name.starts_with(b"x-amz-")) {
            let name = String::from_utf8_lossy(name);
            assert!(signed.split(';').any(|other| other == name), "{name} is not signed");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let ended = mode & 0x80 != 0;
    let bearer = [b"Bearer ", BEARER].concat();
    let mut list: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"PUT"), (b":path", b"/"), (b":authority", b"gateway"), (b":scheme", b"https")];
    list.push((b"authorization", &bearer));
    for line in rest.split(|byte| *byte == b'\n').take(60) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], &line[at + 1..]);
        // Whoever sends the bearer twice may see it wherever he likes.
        if is_possible(name, value) && !value.windows(BEARER.len()).any(|window| window == BEARER) {
            list.push((name, value));
        }
    }
    let bytes = pairs::encode(list.iter().copied()).expect("they fit").to_vec();
    let pairs = pairs::Pairs::parse(bytes).expect("what was written is read");
    let Arrival::Capability(incoming) = Incoming::arrive(pairs, ended, OnMissing::Deny) else { return };
    let mode = usize::from(mode & 0x7f) % 5;
    GRANTS.with(|grants| {
        let opened = &grants.get_or_init(made)[mode];
        if outgoing::check(&incoming, opened).is_err() {
            return;
        }
        let Ok(plan) = payload::plan(&incoming, opened, 1_000) else { return };
        let payload = plan.payload().unwrap_or(Payload::Empty);
        let length = plan.framed_length();
        if let Ok((out, _)) = outgoing::build(&incoming, opened, &plan, payload, length, 1_767_225_600, 1_000)
        {
            judge(&out, mode);
        }
    });
});
