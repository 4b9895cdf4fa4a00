//! The Membrane API over the wire: every row of its table, with every method, and every error in its published form.

use crate::{assert_error, eventually, own, recorded, shared};
use harness::gateway::{Gateway, Membrane, text};
use harness::http::Response;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// A tenant of the shared gateway for one test.
struct Tenant<'a> {
    gateway: &'a Gateway,
    uris: Value,
}

impl<'a> Tenant<'a> {
    fn new(gateway: &'a Gateway, id: &str) -> Self {
        Self { gateway, uris: gateway.another_tenant(id).unwrap() }
    }

    fn uri(&self, role: &str) -> &str {
        text(&self.uris, role).unwrap()
    }

    fn create(&self, id: &str) -> Value {
        let asked = self.gateway.request(self.uri("create"), "POST", "/").json(&json!({ "id": id }));
        asked.send().unwrap().expect(201, "creating").unwrap().json()
    }

    fn query(&self, query: &str) -> Response {
        self.gateway.request(self.uri("query"), "GET", &format!("/{query}")).send().unwrap()
    }

    fn ids(&self, query: &str) -> Vec<String> {
        let answer = self.query(query).expect(200, query).unwrap().json();
        let listed = answer["membranes"].as_array().unwrap();
        listed.iter().map(|membrane| membrane["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn controls(created: &Value) -> Membrane {
    let uri = |role: &str| created["capabilities"][role].as_str().unwrap().to_owned();
    Membrane { export: uri("export"), revoke: uri("revoke") }
}

fn is_capability(gateway: &Gateway, uri: &Value) -> bool {
    let prefix = format!("cpblty://localhost:{}/#CPBLTY1-", gateway.ports.gateway.number());
    let token = uri.as_str().and_then(|uri| uri.strip_prefix(&prefix)).unwrap_or_default();
    token.len() == 86 && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Percent-encoded as strictly as can be (RFC 3986, all but unreserved characters).
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// The names of an object's members.
fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn every_row_answers_its_methods_in_its_form() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/rows");
    let created = gateway
        .request(tenant.uri("create"), "POST", "/")
        .json(&json!({"id": "row"}))
        .send()
        .unwrap()
        .expect(201, "create")
        .unwrap();
    assert_eq!(created.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(created.header("cache-control").as_deref(), Some("no-store"), "it holds secrets");
    let created = created.json();
    assert_eq!(members(&created), ["id", "capabilities"].into());
    assert_eq!(members(&created["capabilities"]), ["export", "revoke"].into());
    assert!(["export", "revoke"].iter().all(|role| is_capability(gateway, &created["capabilities"][*role])));
    let membrane = controls(&created);

    let listed = tenant.query("").expect(200, "query").unwrap();
    assert_eq!(listed.header("cache-control").as_deref(), Some("no-store"), "it holds secrets");
    assert_eq!(
        listed.json(),
        json!({"membranes": [created], "completed": true}),
        "the very URIs that create gave"
    );

    let exported = gateway.try_export(&membrane, &recorded(gateway, Some("POST"), "/api/rows")).unwrap();
    let exported = exported.expect(201, "export").unwrap();
    assert_eq!(exported.header("cache-control").as_deref(), Some("no-store"), "it holds a secret");
    assert_eq!(members(&exported.json()), ["capability"].into());
    assert!(is_capability(gateway, &exported.json()["capability"]));
    let grant = exported.json()["capability"].as_str().unwrap().to_owned();
    // A grant: any method, here all replaced by the pinned one.
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(gateway.request(&grant, method, "/").send().unwrap().status, 200, "{method}");
    }
    let came = gateway.origin().requests("/api/rows");
    assert!(came.len() == 6 && came.iter().all(|request| request.method == "POST"));

    for (capability, allowed) in [
        (tenant.uri("create"), "POST"),
        (tenant.uri("query"), "GET"),
        (membrane.export.as_str(), "POST"),
        (membrane.revoke.as_str(), "DELETE, GET, POST"),
        (tenant.uri("deleteSelf"), "DELETE, GET, POST"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
            if allowed.split(", ").any(|name| name == method) {
                continue;
            }
            // A body that would do something, were the method not looked at.
            let asked = gateway.request(capability, method, "/");
            let answer = if method == "HEAD" { asked } else { asked.json(&json!({"id": "other"})) };
            let answer = answer.send().unwrap();
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.header("allow").as_deref(), Some(allowed), "{method}");
            if method == "HEAD" {
                assert!(answer.body.is_empty());
            } else {
                assert_error(&answer, 405, allowed);
            }
        }
        assert_error(&gateway.request(capability, "POST", "/row").send().unwrap(), 404, "path");
    }
    assert_eq!(tenant.ids("?limit=9"), ["row"], "nothing was done");

    // Revoke and deleteSelf with each of their methods, and again: the tombstones answer.
    let accepted = json!({"statusCode": 202, "message": "Accepted"});
    for (index, method) in ["GET", "POST", "DELETE"].into_iter().enumerate() {
        let created = tenant.create(&format!("revoked {method}"));
        let membrane = controls(&created);
        let grant = gateway.export(&membrane, &recorded(gateway, None, "/api/revoked")).unwrap();
        assert_eq!(gateway.request(&grant, "GET", "/").send().unwrap().status, 200);
        let other = Tenant::new(gateway, &format!("api/deleted/{index}"));
        let within = controls(&other.create("a"));
        let of_other = gateway.export(&within, &recorded(gateway, None, "/api/deleted")).unwrap();
        assert_eq!(gateway.request(&of_other, "GET", "/").send().unwrap().status, 200);
        for control in [&membrane.revoke, other.uri("deleteSelf")] {
            for again in [method, method, "DELETE", "GET", "POST"] {
                let answer = gateway.request(control, again, "/").send().unwrap();
                assert_eq!((answer.status, answer.json()), (202, accepted.clone()), "{again}");
            }
        }
        for dead in [&grant, &of_other] {
            let ask = || gateway.request(dead, "GET", "/").send().unwrap();
            assert_error(&eventually(401, Duration::from_secs(5), ask), 401, "");
        }
        let dead = [
            (membrane.export.as_str(), "POST"),
            (other.uri("create"), "POST"),
            (other.uri("query"), "GET"),
            (within.export.as_str(), "POST"),
            (within.revoke.as_str(), "DELETE"),
        ];
        for (capability, method) in dead {
            let answer = gateway.request(capability, method, "/").json(&json!({"id": "b"})).send().unwrap();
            assert_error(&answer, 401, "");
            assert_eq!(answer.header("www-authenticate").as_deref(), Some("Bearer"));
        }
    }
    assert_eq!(tenant.ids("?limit=9"), ["row"], "no tombstones");
    // A revoked membrane's id is free for another one.
    assert_ne!(tenant.create("revoked GET")["capabilities"], created["capabilities"]);
}

#[test]
fn bodies_are_json_whatever_the_content_type_says() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/types");
    let types = [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("text/plain; charset=utf-16"),
        Some("multipart/form-data; boundary=x"),
        Some("application/json"),
        Some("no type at all"),
    ];
    for (index, kind) in types.into_iter().enumerate() {
        let post = |capability: &str, body: &Value| {
            let asked = gateway.request(capability, "POST", "/");
            let asked = kind.into_iter().fold(asked, |asked, kind| asked.header("Content-Type", kind));
            asked.json(body).send().unwrap()
        };
        let created = post(tenant.uri("create"), &json!({"id": index.to_string()}));
        let created = created.expect(201, kind.unwrap_or("none")).unwrap().json();
        let export =
            post(&controls(&created).export, &json!({"uri": "https://recorder.us-east-1.amazonaws.com/"}));
        export.expect(201, kind.unwrap_or("none")).unwrap();
    }
}

#[test]
fn ids_are_what_people_choose_and_are_found_again() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/ids");
    let mut ids = vec![
        "accounts/8a56e1b2".to_owned(),
        "with spaces".into(),
        "+&=#?%25;".into(),
        "Ünïcödé ✓ \u{1f980}".into(),
        "\"quoted\" \\ \n\t\u{7f}\u{1}".into(),
        " ".into(),
        "a".into(),
        "A".into(),
        "\u{feff}".into(),
        "e\u{301}".into(),
        "\u{e9}".into(),
        "\u{1f980}".repeat(512),
        "x".repeat(512),
        "CON".into(),
        "../..".into(),
        "' OR 1=1 --".into(),
    ];
    let created: Vec<Value> = ids.iter().map(|id| tenant.create(id)).collect();
    for (id, created) in ids.iter().zip(&created) {
        assert_eq!(created["id"], json!(id));
        let found = tenant.query(&format!("?id={}", encoded(id))).expect(200, id).unwrap().json();
        assert_eq!(found, json!({"membranes": [created], "completed": true}), "{id:?}");
        let answer = gateway.request(tenant.uri("create"), "POST", "/").json(&json!({ "id": id })).send();
        assert_error(&answer.unwrap(), 409, "id");
    }
    // A space is a plus in a form (URLSearchParams writes it so), and a plus is not.
    assert_eq!(tenant.ids("?id=with+spaces"), ["with spaces"]);
    assert_eq!(tenant.ids("?id=%2B%26%3D%23%3F%2525%3B"), ["+&=#?%25;"]);
    assert_eq!(tenant.ids("?id=accounts/8a56e1b2"), ["accounts/8a56e1b2"]);
    ids.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(tenant.ids("?limit=100"), ids, "bytewise");
    for (index, id) in ids.iter().enumerate() {
        let after = tenant.ids(&format!("?limit=100&lastId={}", encoded(id)));
        assert_eq!(after, ids[index + 1..], "after {id:?}");
    }
    for (query, names) in
        [("?id=%00", "id"), (&*format!("?lastId={}", "x".repeat(513)), "lastId"), ("?id=a%00b", "id")]
    {
        assert_error(&tenant.query(query), 400, names);
    }
    let latin_1 = b"GET /?id=\xe9 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ".to_vec();
    let token = tenant.uri("query").rsplit('#').next().unwrap();
    let raw = [latin_1, token.as_bytes().to_vec(), b"\r\n\r\n".to_vec()].concat();
    assert_eq!(gateway.client.raw(&raw, false).unwrap().status, 400, "not percent-encoded");
}

#[test]
fn an_id_is_given_once_however_many_ask_for_it() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/once");
    for round in 0..4 {
        let body = json!({"id": format!("once {round}")});
        let answers: Vec<Response> = std::thread::scope(|scope| {
            let ask = || gateway.request(tenant.uri("create"), "POST", "/").json(&body).send().unwrap();
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
        assert_eq!((made.len(), refused.len()), (1, 7));
        refused.into_iter().for_each(|answer| assert_error(answer, 409, "id"));
        let listed = tenant.query(&format!("?id=once+{round}")).json();
        assert_eq!(listed["membranes"], json!([made[0].json()]));
    }
}

#[test]
fn query_gives_pages() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/pages");
    let none = json!({"membranes": [], "completed": true});
    assert_eq!(tenant.query("").json(), none, "an empty tenant");
    for id in ["c", "a", "b"] {
        tenant.create(id);
    }
    for (query, ids, completed) in [
        ("", &["a"][..], false),
        ("?limit=1", &["a"], false),
        ("?limit=2", &["a", "b"], false),
        ("?limit=3", &["a", "b", "c"], true),
        ("?limit=18446744073709551615", &["a", "b", "c"], true),
        ("?lastId=a", &["b"], false),
        ("?lastId=b", &["c"], true),
        ("?lastId=c", &[], true),
        ("?lastId=aa&limit=9", &["b", "c"], true),
        ("?lastId=zzz", &[], true),
        ("?id=b", &["b"], true),
        ("?id=b&limit=9", &["b"], true),
        ("?id=b&lastId=a", &["b"], true),
        ("?id=b&lastId=b", &[], true),
        ("?id=none", &[], true),
        // As npm's capability-sdk writes what is undefined.
        ("?id=&lastId=&limit=", &["a"], false),
        // What the API does not know is not forwarded (request-path: known query names).
        ("?limit=2&utm_source=x", &["a", "b"], false),
    ] {
        assert_eq!(tenant.ids(query), ids, "{query}");
        assert_eq!(tenant.query(query).json()["completed"], json!(completed), "{query}");
    }
    for (query, names) in [
        ("?limit=0", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=1.5", "limit"),
        ("?limit=x", "limit"),
        ("?limit=18446744073709551616", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?wait=fleet", "wait"),
        ("?id=a&id=b", "id"),
    ] {
        assert_error(&tenant.query(query), 400, names);
    }
}

#[test]
fn errors_have_the_published_form() {
    let gateway = shared();
    let tenant = Tenant::new(gateway, "api/errors");
    let membrane = controls(&tenant.create("taken"));
    let grant = gateway.export(&membrane, &recorded(gateway, Some("HEAD"), "/api/errors")).unwrap();
    let asked = |capability: &str, method: &str, target: &str, body: &str| {
        gateway.request(capability, method, target).body(body).send().unwrap()
    };
    let large = format!(r#"{{"id":"{}"}}"#, "x".repeat(65_536));
    let forms = [
        (asked(tenant.uri("create"), "POST", "/", "{}"), 400, "Bad Request", None),
        (asked(&grant, "POST", "/", ""), 405, "Method Not Allowed", Some(("allow", "HEAD"))),
        (asked(&grant, "GET", "/x", ""), 404, "Not Found", None),
        (asked("CPBLTY1-x", "GET", "/", ""), 401, "Unauthorized", Some(("www-authenticate", "Bearer"))),
        (asked(tenant.uri("query"), "GET", "/x", ""), 404, "Not Found", None),
        (asked(tenant.uri("query"), "POST", "/", ""), 405, "Method Not Allowed", Some(("allow", "GET"))),
        (asked(tenant.uri("create"), "POST", "/", r#"{"id":"taken"}"#), 409, "Conflict", None),
        (asked(tenant.uri("create"), "POST", "/", &large), 413, "Payload Too Large", None),
        (asked(&membrane.export, "POST", "/", &large), 413, "Payload Too Large", None),
    ];
    for (answer, status, error, header) in forms {
        assert_eq!(answer.status, status, "{}", answer.text());
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name).as_deref(), Some(value));
        }
        let body = answer.json();
        assert_eq!(members(&body), ["statusCode", "error", "message"].into(), "{status}");
        assert_eq!((&body["statusCode"], &body["error"]), (&json!(status), &json!(error)));
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 5), "{body}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/json"), "{status}");
        // The 401 shows how a token begins; no answer shows one.
        let tokens = [tenant.uri("create"), tenant.uri("query"), &membrane.export, &grant];
        let shown = tokens.iter().any(|uri| answer.text().contains(uri.rsplit("CPBLTY1-").next().unwrap()));
        assert!(!shown, "{status}: the message holds a token");
    }
}

/// Without the registry a control is not answered by somebody else in another form, whether the gateway knows it already or not.
#[test]
fn controls_without_the_registry_are_503_in_the_published_form() {
    let mut gateway = own("api-outage");
    let (known, unknown) = (
        text(&gateway.tenant, "query").unwrap().to_owned(),
        text(&gateway.tenant, "create").unwrap().to_owned(),
    );
    for _ in 0..16 {
        assert_eq!(gateway.request(&known, "GET", "/").send().unwrap().status, 200);
    }
    gateway.kill_registry();
    for capability in [&unknown, &known] {
        for _ in 0..4 {
            let answer = gateway.request(capability, "GET", "/").send().unwrap();
            assert_error(&answer, 503, "registry");
            let again = answer.header("retry-after");
            assert!(again.is_some_and(|value| value.parse::<u32>().is_ok()), "Retry-After");
        }
    }
    // Tombstones are kept: what was revoked before goes on being accepted afterwards.
    gateway.start_registry().unwrap();
    eventually(200, Duration::from_secs(10), || gateway.request(&known, "GET", "/").send().unwrap());
    let membrane = gateway.create_membrane("tombstone").unwrap();
    gateway.revoke(&membrane).unwrap();
    gateway.kill_registry();
    gateway.start_registry().unwrap();
    eventually(202, Duration::from_secs(10), || {
        gateway.request(&membrane.revoke, "DELETE", "/").send().unwrap()
    });
    assert_error(&gateway.try_export(&membrane, &json!({"uri": "https://a.example/"})).unwrap(), 401, "");
    gateway.stop().unwrap();
}

#[test]
fn tenants_beside_each_other_share_nothing() {
    let gateway = shared();
    let (first, second) = (Tenant::new(gateway, "api/first"), Tenant::new(gateway, "api/second"));
    let ids = ["same", "same/again", "same again"];
    let of_first: Vec<Value> = ids.iter().map(|id| first.create(id)).collect();
    let of_second: Vec<Value> = ids.iter().map(|id| second.create(id)).collect();
    first.create("first's own");
    for (tenant, own, foreign) in [(&first, &of_first, &of_second), (&second, &of_second, &of_first)] {
        for (id, (own, foreign)) in ids.iter().zip(own.iter().zip(foreign)) {
            let found = tenant.query(&format!("?id={}", encoded(id))).json();
            assert_eq!(found["membranes"], json!([own]));
            assert_ne!(own["capabilities"], foreign["capabilities"]);
        }
    }
    assert_eq!(second.query("?id=first%27s%20own").json(), json!({"membranes": [], "completed": true}));
    assert_eq!(second.ids("?limit=100").len(), 3);
    // Revoking one's own leaves the other's of the same id.
    let grants: Vec<String> = [&of_first[0], &of_second[0]]
        .map(|created| gateway.export(&controls(created), &recorded(gateway, None, "/api/beside")).unwrap())
        .into();
    gateway.revoke(&controls(&of_first[0])).unwrap();
    let ask = |grant: &str| gateway.request(grant, "GET", "/").send().unwrap();
    eventually(401, Duration::from_secs(5), || ask(&grants[0]));
    assert_eq!(ask(&grants[1]).status, 200);
    assert_eq!((first.ids("?id=same").len(), second.ids("?id=same").len()), (0, 1));
    // The end of one tenant, whose name may be given to another one afterwards, who finds nothing of it.
    assert_eq!(gateway.request(first.uri("deleteSelf"), "DELETE", "/").send().unwrap().status, 202);
    assert_eq!(second.ids("?limit=100").len(), 3);
    assert_eq!(ask(&grants[1]).status, 200);
    let again = Tenant::new(gateway, "api/first");
    assert_eq!(again.query("?limit=100").json(), json!({"membranes": [], "completed": true}));
    assert_error(&first.query(""), 401, "");
}
