//! Somebody who can write to the database swaps two cells of one column. Whatever they swap, no token gets an authority that it did
//! not have: it goes on meaning what it meant, or it means nothing. What was *revoked* can be brought back by editing the column that
//! says so, until the next start, when the revocation log outside the database is replayed (docs/decisions.md).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::record::{self, Header, Kind};
use capability::{Role, Token, Uid, Units};
use common::{World, uri};
use registry::ports::Random as _;
use registry::store::Watching;
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, params_from_iter};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

/// Pairs of rows that are swapped in one column, and among them those after which every control is also used, which writes.
/// In `membranes` that is every pair.
const PAIRS: usize = 40;
const USED: usize = 21;
/// Where the scene's short-lived capabilities are dead.
const LATER: u64 = common::NOW + 60;
const SOON: &str = "2026-09-21T14:13:50Z";

/// What a token stands for: the sealed content, which never changes, and whether it is alive before anything is swapped.
struct Holding {
    name: &'static str,
    token: String,
    kind: Kind,
    content: Vec<u8>,
    alive: bool,
}

impl Holding {
    fn control(&self) -> Value {
        serde_json::from_slice(&self.content).unwrap()
    }

    fn role(&self) -> Option<&'static str> {
        let control = self.control();
        let roles = [Role::Create, Role::Query, Role::Export, Role::Revoke, Role::DeleteSelf];
        roles.map(Role::as_str).into_iter().find(|role| control["role"] == *role)
    }
}

/// Three tenants that use the same ids, with what is alive, revoked, expired and delegated, of every kind.
struct Scene {
    world: World,
    holdings: Vec<Holding>,
    /// Of each tenant, the membranes that were ever made: what a query of it may list.
    made: HashMap<String, Vec<Value>>,
}

async fn scene() -> Scene {
    let world = World::new();
    let mut tokens: Vec<(&'static str, String)> = Vec::new();
    let mut made: HashMap<String, Vec<Value>> = HashMap::new();
    let (alice, bob, gone) = (world.tenant("alice"), world.tenant("bob"), world.tenant("gone"));
    for (tenant, names) in [
        (&alice, ["alice's create", "alice's query", "alice's deleteSelf"]),
        (&bob, ["bob's create", "bob's query", "bob's deleteSelf"]),
        (&gone, ["the dead create", "the dead query", "the dead deleteSelf"]),
    ] {
        let all = [&tenant.create, &tenant.query, &tenant.delete_self];
        tokens.extend(names.into_iter().zip(all.into_iter().cloned()));
    }
    let make = async |tokens: &mut Vec<_>, create: &str, id: &str, names: [&'static str; 2]| {
        let membrane = world.membrane(create, id).await;
        tokens.extend(names.into_iter().zip([membrane.export.clone(), membrane.revoke.clone()]));
        membrane
    };
    let a = make(&mut tokens, &alice.create, "a", ["alice a export", "alice a revoke"]).await;
    let b = make(&mut tokens, &bob.create, "a", ["bob a export", "bob a revoke"]).await;
    let revoked = make(&mut tokens, &alice.create, "revoked", ["revoked export", "revoked revoke"]).await;
    let dead = make(&mut tokens, &bob.create, "dead", ["dead export", "dead revoke"]).await;
    let of_gone = make(&mut tokens, &gone.create, "a", ["gone a export", "gone a revoke"]).await;
    // Alice's create in Bob's hands: once through a delegation that expires, once through one that is revoked.
    let soon = json!({"capability": uri(&alice.create), "expiresAt": SOON});
    let expiring = world.export(&b.export, soon).await;
    make(&mut tokens, &expiring, "expired", ["expired export", "expired revoke"]).await;
    tokens.push(("an expiring create", expiring));
    let ended = world.re_export(&dead.export, &alice.create).await;
    make(&mut tokens, &ended, "ended", ["ended export", "ended revoke"]).await;
    tokens.push(("an ended create", ended));

    let grant = async |export: &str, host: &str| {
        world.export(export, json!({"uri": format!("https://{host}.example/")})).await
    };
    let first = grant(&a.export, "alice").await;
    let leaked = grant(&a.export, "leaked").await;
    let short = world.export(&b.export, json!({"uri": "https://short.example/", "expiresAt": SOON})).await;
    tokens.extend([
        ("bob's grant", grant(&b.export, "bob").await),
        ("a grant of the revoked membrane", grant(&revoked.export, "revoked").await),
        ("a grant of the dead tenant", grant(&of_gone.export, "gone").await),
        ("alice's grant in bob's hands", world.re_export(&b.export, &first).await),
        ("a copy of the leaked grant", world.re_export(&b.export, &leaked).await),
        ("alice's query in bob's hands", world.re_export(&b.export, &alice.query).await),
        ("alice's revoke in bob's hands", world.re_export(&b.export, &a.revoke).await),
        ("alice's export in bob's hands", world.re_export(&b.export, &a.export).await),
        ("bob's deleteSelf in alice's hands", world.re_export(&a.export, &bob.delete_self).await),
        ("alice's grant", first),
        ("the leaked grant", leaked.clone()),
        ("a short-lived grant", short),
    ]);
    for (name, tenant) in [("alice", &alice), ("bob", &bob), ("gone", &gone)] {
        let listed = world.call("GET", "/?limit=99", &tenant.query, "").await.json;
        made.insert(uid_of(&world, name), listed["membranes"].as_array().unwrap().clone());
    }
    assert_eq!(world.revoke(&revoked.revoke).await, 202);
    assert_eq!(world.revoke(&dead.revoke).await, 202);
    assert_eq!(world.call("DELETE", "/", &gone.delete_self, "").await.status, 202);
    registry::operator::revoke_token(&world.registry, &leaked).unwrap();
    world.clock.0.store(LATER, Relaxed);

    let mut holdings = Vec::new();
    for (name, token) in tokens {
        let parsed = Token::parse(token.as_bytes()).unwrap();
        let record = world.registry.store.find(parsed.lookup_id()).unwrap().0.unwrap().record;
        let inner = world.registry.keks.unwrap(record.lookup, &record.sealed).unwrap();
        let header = Header {
            kind: record.kind,
            lookup: record.lookup,
            expires_at: record.expires_at,
            units: &record.units,
        };
        let content = record::open(&parsed, &header, inner.as_bytes()).unwrap().to_vec();
        let mut holding = Holding { name, token, kind: record.kind, content, alive: false };
        holding.alive = is_alive(&world, &holding).await.unwrap();
        holdings.push(holding);
    }
    Scene { world, holdings, made }
}

fn uid_of(world: &World, tenant: &str) -> String {
    let tenants = world.registry.store.tenants().unwrap();
    tenants.into_iter().find(|found| found.id == tenant).unwrap().uid.to_string()
}

/// Whether the token is honoured, and as what it was minted; an error if as anything else.
async fn is_alive(world: &World, holding: &Holding) -> Result<bool, String> {
    let token = Token::parse(holding.token.as_bytes()).unwrap();
    // As a gateway does: it opens what the lookup answers with the token.
    let reply = world.lookup(&holding.token).await;
    let mut opened = None;
    if reply.status == 200 && reply.json["kind"] == "grant" {
        let inner = B64.decode(reply.json["record"].as_str().unwrap()).unwrap();
        let units: Units = serde_json::from_value(reply.json["units"].clone()).unwrap();
        let expires_at = reply.json["expiresAt"].as_u64();
        let header = Header { kind: Kind::Grant, lookup: token.lookup_id(), expires_at, units: &units };
        opened = record::open(&token, &header, &inner).ok().map(|content| content.to_vec());
    }
    // As the control listener does.
    let presented = world.registry.present(&token).ok().map(|presented| presented.control);
    match (opened, presented) {
        (None, None) => Ok(false),
        (Some(content), None) if holding.kind == Kind::Grant && content == holding.content => Ok(true),
        (None, Some(control)) => {
            let sealed = holding.control();
            let membrane = control.membrane.map(|uid| uid.to_string());
            let same = sealed["role"] == control.role.as_str()
                && sealed["tenant"] == control.tenant.to_string()
                && sealed["membrane"].as_str() == membrane.as_deref();
            if same { Ok(true) } else { Err(format!("{control:?} instead of {sealed}")) }
        }
        _ => Err("it opens to something else".into()),
    }
}

/// The units that are revoked.
fn revoked(sql: &Connection) -> BTreeSet<Vec<u8>> {
    let mut statement = sql.prepare_cached("SELECT unit FROM units WHERE revoked_at IS NOT NULL").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Uses a control for what it is for. `Err`: it did something that is not its own to do.
async fn used(scene: &Scene, sql: &Connection, holding: &Holding) -> Result<(), String> {
    let world = &scene.world;
    let control = holding.control();
    let tenant: Uid = control["tenant"].as_str().unwrap().parse().unwrap();
    let own: Uid = control["membrane"].as_str().map_or(tenant, |uid| uid.parse().unwrap());
    let before = revoked(sql);
    let mut may_revoke: BTreeSet<Vec<u8>> = BTreeSet::new();
    match holding.role().unwrap() {
        "create" => {
            // A new id, the same id as another tenant's, and ids whose membranes are dead without having been revoked, which are
            // revoked to make room.
            for id in ["new", "a", "expired", "ended"] {
                let reply = world.call("POST", "/", &holding.token, json!({"id": id})).await;
                if reply.status != 201 {
                    continue;
                }
                for (role, name) in [(Role::Export, "export"), (Role::Revoke, "revoke")] {
                    let token = common::token(&reply.json["capabilities"][name]);
                    let token = Token::parse(token.as_bytes()).unwrap();
                    match world.registry.present(&token) {
                        Ok(made) if made.control.role == role && made.control.tenant == tenant => {}
                        other => return Err(format!("made {other:?}")),
                    }
                }
            }
            let mine = scene.made[&tenant.to_string()].iter().map(|membrane| {
                let export =
                    Token::parse(common::token(&membrane["capabilities"]["export"]).as_bytes()).unwrap();
                let holding = scene.holdings.iter().find(|known| known.token == export.expose()).unwrap();
                holding.control()["membrane"].as_str().unwrap().parse::<Uid>().unwrap().0.to_vec()
            });
            may_revoke.extend(mine);
        }
        "query" => {
            let reply = world.call("GET", "/?limit=99", &holding.token, "").await;
            let made = &scene.made[&tenant.to_string()];
            let listed = reply.json["membranes"].as_array().cloned().unwrap_or_default();
            if let Some(other) = listed.iter().find(|membrane| !made.contains(membrane)) {
                return Err(format!("lists {}", other["id"]));
            }
        }
        "export" => {
            let body = json!({"uri": "https://new.example/"});
            let reply = world.call("POST", "/", &holding.token, body).await;
            if reply.status == 201 {
                let made = world.lookup(&common::token(&reply.json["capability"])).await.json;
                let pair = json!([tenant.to_string(), own.to_string()]);
                if made["units"][0] != pair {
                    return Err(format!("exports through {}", made["units"][0]));
                }
            }
        }
        _ => {
            world.call("DELETE", "/", &holding.token, "").await;
            may_revoke.insert(own.0.to_vec());
        }
    }
    match revoked(sql).difference(&before).find(|unit| !may_revoke.contains(*unit)) {
        Some(unit) => Err(format!("revoked {}", B64.encode(unit))),
        None => Ok(()),
    }
}

/// A thief's own connection: no rule of the schema binds it.
fn writer(world: &World) -> Connection {
    let sql = world.sql();
    sql.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; ATTACH ':memory:' AS kept;")
        .unwrap();
    for index in names(&sql, "SELECT name FROM main.sqlite_master WHERE type = 'index' AND sql IS NOT NULL") {
        sql.execute_batch(&format!("DROP INDEX {index}")).unwrap();
    }
    for table in tables(&sql) {
        sql.execute_batch(&format!("CREATE TABLE kept.{table} AS SELECT * FROM main.{table}")).unwrap();
    }
    sql
}

fn names(sql: &Connection, question: &str) -> Vec<String> {
    let mut statement = sql.prepare(question).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn tables(sql: &Connection) -> Vec<String> {
    names(sql, "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
}

fn restore(sql: &Connection) {
    let all = tables(sql).into_iter().map(|table| {
        format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM kept.{table};")
    });
    sql.execute_batch(&format!("BEGIN IMMEDIATE; {} COMMIT", all.collect::<String>())).unwrap();
}

/// Every row of a table, in an order that does not change.
fn rows(sql: &Connection, table: &str, width: usize) -> Vec<Vec<Cell>> {
    let mut statement = sql.prepare(&format!("SELECT * FROM kept.{table} ORDER BY rowid")).unwrap();
    let row = |row: &rusqlite::Row<'_>| (0..width).map(|index| row.get(index)).collect();
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

/// The table with two of its cells swapped. Whole, since a key cannot be swapped in place.
fn write(sql: &Connection, table: &str, rows: &[Vec<Cell>]) {
    let tx = sql.unchecked_transaction().unwrap();
    tx.execute_batch(&format!("DELETE FROM main.{table}")).unwrap();
    let marks = vec!["?"; rows[0].len()].join(",");
    let mut insert = tx.prepare(&format!("INSERT INTO main.{table} VALUES ({marks})")).unwrap();
    for row in rows {
        insert.execute(params_from_iter(row)).unwrap();
    }
    drop(insert);
    tx.commit().unwrap();
}

/// All pairs of rows that differ in the column; a sample of them, the same in every run, if there are too many.
fn pairs(rows: &[Vec<Cell>], column: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = (0..rows.len())
        .flat_map(|second| (0..second).map(move |first| (first, second)))
        .filter(|(first, second)| rows[*first][column] != rows[*second][column])
        .collect();
    let random = common::TestRandom::new(u64::try_from(column).unwrap());
    for index in (1..all.len()).rev() {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        all.swap(index, usize::try_from(u64::from_le_bytes(bytes) >> 1).unwrap() % (index + 1));
    }
    all.truncate(PAIRS);
    all
}

#[tokio::test]
async fn two_swapped_cells_give_no_token_anothers_authority() {
    let scene = scene().await;
    assert_eq!(scene.holdings.iter().filter(|holding| holding.alive).count(), 20, "alive in the scene");
    let watching = [1, 2].map(|name| Watching {
        watcher: Uid([name; 16]),
        lease: u64::from(name),
        until: common::NOW + u64::from(name),
    });
    scene.world.registry.store.note_watchers(&watching, common::NOW).unwrap();
    let sql = writer(&scene.world);
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    for table in tables(&sql) {
        let columns = names(&sql, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let rows = rows(&sql, &table, columns.len());
        for (column, name) in columns.iter().enumerate() {
            for (number, (first, second)) in pairs(&rows, column).into_iter().enumerate() {
                let mut swapped = rows.clone();
                swapped[first][column] = rows[second][column].clone();
                swapped[second][column] = rows[first][column].clone();
                write(&sql, &table, &swapped);
                // Only what says that something was revoked can bring back what was.
                let may_revive = table == "units";
                let mut controls = Vec::new();
                for holding in &scene.holdings {
                    let what = format!("{table}.{name} of rows {first} and {second}: {}", holding.name);
                    let alive = is_alive(&scene.world, holding).await;
                    let alive = alive.unwrap_or_else(|other| panic!("{what}: {other}"));
                    assert!(!alive || holding.alive || may_revive, "{what} came alive");
                    if number < USED && holding.kind == Kind::Control && alive {
                        controls.push((what, holding));
                    }
                }
                // What ends things comes last, or there is nothing left to try.
                controls.sort_by_key(|(_, holding)| match holding.role().unwrap() {
                    "query" => 0,
                    "create" | "export" => 1,
                    "revoke" => 2,
                    _ => 3,
                });
                for (what, holding) in controls {
                    used(&scene, &sql, holding).await.unwrap_or_else(|other| panic!("{what}: {other}"));
                }
                restore(&sql);
                *tried.entry(format!("{table}.{name}")).or_default() += 1;
            }
        }
    }
    // The scene gives every column something to swap, but for the one row of `head`, what was all made at one time, and the watchers,
    // whom no lookup and no control asks about.
    let of = |table: &String| {
        let columns = names(&sql, &format!("SELECT name FROM pragma_table_info('{table}')"));
        columns.into_iter().map(|column| format!("{table}.{column}")).collect::<Vec<_>>()
    };
    let untried: Vec<String> =
        tables(&sql).iter().flat_map(of).filter(|name| !tried.contains_key(name)).collect();
    let alike = ["tenants.created_at", "membranes.created_at", "records.created_at"];
    assert!(
        untried.iter().all(|name| name.starts_with("head.")
            || name.starts_with("watchers.")
            || alike.contains(&name.as_str())),
        "{untried:?}"
    );
    assert!(tried["records.sealed"] == PAIRS && tried["membranes.uid"] >= 15, "{tried:?}");
}

/// The one thing that such a writer can do for a holder: what was revoked lives again, until the store is opened the next time.
#[tokio::test]
async fn a_revocation_that_was_edited_away_is_made_good_at_the_next_start() {
    let scene = scene().await;
    let sql = scene.world.sql();
    sql.execute_batch(
        "PRAGMA foreign_keys = OFF; DELETE FROM units WHERE length(unit) = 32; DELETE FROM events;
         UPDATE units SET revoked_at = NULL; UPDATE tenants SET gone = 0; UPDATE membranes SET gone = 0;",
    )
    .unwrap();
    let mut revived = 0;
    for holding in &scene.holdings {
        revived += usize::from(is_alive(&scene.world, holding).await.unwrap() && !holding.alive);
    }
    assert!(revived > 5, "the edit does what it is meant to do");
    let store = std::sync::Arc::new(common::open_store(scene.world.dir.path(), 2));
    let again = World::with(|registry| registry.store = store);
    again.clock.0.store(LATER, Relaxed);
    for holding in &scene.holdings {
        assert_eq!(is_alive(&again, holding).await.unwrap(), holding.alive, "{}", holding.name);
    }
}
