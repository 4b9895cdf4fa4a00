//! npm `capability-sdk` 0.12.2, unchanged, through the real Envoy: what its callbacks are given, call by call.
//!
//! It sends `authorization` alone with GET, and `content-length` with POST, never a content type; it parses every answer
//! as JSON and takes a status of 400 or more, or a member `error`, for an error.

use crate::{eventually, shared};
use harness::aws::{FUNCTION, REGION};
use harness::canary::Canaries;
use harness::gateway::{Gateway, text};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// How long a revocation may take until it is seen everywhere.
const SOON: Duration = Duration::from_secs(10);

/// The SDK in a Node of its own, which calls it as it is told to (`tests/clients/sdk.js`).
struct Sdk {
    node: Child,
    calls: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What the SDK hands to a callback: an error or a response.
type Called = Result<Value, Value>;

impl Sdk {
    /// Trusts the gateway's own CA, in the SDK's own way, or nobody but Node's usual ones.
    fn start(gateway: &Gateway, trusting: bool) -> Sdk {
        let mut node = harness::node("sdk.js")
            .unwrap()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node, which make tools asks for");
        let (calls, answers) = (node.stdin.take(), BufReader::new(node.stdout.take().unwrap()));
        let mut sdk = Sdk { node, calls, answers };
        let trusted = if trusting { trusted_ca(gateway) } else { json!({}) };
        assert_eq!(sdk.ask(&json!({"trustedCA": trusted})), Ok(json!("0.12.2")));
        sdk
    }

    fn ask(&mut self, line: &Value) -> Called {
        let calls = self.calls.as_mut().unwrap();
        writeln!(calls, "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).expect("an answer of sdk.js");
        match answer["error"].take() {
            Value::Null => Ok(answer["response"].take()),
            error => Err(error),
        }
    }

    /// `membrane.<call>(capability, argument, callback)`; without an argument where there is none.
    fn call(&mut self, call: &str, capability: &str, argument: impl Into<Option<Value>>) -> Called {
        let mut line = json!({"call": call, "capability": capability});
        if let Some(argument) = argument.into() {
            line["argument"] = argument;
        }
        self.ask(&line)
    }

    fn create(&mut self, tenant: &Value, id: &str) -> Created {
        let made = self.call("create", text(tenant, "create").unwrap(), json!({"id": id})).unwrap();
        Created::read(&made, id)
    }

    fn export(&mut self, membrane: &Created, config: Value) -> String {
        let made = self.call("export", &membrane.export, config).unwrap();
        assert_eq!(members(&made), ["capability"]);
        text(&made, "capability").unwrap().to_owned()
    }

    /// Posts JSON to a capability and waits for a JSON answer, as `CapabilitySDK.requestReply` does it.
    fn post(&mut self, capability: &str, data: &str) -> Called {
        let options = json!({"method": "POST", "headers": {"Content-Length": data.len()}});
        self.ask(&json!({"call": "requestReply", "capability": capability, "options": options, "data": data}))
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        // The end of its input ends it, unless a call is under way.
        self.calls = None;
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

struct Created {
    export: String,
    revoke: String,
    whole: Value,
}

impl Created {
    /// Exactly the published answer: the id, and two capabilities at this gateway.
    fn read(made: &Value, id: &str) -> Created {
        assert_eq!(members(made), ["capabilities", "id"]);
        assert_eq!(made["id"], id);
        let capabilities = &made["capabilities"];
        assert_eq!(members(capabilities), ["export", "revoke"]);
        let uri = |name: &str| text(capabilities, name).unwrap().to_owned();
        let (export, revoke) = (uri("export"), uri("revoke"));
        for uri in [&export, &revoke] {
            assert_capability(shared(), uri);
        }
        Created { export, revoke, whole: made.clone() }
    }
}

/// `cpblty://<this gateway>/#CPBLTY1-` and 86 characters.
pub(crate) fn assert_capability(gateway: &Gateway, uri: &str) {
    let start = format!("cpblty://localhost:{}/#CPBLTY1-", gateway.ports.gateway.number());
    let body = uri.strip_prefix(&start).expect("a capability URI of this gateway");
    assert!(body.len() == 86 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
}

/// The names of an object's members, in order of the alphabet.
pub(crate) fn members(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// What the SDK, and `capi`, take as trusted CAs: authority → PEM.
fn trusted_ca(gateway: &Gateway) -> Value {
    let text = std::fs::read(gateway.dir.join("trusted-ca.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

pub(crate) fn invocation() -> String {
    format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/{FUNCTION}/invocations")
}

fn lambda(gateway: &Gateway) -> Value {
    json!({"uri": invocation(), "method": "POST", "hmac": gateway.aws4("lambda")})
}

/// An error as the SDK passes it on: the service's own members, and a message that names what is wrong.
#[track_caller]
fn assert_refused(called: Called, status: u16, error: &str, part: &str) {
    let refused = called.expect_err("an error");
    assert_eq!(members(&refused), ["error", "message", "statusCode"]);
    assert_eq!((&refused["statusCode"], &refused["error"]), (&json!(status), &json!(error)), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains(part), "{refused}");
}

fn accepted() -> Called {
    Ok(json!({"statusCode": 202, "message": "Accepted"}))
}

#[test]
fn the_sdk_from_create_to_delete_self() {
    let gateway = shared();
    let tenant = gateway.another_tenant("clients/sdk").unwrap();
    let role = |name: &str| text(&tenant, name).unwrap();
    let mut sdk = Sdk::start(gateway, true);

    let accounts = sdk.create(&tenant, "accounts/8a56db8f-d735-444b-bfd8-b71301f3b708");
    let temporary = sdk.create(&tenant, "Temporary access for Ayana");

    // Both kinds of export, and what comes of them.
    let invoke = sdk.export(&accounts, lambda(gateway));
    assert_eq!(sdk.post(&invoke, r#"{"hi":"o/"}"#), Ok(json!({"hi": "o/"})));
    let delegated = sdk.export(&temporary, json!({"capability": invoke}));
    assert_ne!(delegated, invoke);
    assert_eq!(sdk.post(&delegated, r#"{"hi":"again"}"#), Ok(json!({"hi": "again"})));
    let answer =
        sdk.ask(&json!({"call": "request", "capability": invoke, "options": {"method": "GET"}})).unwrap();
    assert_eq!(answer["statusCode"], 200);

    // Revoked, and revoked again: the same answer, and what was exported is dead, re-exports included.
    assert_eq!(sdk.call("revoke", &accounts.revoke, None), accepted());
    assert_eq!(sdk.call("revoke", &accounts.revoke, None), accepted());
    for capability in [&invoke, &delegated] {
        eventually(401, SOON, || gateway.request(capability, "POST", "/").body("{}").send().unwrap());
        assert_refused(sdk.post(capability, "{}"), 401, "Unauthorized", "a valid capability is required");
    }
    assert_refused(sdk.call("export", &accounts.export, lambda(gateway)), 401, "Unauthorized", "");
    // The documentation's own way to see that a revocation is complete.
    let query = json!({"id": "accounts/8a56db8f-d735-444b-bfd8-b71301f3b708"});
    let nothing = json!({"membranes": [], "completed": true});
    assert_eq!(sdk.call("query", role("query"), query), Ok(nothing));
    // Ayana's membrane lives on, and its id is its own; the other id is free again.
    let other = sdk.export(&temporary, lambda(gateway));
    assert_eq!(sdk.post(&other, "{}"), Ok(json!({})));
    let again = sdk.create(&tenant, "accounts/8a56db8f-d735-444b-bfd8-b71301f3b708");
    assert_ne!(again.export, accounts.export);

    // The end of the tenant, twice.
    assert_eq!(sdk.call("deleteSelf", role("deleteSelf"), None), accepted());
    assert_eq!(sdk.call("deleteSelf", role("deleteSelf"), None), accepted());
    eventually(401, SOON, || gateway.request(&other, "POST", "/").body("{}").send().unwrap());
    for (call, capability, argument) in [
        ("create", role("create"), Some(json!({"id": "x"}))),
        ("query", role("query"), None),
        ("export", &temporary.export, Some(lambda(gateway))),
        ("revoke", &temporary.revoke, None),
    ] {
        assert_refused(sdk.call(call, capability, argument), 401, "Unauthorized", "");
    }
    // Another tenant's business goes on.
    sdk.create(&gateway.tenant, "clients/sdk/after");

    let mut canaries = Canaries::default();
    for name in ["create", "query", "deleteSelf"] {
        canaries.plant_token(name, role(name));
    }
    for (name, uri) in [
        ("export", &accounts.export),
        ("revoke", &accounts.revoke),
        ("a grant", &invoke),
        ("another", &other),
    ] {
        canaries.plant_token(name, uri);
    }
    assert_eq!(canaries.search(&[gateway.logs()]).unwrap(), Vec::<String>::new());
}

#[test]
fn the_sdk_queries() {
    let gateway = shared();
    let tenant = gateway.another_tenant("clients/query").unwrap();
    let query = text(&tenant, "query").unwrap();
    let mut sdk = Sdk::start(gateway, true);
    assert_eq!(sdk.call("query", query, None), Ok(json!({"membranes": [], "completed": true})));

    // Made out of order; longest and strangest ids included. SDK and service count 512 alike.
    let longest = "é".repeat(512);
    let mut made: Vec<Created> = ["my-third-membrane", "my-first-membrane", &longest, "a&b=c d%2f+", "Ä"]
        .map(|id| sdk.create(&tenant, id))
        .into();
    made.sort_by(|a, b| a.whole["id"].as_str().cmp(&b.whole["id"].as_str()));
    let made: Vec<&Value> = made.iter().map(|created| &created.whole).collect();
    let answer =
        |membranes: &[&Value], completed| Ok(json!({"membranes": membranes, "completed": completed}));

    // One, where no limit is said; the very URIs that create gave.
    assert_eq!(sdk.call("query", query, None), answer(&made[..1], false));
    assert_eq!(sdk.call("query", query, json!({})), answer(&made[..1], false));
    assert_eq!(sdk.call("query", query, json!({"limit": 2})), answer(&made[..2], false));
    assert_eq!(sdk.call("query", query, json!({"limit": 5})), answer(&made, true));
    assert_eq!(sdk.call("query", query, json!({"limit": 100})), answer(&made, true));
    for one in &made {
        let found = sdk.call("query", query, json!({"id": one["id"]})).unwrap();
        assert_eq!(found["membranes"], json!([one]));
    }
    assert_eq!(sdk.call("query", query, json!({"id": "none of them"})), answer(&[], true));
    // Page by page.
    let mut seen = Vec::new();
    let mut page = sdk.call("query", query, json!({"limit": 2})).unwrap();
    loop {
        let membranes = page["membranes"].as_array().unwrap().clone();
        seen.extend(membranes);
        if page["completed"] == true {
            break;
        }
        assert!(seen.len() <= made.len(), "pages without end");
        let last = seen.last().unwrap()["id"].clone();
        page = sdk.call("query", query, json!({"lastId": last, "limit": 2})).unwrap();
    }
    assert_eq!(json!(seen), json!(made));
    // After an id that is not there goes on with the next one.
    let after = sdk.call("query", query, json!({"lastId": "my-second-membrane"})).unwrap();
    assert_eq!(after["membranes"][0]["id"], "my-third-membrane");
}

#[test]
fn what_the_sdk_is_told_when_something_is_wrong() {
    let gateway = shared();
    let tenant = gateway.another_tenant("clients/errors").unwrap();
    let role = |name: &str| text(&tenant, name).unwrap();
    let mut sdk = Sdk::start(gateway, true);
    let membrane = sdk.create(&tenant, "taken");

    let taken = sdk.call("create", role("create"), json!({"id": "taken"}));
    assert_refused(taken, 409, "Conflict", "id");
    let nul = sdk.call("create", role("create"), json!({"id": "a\u{0}b"}));
    assert_refused(nul, 400, "Bad Request", "id: must not hold a NUL");
    for (config, field) in [
        (json!({"uri": "https://a.example/", "timeoutMs": -1}), "timeoutMs: must be an integer above 0"),
        (json!({"uri": "https://a.example/", "headers": {"Host": "b"}}), "headers: host is set"),
        (json!({"uri": "https://a.example/", "method": "CONNECT"}), "method"),
        (
            json!({"uri": "https://a.example/", "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "A", "region": "a/b",
            "service": "s", "secretAccessKey": "k"}}}),
            "hmac.aws4-hmac-sha256.region",
        ),
        // Ours, and dead or never there.
        (
            json!({"capability": format!("{}{}", &membrane.export[..membrane.export.len() - 4], "AAAA")}),
            "capability",
        ),
    ] {
        assert_refused(sdk.call("export", &membrane.export, config), 400, "Bad Request", field);
    }
    assert_refused(sdk.call("query", role("query"), json!({"limit": -1})), 400, "Bad Request", "limit");

    let unknown = format!("{}AAAA", &role("create")[..role("create").len() - 4]);
    for call in ["create", "query", "revoke", "deleteSelf"] {
        let argument = (call == "create").then(|| json!({"id": "x"}));
        assert_refused(
            sdk.call(call, &unknown, argument),
            401,
            "Unauthorized",
            "a valid capability is required",
        );
    }
    // The capability alone decides what is done: another one than the call wants does its own thing, or nothing.
    for (call, capability, argument, allowed) in [
        ("create", role("query"), Some(json!({"id": "x"})), "GET"),
        ("query", role("create"), None, "POST"),
        ("revoke", &membrane.export, None, "POST"),
        ("deleteSelf", role("query"), None, ""),
    ] {
        let called = sdk.call(call, capability, argument);
        match call {
            "deleteSelf" => assert_eq!(called.unwrap()["membranes"][0]["id"], "taken"),
            _ => assert_refused(called, 405, "Method Not Allowed", allowed),
        }
    }

    // What the SDK refuses by itself, it does not send.
    for (call, argument) in [
        ("create", json!({"id": "x".repeat(513)})),
        ("create", json!({})),
        ("export", json!({"uri": "https://a.example/", "capability": membrane.export})),
        ("export", json!({"uri": "ftp://a.example/"})),
    ] {
        let refused = sdk.call(call, role("create"), argument).unwrap_err();
        assert_eq!(refused["name"], "ValidationError");
    }
    let mut distrusting = Sdk::start(gateway, false);
    let refused = distrusting.call("query", role("query"), None).unwrap_err();
    assert_eq!(refused["error"], "Request failed");
    assert!(refused["message"].as_str().unwrap().contains("certificate"), "{refused}");
}
