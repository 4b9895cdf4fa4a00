//! Where requests may lead, and how often.

use crate::{assert_error, membrane, recorded, shared};
use harness::gateway::Gateway;
use harness::origin::Recorded;
use harness::upstream::{Script, Upstream};
use serde_json::json;
use std::time::Duration;

#[test]
fn a_grant_leads_nowhere_but_along_a_route() {
    let gateway = shared();
    let membrane = membrane("hostile/egress");
    // What names a private place by its number is refused where it is exported, in every spelling.
    for host in [
        "169.254.169.254",
        "127.0.0.1",
        "10.0.0.1",
        "localhost",
        "[::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "127.1",
        "0",
    ] {
        let what = json!({"uri": format!("http://{host}/hostile/egress"), "hmac": gateway.aws4("lambda")});
        let answer = gateway.try_export(&membrane, &what).unwrap();
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
    // What names one by a name can be exported, since names mean what a resolver says: no route leads there.
    for host in [
        "metadata.google.internal",
        "169.254.169.254.nip.example",
        "membrane.registry",
        "amazonaws.com.evil.example",
    ] {
        let what = json!({"uri": format!("https://{host}/hostile/egress"), "hmac": gateway.aws4("lambda")});
        let capability = gateway.export(&membrane, &what).unwrap();
        assert_error(&gateway.request(&capability, "POST", "/").send().unwrap(), 404, "route");
    }
    assert!(gateway.origin().requests("/hostile/egress").is_empty());
    // The control: with a host that a route leads to it comes.
    let capability = gateway.export(&membrane, &recorded(gateway, None, "/hostile/egress")).unwrap();
    assert_eq!(gateway.request(&capability, "POST", "/").send().unwrap().status, 200);
    assert_eq!(gateway.origin().requests("/hostile/egress").len(), 1);
}

const FAULT: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A capability for that host of the origin's, for which `script` answers.
fn scripted(gateway: &Gateway, host: &str, script: Script) -> (Upstream, String) {
    let upstream = Upstream::start(script).unwrap();
    gateway.origin().route(host, upstream.port.number());
    let what = json!({
        "uri": format!("https://{host}/hostile/scripted"), "method": "POST", "hmac": gateway.aws4("lambda"),
    });
    let membrane = gateway.create_membrane(host).unwrap();
    let capability = gateway.export(&membrane, &what).unwrap();
    (upstream, capability)
}

#[test]
fn a_redirect_is_passed_on_and_not_followed() {
    const ELSEWHERE: &str = "HTTP/1.1 307 Temporary Redirect\r\nlocation: \
        https://recorder.us-east-1.amazonaws.com/hostile/followed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let gateway = shared();
    let (upstream, capability) = scripted(
        gateway,
        "redirecting.us-east-1.amazonaws.com",
        Script::Answer { after: 0, with: ELSEWHERE },
    );
    let answer = gateway.request(&capability, "POST", "/").body("body").send().unwrap();
    assert_eq!(answer.status, 307);
    assert!(answer.header("location").unwrap().ends_with("/hostile/followed"));
    assert_eq!(upstream.wait_for(1, Duration::from_secs(5)).len(), 1, "it did redirect");
    let followed: Vec<Recorded> = gateway.origin().requests("/hostile/followed");
    assert!(followed.is_empty(), "{followed:?}");
}

#[test]
fn a_request_that_fails_is_not_tried_again() {
    let gateway = shared();
    for (host, with, expected) in [
        ("failing.us-east-1.amazonaws.com", FAULT, 503),
        // Closed without an answer.
        ("closing.us-east-1.amazonaws.com", "", 503),
    ] {
        let (upstream, capability) = scripted(gateway, host, Script::Answer { after: 0, with });
        // A requester's wish for it is not heard either.
        let request = gateway.request(&capability, "POST", "/").header("x-envoy-retry-on", "5xx,reset");
        let answer = request.header("x-envoy-max-retries", "5").body("body").send().unwrap();
        assert_eq!(answer.status, expected, "{host}");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(upstream.received().len(), 1, "{host}");
    }
}

/// The control: where a route retries, it comes twice.
#[test]
fn a_route_that_retries_is_noticed() {
    const ROUTE: &str = "route: { cluster: local_aws, timeout: 0s, idle_timeout: 905s }";
    const RETRYING: &str =
        "route: { cluster: local_aws, timeout: 0s, retry_policy: { retry_on: 5xx, num_retries: 1 } }";
    let options = crate::options(crate::folder("hostile-retrying"));
    let gateway = Gateway::start_with(options, |config| {
        assert!(config.contains(ROUTE));
        Ok(config.replace(ROUTE, RETRYING))
    })
    .unwrap();
    let script = Script::Answer { after: 0, with: FAULT };
    let (upstream, capability) = scripted(&gateway, "retried.us-east-1.amazonaws.com", script);
    assert_eq!(gateway.request(&capability, "POST", "/").body("body").send().unwrap().status, 503);
    assert_eq!(upstream.wait_for(2, Duration::from_secs(5)).len(), 2);
}

#[test]
fn no_example_retries_or_fails_open() {
    let folder = harness::repository().join("envoy");
    let mut examples = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
        let has = |word: &str| said.iter().any(|line| line.contains(word));
        if !has("filters.http.wasm") {
            continue;
        }
        examples += 1;
        assert!(has("failure_policy: FAIL_RELOAD"), "{}", path.display());
        for never in ["FAIL_OPEN", "fail_open: true"] {
            assert!(!has(never), "{} says {never}", path.display());
        }
        // Of what leaves nothing is sent twice; which route may ask again, and when, `shipped::every_route_is_guarded` reads.
        let retries: Vec<&&str> = said.iter().filter(|line| line.contains("retry_on")).collect();
        let safe =
            |line: &&&str| line.trim() == "retry_on: connect-failure,refused-stream,reset-before-request";
        assert!(retries.len() <= 1 && retries.iter().all(safe), "{}: {retries:?}", path.display());
    }
    assert!(examples >= 2);
}
