//! Planted secrets are looked for wherever they must not be: store, logs at trace level, answers, Envoy's admin interface.

use crate::{eventually, own, recorded};
use harness::canary::Canaries;
use harness::gateway::text;
use harness::http::Client;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const PINNED: &str = "canary-pinned-header-5f0c1d7e9b";
const WRONG_SECRET: &str = "canary-wrong-secret-4b1e7c0a9d3f52";
const SESSION_TOKEN: &str = "canary-session-token-0d9c3b6a8e17";
const BODY: &str = "canary-body-of-a-request-71c2e5a9";

#[test]
fn no_secret_is_found_in_store_or_logs() {
    let gateway = own("secrets");
    let mut canaries = Canaries::default();
    let mut answers = Vec::new();

    for name in ["create", "query", "deleteSelf"] {
        canaries.plant_token(name, text(&gateway.tenant, name).unwrap());
    }
    canaries.plant("the AWS secret", &gateway.aws.key.secret);
    canaries.plant("a pinned header", PINNED);
    canaries.plant("a wrong AWS secret", WRONG_SECRET);
    canaries.plant("a session token", SESSION_TOKEN);
    canaries.plant("a body", BODY);

    let (first, second) =
        (gateway.create_membrane("first").unwrap(), gateway.create_membrane("second").unwrap());
    for (name, membrane) in [("first", &first), ("second", &second)] {
        canaries.plant_token(&format!("{name} export"), &membrane.export);
        canaries.plant_token(&format!("{name} revoke"), &membrane.revoke);
    }
    let mut what = recorded(&gateway, None, "/secrets");
    what["headers"] = json!({"x-pinned": PINNED});
    let grant = gateway.export(&first, &what).unwrap();
    canaries.plant_token("a grant", &grant);
    let delegated = gateway.export(&second, &json!({"capability": grant})).unwrap();
    canaries.plant_token("a delegated grant", &delegated);
    what["hmac"]["aws4-hmac-sha256"]["secretAccessKey"] = WRONG_SECRET.into();
    what["hmac"]["aws4-hmac-sha256"]["sessionToken"] = SESSION_TOKEN.into();
    let wrong = gateway.export(&first, &what).unwrap();
    canaries.plant_token("another grant", &wrong);

    // With what people do wrong: misspelt fields, secrets in the wrong place, wrong bearers.
    let misspelt =
        json!({"uri": "https://a.example/", "secretAccesKey": WRONG_SECRET, "capability": delegated});
    answers.push(gateway.try_export(&first, &misspelt).unwrap());
    answers.push(gateway.try_export(&first, &json!({"uri": WRONG_SECRET})).unwrap());
    answers.push(
        gateway
            .try_export(&first, &json!({"uri": format!("https://user:{WRONG_SECRET}@a.example/")}))
            .unwrap(),
    );
    answers.push(gateway.try_export(&first, &json!({"capability": format!("{grant}x")})).unwrap());
    answers.push(gateway.request(&format!("{}x", grant), "GET", "/").send().unwrap());
    answers.push(
        gateway
            .client
            .request("GET", &format!("/?token={}", grant.rsplit('#').next().unwrap()))
            .send()
            .unwrap(),
    );
    for capability in [&grant, &delegated, &wrong] {
        for _ in 0..6 {
            answers.push(
                gateway
                    .request(capability, "POST", "/")
                    .body(BODY)
                    .send()
                    .unwrap()
                    .expect(200, "a grant")
                    .unwrap(),
            );
        }
        answers.push(gateway.request(capability, "GET", "/x").send().unwrap());
        answers.push(gateway.request(capability, "PUT", "/").header("x-amz-acl", PINNED).send().unwrap());
    }
    for arguments in [
        vec!["membrane", "export", "--capability", &first.export, "--capability-to-export", &grant],
        vec!["membrane", "export", "--capability", &first.export, "--uri", WRONG_SECRET],
        vec!["membrane", "create", "--capability", &first.revoke[1..], "--id", "x"],
    ] {
        let output = gateway.capi(&arguments).unwrap();
        if output.status.success() {
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            canaries.plant_token("what capi exported", text(&answer, "capability").unwrap());
        }
    }
    gateway.revoke(&first).unwrap();
    eventually(401, Duration::from_secs(5), || gateway.request(&delegated, "GET", "/").send().unwrap());

    // The search finds what is there: the files that are meant to hold secrets.
    let kept = canaries.search(&[gateway.dir.join("tenant.json"), gateway.dir.join("aws")]).unwrap();
    assert!(
        ["create", "query", "deleteSelf", "the AWS secret"]
            .iter()
            .all(|name| kept.iter().any(|place| place.starts_with(name)))
    );
    // The logs talk (registry and capi have nothing finer than debug to say), or their silence would prove nothing.
    for (log, trace) in
        [("envoy.log", "[trace][wasm]"), ("registry.log", "DEBUG registry::"), ("capi.log", "[DEBUG capi::")]
    {
        let content = std::fs::read_to_string(gateway.logs().join(log)).unwrap();
        assert!(!content.is_empty() && content.contains(trace), "{log} has no {trace}");
    }

    let meant: Vec<PathBuf> = ["tenant.json", "aws.json", "aws"].map(|file| gateway.dir.join(file)).into();
    let mut places: Vec<PathBuf> =
        std::fs::read_dir(&gateway.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    places.retain(|place| !meant.contains(place));
    assert!(gateway.registry_dir().join("registry.db").exists());
    assert!(places.contains(&gateway.registry_dir()) && places.contains(&gateway.dir.join("logs")));
    assert_eq!(canaries.search(&places).unwrap(), Vec::<String>::new());

    let admin = Client::plain(gateway.ports.admin.number());
    for path in ["/config_dump", "/stats", "/clusters", "/listeners", "/server_info"] {
        answers.push(admin.request("GET", path).send().unwrap());
    }
    let metrics = Client::plain(gateway.ports.metrics.number());
    answers.push(metrics.request("GET", "/metrics").send().unwrap().expect(200, "metrics").unwrap());
    for answer in &answers {
        let headers: Vec<u8> =
            answer.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value].concat()).collect();
        let found = [canaries.in_text(&answer.body), canaries.in_text(&headers)].concat();
        assert!(found.is_empty(), "an answer with status {} holds {found:?}", answer.status);
    }
    gateway.stop().unwrap();
}
