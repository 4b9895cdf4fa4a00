//! backup, restore, check, rekey, export and import, as an operator runs them.

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

use program::{Running, contents, fails, home, ok, program, run, serve, token};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What a test has made: a tenant's create, a membrane's export and revoke, a grant.
struct Made {
    create: String,
    query: String,
    export: String,
    revoke: String,
    grant: String,
}

fn make(server: &Running, tenant: &Value, id: &str) -> Made {
    let create = token(&tenant["create"]).to_owned();
    let (status, made) = server.api("POST", "/", &create, &format!(r#"{{"id":"{id}"}}"#));
    assert_eq!(status, 201);
    let control = |name: &str| token(&made["capabilities"][name]).to_owned();
    let (export, revoke) = (control("export"), control("revoke"));
    let (status, minted) = server.api("POST", "/", &export, r#"{"uri":"https://example.com/"}"#);
    assert_eq!(status, 201);
    Made {
        create,
        query: token(&tenant["query"]).to_owned(),
        export,
        revoke,
        grant: token(&minted["capability"]).to_owned(),
    }
}

fn is_alive(server: &Running, grant: &str) -> bool {
    let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id();
    let head = format!("GET /v1/records/{lookup}?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1 HTTP/1.1");
    server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap().0 == 200
}

fn epoch(server: &Running) -> String {
    let head = "GET /v1/events?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=60 HTTP/1.1";
    let (_, body) = server.ask(server.gateway, Some("gateway-client"), head, "").unwrap();
    serde_json::from_str::<Value>(&body).unwrap()["position"]["epoch"].as_str().unwrap().to_owned()
}

fn tenant(dir: &str, id: &str) -> Value {
    serde_json::from_str(&ok(&["tenant", "create", "--dir", dir, "--id", id])).unwrap()
}

fn checked(dir: &str) -> Value {
    serde_json::from_str(&ok(&["check", "--dir", dir])).unwrap()
}

#[test]
fn a_backup_that_is_brought_back_forgets_no_revocation() {
    let (keep, dir) = home();
    let acme = tenant(&dir, "acme");
    let server = serve(&dir);
    let (one, two) = (make(&server, &acme, "one"), make(&server, &acme, "two"));
    let file = keep.path().join("backup").to_str().unwrap().to_owned();
    // While it serves.
    assert!(ok(&["backup", "--dir", &dir, &file]).contains("wrote"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fails(&["backup", "--dir", &dir, &file], "is there already");
    assert_eq!(server.api("DELETE", "/", &one.revoke, "").0, 202);
    let later = make(&server, &acme, "later");
    let before = epoch(&server);
    fails(&["restore", "--dir", &dir, &file], "stop the server first");
    server.stop();

    let broken = keep.path().join("broken").to_str().unwrap().to_owned();
    fs::write(&broken, &fs::read(&file).unwrap()[..20_000]).unwrap();
    assert_eq!(run(&["restore", "--dir", &dir, &broken]).status.code(), Some(1));
    assert!(ok(&["restore", "--dir", &dir, &file]).contains("1 revocations are in force"));
    let server = serve(&dir);
    assert_ne!(epoch(&server), before);
    assert!(!is_alive(&server, &one.grant) && is_alive(&server, &two.grant));
    assert!(!is_alive(&server, &later.grant), "made after the backup");
    assert_eq!(server.api("POST", "/", &two.export, r#"{"uri":"https://example.com/"}"#).0, 201);
    let (between, _) = (epoch(&server), server.stop());
    // Brought back again though nothing was revoked since: gateways hold what the store does not know, all the same.
    ok(&["restore", "--dir", &dir, &file]);
    let server = serve(&dir);
    assert_ne!(epoch(&server), between);
    server.stop();
    assert_eq!(checked(&dir)["problems"], 0);
    assert!(Path::new(&format!("{dir}/registry.db.replaced")).exists());
}

#[test]
fn keys_are_exchanged_while_it_serves_and_the_old_one_is_then_of_no_use() {
    let (_keep, dir) = home();
    let acme = tenant(&dir, "acme");
    let server = serve(&dir);
    let made = make(&server, &acme, "m");
    let kek = format!("{dir}/kek");
    let old = fs::read_to_string(&kek).unwrap();
    let new = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n";
    server.stop();
    // The new key seals, the old one still opens.
    fs::write(&kek, format!("{new}{old}")).unwrap();
    let server = serve(&dir);
    assert_eq!(checked(&dir)["olderKey"], 6);
    let done: Value = serde_json::from_str(&ok(&["rekey", "--dir", &dir])).unwrap();
    assert_eq!((&done["rewrapped"], &done["unopened"]), (&6.into(), &0.into()));
    assert!(is_alive(&server, &made.grant));
    assert_eq!(checked(&dir)["olderKey"], 0);
    server.stop();
    fs::write(&kek, new).unwrap();
    let server = serve(&dir);
    assert!(is_alive(&server, &made.grant));
    assert_eq!(server.api("GET", "/", &made.query, "").1["membranes"][0]["id"], "m");
    server.stop();
    // Without the key that sealed: nothing opens, and both commands say so.
    fs::write(&kek, &old).unwrap();
    let output = run(&["check", "--dir", &dir]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("no key at hand opens its outer layer") && said.contains("6 problems"), "{said}");
    fails(&["rekey", "--dir", &dir], "6 capabilities are opened by no key at hand");
}

#[test]
fn check_finds_what_was_edited() {
    let (_keep, dir) = home();
    let acme = tenant(&dir, "acme");
    let server = serve(&dir);
    let made = make(&server, &acme, "m");
    assert_eq!(server.api("DELETE", "/", &made.revoke, "").0, 202);
    make(&server, &acme, "n");
    server.stop();
    assert_eq!(checked(&dir)["problems"], 0);
    let database = format!("{dir}/registry.db");
    let untouched = fs::read(&database).unwrap();
    for (edit, complaint) in [
        ("UPDATE units SET revoked_at = NULL", "the revocation log says that it was revoked"),
        ("UPDATE records SET sealed = zeroblob(200) WHERE kind = 1", "opens its outer layer"),
        ("UPDATE membranes SET escrow = NULL WHERE gone = 0", "no escrow"),
        ("UPDATE membranes SET gone = 1 - gone", "says otherwise than its row"),
        ("UPDATE units SET revoked_at = 1 WHERE revoked_at IS NULL", "the revocation log does not know it"),
        ("UPDATE records SET units = x'00'", "cannot be read"),
    ] {
        fs::write(&database, &untouched).unwrap();
        let _ = ["-wal", "-shm"].map(|end| fs::remove_file(format!("{database}{end}")));
        rusqlite::Connection::open(&database).unwrap().execute_batch(edit).unwrap();
        let before = contents(Path::new(&dir));
        fails(&["check", "--dir", &dir], complaint);
        // SQLite makes these two for whoever reads; the one is empty then, the other none of the data.
        let data = |file: &(std::path::PathBuf, Vec<u8>, u32)| {
            let name = file.0.to_string_lossy();
            !(name.ends_with("-shm") || name.ends_with("-wal") && file.1.is_empty())
        };
        let keep = |files: Vec<_>| files.into_iter().filter(data).collect::<Vec<_>>();
        assert!(keep(contents(Path::new(&dir))) == keep(before), "check changes nothing: {edit}");
    }
}

#[test]
fn a_registry_moves_to_postgresql_and_back() {
    let (keep, dir) = home();
    let acme = tenant(&dir, "acme");
    let server = serve(&dir);
    let (one, two) = (make(&server, &acme, "one"), make(&server, &acme, "two"));
    assert_eq!(server.api("DELETE", "/", &one.revoke, "").0, 202);
    let file = keep.path().join("rows").to_str().unwrap().to_owned();
    ok(&["export", "--dir", &dir, &file]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.stop();
    let text = fs::read_to_string(&file).unwrap();
    for secret in [&one.export, &two.grant, &two.create] {
        assert!(!text.contains(secret.as_str()));
    }

    let url = postgres::Server::shared().schema();
    let at = |args: &[&str]| program(args).env("MEMBRANE_STORE", &url).output().unwrap();
    let there = |args: &[&str]| {
        let output = at(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // A file that was cut off, at any line, brings nothing.
    there(&["init", "--dir", &dir]);
    let lines: Vec<&str> = text.lines().collect();
    for end in [0, 1, 5, lines.len() - 1] {
        let half = keep.path().join("half").to_str().unwrap().to_owned();
        fs::write(&half, lines[..end].join("\n")).unwrap();
        let output = at(&["import", "--dir", &dir, &half]);
        assert_eq!(output.status.code(), Some(1));
    }
    assert_eq!(there(&["tenant", "list", "--dir", &dir]), "");
    there(&["import", "--dir", &dir, &file]);
    let said = at(&["import", "--dir", &dir, &file]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("not empty"));
    let checked: Value = serde_json::from_str(&there(&["check", "--dir", &dir])).unwrap();
    assert_eq!((&checked["problems"], &checked["revoked"]), (&0.into(), &1.into()));
    fails_with(&at(&["backup", "--dir", &dir, "x"]), "use pg_dump");
    let server = program::serve_with(&dir, |command| {
        command.env("MEMBRANE_STORE", &url);
    });
    assert!(!is_alive(&server, &one.grant) && is_alive(&server, &two.grant));
    assert_eq!(server.api("DELETE", "/", &one.revoke, "").0, 202, "a repeated revoke");
    make(&server, &acme, "three");
    server.stop();

    // And back, into a folder with the same keys.
    let back = keep.path().join("back").to_str().unwrap().to_owned();
    fs::create_dir(&back).unwrap();
    fs::copy(format!("{dir}/kek"), format!("{back}/kek")).unwrap();
    let again = keep.path().join("again").to_str().unwrap().to_owned();
    there(&["export", "--dir", &dir, &again]);
    ok(&["init", "--dir", &back]);
    ok(&["import", "--dir", &back, &again]);
    let server = serve(&back);
    assert!(!is_alive(&server, &one.grant) && is_alive(&server, &two.grant));
    let (_, listed) = server.api("GET", "/?limit=10", &two.query, "");
    assert_eq!(listed["membranes"].as_array().unwrap().len(), 2);
    server.stop();
}

fn fails_with(output: &std::process::Output, message: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(message), "{said}");
}
