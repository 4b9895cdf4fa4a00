//! Capabilities handed on: as deep as it goes, of every kind, within and across tenants, and of another authority.

use crate::{assert_error, eventually, membrane, recorded, shared};
use harness::gateway::{Gateway, Membrane, text};
use harness::http::Response;
use harness::origin::{ANSWER, RECORDER};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn ask(capability: &str, method: &str, body: &str) -> Response {
    shared().request(capability, method, "/").body(body).send().unwrap()
}

fn re_export(membrane: &Membrane, capability: &str) -> String {
    shared().export(membrane, &json!({ "capability": capability })).unwrap()
}

/// Creates through a create control, whoseever it is.
fn create(control: &str, id: &str) -> Response {
    ask(control, "POST", &json!({ "id": id }).to_string())
}

fn membrane_of(control: &str, id: &str) -> Membrane {
    let created = create(control, id).expect(201, id).unwrap().json();
    let uri = |role: &str| text(&created["capabilities"], role).unwrap().to_owned();
    Membrane { export: uri("export"), revoke: uri("revoke") }
}

fn ids(query: &str) -> Vec<String> {
    let answer = shared().request(query, "GET", "/?limit=100").send().unwrap().expect(200, "query").unwrap();
    let listed = answer.json();
    let listed = listed["membranes"].as_array().unwrap();
    listed.iter().map(|membrane| membrane["id"].as_str().unwrap().to_owned()).collect()
}

struct Tenant(Value);

impl Tenant {
    fn new(gateway: &Gateway, id: &str) -> Self {
        Self(gateway.another_tenant(id).unwrap())
    }

    fn uri(&self, role: &str) -> &str {
        text(&self.0, role).unwrap()
    }
}

#[test]
fn sixteen_levels_and_no_seventeenth() {
    let gateway = shared();
    // Every other level belongs to another tenant.
    let tenants = [Tenant::new(gateway, "levels/0"), Tenant::new(gateway, "levels/1")];
    let level = |level: usize| membrane_of(tenants[level % 2].uri("create"), &format!("level {level}"));
    let mut membranes = vec![level(1)];
    let mut chain =
        vec![gateway.export(&membranes[0], &recorded(gateway, None, "/delegation/deep")).unwrap()];
    for number in 2..=16 {
        let membrane = level(number);
        chain.push(re_export(&membrane, &chain[chain.len() - 1]));
        membranes.push(membrane);
    }
    let seventeenth = gateway.try_export(&level(17), &json!({"capability": chain[15]})).unwrap();
    assert_error(&seventeenth, 400, "can be delegated at most 16 times");
    assert!(!seventeenth.text().contains("CPBLTY1-"));
    for capability in &chain {
        assert_eq!(ask(capability, "GET", "").text(), ANSWER);
    }
    // In the middle: what is below dies, what is above does not know of it.
    gateway.revoke(&membranes[7]).unwrap();
    for (index, capability) in chain.iter().enumerate() {
        if index >= 7 {
            eventually(401, SOON, || ask(capability, "GET", ""));
        }
    }
    for round in 0..4 {
        for (index, capability) in chain.iter().enumerate() {
            assert_eq!(ask(capability, "GET", "").status == 200, index < 7, "level {}, {round}", index + 1);
        }
    }
    // At the end, and at the beginning.
    gateway.revoke(&membranes[6]).unwrap();
    eventually(401, SOON, || ask(&chain[6], "GET", ""));
    assert_eq!(ask(&chain[5], "GET", "").status, 200);
    gateway.revoke(&membranes[0]).unwrap();
    for capability in &chain {
        eventually(401, SOON, || ask(capability, "GET", ""));
    }
}

#[test]
fn a_control_of_every_role_is_handed_on_and_acts_for_its_own_tenant() {
    let gateway = shared();
    let (alice, bob) = (Tenant::new(gateway, "roles/alice"), Tenant::new(gateway, "roles/bob"));
    let own = membrane_of(alice.uri("create"), "alice's");
    let kept = membrane_of(alice.uri("create"), "kept");
    membrane_of(bob.uri("create"), "alice's");
    let hands = membrane_of(bob.uri("create"), "hands");
    let handed = |capability: &str| re_export(&hands, capability);
    let [create_too, query, export, revoke, delete] = [
        handed(alice.uri("create")),
        handed(alice.uri("query")),
        handed(&own.export),
        handed(&kept.revoke),
        handed(alice.uri("deleteSelf")),
    ];
    // create: the membrane is Alice's, and so is the id that must be free.
    assert_error(&create(&create_too, "alice's"), 409, "id");
    let made = membrane_of(&create_too, "made by bob");
    assert_eq!(ids(alice.uri("query")), ["alice's", "kept", "made by bob"]);
    assert_eq!(ids(bob.uri("query")), ["alice's", "hands"]);
    // query: the same answer as Alice's own, to the byte.
    let listed = |query: &str| shared().request(query, "GET", "/?limit=9").send().unwrap().text();
    assert_eq!(listed(&query), listed(alice.uri("query")));
    // export, also of what came through the delegation.
    let through =
        |membrane: &Membrane, path: &str| gateway.export(membrane, &recorded(gateway, None, path)).unwrap();
    let delegated = Membrane { export, revoke: String::new() };
    let grant = through(&delegated, "/delegation/roles/through");
    let of_made = through(&made, "/delegation/roles/made");
    let of_own = through(&own, "/delegation/roles/own");
    let copy = re_export(&delegated, &of_own);
    for capability in [&grant, &of_made, &of_own, &copy] {
        assert_eq!(ask(capability, "GET", "").status, 200);
    }
    // revoke, and again; Alice's own goes on being accepted too.
    let of_kept = through(&kept, "/delegation/roles/kept");
    for control in [&revoke, &revoke, &kept.revoke] {
        assert_eq!(ask(control, "DELETE", "").status, 202);
    }
    eventually(401, SOON, || ask(&of_kept, "GET", ""));
    assert_eq!(ids(bob.uri("query")), ["alice's", "hands"]);
    // No control is more than it was: methods and bodies are those of its role.
    for (control, allowed) in [
        (&create_too, "POST"),
        (&query, "GET"),
        (&delegated.export, "POST"),
        (&revoke, "DELETE, GET, POST"),
        (&delete, "DELETE, GET, POST"),
    ] {
        let answer = ask(control, "PUT", "");
        assert_eq!((answer.status, answer.header("allow").as_deref()), (405, Some(allowed)));
    }

    // The delegation ends: all that was handed on dies, with what was made through it, and nothing else.
    gateway.revoke(&hands).unwrap();
    for capability in [&grant, &of_made, &copy] {
        eventually(401, SOON, || ask(capability, "GET", ""));
    }
    let body = json!({"id": "again"}).to_string();
    for (control, method) in [
        (&create_too, "POST"),
        (&query, "GET"),
        (&delegated.export, "POST"),
        (&revoke, "DELETE"),
        (&delete, "DELETE"),
        (&made.export, "POST"),
        (&made.revoke, "DELETE"),
    ] {
        assert_error(&ask(control, method, &body), 401, "");
    }
    assert_eq!(ask(&of_own, "GET", "").status, 200);
    assert_eq!(ids(alice.uri("query")), ["alice's"], "what is dead is not listed");
    membrane_of(alice.uri("create"), "made by bob");
    assert_eq!(ids(bob.uri("query")), ["alice's"]);

    // deleteSelf: handed on anew, it ends Alice and not the one in whose hands it is.
    let hands = membrane_of(bob.uri("create"), "other hands");
    let delete = re_export(&hands, alice.uri("deleteSelf"));
    for control in [&delete, &delete, alice.uri("deleteSelf")] {
        assert_eq!(ask(control, "DELETE", "").status, 202);
    }
    eventually(401, SOON, || ask(&of_own, "GET", ""));
    assert_error(&create(alice.uri("create"), "x"), 401, "");
    assert_eq!(ids(bob.uri("query")), ["alice's", "other hands"]);
}

/// Tenants that hand on to each other in a ring: the end of one is the end of what went through it.
#[test]
fn the_end_of_a_tenant_is_the_end_of_what_went_through_it() {
    let gateway = shared();
    let tenants: Vec<Tenant> = (0..3).map(|number| Tenant::new(gateway, &format!("ring/{number}"))).collect();
    let membranes: Vec<Membrane> =
        tenants.iter().map(|tenant| membrane_of(tenant.uri("create"), "ring")).collect();
    let first = gateway.export(&membranes[0], &recorded(gateway, None, "/delegation/ring")).unwrap();
    let second = re_export(&membranes[1], &first);
    let third = re_export(&membranes[2], &second);
    let back = re_export(&membranes[0], &third);
    for capability in [&first, &second, &third, &back] {
        assert_eq!(ask(capability, "GET", "").status, 200);
    }
    assert_eq!(ask(tenants[1].uri("deleteSelf"), "POST", "").status, 202);
    for capability in [&second, &third, &back] {
        eventually(401, SOON, || ask(capability, "GET", ""));
    }
    assert_eq!(ask(&first, "GET", "").status, 200);
    // What is dead cannot be handed on: one answer for all of it.
    let unknown =
        format!("cpblty://localhost:{}/#CPBLTY1-{}", gateway.ports.gateway.number(), "A".repeat(86));
    let refusals: Vec<String> = [&second, &back, &membranes[1].export, &unknown]
        .map(|dead| {
            let answer = gateway.try_export(&membranes[2], &json!({ "capability": dead })).unwrap();
            assert_error(&answer, 400, "capability");
            answer.text()
        })
        .into();
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
}

/// The recording origin stands for another authority: what reaches it is what that authority would be asked.
#[test]
fn another_authoritys_capability_is_forwarded_with_its_own_bearer() {
    let gateway = shared();
    let ours = membrane("delegation/foreign");
    let theirs = format!("CPBLTY1-{}", "Q".repeat(86));
    // Both forms of its URI, and the least token that a foreign one may be (32 bytes).
    let short = format!("CPBLTY1-{}", "A".repeat(43));
    let uris = [
        (format!("cpblty://{RECORDER}/#{theirs}"), &theirs),
        (format!("cpblty:{RECORDER}:{theirs}"), &theirs),
        (format!("cpblty:{RECORDER}@https:{short}"), &short),
    ];
    let membranes: Vec<Membrane> =
        (0..3).map(|number| membrane(&format!("delegation/foreign/{number}"))).collect();
    for (number, (uri, bearer)) in uris.iter().enumerate() {
        let local = re_export(&membranes[number], uri);
        let local_token = local.rsplit('#').next().unwrap();
        assert_ne!(local_token, bearer.as_str());
        for (method, body) in
            [("POST", "{\"a\": 1}"), ("GET", ""), ("DELETE", ""), ("PATCH", "\u{0}\u{ff}bytes")]
        {
            let query = format!("foreign={number}&method={method}&id=a%20b");
            let asked = gateway
                .request(&local, method, &format!("/?{query}"))
                .header("Content-Type", "text/x-own")
                .header("Accept", "application/own")
                .header("If-None-Match", "\"tag\"")
                .header("X-Request-Id", "own-request-id")
                .header("Cookie", "session=canary")
                .header("X-Custom", "canary")
                .header("Proxy-Authorization", "Bearer canary");
            let answer = if body.is_empty() { asked } else { asked.body(body) }.send().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER));
            let request = gateway.origin().only(&query).unwrap();
            assert_eq!((request.method.as_str(), &request.target), (method, &format!("/?{query}")));
            assert_eq!(request.one("host").unwrap(), RECORDER);
            assert_eq!(request.one("authorization").unwrap(), format!("Bearer {bearer}"));
            assert_eq!(request.one("content-type").unwrap(), "text/x-own");
            assert_eq!(request.one("accept").unwrap(), "application/own");
            assert_eq!(request.one("if-none-match").unwrap(), "\"tag\"");
            assert_eq!(request.body, body.as_bytes());
            let all = [request.head.clone(), request.body.clone()].concat();
            let all = String::from_utf8_lossy(&all).into_owned();
            assert!(!all.contains(local_token), "the requester's own bearer stays here");
            assert!(!all.contains("canary"), "{:?}", request.headers);
        }
        assert_error(&gateway.request(&local, "GET", "/x?foreign").send().unwrap(), 404, "path");
        // Handed on once more it is one of ours: no second bearer, and it dies with either.
        let again = re_export(&ours, &local);
        assert_eq!(ask(&again, "GET", "").status, 200);
        gateway.revoke(&membranes[number]).unwrap();
        for capability in [&local, &again] {
            eventually(401, SOON, || ask(capability, "GET", ""));
        }
        let before = gateway.origin().requests("foreign").len();
        let refused = gateway.request(&local, "POST", "/?foreign=late").body("x").send().unwrap();
        assert_error(&refused, 401, "");
        assert_eq!(
            gateway.origin().requests("foreign").len(),
            before,
            "nothing is sent with the foreign bearer"
        );
    }
    for (uri, rule) in [
        (format!("cpblty://192.0.2.1/#{theirs}"), "DNS name"),
        (format!("cpblty:{RECORDER}@http:{theirs}"), "https"),
        (format!("cpblty://localhost:1/#{theirs}"), "this machine"),
        (format!("cpblty://{RECORDER}/#{}", &theirs[..40]), "capability"),
    ] {
        let answer = gateway.try_export(&ours, &json!({ "capability": uri })).unwrap();
        assert_error(&answer, 400, rule);
        assert!(!answer.text().contains(&theirs[8..40]), "{}", answer.text());
    }
    // The allow-list holds for other authorities too.
    let elsewhere = re_export(&ours, &format!("cpblty://other-authority.example/#{theirs}"));
    assert_error(&ask(&elsewhere, "GET", ""), 404, "route");
}
