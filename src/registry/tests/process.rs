//! The program as an operator runs it: init, serve, TLS, signals, logs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "test code"
)]

#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/process.rs"]
mod program;

use program::{Running, contents, fails, home, ok, program, run, serve, serve_with, token};
use registry::certificates;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn init_makes_everything_once_and_completes_what_is_half_done() {
    let (_keep, dir) = home();
    let path = Path::new(&dir);
    let before = contents(path);
    for (file, _, mode) in &before {
        let secret = [
            "kek",
            "ca-key.pem",
            "control-key.pem",
            "gateway-key.pem",
            "gateway-client-key.pem",
            "registry.db",
            "revocations.log",
        ]
        .iter()
        .any(|name| file.ends_with(name));
        assert_eq!(*mode, if secret { 0o600 } else { 0o644 }, "{}", file.display());
    }
    assert_eq!(before.len(), 12);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(ok(&["init", "--dir", &dir]).contains("nothing was changed"));
    assert_eq!(contents(path), before);

    // A run that was killed after any file: the next one completes it and overwrites no key.
    let order = [
        "registry.json",
        "registry.db",
        "tls/gateway-client.pem",
        "tls/gateway-client-key.pem",
        "tls/gateway.pem",
        "tls/gateway-key.pem",
        "tls/control.pem",
        "tls/control-key.pem",
        "ca.pem",
        "ca-key.pem",
    ];
    for done in 1..=order.len() {
        order[..done].iter().for_each(|file| fs::remove_file(path.join(file)).unwrap());
        let left: Vec<_> =
            contents(path).into_iter().filter(|file| !file.0.ends_with("revocations.log")).collect();
        ok(&["init", "--dir", &dir, "--authority", "gw.example:8443"]);
        let now = contents(path);
        assert_eq!(now.len(), 12, "after {done}");
        assert!(left.iter().all(|file| now.contains(file)), "after {done}");
    }
    // What must not be made anew is not.
    fs::remove_file(path.join("kek")).unwrap();
    fails(&["init", "--dir", &dir], "restore it from your backup");
    assert!(!path.join("kek").exists());
}

#[test]
fn what_is_wrong_is_said() {
    let (keep, dir) = home();
    let none = keep.path().join("none").to_str().unwrap().to_owned();
    fails(&["serve", "--dir", &none], &format!("run membrane-registry init --dir {none}"));
    let key = format!("{dir}/tls/control-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fails(
        &[
            "serve",
            "--dir",
            &dir,
            "--control",
            "127.0.0.1:0",
            "--gateway",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ],
        &format!("chmod 600 {key}"),
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(format!("{dir}/kek"), fs::Permissions::from_mode(0o604)).unwrap();
    fails(&["tenant", "list", "--dir", &dir], &format!("chmod 600 {dir}/kek"));
    fs::set_permissions(format!("{dir}/kek"), fs::Permissions::from_mode(0o600)).unwrap();
    ok(&["tenant", "create", "--dir", &dir, "--id", "acme"]);
    fails(&["tenant", "create", "--dir", &dir, "--id", "acme"], "there is a tenant with this id");
    fails(&["tenant", "create", "--dir", &dir, "--id", ""], "--id must have 1 to 512 characters");
    fails(&["tenant", "revoke", "--dir", &dir, "--id", "nobody"], "there is no tenant");
    fails(&["membrane", "revoke", "--dir", &dir, "--tenant", "acme", "--id", "m"], "no membrane");
    let out = keep.path().join("no/such/folder.json").to_str().unwrap().to_owned();
    fails(&["tenant", "create", "--dir", &dir, "--id", "lost", "--out", &out], "revoked again");
    let listed = ok(&["tenant", "list", "--dir", &dir]);
    assert!(listed.contains("acme") && !listed.contains("lost"));
    assert_eq!(run(&["serve"]).status.code(), Some(2));
}

#[test]
fn who_is_let_in_where() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let events = "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1";
    let (status, body) = server.ask(server.gateway, Some("gateway-client"), events, "").unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("slot_key"));
    // The same CA, but another name: the gateway's own server certificate, and the registry's.
    for stranger in [None, Some("gateway"), Some("control")] {
        assert_eq!(server.ask(server.gateway, stranger, events, ""), None, "{stranger:?}");
    }
    // Even a client certificate of the same CA, if it carries another name.
    let names = [("other", "membrane-gateway.other"), ("again", "membrane-gateway")];
    for (file, san) in names {
        let read = |file: &str| fs::read_to_string(format!("{dir}/{file}")).unwrap();
        let (ca, ca_key) = (read("ca.pem"), read("ca-key.pem").into());
        let key = certificates::new_key().unwrap();
        let now = std::fs::metadata(&dir).unwrap().modified().unwrap();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let purpose = certificates::Purpose::Client;
        let pem = certificates::issue(&ca, &ca_key, &key, purpose, vec![san.to_owned()], now).unwrap();
        fs::write(format!("{dir}/tls/{file}.pem"), pem).unwrap();
        fs::write(format!("{dir}/tls/{file}-key.pem"), key.as_bytes()).unwrap();
    }
    assert_eq!(server.ask(server.gateway, Some("other"), events, ""), None);
    assert_eq!(server.ask(server.gateway, Some("again"), events, "").unwrap().0, 200);
    // Nothing of the gateway listener is at the control listener, nor the other way round.
    assert_eq!(server.ask(server.control, None, events, "").unwrap().0, 404);
    assert_eq!(server.ask(server.gateway, Some("gateway-client"), "GET / HTTP/1.1", "").unwrap().0, 404);
    // Heads have a limit.
    let huge = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(40_000));
    assert!(server.ask(server.control, None, &huge, "").is_none_or(|(status, _)| status == 431));
    assert!(server.plain("/healthz").starts_with("HTTP/1.1 200"));
    assert!(server.plain("/readyz").starts_with("HTTP/1.1 200"));
    let metrics = server.plain("/metrics");
    assert!(
        metrics.contains("membrane_registry_requests_total{listener=\"gateway\",status=\"2xx\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("membrane_registry_handshakes_failed_total"));
    server.stop();
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let before = fs::read(format!("{dir}/tls/control.pem")).unwrap();
    // Another CA altogether: what was trusted before is refused after.
    let other = tempfile::tempdir().unwrap();
    let theirs = other.path().join("reg").to_str().unwrap().to_owned();
    ok(&["init", "--dir", &theirs]);
    let asks =
        |server: &Running| server.ask(server.control, None, "GET / HTTP/1.1", "").map(|(status, _)| status);
    assert_eq!(asks(&server), Some(401));
    for file in ["tls/control-key.pem", "tls/control.pem"] {
        fs::copy(format!("{theirs}/{file}"), format!("{dir}/{file}")).unwrap();
    }
    let changed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        asks(&server).is_none()
    });
    assert!(changed, "the new certificate is of a CA that this client does not trust");
    server.stop();
    ok(&["cert", "issue", "--dir", &theirs, "--name", "control"]);
    assert_ne!(fs::read(format!("{theirs}/tls/control.pem")).unwrap(), before);
}

#[test]
fn the_operator_beside_a_running_server_and_no_secret_in_any_log() {
    let (keep, dir) = home();
    let server = serve(&dir);
    let out = keep.path().join("tenant.json").to_str().unwrap().to_owned();
    ok(&["tenant", "create", "--dir", &dir, "--id", "acme", "--out", &out]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let tenant: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    let fields: Vec<&String> = tenant.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["create", "deleteSelf", "id", "query"]);
    assert!(tenant["create"].as_str().unwrap().starts_with("cpblty://gw.example:8443/#"));
    fails(&["tenant", "create", "--dir", &dir, "--id", "b", "--out", &out], "is there already");

    let (status, made) = server.api("POST", "/", token(&tenant["create"]), r#"{"id":"m"}"#);
    assert_eq!(status, 201);
    let (export, revoke) = (token(&made["capabilities"]["export"]), token(&made["capabilities"]["revoke"]));
    let body = json!({"uri": "https://canary.example/", "headers": {"x-api-key": "canary-header"},
        "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIACANARY", "region": "r", "service": "s", "secretAccessKey": "canary-secret"}}});
    let (status, minted) = server.api("POST", "/", export, &body.to_string());
    assert_eq!(status, 201);
    let grant = token(&minted["capability"]);
    assert_eq!(server.api("POST", "/", export, r#"{"uri":"canary-uri","canary-field":1}"#).0, 400);
    assert_eq!(server.api("GET", "/?id=canary-id&limit=5", token(&tenant["query"]), "").0, 200);
    assert_eq!(server.api("GET", "/?canary-parameter=1", token(&tenant["query"]), "").0, 400);

    // HTTP/2 as well, whose library prints whole header blocks if it is let.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let over_http2 = server.client.ask_http2(server.control, token(&tenant["create"]), r#"{"id":"over h2"}"#);
    assert_eq!(runtime.block_on(over_http2), 201);
    drop(runtime);

    // A held question is woken by a revocation in another process.
    let leaked = std::thread::scope(|scope| {
        let (_, body) = server
            .ask(
                server.gateway,
                Some("gateway-client"),
                "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1",
                "",
            )
            .unwrap();
        let position: Value = serde_json::from_str(&body).unwrap();
        let epoch = position["position"]["epoch"].as_str().unwrap().to_owned();
        let server = &server;
        let held = scope.spawn(move || {
            let head = format!("GET /v1/events?epoch={epoch}&after=0&hold=30000&watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1");
            server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap().1
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut revoking = program(&["revoke", "--dir", &dir, "--token-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        revoking.stdin.take().unwrap().write_all(grant.as_bytes()).unwrap();
        assert_eq!(revoking.wait_with_output().unwrap().stdout, b"{\"revoked\":true}\n");
        held.join().unwrap()
    });
    let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id().to_string();
    assert!(leaked.contains(&lookup), "{leaked}");

    assert!(ok(&["membrane", "list", "--dir", &dir, "--tenant", "acme"]).contains("\"id\":\"m\""));
    assert_eq!(
        ok(&["membrane", "revoke", "--dir", &dir, "--tenant", "acme", "--id", "m"]),
        "{\"revoked\":true}\n"
    );
    assert_eq!(server.api("POST", "/", export, "{}").0, 401);
    assert_eq!(server.api("DELETE", "/", revoke, "").0, 202);
    assert_eq!(ok(&["tenant", "revoke", "--dir", &dir, "--id", "acme"]), "{\"revoked\":true}\n");
    assert_eq!(server.api("POST", "/", token(&tenant["create"]), "{}").0, 401);

    let log = server.stop();
    assert!(log.contains("serving") && log.contains("answered"), "trace is on: {log}");
    // Libraries are not heard at these levels, whatever they would print: that is theirs to change with every release.
    assert!(!log.contains("h2::") && !log.contains("hyper"), "{log}");
    let secrets = [&tenant["create"], &tenant["query"], &tenant["deleteSelf"]].map(token);
    for secret in secrets.into_iter().chain([export, revoke, grant, "CPBLTY1-", "canary", "AKIACANARY"]) {
        assert!(!log.to_lowercase().contains(&secret.to_lowercase()), "{secret} in the log");
    }
    let files = contents(Path::new(&dir));
    for secret in [export, revoke, grant, "canary"] {
        let found =
            files.iter().find(|file| file.1.windows(secret.len()).any(|window| window == secret.as_bytes()));
        assert!(found.is_none(), "{secret} in {:?}", found.map(|file| &file.0));
    }
}

#[test]
fn a_stopping_server_answers_held_questions() {
    let (_keep, dir) = home();
    let server = serve(&dir);
    let (_, body) = server
        .ask(
            server.gateway,
            Some("gateway-client"),
            "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1",
            "",
        )
        .unwrap();
    let position: Value = serde_json::from_str(&body).unwrap();
    let epoch = position["position"]["epoch"].as_str().unwrap().to_owned();
    let (client, port) = (server.client.clone(), server.gateway);
    let held = std::thread::spawn(move || {
        let head = format!(
            "GET /v1/events?epoch={epoch}&after=0&hold=60000&watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1"
        );
        client.ask(port, Some("gateway-client"), &head, "").unwrap().0
    });
    std::thread::sleep(Duration::from_millis(300));
    server.stop();
    assert_eq!(held.join().unwrap(), 200);
}

#[test]
fn two_registries_over_one_postgresql() {
    let (_keep, dir) = home();
    let keep = tempfile::tempdir().unwrap();
    let url = postgres::Server::shared().schema();
    // The password is not on the command line, and nowhere else either.
    let env = [
        ("PGPASSWORD", postgres::PASSWORD),
        ("MEMBRANE_STORE", &*url.replace(&format!(":{}", postgres::PASSWORD), "")),
    ];
    let with = |args: &[&str]| {
        let output = program(args).envs(env).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    with(&["init", "--dir", &dir]);
    let tenant: Value =
        serde_json::from_str(&with(&["tenant", "create", "--dir", &dir, "--id", "acme"])).unwrap();
    // A second machine: a folder of its own, the keys of the first.
    let second = keep.path().join("second").to_str().unwrap().to_owned();
    let mut refused = program(&["init", "--dir", &second]);
    let refused = refused.envs(env).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("copy the file kek"), "{said}");
    fs::create_dir_all(&second).unwrap();
    with(&["init", "--dir", &second, "--kek", &format!("exec:cat '{dir}/kek'")]);
    let one = serve_with(&dir, |command| {
        command.envs(env);
    });
    let other = serve_with(&second, |command| {
        command.envs(env).args(["--kek", &format!("file:{dir}/kek")]);
    });
    let (status, made) = one.api("POST", "/", token(&tenant["create"]), r#"{"id":"m"}"#);
    assert_eq!(status, 201);
    let export = token(&made["capabilities"]["export"]);
    let (status, minted) = other.api("POST", "/", export, r#"{"uri":"https://example.com/"}"#);
    assert_eq!(status, 201, "{minted}");
    let lookup = capability::Token::parse(token(&minted["capability"]).as_bytes()).unwrap().lookup_id();
    let alive = |server: &Running| {
        let head = format!("GET /v1/records/{lookup}?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1 HTTP/1.1");
        server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap().0
    };
    assert_eq!((alive(&one), alive(&other)), (200, 200));
    assert_eq!(other.api("DELETE", "/", token(&made["capabilities"]["revoke"]), "").0, 202);
    assert_eq!((alive(&one), alive(&other)), (404, 404));
    for log in [one.stop(), other.stop()] {
        assert!(!log.contains(postgres::PASSWORD) && log.contains("serving"), "{log}");
    }
    for folder in [&dir, &second] {
        let files = contents(Path::new(folder));
        let canary = postgres::PASSWORD.as_bytes();
        assert!(!files.iter().any(|file| file.1.windows(canary.len()).any(|window| window == canary)));
    }
}

#[test]
fn who_did_what_is_written_down_without_a_secret_and_tenants_have_limits() {
    let (keep, dir) = home();
    let file = keep.path().join("audit.jsonl");
    let audit = file.to_str().unwrap();
    let tenant: Value = serde_json::from_str(&ok(&[
        "tenant",
        "create",
        "--dir",
        &dir,
        "--audit",
        audit,
        "--id",
        "canary-tenant",
    ]))
    .unwrap();
    let server = serve_with(&dir, |command| {
        command.args(["--audit", audit, "--max-membranes", "2", "--max-capabilities", "5"]);
    });
    let create = token(&tenant["create"]);
    let (_, made) = server.api("POST", "/", create, r#"{"id":"canary-one"}"#);
    assert_eq!(server.api("POST", "/", create, r#"{"id":"canary-one"}"#).0, 409);
    assert_eq!(server.api("POST", "/", create, r#"{"id":"two"}"#).0, 201);
    let (status, refused) = server.api("POST", "/", create, r#"{"id":"three"}"#);
    assert_eq!((status, &refused["error"]), (403, &"Forbidden".into()));
    assert!(refused["message"].as_str().unwrap().contains("the tenant has 2 membranes"), "{refused}");
    let control = |name: &str| token(&made["capabilities"][name]);
    let grant = r#"{"uri":"https://canary.example/"}"#;
    let (_, minted) = server.api("POST", "/", control("export"), grant);
    let (status, refused) = server.api("POST", "/", control("export"), grant);
    assert_eq!((status, &refused["error"]), (403, &"Forbidden".into()));
    let what_to_do = refused["message"].as_str().unwrap();
    assert!(what_to_do.contains("5 are the most") && what_to_do.contains("revoke membranes"), "{refused}");
    let listed: Value = serde_json::from_str(&ok(&["tenant", "list", "--dir", &dir])).unwrap();
    assert_eq!((&listed["membranes"], &listed["capabilities"]), (&2.into(), &5.into()), "{listed}");
    assert_eq!(server.api("DELETE", "/", control("revoke"), "").0, 202);
    assert_eq!(server.api("POST", "/", create, r#"{"id":"three"}"#).0, 201, "one was revoked");
    assert_eq!(server.api("POST", "/", "CPBLTY1-x", "").0, 401);
    let log = server.stop();
    ok(&["tenant", "revoke", "--dir", &dir, "--audit", audit, "--id", "canary-tenant"]);

    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("operator.tenant.create", 200),
            ("create", 201),
            ("create", 409),
            ("create", 201),
            ("create", 403),
            ("export", 201),
            ("export", 403),
            ("revoke", 202),
            ("create", 201),
            ("operator.revoke", 200)
        ]
    );
    assert!(
        events[..9].iter().all(|event| event["tenant"] == events[0]["tenant"] && event["tenant"].is_string())
    );
    assert_eq!(events[7]["membrane"], events[1]["membrane"]);
    assert_eq!(events[7]["position"]["seq"], 1);
    assert_eq!(events[9]["unit"], events[0]["tenant"]);
    let lookup = capability::Token::parse(token(&minted["capability"]).as_bytes()).unwrap().lookup_id();
    assert_eq!(events[5]["capability"], lookup.to_string());
    assert!(events[5]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(log.contains(events[5]["request"].as_str().unwrap()), "the log speaks of the same request");
    assert!(!text.contains("canary") && !text.contains("CPBLTY1-"));
    for secret in [create, control("export"), control("revoke"), token(&minted["capability"])] {
        assert!(!text.contains(secret));
    }
}

#[test]
fn logs_are_lines_of_json_where_that_is_asked_for() {
    let (_keep, dir) = home();
    let log = fails_and_says(&["tenant", "revoke", "--dir", &dir, "--id", "nobody"]);
    assert!(!log.contains("{\""));
    // A store that disagrees with its log warns as it is opened.
    fs::write(format!("{dir}/revocations.log"), "").unwrap();
    let epoch = "AQEBAQEBAQEBAQEBAQEBAQ";
    fs::write(format!("{dir}/revocations.log"), format!("{epoch} 7 -\n")).unwrap();
    let output =
        program(&["tenant", "list", "--dir", &dir]).env("MEMBRANE_LOG_FORMAT", "json").output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    let event: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(event["level"], "WARN");
}

fn fails_and_says(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}
