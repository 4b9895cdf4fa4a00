//! Bad input gets an error that names the field, and leaves nothing behind.

use crate::{assert_error, own, recorded};
use harness::gateway::{Gateway, text};
use harness::http::Response;
use serde_json::{Value, json};
use std::process::Command;

/// How many rows each table of the store has, but for that of the workers who follow the feed: they come when they come.
fn rows(gateway: &Gateway) -> Value {
    const COUNT: &str = "import json, sqlite3, sys\n\
        db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)\n\
        names = [row[0] for row in db.execute(\"select name from sqlite_master where type = 'table' and name <> 'watchers' order by name\")]\n\
        print(json.dumps({name: db.execute(f'select count(*) from \"{name}\"').fetchone()[0] for name in names}))";
    let python = harness::tool("python").unwrap();
    let output = Command::new(python)
        .args(["-c", COUNT])
        .arg(gateway.registry_dir().join("registry.db"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn errors_name_the_field_and_leave_nothing_behind() {
    let gateway = own("bad-input");
    let create = text(&gateway.tenant, "create").unwrap().to_owned();
    let post = |capability: &str, body: &str| -> Response {
        gateway.request(capability, "POST", "/").body(body).send().unwrap()
    };

    let before = rows(&gateway);
    let long = "x".repeat(513);
    for (body, names) in [
        (String::new(), ""),
        ("{".into(), ""),
        ("[]".into(), ""),
        ("null".into(), ""),
        ("{}".into(), "id"),
        (r#"{"id": 1}"#.into(), "id"),
        (r#"{"id": ""}"#.into(), "id"),
        (json!({"id": long}).to_string(), "id"),
        (r#"{"id": "a\u0000b"}"#.into(), "id"),
        (r#"{"id": "a", "name": "b"}"#.into(), "name"),
        (r#"{"id": "a"} x"#.into(), ""),
    ] {
        assert_error(&post(&create, &body), 400, names);
    }
    assert_eq!(rows(&gateway), before, "after refused creates");

    let membrane = gateway.create_membrane("bad-input").unwrap();
    assert_error(&post(&create, r#"{"id": "bad-input"}"#), 409, "");
    // 512 characters, not bytes, are an id.
    let longest = post(&create, &json!({"id": "é".repeat(512)}).to_string());
    assert_eq!(longest.status, 201, "{}", longest.text());

    let good = recorded(&gateway, Some("POST"), "/bad-input");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        body.to_string()
    };
    let set = |field: &'static str, value: Value| with(&move |body| body[field] = value.clone());
    let aws4 = |field: &'static str, value: Value| {
        with(&move |body| body["hmac"]["aws4-hmac-sha256"][field] = value.clone())
    };
    let capability = gateway.export(&membrane, &good).unwrap();
    let before = rows(&gateway);
    let cases = [
        (String::new(), ""),
        ("{".into(), ""),
        ("[]".into(), ""),
        ("{}".into(), "uri"),
        (json!({"uri": "https://a.example/", "capability": capability}).to_string(), "capability"),
        (json!({"capability": 1}).to_string(), "capability"),
        (json!({"capability": "cpblty://localhost/"}).to_string(), "capability"),
        (json!({"capability": capability, "method": "GET"}).to_string(), "method"),
        (set("colour", json!("red")), "colour"),
        (set("uri", json!(1)), "uri"),
        (set("uri", json!("")), "uri"),
        (set("uri", json!("/relative")), "uri"),
        (set("uri", json!("ftp://a.example/")), "uri"),
        (set("uri", json!("https://user:secret@a.example/")), "uri"),
        (set("uri", json!("https://a.example/#fragment")), "uri"),
        (set("uri", json!("https://a.example/a b")), "uri"),
        (set("method", json!(1)), "method"),
        (set("method", json!("get")), "method"),
        (set("method", json!("CONNECT")), "method"),
        (set("method", json!("TRACE")), "method"),
        (set("method", json!("FETCH")), "method"),
        (set("allowQuery", json!("yes")), "allowQuery"),
        (set("headers", json!([])), "headers"),
        (set("headers", json!({"a": 1})), "headers"),
        (set("headers", json!({"a b": "1"})), "headers"),
        (set("headers", json!({"a": "x\r\ny: z"})), "headers"),
        (set("headers", json!({"host": "a.example"})), "headers"),
        (set("headers", json!({":path": "/"})), "headers"),
        (set("headers", json!({"x-envoy-retry-on": "5xx"})), "headers"),
        (set("headers", json!({"x-membrane-route": "control"})), "headers"),
        (set("headers", json!({"authorization": "x"})), "headers"),
        (set("headers", json!({"x-amz-date": "x"})), "headers"),
        (set("timeoutMs", json!(0)), "timeoutMs"),
        (set("timeoutMs", json!(-1)), "timeoutMs"),
        (set("timeoutMs", json!(1.5)), "timeoutMs"),
        (set("timeoutMs", json!("1")), "timeoutMs"),
        (set("hmac", json!({})), "hmac"),
        (set("hmac", json!({"md5": {}})), "md5"),
        (set("hmac", json!({"cap1-hmac-sha512": {"key": "a2V5", "keyId": "a/b"}})), "keyId"),
        (set("hmac", json!({"cap1-hmac-sha512": {"key": "not base64url", "keyId": "id"}})), "key"),
        (set("body", json!("x".repeat(32_769))), "body"),
        (set("tls", json!({"rejectUnauthorized": false})), "tls"),
        (set("expiresAt", json!("tomorrow")), "expiresAt"),
        (aws4("payload", json!("unsigned")), "payload"),
        (aws4("awsAccessKeyId", json!("")), "awsAccessKeyId"),
        (aws4("awsAccessKeyId", json!("a-b")), "awsAccessKeyId"),
        (aws4("awsAccessKeyId", json!("a".repeat(129))), "awsAccessKeyId"),
        (aws4("region", Value::Null), "region"),
        (aws4("region", json!("a".repeat(129))), "region"),
        (aws4("service", json!("a".repeat(129))), "service"),
        (aws4("secretAccessKey", json!("a".repeat(257))), "secretAccessKey"),
        (aws4("secretAccesKey", json!("misspelt")), "secretAccesKey"),
    ];
    for (body, names) in cases {
        let answer = post(&membrane.export, &body);
        assert_eq!(answer.status, 400, "{names}: {}", answer.text());
        assert_error(&answer, 400, names);
        assert!(!answer.text().contains(&gateway.aws.key.secret), "{names}: the message holds the secret");
    }
    assert_eq!(rows(&gateway), before, "after refused exports");

    // A body larger than the registry reads.
    assert_error(&post(&membrane.export, &json!({"uri": "x".repeat(70_000)}).to_string()), 413, "");
    // An id may hold what people use.
    for id in ["accounts/8a56", "with spaces", "Ünïcödé ✓", "a", "\"quoted\"\n"] {
        assert_eq!(
            gateway.create_membrane(id).map(drop).map_err(|failure| failure.to_string()),
            Ok(()),
            "{id:?}"
        );
    }
    gateway.stop().unwrap();
}

/// The message says which rule of URIs is broken. An international host is refused in its own script and taken in its ASCII form: its
/// holder, not a gateway, decides which name a capability is for.
#[test]
fn a_malformed_uri_is_refused_by_its_rule() {
    let gateway = crate::shared();
    let membrane = crate::membrane("bad-input/uri");
    let export = |uri: &str| {
        let what = json!({"uri": uri, "hmac": gateway.aws4("s3")});
        gateway.try_export(&membrane, &what).unwrap()
    };
    for (uri, rule) in [
        ("https://a.example/k#fragment", "uri: must have no fragment"),
        ("https://user:secret@a.example/k", "uri: must have no user information"),
        ("https://user@a.example/k", "uri: must have no user information"),
        ("https://a.example/a b", "uri: path and query must be percent-encoded"),
        ("https://a.example/k?a b", "uri: path and query must be percent-encoded"),
        ("https://a.example/ké", "uri: path and query must be percent-encoded"),
        ("https://a.example/k\n", "uri: path and query must be percent-encoded"),
        ("https://a.example/100%", "uri: every %"),
        ("https://a b.example/k", "uri: the host may hold"),
        ("https://bücher.example/k", "uri: the host may hold"),
        ("https://ß.s3.amazonaws.com/k", "uri: the host may hold"),
        ("https://例え.jp/k", "uri: the host may hold"),
        // U+FF0E, which some resolvers read as a dot.
        ("https://evil\u{ff0e}amazonaws.com/k", "uri: the host may hold"),
        ("https://a.example:x/k", "uri: the port"),
        ("https:///k", "uri: the host"),
        (" https://a.example/k", "uri: must be an absolute http or https URI"),
    ] {
        let answer = export(uri);
        assert_error(&answer, 400, rule);
        assert!(!answer.text().contains("secret"), "{uri}: the message repeats what may be secret");
    }
    assert_eq!(export("https://xn--bcher-kva.example/k").status, 201);
}

#[test]
fn a_control_answers_only_what_it_is_for() {
    let gateway = crate::shared();
    let membrane = crate::membrane("bad-input/roles");
    let create = text(&gateway.tenant, "create").unwrap();
    assert_error(&gateway.request(create, "GET", "/").send().unwrap(), 405, "");
    assert_error(&gateway.request(create, "DELETE", "/").send().unwrap(), 405, "");
    assert_error(&gateway.request(&membrane.export, "GET", "/").send().unwrap(), 405, "");
    assert_error(&gateway.request(create, "POST", "/x").json(&json!({"id": "x"})).send().unwrap(), 404, "");
    // An export capability does not create: its body is not an export.
    let as_create = gateway.request(&membrane.export, "POST", "/").json(&json!({"id": "x"})).send().unwrap();
    assert_error(&as_create, 400, "uri");
}
