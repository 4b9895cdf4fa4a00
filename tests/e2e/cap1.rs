//! CAP1-HMAC-SHA512 grants: what reaches the origin satisfies a verifier that follows the reference implementation.

use crate::{membrane, shared};
use harness::origin::{RECORDER, Recorded};
use harness::verifier::verify_cap1;
use serde_json::json;
use std::process::Command;

const KEY_ID: &str = "key-1";
const KEY: &str = "pt8H-canary-cap1-key_0";

/// The verifier must be one: it agrees with all that the reference signed.
#[test]
fn the_verifier_follows_the_reference() {
    let file = |name: &str| harness::repository().join("tests").join(name);
    let output = Command::new("node")
        .arg(file("tools/verify_cap1.mjs"))
        .arg("--vectors")
        .arg(file("vectors/cap1-hmac-sha512.json"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.stdout, b"160 vectors\n");
}

#[test]
fn what_goes_through_is_accepted_and_nothing_that_differs() {
    let gateway = shared();
    let membrane = membrane("cap1");
    let hmac = json!({"cap1-hmac-sha512": {"keyId": KEY_ID, "key": KEY}});
    for (index, path) in
        ["/cap1/plain", "/cap1/a%20b/c+d//e/../f?x=1&a=%2F&b&x=0", "/cap1/%C3%BC('!*)?q=a=b&%C3%BC=~"]
            .iter()
            .enumerate()
    {
        let uri = format!("https://{RECORDER}{path}");
        let what =
            json!({"uri": uri, "hmac": hmac, "allowQuery": true, "headers": {"x-pinned": "  a  \"b  c\"  "}});
        let capability = gateway.export(&membrane, &what).unwrap();
        for method in ["GET", "POST", "DELETE"] {
            let request = gateway
                .request(&capability, method, &format!("/?theirs={index}&u=%C3%A9"))
                .header("content-type", "text/plain;   charset=x")
                .header("x-cap-date", "20000101T000000Z")
                .body("a body");
            assert_eq!(request.send().unwrap().status, 200, "{method} {path}");
        }
    }
    let requests = gateway.origin().requests("/cap1/");
    assert_eq!(requests.len(), 9);
    verify_cap1(&requests, KEY_ID, KEY).unwrap();
    assert!(requests.iter().all(|request| request.body == b"a body"));

    // The verifier refuses what differs in anything that is signed.
    type Change = fn(&mut Recorded);
    let changes: [(&str, Change); 4] = [
        ("method", |request| request.method = "PUT".into()),
        ("path", |request| request.target.insert(1, 'x')),
        ("query", |request| request.target.push('2')),
        ("header", |request| {
            let pinned = request.headers.iter_mut().find(|(name, _)| name == "x-pinned").unwrap();
            pinned.1 = b"a \"b c\"".to_vec();
        }),
    ];
    for (what, change) in changes {
        let mut changed = requests[0].clone();
        change(&mut changed);
        assert!(verify_cap1(&[changed], KEY_ID, KEY).is_err(), "{what} was not noticed");
    }
    assert!(verify_cap1(&requests[..1], KEY_ID, "another").is_err());
}
