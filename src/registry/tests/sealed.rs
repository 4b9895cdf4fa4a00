//! What a thief of the database, or somebody who can write to it, gets: nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record::{self, Header, Kek, Keks, Kind};
use capability::{Token, Units};
use common::World;
use registry::store::{Record, Row};
use rusqlite::params;
use rusqlite::types::Value as Cell;
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

/// What a gateway does with a lookup's answer: opens the record with the token, bound to what the answer says of it.
fn opens(token: &str, reply: &common::Reply) -> bool {
    if reply.status != 200 || reply.json["kind"] != "grant" {
        return false;
    }
    let token = Token::parse(token.as_bytes()).unwrap();
    let units: Units = serde_json::from_value(reply.json["units"].clone()).unwrap();
    let (lookup, expires_at) = (token.lookup_id(), reply.json["expiresAt"].as_u64());
    let header = Header { kind: Kind::Grant, lookup, expires_at, units: &units };
    let inner = B64.decode(reply.json["record"].as_str().unwrap()).unwrap();
    record::open(&token, &header, &inner).is_ok()
}

#[tokio::test]
async fn no_bit_of_a_stored_record_or_of_its_row_can_be_flipped() {
    let world = World::new();
    let tenant = world.tenant("acme");
    let membrane = world.membrane(&tenant.create, "m").await;
    let expiring = json!({"uri": "https://example.com/", "expiresAt": "2099-01-01T00:00:00Z"});
    let first = world.export(&membrane.export, expiring).await;
    let grant = world.re_export(&membrane.export, &first).await;
    let sql = world.sql();
    // A writer that waits for the disk each time would take minutes.
    sql.pragma_update(None, "synchronous", "OFF").unwrap();
    let lookup = Token::parse(grant.as_bytes()).unwrap().lookup_id().0;
    assert!(opens(&grant, &world.lookup(&grant).await));
    let mut tried = 0;
    for column in ["sealed", "units", "expires_at", "kind", "lookup"] {
        let read = format!("SELECT {column} FROM records WHERE lookup = ?1");
        let cell: Cell = sql.query_row(&read, params![lookup], |row| row.get(0)).unwrap();
        let (bytes, is_number) = match &cell {
            Cell::Blob(bytes) => (bytes.clone(), false),
            Cell::Integer(number) => (number.to_be_bytes().to_vec(), true),
            other => panic!("{column} holds {other:?}"),
        };
        let write = format!("UPDATE records SET {column} = ?1 WHERE rowid = ?2");
        let row: i64 = sql
            .query_row("SELECT rowid FROM records WHERE lookup = ?1", params![lookup], |row| row.get(0))
            .unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let edited = if is_number {
                Cell::Integer(i64::from_be_bytes(flipped.clone().try_into().unwrap()))
            } else {
                Cell::Blob(flipped.clone())
            };
            sql.execute(&write, params![edited, row]).unwrap();
            assert!(!opens(&grant, &world.lookup(&grant).await), "{column}, bit {bit}");
            if column == "lookup" {
                // Whoever asks for where it was moved to gets nothing that the token opens either.
                let moved = capability::LookupId(flipped.try_into().unwrap());
                let reply = world.ask(&format!("/v1/records/{moved}?{}", common::WATCHER)).await;
                assert_eq!(reply.status, 500, "bit {bit}");
            }
            // A control of the registry's own it is not, whatever the row says.
            if column == "kind" {
                let reply = world.call("GET", "/", &grant, "").await;
                assert!([401, 500].contains(&reply.status.as_u16()), "bit {bit}: {}", reply.text);
            }
            tried += 1;
        }
        sql.execute(&write, params![cell, row]).unwrap();
    }
    assert!(tried > 5_000, "{tried}");
    assert!(opens(&grant, &world.lookup(&grant).await), "as it was");
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

/// Everything that a thief of the database has: each cell of each row, of each table.
fn cells(world: &World) -> Vec<Vec<u8>> {
    let sql = world.sql();
    let mut tables = sql.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut cells = Vec::new();
    for table in tables {
        let mut statement = sql.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get::<_, Cell>(column).unwrap() {
                    Cell::Blob(bytes) => cells.push(bytes),
                    Cell::Text(text) => cells.push(text.into_bytes()),
                    Cell::Integer(_) | Cell::Real(_) | Cell::Null => {}
                }
            }
        }
    }
    cells
}

/// The planted secrets that stand in any of these.
fn found<'a>(all: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<&'static str> {
    let all: Vec<&Vec<u8>> = all.into_iter().collect();
    PLANTED.into_iter().filter(|secret| all.iter().any(|bytes| contains(bytes, secret.as_bytes()))).collect()
}

/// The records of a dump that open with these keys and tokens: both layers, then whatever a record is when a layer is left on.
fn opened(records: &[Record], keks: &[Keks], tokens: &[Token]) -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    for record in records {
        let unwrapped = keks.iter().filter_map(|keks| keks.unwrap(record.lookup, &record.sealed).ok());
        let mut inners: Vec<Vec<u8>> = unwrapped.map(|inner| inner.as_bytes().to_vec()).collect();
        // Without the KEK: the record as it is, and without what may be a head of it.
        inners.extend([0, 4, 28].map(|head| record.sealed[head..].to_vec()));
        for (inner, token) in inners.iter().flat_map(|inner| tokens.iter().map(move |token| (inner, token))) {
            let (lookup, kind) = (record.lookup, record.kind);
            let header = Header { kind, lookup, expires_at: record.expires_at, units: &record.units };
            contents.extend(record::open(token, &header, inner).map(|content| content.to_vec()));
        }
        contents.extend(inners);
    }
    contents
}

#[tokio::test]
async fn a_dump_opens_with_the_kek_and_a_token_and_with_neither_alone() {
    let world = World::new();
    let held = planted(&world).await;
    let cells = cells(&world);
    let mut records = Vec::new();
    world
        .registry
        .store
        .scan(&mut |row| {
            if let Row::Record(record) = row {
                records.push(record);
            }
            Ok(())
        })
        .unwrap();
    assert!(records.len() >= held.len() - 1 && cells.len() > 3 * records.len());
    assert_eq!(found(&cells), [""; 0], "the dump itself");

    let kek = || vec![Keks::new(Kek::new(&mut { common::KEK }), vec![])];
    let tokens: Vec<Token> = held.iter().map(|token| Token::parse(token.as_bytes()).unwrap()).collect();
    // With everything, everything is there: the search finds what there is to find.
    let everything = opened(&records, &kek(), &tokens);
    assert_eq!(found(&everything), PLANTED);

    // The dump and the KEK: whatever stands in the dump, and the KEK itself, taken for a token.
    let mut guesses: Vec<Token> = Vec::new();
    let layers: Vec<Vec<u8>> = opened(&records, &kek(), &[]);
    for bytes in cells.iter().chain(&layers).chain([&common::KEK.to_vec()]) {
        for length in [32, 64] {
            // From the beginning, and from where fields begin in lists of units, escrow and records.
            for part in [0, 1, 2, 17, 33, 34].iter().filter_map(|start| bytes.get(*start..start + length)) {
                guesses.extend(Token::parse(format!("CPBLTY1-{}", B64.encode(part)).as_bytes()));
            }
        }
    }
    assert!(guesses.len() > 200, "{}", guesses.len());
    assert_eq!(found(&opened(&records, &kek(), &guesses)), [""; 0], "with the KEK alone");
    // The dump and all tokens: without a KEK, and with what stands in the dump taken for one.
    let mut wrong: Vec<Keks> = vec![Keks::new(Kek::new(&mut [8; 32]), vec![])];
    wrong.extend(cells.iter().filter_map(|cell| {
        let mut bytes: [u8; 32] = cell.as_slice().try_into().ok()?;
        Some(Keks::new(Kek::new(&mut bytes), vec![]))
    }));
    assert_eq!(found(&opened(&records, &wrong, &tokens)), [""; 0], "with the tokens alone");
    // And a token opens its own record alone.
    let own: Vec<Record> =
        records.into_iter().filter(|record| record.lookup != tokens[4].lookup_id()).collect();
    assert_eq!(found(&opened(&own, &kek(), &tokens[4..5])), [""; 0], "another's token");
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
