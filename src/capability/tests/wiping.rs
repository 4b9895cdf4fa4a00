//! No memory is given back to the allocator with a secret of an export body in it: not when a grant is dropped, and not when a body
//! is refused, in whatever field the secret stands.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::panic)]

use capability::record::Kind;
use capability::{Content, Export, Exported};

#[path = "common/freed.rs"]
mod freed;

use freed::{CANARY, found};

#[test]
fn a_grant_is_wiped() {
    let body = format!(
        r#"{{"uri": "https://a.s3.us-east-1.amazonaws.com/k", "headers": {{"x-key": " {CANARY} "}}, "body": "{CANARY}",
            "hmac": {{"aws4-hmac-sha256": {{"awsAccessKeyId": "A", "region": "r", "service": "s3", "secretAccessKey": "{CANARY}",
                "sessionToken": "{CANARY}"}}}}}}"#
    );
    let found = found(|| {
        let Exported::Grant(grant) = Export::parse(body.as_bytes()).unwrap().what else { panic!() };
        let json = Content::Grant(grant).to_json();
        drop(Content::from_json(Kind::Grant, json.expose()).unwrap());
    });
    assert_eq!(found, 0);
}

#[test]
fn what_is_refused_is_wiped() {
    let hmac = |field: &str, value: &str| {
        format!(r#"{{"uri": "https://a/", "hmac": {{"aws4-hmac-sha256": {{"{field}": {value}}}}}}}"#)
    };
    let secret = format!("\"{CANARY}\"");
    for body in [
        format!(r#"{{"uri": "https://a/", "unknown": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "unknown": [[{secret}], {{"x": {secret}}}]}}"#),
        format!(r#"{{"uri": [{secret}]}}"#),
        format!(r#"{{"uri": "https://a/", "allowQuery": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "timeoutMs": {{"x": [{secret}]}}}}"#),
        format!(r#"{{"uri": "https://a/", "allowHeaders": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "allowHeaders": [[{secret}]]}}"#),
        format!(r#"{{"uri": "https://a/", "headers": [{secret}]}}"#),
        format!(r#"{{"uri": "https://a/", "headers": {{"a b": {secret}, "x": {secret}}}}}"#),
        format!(r#"{{"uri": "https://a/", "body": {secret}, "body": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "body": {secret}, "method": "HEAD"}}"#),
        format!(r#"[{secret}]"#),
        format!(r#"{{"capability": {secret}}}"#),
        hmac("secretAccessKey", &secret),
        hmac("secretAccessKey", &format!("[{secret}]")),
        hmac("unknown", &secret),
    ] {
        assert_eq!(found(|| assert!(Export::parse(body.as_bytes()).is_err(), "{body}")), 0, "{body}");
    }
}
