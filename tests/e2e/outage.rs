//! The registry goes away and comes back.

use crate::{assert_error, eventually, own, recorded, warm};
use harness::gateway::text;
use serde_json::json;
use std::time::Duration;

#[test]
fn without_the_registry_503_and_afterwards_as_before() {
    let mut gateway = own("outage");
    let membrane = gateway.create_membrane("outage").unwrap();
    let known = gateway.export(&membrane, &recorded(&gateway, None, "/outage/warm")).unwrap();
    let cold = gateway.export(&membrane, &recorded(&gateway, None, "/outage/cold")).unwrap();
    let create = text(&gateway.tenant, "create").unwrap().to_owned();
    warm(&gateway, &known, "GET");

    gateway.kill_registry();
    let refused = gateway.request(&cold, "GET", "/").send().unwrap();
    assert_error(&refused, 503, "");
    assert!(refused.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()), "Retry-After");
    // Whether a token is unknown cannot be known either: never 401 from an outage.
    let unknown = format!("CPBLTY1-{}", "A".repeat(86));
    assert_error(&gateway.request(&unknown, "GET", "/").send().unwrap(), 503, "");
    let control = gateway.request(&create, "POST", "/").json(&json!({"id": "during"})).send().unwrap();
    assert_eq!(control.status, 503, "{}", control.text());
    // What the gateway has confirmed within its staleness bound (60 s) goes on.
    for _ in 0..16 {
        assert_eq!(gateway.request(&known, "GET", "/").send().unwrap().status, 200);
    }
    assert!(gateway.origin().requests("/outage/cold").is_empty());

    gateway.start_registry().unwrap();
    eventually(200, Duration::from_secs(10), || gateway.request(&cold, "GET", "/").send().unwrap());
    eventually(401, Duration::from_secs(10), || gateway.request(&unknown, "GET", "/").send().unwrap());
    let ask = || gateway.request(&create, "POST", "/").json(&json!({"id": "after"})).send().unwrap();
    eventually(201, Duration::from_secs(10), ask);
    // Revocation reaches the workers again.
    gateway.revoke(&membrane).unwrap();
    eventually(401, Duration::from_secs(10), || gateway.request(&known, "GET", "/").send().unwrap());
    gateway.check_alive().unwrap();
    gateway.stop().unwrap();
}

#[test]
fn a_connection_cut_during_a_lookup_is_503_and_heals() {
    let gateway = own("cut");
    let membrane = gateway.create_membrane("cut").unwrap();
    let capability = gateway.export(&membrane, &recorded(&gateway, None, "/cut")).unwrap();
    gateway.registry_link().delay(Duration::from_millis(800));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| gateway.request(&capability, "POST", "/").body("x").send().unwrap());
        std::thread::sleep(Duration::from_millis(300));
        gateway.registry_link().cut();
        assert_error(&waiting.join().unwrap(), 503, "");
    });
    gateway.registry_link().delay(Duration::ZERO);
    gateway.registry_link().restore();
    eventually(200, Duration::from_secs(10), || gateway.request(&capability, "GET", "/").send().unwrap());
    gateway.stop().unwrap();
}
