//! What a thief of the database, or somebody who can write to it, gets: nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use capability::record::{Kek, Keks};
use common::World;
use rusqlite::params;
use serde_json::json;

const PLANTED: [&str; 5] =
    ["canary-secret-access-key", "canary-session", "canary-header", "canary.example", "canary-query"];

async fn planted(world: &World) -> Vec<String> {
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "m").await;
    let body = json!({
        "uri": "https://canary.example/?canary-query=1",
        "headers": {"x-api-key": "canary-header"},
        "hmac": {"aws4-hmac-sha256": {
            "awsAccessKeyId": "AKIA", "region": "r", "service": "s",
            "secretAccessKey": "canary-secret-access-key", "sessionToken": "canary-session"
        }}
    });
    let grant = world.export(&membrane.export, body).await;
    let copy = world.re_export(&membrane.export, &grant).await;
    let control = world.re_export(&membrane.export, &tenant.query).await;
    let mut tokens =
        vec![tenant.create, tenant.query, tenant.delete_self, membrane.export, grant, copy, control];
    assert_eq!(world.call("GET", "/?limit=9", &tokens[1], "").await.status, 200);
    assert_eq!(world.revoke(&membrane.revoke).await, 202);
    tokens.push(membrane.revoke);
    tokens
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn no_file_holds_a_secret_or_a_token() {
    use base64::Engine as _;
    let world = World::new();
    let tokens = planted(&world).await;
    let mut files = 0;
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        files += 1;
        for planted in PLANTED {
            assert!(!contains(&bytes, planted.as_bytes()), "{planted} in {}", path.display());
        }
        for token in &tokens {
            let body = token.strip_prefix("CPBLTY1-").unwrap();
            let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap();
            assert!(
                !contains(&bytes, body.as_bytes()) && !contains(&bytes, &raw),
                "a token in {}",
                path.display()
            );
            // The positive control: the search would find what is there.
            let lookup = capability::Token::parse(token.as_bytes()).unwrap().lookup_id().0;
            assert!(!path.ends_with("registry.db-wal") || contains(&bytes, &lookup));
        }
    }
    assert!(files >= 3, "database, WAL and revocation log");
}

#[tokio::test]
async fn an_edited_or_moved_row_opens_for_nobody() {
    // Each column in a world of its own, so that no other edit can be what spoils the record.
    for edit in [
        "UPDATE records SET kind = 1 WHERE lookup = ?1",
        "UPDATE records SET expires_at = 1999999999 WHERE lookup = ?1",
        "UPDATE records SET units = units || (SELECT uid || zeroblob(16) FROM tenants WHERE id = 'other') WHERE lookup = ?1",
        "UPDATE records SET sealed = (SELECT sealed FROM records WHERE lookup <> ?1) WHERE lookup = ?1",
    ] {
        let world = World::new();
        let tenant = world.tenant("acme");
        world.tenant("other");
        let lookup = capability::Token::parse(tenant.create.as_bytes()).unwrap().lookup_id().0;
        assert_eq!(world.sql().execute(edit, params![lookup]).unwrap(), 1);
        let reply = world.call("POST", "/", &tenant.create, json!({"id": "x"})).await;
        assert!([401, 500].contains(&reply.status.as_u16()), "{edit}: {}", reply.text);
    }
}

#[tokio::test]
async fn no_bit_of_a_stored_record_can_be_flipped() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "m").await;
    let grant = world.grant(&membrane.export).await;
    let sql = world.sql();
    let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id().0;
    let sealed: Vec<u8> = sql
        .query_row("SELECT sealed FROM records WHERE lookup = ?1", params![lookup], |row| row.get(0))
        .unwrap();
    // Every bit of the layer that the registry itself opens; `capability` does the same for the inner one.
    for bit in (0..sealed.len() * 8).step_by(61).chain(0..(4 + 24) * 8) {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        sql.execute("UPDATE records SET sealed = ?1 WHERE lookup = ?2", params![flipped, lookup]).unwrap();
        assert_eq!(world.lookup(&grant).await.status, 500, "bit {bit}");
    }
    sql.execute("UPDATE records SET sealed = ?1 WHERE lookup = ?2", params![sealed, lookup]).unwrap();
    assert_eq!(world.lookup(&grant).await.status, 200);
}

#[tokio::test]
async fn swapped_membrane_rows_give_nobody_anothers_controls() {
    for (column, across) in
        [("escrow", false), ("id", false), ("uid", false), ("escrow", true), ("tenant", true)]
    {
        let world = World::new();
        let (mine, theirs) = (world.tenant("mine"), world.tenant("theirs"));
        world.membrane(&mine.create, "a").await;
        world.membrane(if across { &theirs.create } else { &mine.create }, "b").await;
        let sql = world.sql();
        sql.execute_batch("PRAGMA foreign_keys = OFF; DROP INDEX membranes_by_id; CREATE TABLE old AS SELECT * FROM membranes;").unwrap();
        let swap = format!(
            "CREATE TABLE fresh AS SELECT * FROM membranes;
             UPDATE fresh SET {column} = (SELECT {column} FROM old WHERE old.rowid <> fresh.rowid);
             DELETE FROM membranes; INSERT INTO membranes SELECT * FROM fresh;"
        );
        sql.execute_batch(&swap).unwrap();
        for query in [&mine.query, &theirs.query] {
            let reply = world.call("GET", "/?limit=9", query, "").await;
            let harmless = reply.status == 500 || reply.json["membranes"] == json!([]);
            assert!(harmless, "{column}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn without_the_kek_a_token_opens_nothing() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let grant = world.grant(&world.membrane(&tenant.create, "m").await.export).await;
    let thief = World::with(|registry| {
        registry.store = std::sync::Arc::clone(&world.registry.store);
        registry.keks = Keks::new(Kek::new(&mut [8; 32]), vec![]);
    });
    assert_eq!(thief.call("GET", "/", &tenant.query, "").await.status, 500);
    assert!(thief.registry.keks.unwrap(capability::LookupId([0; 32]), &[0; 600]).is_err());
    let found = world
        .registry
        .store
        .find(capability::Token::parse(grant.as_bytes()).unwrap().lookup_id())
        .unwrap()
        .0
        .unwrap();
    assert!(thief.registry.keks.unwrap(found.record.lookup, &found.record.sealed).is_err());
    assert!(world.registry.keks.unwrap(found.record.lookup, &found.record.sealed).is_ok());
}
