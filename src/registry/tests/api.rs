//! The Membrane API as published: every row, field and error that is the registry's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Membrane, NOW, Reply, Tenant, World, lookup, token, uri};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

async fn world() -> (World, Tenant, Membrane) {
    let world = World::new();
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "first").await;
    (world, tenant, membrane)
}

fn assert_error(reply: &Reply, status: u16, error: &str, message: &str) {
    assert_eq!(reply.status, status, "{}", reply.text);
    let expected = format!(r#"{{"statusCode":{status},"error":"{error}","message":"#);
    assert!(reply.text.starts_with(&expected), "{}", reply.text);
    assert!(
        reply.json["message"].as_str().unwrap().contains(message),
        "{} should hold {message}",
        reply.text
    );
    assert_eq!(reply.json.as_object().unwrap().len(), 3);
    assert_eq!(reply.headers["content-type"], "application/json");
}

#[tokio::test]
async fn create_answers_with_two_uris_and_refuses_a_taken_id() {
    let (world, tenant, _) = world().await;
    let id = "accounts/8a56 with spaces \u{1f980}";
    let reply = world.call("POST", "/", &tenant.create, json!({"id": id})).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.json["id"], id);
    for name in ["export", "revoke"] {
        let uri = reply.json["capabilities"][name].as_str().unwrap();
        assert!(uri.starts_with("cpblty://localhost:8443/#CPBLTY1-"), "the configured authority");
        assert_eq!(uri.len(), "cpblty://localhost:8443/#".len() + 94);
    }
    let before = world.rows();
    let again = world.call("POST", "/", &tenant.create, json!({"id": id})).await;
    assert_error(&again, 409, "Conflict", "id: ");
    assert_eq!(world.rows(), before);
    // Another tenant may have the same id.
    world.membrane(&world.tenant("other").create, id).await;
}

#[tokio::test]
async fn create_refuses_other_bodies_and_leaves_nothing() {
    let (world, tenant, _) = world().await;
    let before = world.rows();
    let long = "x".repeat(513);
    for (body, message) in [
        ("".to_owned(), "the body must be JSON"),
        ("{".into(), "the body must be JSON"),
        ("[]".into(), "the body must be a JSON object"),
        ("{}".into(), "id: is missing"),
        (r#"{"id":5}"#.into(), "id: must be a string"),
        (r#"{"id":""}"#.into(), "id: must have 1 to 512 characters"),
        (format!(r#"{{"id":"{long}"}}"#), "id: must have 1 to 512 characters"),
        (r#"{"id":"a\u0000b"}"#.into(), "id: must not hold a NUL"),
        (r#"{"id":"a","name":"b"}"#.into(), "name: is not a field"),
    ] {
        let reply = world.call("POST", "/", &tenant.create, body).await;
        assert_error(&reply, 400, "Bad Request", message);
    }
    assert_eq!(world.rows(), before);
    let longest = "\u{e9}".repeat(512);
    world.membrane(&tenant.create, &longest).await;
}

#[tokio::test]
async fn query_gives_back_the_uris_in_bytewise_order_page_by_page() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let mut created = Vec::new();
    for id in ["b", "a", "\u{e9}", "Z", "a b", "z"] {
        let reply = world.call("POST", "/", &tenant.create, json!({"id": id})).await;
        created.push(reply.json);
    }
    created.sort_by(|a, b| a["id"].as_str().unwrap().as_bytes().cmp(b["id"].as_str().unwrap().as_bytes()));
    for limit in 1..=7 {
        let (mut listed, mut last) = (Vec::new(), None::<String>);
        loop {
            let after = last.as_ref().map(|id| {
                let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
                format!("&lastId={id}")
            });
            let path = format!("/?limit={limit}{}", after.unwrap_or_default());
            let reply = world.call("GET", &path, &tenant.query, "").await;
            assert_eq!(reply.status, 200);
            let page = reply.json["membranes"].as_array().unwrap().clone();
            assert!(page.len() <= limit);
            listed.extend(page);
            last = listed.last().map(|membrane| membrane["id"].as_str().unwrap().to_owned());
            if reply.json["completed"] == true {
                break;
            }
        }
        assert_eq!(listed, created, "limit {limit}");
    }
    let one = world.call("GET", "/", &tenant.query, "").await;
    assert_eq!(one.json, json!({"membranes": [created[0]], "completed": false}));
    let by_id = world.call("GET", "/?id=a+b", &tenant.query, "").await;
    assert_eq!(by_id.json["membranes"][0]["id"], "a b");
    assert_eq!(by_id.json["completed"], true);
    // As npm's capability-sdk writes parameters that are undefined.
    let empty = world.call("GET", "/?id=&lastId=&limit=", &tenant.query, "").await;
    assert_eq!((empty.status.as_u16(), empty.json["membranes"].as_array().unwrap().len()), (200, 1));
    let none = world.call("GET", "/?id=nobody", &tenant.query, "").await;
    assert_eq!(none.json, json!({"membranes": [], "completed": true}));
    for (query, message) in [
        ("limit=0", "limit: must be an integer above 0"),
        ("limit=-1", "limit: must"),
        ("limit=x", "limit: must"),
        ("lastId=%00", "lastId: must not hold a NUL"),
        ("id=a&id=b", "id: is given twice"),
        ("wait=fleet", "wait: is not a query parameter"),
        ("other=1", "other: is not a query parameter"),
    ] {
        let reply = world.call("GET", &format!("/?{query}"), &tenant.query, "").await;
        assert_error(&reply, 400, "Bad Request", message);
    }
}

#[tokio::test]
async fn query_lists_only_what_is_alive_and_its_own() {
    let (world, tenant, first) = world().await;
    let other = world.tenant("other");
    world.membrane(&other.create, "theirs").await;
    world.membrane(&tenant.create, "second").await;
    assert_eq!(world.revoke(&first.revoke).await, 202);
    let ids = |reply: &Reply| -> Vec<String> {
        let membranes = reply.json["membranes"].as_array().unwrap();
        membranes.iter().map(|membrane| membrane["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&world.call("GET", "/?limit=10", &tenant.query, "").await), ["second"]);
    assert_eq!(ids(&world.call("GET", "/?limit=10", &other.query, "").await), ["theirs"]);
    // A revoked membrane's id may be used again, for another membrane.
    let again = world.membrane(&tenant.create, "first").await;
    assert_ne!(again.export, first.export);
    assert_eq!(
        world.call("POST", "/", &first.export, json!({"uri": "https://a.example/"})).await.status,
        401
    );
    assert!(world.is_alive(&world.grant(&again.export).await).await);
}

#[tokio::test]
async fn a_grant_is_sealed_for_its_token_and_found_by_its_lookup_id() {
    use base64::Engine as _;
    let (world, _, membrane) = world().await;
    let body = json!({"uri": "https://lambda.us-east-1.amazonaws.com/x", "method": "POST", "expiresAt": "2026-12-31T00:00:00Z"});
    let grant = world.export(&membrane.export, body).await;
    let reply = world.lookup(&grant).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json["kind"], "grant");
    assert_eq!(reply.json["expiresAt"], 1_798_675_200);
    assert_eq!(reply.json["as_of"]["seq"], 0);
    let units: capability::Units = serde_json::from_value(reply.json["units"].clone()).unwrap();
    assert_eq!(units.iter().len(), 1);
    let inner = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(reply.json["record"].as_str().unwrap())
        .unwrap();
    let bearer = capability::Token::parse(grant.as_bytes()).unwrap();
    let header = capability::record::Header {
        kind: capability::record::Kind::Grant,
        lookup: bearer.lookup_id(),
        expires_at: Some(1_798_675_200),
        units: &units,
    };
    let json = capability::record::open(&bearer, &header, &inner).unwrap();
    let opened: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(opened, json!({"uri": "https://lambda.us-east-1.amazonaws.com/x", "method": "POST"}));

    world.clock.0.store(1_798_675_199, Relaxed);
    assert!(world.is_alive(&grant).await);
    world.clock.0.store(1_798_675_200, Relaxed);
    let dead = world.lookup(&grant).await;
    assert_eq!((dead.status.as_u16(), &dead.json), (404, &json!({"as_of": reply.json["as_of"]})));
}

#[tokio::test]
async fn export_refuses_by_field_and_leaves_nothing() {
    let (world, _, membrane) = world().await;
    let unknown = capability::Token::mint([3; 64]);
    let before = world.rows();
    for (body, message) in [
        (json!({}), "exactly one of uri and capability"),
        (json!({"uri": "https://a.example/", "capability": uri(unknown.expose())}), "exactly one of"),
        (json!({"uri": "ftp://a.example/"}), "uri: must be an absolute http or https"),
        (json!({"uri": "https://a.example/", "tls": {"ca": "x"}}), "tls: "),
        (
            json!({"uri": "https://a.example/", "hmac": {"cap1-hmac-sha512": {"key": "a", "keyId": "b/c"}}}),
            "hmac.cap1-hmac-sha512.keyId: ",
        ),
        (json!({"uri": "https://a.example/", "nonsense": 1}), "nonsense: is not a field"),
        (json!({"capability": "https://a.example/"}), "capability: must be a capability URI"),
        (json!({"capability": uri(unknown.expose())}), "capability: must be a capability that can be used"),
        (json!({"uri": "http://169.254.169.254/latest/meta-data"}), "uri: must not lead to"),
        (json!({"uri": "http://[::1]:80/"}), "uri: must not lead to"),
        (json!({"uri": "http://10.1.2.3/"}), "uri: must not lead to"),
        (json!({"uri": "http://localhost:9445/metrics"}), "uri: must not lead to"),
        (
            json!({"capability": format!("cpblty://192.0.2.1/#{}", unknown.expose())}),
            "capability: another authority must be a DNS name",
        ),
        (
            json!({"capability": format!("cpblty:other.example@http:{}", unknown.expose())}),
            "capability: another authority must be spoken to over https",
        ),
    ] {
        let reply = world.call("POST", "/", &membrane.export, &body).await;
        assert_error(&reply, 400, "Bad Request", message);
        assert!(!reply.text.contains(unknown.expose()));
    }
    assert_error(&world.call("POST", "/?x=1", &membrane.export, "{}").await, 400, "Bad Request", "x: is not");
    assert_eq!(world.rows(), before);
    let open = World::with(|registry| registry.allow_private_targets = true);
    let membrane = open.membrane(&open.tenant("acme").create, "m").await;
    open.export(&membrane.export, json!({"uri": "http://127.0.0.1:4566/"})).await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let (world, tenant, membrane) = world().await;
    let body = |len: usize| format!(r#"{{"id":"big"}}{}"#, " ".repeat(len - 12));
    let before = world.rows();
    for bearer in [&tenant.create, &membrane.export, &membrane.revoke] {
        assert_error(&world.call("POST", "/", bearer, body(65_537)).await, 413, "Payload Too Large", "65536");
    }
    assert_eq!(world.rows(), before);
    assert_eq!(world.call("POST", "/", &tenant.create, body(65_536)).await.status, 201);
}

#[tokio::test]
async fn revoking_kills_what_was_exported_and_is_accepted_again_and_again() {
    let (world, _, membrane) = world().await;
    let grant = world.grant(&membrane.export).await;
    assert!(world.is_alive(&grant).await);
    for method in ["DELETE", "GET", "POST", "DELETE"] {
        let reply = world.call(method, "/", &membrane.revoke, "ignored").await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.text, r#"{"statusCode":202,"message":"Accepted"}"#);
        assert!(!world.is_alive(&grant).await);
    }
    let reply = world.call("POST", "/", &membrane.export, json!({"uri": "https://a.example/"})).await;
    assert_error(&reply, 401, "Unauthorized", "capability");
    assert_eq!(world.rows()[5], 1, "one event, however often it was revoked");
    assert_error(
        &world.call("DELETE", "/?wait=everybody", &membrane.revoke, "").await,
        400,
        "Bad Request",
        "wait: ",
    );
    assert_error(&world.call("DELETE", "/?x", &membrane.revoke, "").await, 400, "Bad Request", "x: ");
    // A repeated revoke is answered even after clearing up.
    world.registry.store.collect(None, 1_000, NOW).unwrap();
    assert_eq!(world.revoke(&membrane.revoke).await, 202);
}

#[tokio::test]
async fn delete_self_ends_the_tenant_alone() {
    let (world, tenant, membrane) = world().await;
    let grant = world.grant(&membrane.export).await;
    let other = world.tenant("other");
    let theirs = world.grant(&world.membrane(&other.create, "m").await.export).await;
    for method in ["DELETE", "GET", "POST"] {
        assert_eq!(world.call(method, "/", &tenant.delete_self, "").await.status, 202);
    }
    for (bearer, method) in [
        (&tenant.create, "POST"),
        (&tenant.query, "GET"),
        (&membrane.export, "POST"),
        (&membrane.revoke, "DELETE"),
    ] {
        assert_error(&world.call(method, "/", bearer, json!({"id": "x"})).await, 401, "Unauthorized", "");
    }
    assert!(!world.is_alive(&grant).await);
    assert!(world.is_alive(&theirs).await);
    assert_eq!(world.rows()[5], 1, "one event for the whole tenant");
    // Its name may be used again.
    world.membrane(&world.tenant("acme").create, "first").await;
}

#[tokio::test]
async fn methods_and_paths() {
    let (world, tenant, membrane) = world().await;
    for (bearer, allowed) in [
        (&tenant.create, "POST"),
        (&tenant.query, "GET"),
        (&membrane.export, "POST"),
        (&membrane.revoke, "DELETE, GET, POST"),
        (&tenant.delete_self, "DELETE, GET, POST"),
    ] {
        for method in ["GET", "POST", "DELETE", "PUT", "HEAD", "PATCH", "OPTIONS"] {
            if !allowed.contains(method) {
                let reply = world.call(method, "/", bearer, "").await;
                assert_eq!((reply.status.as_u16(), reply.headers["allow"].to_str().unwrap()), (405, allowed));
            }
        }
        assert_error(&world.call("POST", "/x", bearer, "{}").await, 404, "Not Found", "path");
    }
}

#[tokio::test]
async fn one_answer_for_every_bearer_that_is_none() {
    let (world, tenant, membrane) = world().await;
    let grant = world.grant(&membrane.export).await;
    let revoked = world.membrane(&tenant.create, "revoked").await;
    world.revoke(&revoked.revoke).await;
    let source = world
        .export(
            &membrane.export,
            json!({"capability": uri(&membrane.export), "expiresAt": "2026-09-21T14:13:21Z"}),
        )
        .await;
    assert_eq!(world.call("POST", "/", &source, json!({"uri": "https://a.example/"})).await.status, 201);
    world.clock.0.store(NOW + 1, Relaxed);
    let unknown = capability::Token::mint([3; 64]).expose().to_owned();
    let good = &tenant.create;
    let request = |values: &[String]| {
        let mut builder = Request::builder().method("POST").uri("/");
        for value in values {
            builder = builder.header("authorization", value);
        }
        builder.body(Body::from(r#"{"id":"x"}"#)).unwrap()
    };
    let before = world.rows();
    let mut answers = Vec::new();
    for values in [
        vec![],
        vec!["Basic eDp5".to_owned()],
        vec![good.clone()],
        vec![format!("Bearer {good}x")],
        vec![format!("Bearer {good}"), format!("Bearer {good}")],
        vec![format!("Bearer {}", unknown)],
        vec![format!("Bearer {}", grant)],
        vec![format!("Bearer {}", revoked.export)],
        vec![format!("Bearer {}", source)],
    ] {
        let reply = world.send(request(&values)).await;
        assert_error(&reply, 401, "Unauthorized", "");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        answers.push((reply.text, reply.headers));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "they cannot be told apart");
    assert_eq!(world.rows(), before);
}

#[tokio::test]
async fn re_export_dies_with_either_and_never_kills_its_source() {
    let (world, tenant, first) = world().await;
    let second = world.membrane(&tenant.create, "second").await;
    let grant = world.grant(&first.export).await;
    let copy = world.re_export(&second.export, &grant).await;
    // Two pairs, and what it is a copy of.
    let units = world.lookup(&copy).await.json["units"].clone();
    assert_eq!((units.as_array().unwrap().len(), units[2].as_str()), (3, Some(lookup(&grant).as_str())));
    world.revoke(&second.revoke).await;
    assert!(world.is_alive(&grant).await);
    assert!(!world.is_alive(&copy).await);

    let third = world.membrane(&tenant.create, "third").await;
    let copy = world.re_export(&third.export, &grant).await;
    world.revoke(&first.revoke).await;
    assert!(!world.is_alive(&copy).await);
    // What is dead cannot be brought back by re-exporting it.
    for dead in [&grant, &copy, &first.export] {
        let reply = world.call("POST", "/", &third.export, json!({"capability": uri(dead)})).await;
        assert_error(&reply, 400, "Bad Request", "capability: must be a capability that can be used");
    }
}

#[tokio::test]
async fn a_re_export_has_the_earlier_expiry() {
    let (world, _, membrane) = world().await;
    let (early, late) = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
    let source =
        world.export(&membrane.export, json!({"uri": "https://a.example/", "expiresAt": early})).await;
    let copy = world.export(&membrane.export, json!({"capability": uri(&source), "expiresAt": late})).await;
    assert_eq!(world.lookup(&copy).await.json["expiresAt"], 1_790_812_800);
    let copy = world.re_export(&membrane.export, &source).await;
    assert_eq!(world.lookup(&copy).await.json["expiresAt"], 1_790_812_800);
}

#[tokio::test]
async fn sixteen_delegations_and_no_seventeenth() {
    let (world, tenant, first) = world().await;
    let mut capability = world.grant(&first.export).await;
    for level in 2..=16 {
        let membrane = world.membrane(&tenant.create, &format!("level {level}")).await;
        capability = world.re_export(&membrane.export, &capability).await;
    }
    assert_eq!(world.lookup(&capability).await.json["units"].as_array().unwrap().len(), 16 + 15);
    let membrane = world.membrane(&tenant.create, "level 17").await;
    let before = world.rows();
    let reply = world.call("POST", "/", &membrane.export, json!({"capability": uri(&capability)})).await;
    assert_error(&reply, 400, "Bad Request", "capability: can be delegated at most 16 times");
    assert_eq!(world.rows(), before);
    world.revoke(&first.revoke).await;
    assert!(!world.is_alive(&capability).await);
}

#[tokio::test]
async fn delegated_controls_act_for_their_own_tenant_and_what_they_make_dies_with_the_delegation() {
    let world = World::new();
    let (alice, bob) = (world.tenant("alice"), world.tenant("bob"));
    let delegation = world.membrane(&bob.create, "delegation").await;
    // Bob hands Alice's create on through a membrane of his: it still makes membranes of Alice's.
    let create = world.re_export(&delegation.export, &alice.create).await;
    let made = world.membrane(&create, "made by delegation").await;
    let own = world.membrane(&alice.create, "own").await;
    let listed = world.call("GET", "/?limit=10", &alice.query, "").await;
    assert_eq!(listed.json["membranes"].as_array().unwrap().len(), 2);
    let (grant, own_grant) = (world.grant(&made.export).await, world.grant(&own.export).await);
    // A delegated export control: what is exported through it dies with the delegation too.
    let export = world.re_export(&delegation.export, &own.export).await;
    let through = world.grant(&export).await;
    // A delegated query and revoke.
    let query = world.re_export(&delegation.export, &alice.query).await;
    let listed_by_delegate = world.call("GET", "/?limit=10", &query, "").await;
    assert_eq!(listed_by_delegate.json, listed.json);
    let revoke = world.re_export(&delegation.export, &own.revoke).await;

    assert_eq!(world.revoke(&delegation.revoke).await, 202);
    assert!(!world.is_alive(&grant).await);
    assert!(!world.is_alive(&through).await);
    assert!(world.is_alive(&own_grant).await);
    for (bearer, method) in [
        (&create, "POST"),
        (&made.export, "POST"),
        (&export, "POST"),
        (&query, "GET"),
        (&revoke, "DELETE"),
        (&made.revoke, "DELETE"),
    ] {
        assert_eq!(world.call(method, "/", bearer, json!({"id": "y"})).await.status, 401);
    }
    let listed = world.call("GET", "/?limit=10", &alice.query, "").await;
    assert_eq!(listed.json["membranes"].as_array().unwrap().len(), 1, "what is dead is not listed");
    // Its id is free: what stood under it is dead.
    world.membrane(&alice.create, "made by delegation").await;
}

#[tokio::test]
async fn a_delegated_revoke_is_accepted_again_after_it_did_its_work() {
    let (world, tenant, first) = world().await;
    let second = world.membrane(&tenant.create, "second").await;
    let revoke = world.re_export(&second.export, &first.revoke).await;
    assert_eq!(world.revoke(&revoke).await, 202);
    assert_eq!(world.revoke(&revoke).await, 202);
    assert_eq!(world.revoke(&first.revoke).await, 202);
    assert_eq!(world.call("POST", "/", &first.export, "{}").await.status, 401);
    world.revoke(&second.revoke).await;
    assert_eq!(world.revoke(&revoke).await, 401, "of what it inherits, liveness counts");
    assert_eq!(world.revoke(&first.revoke).await, 202);
}

#[tokio::test]
async fn another_authoritys_capability_becomes_a_grant_that_forwards() {
    let (world, _, membrane) = world().await;
    let theirs = capability::Token::mint([5; 64]);
    let body = json!({"capability": format!("cpblty://other.example:8443/#{}", theirs.expose())});
    let grant = world.export(&membrane.export, body).await;
    assert_eq!(world.lookup(&grant).await.json["kind"], "grant");
    // The other names that are ours, with and without the port that goes without saying.
    for name in ["localhost:8443", "gateway.example", "gateway.example:443", "GATEWAY.example"] {
        let body = json!({"capability": format!("cpblty://{name}/#{grant}")});
        world.export(&membrane.export, body).await;
    }
    let elsewhere = json!({"capability": format!("cpblty://gateway.example:8443/#{grant}")});
    world.export(&membrane.export, elsewhere).await;
}

#[tokio::test]
async fn a_leaked_token_is_revoked_with_its_re_exports_and_nothing_else() {
    let (world, _, membrane) = world().await;
    let (leaked, other) = (world.grant(&membrane.export).await, world.grant(&membrane.export).await);
    let copy = world.re_export(&membrane.export, &leaked).await;
    let copy_of_copy = world.re_export(&membrane.export, &copy).await;
    for text in [format!("{leaked}\n"), uri(&leaked)] {
        registry::operator::revoke_token(&world.registry, &text).unwrap();
    }
    assert!(!world.is_alive(&leaked).await);
    assert!(world.is_alive(&other).await);
    assert!(!world.is_alive(&copy).await && !world.is_alive(&copy_of_copy).await);
    assert_eq!(world.registry.store.head().unwrap().seq, 1);
    assert!(registry::operator::revoke_token(&world.registry, "CPBLTY1-nonsense").is_err());
    let unknown = capability::Token::mint([9; 64]);
    assert!(registry::operator::revoke_token(&world.registry, unknown.expose()).is_err());
    assert_eq!(lookup(&leaked).len(), 43);
    let _ = token;
}
