//! The walk-through, step by step, against moto's checks of signature and policy.

use crate::{assert_error, assert_signed, eventually, membrane, recorded, shared};
use harness::aws::{FUNCTION, REGION};
use harness::gateway::Gateway;
use serde_json::{Value, json};
use std::time::Duration;

fn lambda(gateway: &Gateway) -> Value {
    let uri = format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/{FUNCTION}/invocations");
    json!({"uri": uri, "method": "POST", "hmac": gateway.aws4("lambda")})
}

#[test]
fn export_invoke_delegate_invoke_revoke() {
    let gateway = shared();
    let first = membrane("walk/first");
    let second = membrane("walk/second");
    let invoke = gateway.export(&first, &lambda(gateway)).unwrap();
    // More connections than workers, so that each of them meets the capability cold and warm.
    for round in 0..8 {
        let event = json!({"round": round}).to_string();
        let answer = gateway.request(&invoke, "POST", "/").body(event.clone()).send().unwrap();
        assert_eq!((answer.status, answer.text()), (200, event));
    }
    let delegated = gateway.export(&second, &json!({"capability": invoke})).unwrap();
    assert_ne!(delegated, invoke);
    let answer = gateway.request(&delegated, "POST", "/").body("{}").send().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));

    let revoked = gateway.revoke(&first).unwrap();
    assert_eq!(revoked.json(), json!({"statusCode": 202, "message": "Accepted"}));
    for capability in [&invoke, &delegated] {
        let ask = || gateway.request(capability, "POST", "/").body("{}").send().unwrap();
        assert_error(&eventually(401, Duration::from_secs(5), ask), 401, "");
        // Once refused, it stays refused on every worker.
        std::thread::sleep(Duration::from_millis(200));
        assert!((0..8).all(|_| ask().status == 401));
    }
    // The second membrane itself is alive.
    let other = gateway.export(&second, &lambda(gateway)).unwrap();
    assert_eq!(gateway.request(&other, "POST", "/").body("{}").send().unwrap().status, 200);
}

#[test]
fn revoking_the_delegate_leaves_the_delegator() {
    let gateway = shared();
    let (first, second) = (membrane("delegate/first"), membrane("delegate/second"));
    let invoke = gateway.export(&first, &recorded(gateway, None, "/delegate")).unwrap();
    let delegated = gateway.export(&second, &json!({"capability": invoke})).unwrap();
    let ask = |capability: &str| gateway.request(capability, "GET", "/").send().unwrap();
    assert_eq!((ask(&invoke).status, ask(&delegated).status), (200, 200));
    gateway.revoke(&second).unwrap();
    eventually(401, Duration::from_secs(5), || ask(&delegated));
    assert_eq!(ask(&invoke).status, 200);
    // Revoking again is answered as the first time.
    gateway.revoke(&second).unwrap();
}

#[test]
fn a_wrong_secret_lets_the_refusal_of_aws_through() {
    let gateway = shared();
    let mut wrong = lambda(gateway);
    let secret = "not-the-secret-not-the-secret-not-the-sec";
    wrong["hmac"]["aws4-hmac-sha256"]["secretAccessKey"] = secret.into();
    let capability = gateway.export(&membrane("wrong-secret"), &wrong).unwrap();
    let answer = gateway.request(&capability, "POST", "/").body("{}").send().unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("SignatureDoesNotMatch"), "{}", answer.text());
    assert!(!answer.text().contains(secret));
}

#[test]
fn what_the_policy_does_not_allow_is_refused_by_aws() {
    let gateway = shared();
    let uri = format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions");
    let list = json!({"uri": uri, "method": "GET", "hmac": gateway.aws4("lambda")});
    let capability = gateway.export(&membrane("policy"), &list).unwrap();
    let answer = gateway.request(&capability, "GET", "/").send().unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("AccessDenied"), "{}", answer.text());
}

#[test]
fn a_host_without_a_route_is_not_reached() {
    let gateway = shared();
    let grant = json!({"uri": "https://example.com/", "method": "GET"});
    let capability = gateway.export(&membrane("no-route"), &grant).unwrap();
    assert_eq!(gateway.request(&capability, "GET", "/").send().unwrap().status, 404);
}

/// `capi` with the published flags, and `curl` over HTTP/2.
#[test]
fn the_same_with_capi_and_curl() {
    let gateway = shared();
    let capi = |arguments: &[&str]| -> Value {
        let output = gateway.capi(arguments).unwrap();
        assert!(
            output.status.success(),
            "capi {}: {}",
            arguments[..2].join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let create = text(&gateway.tenant["create"]);
    let created = capi(&["membrane", "create", "--capability", &create, "--id", "capi"]);
    assert_eq!(created["id"], "capi");
    let (export, revoke) =
        (text(&created["capabilities"]["export"]), text(&created["capabilities"]["revoke"]));
    let uri = format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/{FUNCTION}/invocations");
    let key = &gateway.aws.key;
    let exported = capi(&[
        "membrane",
        "export",
        "--capability",
        &export,
        "--uri",
        &uri,
        "--method",
        "POST",
        "--aws4-hmac-sha256-aws-access-key-id",
        &key.id,
        "--aws4-hmac-sha256-region",
        REGION,
        "--aws4-hmac-sha256-service",
        "lambda",
        "--aws4-hmac-sha256-secret-access-key",
        &key.secret,
    ]);
    let invoke = text(&exported["capability"]);
    let delegated = text(
        &capi(&["membrane", "export", "--capability", &export, "--capability-to-export", &invoke])["capability"],
    );
    for capability in [&invoke, &delegated] {
        assert_eq!(curl(gateway, capability, r#"{"over":"h2"}"#), r#"{"over":"h2"} 200 2"#);
    }
    let revoked = capi(&["membrane", "revoke", "--capability", &revoke]);
    assert_eq!(revoked["statusCode"], 202);
    eventually(401, Duration::from_secs(5), || {
        gateway.request(&invoke, "POST", "/").body("{}").send().unwrap()
    });
}

/// The body, the status and the HTTP version that curl got.
fn curl(gateway: &Gateway, capability: &str, body: &str) -> String {
    let token = capability.rsplit('#').next().unwrap();
    let output = std::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--http2",
            "--noproxy",
            "*",
            "--write-out",
            " %{http_code} %{http_version}",
        ])
        .arg("--cacert")
        .arg(gateway.dir.join("ca.pem"))
        // Without it curl says that this is a form, and moto, unlike AWS, would then not see the body that was signed.
        .args(["--header", "Content-Type: application/json"])
        .args(["--header", &format!("Authorization: Bearer {token}"), "--data", body, &gateway.url()])
        .output()
        .unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn signatures_hold_for_an_independent_verifier() {
    let gateway = shared();
    let membrane = membrane("independent");
    let target = "/independent/a%20b/c?x=1&a=%2F&b";
    let capability = gateway.export(&membrane, &recorded(gateway, None, target)).unwrap();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = gateway.request(&capability, method, "/").header("Content-Type", "text/plain;  a=b");
        assert_eq!(request.body(method).send().unwrap().status, 200, "{method}");
    }
    assert_eq!(gateway.origin().requests("/independent/").len(), 5);
    assert_signed(gateway, "/independent/");
}
