//! Power cuts under load: what was answered is there afterwards, and nothing is half done. A ledger outside the store knows what was answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    reason = "test code"
)]

#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/process.rs"]
mod program;

use program::{Running, home, ok, serve_with, token};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

const WRITERS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Alive,
    /// Somebody asked for its end and was not answered.
    Uncertain,
    Revoked,
}

#[derive(Debug, Clone)]
struct Membrane {
    export: String,
    revoke: String,
    grants: Vec<String>,
    state: State,
    /// Changed since it was last verified.
    fresh: bool,
}

/// What was answered.
#[derive(Default)]
struct Ledger {
    membranes: Mutex<HashMap<String, Membrane>>,
    next: AtomicU64,
}

/// Some number that differs from call to call; which one does not matter.
fn random(below: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish() % below
}

fn api(server: &Running, method: &str, bearer: &str, body: &str) -> Option<(u16, Value)> {
    let head = format!("{method} / HTTP/1.1\r\nauthorization: Bearer {bearer}");
    let (status, body) = server.ask(server.control, None, &head, body)?;
    Some((status, serde_json::from_str(&body).ok()?))
}

impl Ledger {
    /// One writer, until it is cut off or told to stop.
    fn write(&self, server: &Running, create: &str, stop: &AtomicBool) {
        let mut own: Vec<String> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let choice = random(10);
            let done = if own.is_empty() || choice < 3 {
                self.create(server, create).map(|id| own.extend(id))
            } else {
                let id = own[usize::try_from(random(own.len() as u64)).unwrap()].clone();
                if choice < 8 {
                    self.export(server, &id)
                } else {
                    own.retain(|other| *other != id);
                    self.revoke(server, &id)
                }
            };
            if done.is_none() {
                return;
            }
        }
    }

    fn create(&self, server: &Running, create: &str) -> Option<Option<String>> {
        let id = format!("m{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (status, made) = api(server, "POST", create, &format!(r#"{{"id":"{id}"}}"#))?;
        if status != 201 {
            // The store was away: not an acknowledgement.
            return (status == 500 || status == 503).then_some(None);
        }
        let control = |name: &str| token(&made["capabilities"][name]).to_owned();
        let (export, revoke) = (control("export"), control("revoke"));
        let membrane = Membrane { export, revoke, grants: vec![], state: State::Alive, fresh: true };
        self.membranes.lock().unwrap().insert(id.clone(), membrane);
        Some(Some(id))
    }

    fn export(&self, server: &Running, id: &str) -> Option<()> {
        let export = self.membranes.lock().unwrap()[id].export.clone();
        let (status, minted) = api(server, "POST", &export, r#"{"uri":"https://example.com/"}"#)?;
        if status == 201 {
            let mut membranes = self.membranes.lock().unwrap();
            let membrane = membranes.get_mut(id).unwrap();
            membrane.grants.push(token(&minted["capability"]).to_owned());
            membrane.fresh = true;
        }
        (status == 201 || status == 500 || status == 503).then_some(())
    }

    fn revoke(&self, server: &Running, id: &str) -> Option<()> {
        let revoke = {
            let mut membranes = self.membranes.lock().unwrap();
            let membrane = membranes.get_mut(id).unwrap();
            (membrane.state, membrane.fresh) = (State::Uncertain, true);
            membrane.revoke.clone()
        };
        let (status, _) = api(server, "DELETE", &revoke, "")?;
        if status == 202 {
            self.membranes.lock().unwrap().get_mut(id).unwrap().state = State::Revoked;
        }
        (status == 202 || status == 500 || status == 503).then_some(())
    }

    /// Load until `cut`, which comes at a random moment.
    fn load(&self, server: &Running, create: &str, cut: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| self.write(server, create, &stop));
            }
            std::thread::sleep(Duration::from_millis(50 + random(350)));
            cut();
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// What was answered and is not so.
    fn verify(&self, server: &Running, query: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut listed = HashMap::new();
        let mut after = String::new();
        loop {
            // Thousands after many cycles, each of which is opened: a page is to come within the time that a test waits for an answer.
            let target = format!("/?limit=100{after}");
            let (status, page) = server.api("GET", &target, query, "");
            if status != 200 {
                return vec![format!("query: {status} {page}")];
            }
            for membrane in page["membranes"].as_array().unwrap() {
                let capabilities = &membrane["capabilities"];
                let controls =
                    [&capabilities["export"], &capabilities["revoke"]].map(|uri| token(uri).to_owned());
                let id = membrane["id"].as_str().unwrap().to_owned();
                after = format!("&lastId={id}");
                listed.insert(id, controls);
            }
            if page["completed"] == true {
                break;
            }
        }
        let mut membranes = self.membranes.lock().unwrap();
        for (id, membrane) in membranes.iter_mut() {
            let is_listed = listed
                .get(id)
                .is_some_and(|[export, revoke]| *export == membrane.export && *revoke == membrane.revoke);
            match membrane.state {
                State::Alive if !is_listed => complaints.push(format!("{id} was created and is not listed")),
                State::Revoked if is_listed => complaints.push(format!("{id} was revoked and is listed")),
                _ => {}
            }
            if !std::mem::take(&mut membrane.fresh) {
                continue;
            }
            // One whose end was not answered may end now or at any later start: it may stand in the revocation log alone. What holds
            // for it holds for its grants.
            let wanted = if is_listed { 200 } else { 404 };
            for grant in &membrane.grants {
                let lookup = capability::Token::parse(grant.as_bytes()).unwrap().lookup_id();
                let head =
                    format!("GET /v1/records/{lookup}?watcher=AQEBAQEBAQEBAQEBAQEBAQ&lease=1 HTTP/1.1");
                let status = server.ask(server.gateway, Some("gateway-client"), &head, "").unwrap().0;
                if status != wanted {
                    complaints.push(format!("a grant of {id}: {status}, but it is {:?}", membrane.state));
                }
            }
        }
        complaints
    }

    fn answered(&self) -> usize {
        self.membranes.lock().unwrap().values().map(|membrane| 1 + membrane.grants.len()).sum()
    }
}

fn cycles(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number of cycles"))
}

/// The disk that forgets, built with the C compiler that every build needs.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let build = || {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("cut.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/cut.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(cc.status().unwrap().success());
        (dir, library)
    };
    &SHIM.get_or_init(build).1
}

/// Undoes what was not synced: plays each journal backwards.
fn forget(journals: &Path, dir: &Path) {
    for entry in fs::read_dir(journals).unwrap() {
        let path = entry.unwrap().path();
        let target = dir.join(path.file_name().unwrap());
        let journal = fs::read(&path).unwrap();
        let number =
            |at: usize| journal.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        // The last entry may be torn: then what it was to protect was not yet written over.
        let mut entries = Vec::new();
        let mut at = 0;
        while let (Some(offset), Some(size), Some(kept)) = (number(at), number(at + 8), number(at + 16)) {
            let end = at + 24 + usize::try_from(kept).unwrap();
            let Some(bytes) = journal.get(at + 24..end) else { break };
            entries.push((offset, size, bytes));
            at = end;
        }
        if let Ok(mut file) = fs::OpenOptions::new().write(true).open(&target) {
            for (offset, size, bytes) in entries.into_iter().rev() {
                file.seek(SeekFrom::Start(offset)).unwrap();
                file.write_all(bytes).unwrap();
                file.set_len(size).unwrap();
            }
        }
        fs::remove_file(path).unwrap();
    }
    // Shared memory does not outlive a power cut.
    let _ = fs::remove_file(dir.join("registry.db-shm"));
}

struct Bench {
    _keep: tempfile::TempDir,
    dir: String,
    journals: tempfile::TempDir,
    create: String,
    query: String,
    ledger: Ledger,
}

impl Bench {
    fn new() -> Bench {
        let (keep, dir) = home();
        let tenant: Value =
            serde_json::from_str(&ok(&["tenant", "create", "--dir", &dir, "--id", "acme"])).unwrap();
        let control = |name: &str| token(&tenant[name]).to_owned();
        let (create, query) = (control("create"), control("query"));
        Bench {
            _keep: keep,
            dir,
            journals: tempfile::tempdir().unwrap(),
            create,
            query,
            ledger: Ledger::default(),
        }
    }

    fn serve(&self, lies: bool) -> Running {
        serve_with(&self.dir, |command| {
            command.env("LD_PRELOAD", shim()).env("CUT_DIR", self.journals.path());
            command.env("MEMBRANE_LOG", "info");
            if lies {
                command.env("CUT_LIE", "1");
            }
        })
    }

    /// One power cut; what is wrong after it.
    fn cut(&self, lies: bool) -> Vec<String> {
        let server = self.serve(lies);
        self.ledger.load(&server, &self.create, || server.kill());
        drop(server);
        forget(self.journals.path(), Path::new(&self.dir));
        let server = self.serve(lies);
        let complaints = self.ledger.verify(&server, &self.query);
        server.stop();
        if lies {
            forget(self.journals.path(), Path::new(&self.dir));
        }
        complaints
    }
}

#[test]
fn power_cuts_lose_nothing_that_was_answered() {
    let bench = Bench::new();
    for cycle in 0..cycles("MEMBRANE_CUT_CYCLES", 20) {
        let complaints = bench.cut(false);
        assert!(complaints.is_empty(), "after cut {cycle}: {complaints:#?}");
        // Nothing is half done, and the log agrees.
        if cycle % 5 == 4 {
            ok(&["check", "--dir", &bench.dir]);
        }
    }
    assert!(bench.ledger.answered() > 100, "there was load: {}", bench.ledger.answered());
}

/// The control: on a disk that says that it kept what it did not, the same test finds what is missing.
#[test]
fn a_disk_that_lies_is_noticed() {
    let bench = Bench::new();
    let noticed = (0..5).any(|_| !bench.cut(true).is_empty());
    assert!(noticed, "{} answers, and none was found to be lost", bench.ledger.answered());
}

#[test]
fn a_sync_that_fails_ends_the_server() {
    let bench = Bench::new();
    let fails = bench.journals.path().join("fail");
    let mut server = serve_with(&bench.dir, |command| {
        command.env("LD_PRELOAD", shim()).env("CUT_FAIL", &fails).env("MEMBRANE_LOG", "info");
    });
    assert!(bench.ledger.create(&server, &bench.create).unwrap().is_some());
    fs::write(&fails, "").unwrap();
    assert!(
        api(&server, "POST", &bench.create, r#"{"id":"lost"}"#).is_none(),
        "nobody is told that it is there"
    );
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
    let log = server.log.take().unwrap().join().unwrap();
    assert!(log.contains("could not be brought onto the disk"), "{log}");
    // And the server that is started again has what was answered.
    drop(server);
    fs::remove_file(&fails).unwrap();
    let server = bench.serve(false);
    assert_eq!(bench.ledger.verify(&server, &bench.query), [""; 0]);
    server.stop();
}

#[test]
fn immediate_stops_of_postgresql_lose_nothing_that_was_answered() {
    let (database, bench) = (postgres::Server::own(), Bench::new());
    let url = database.url("public");
    let tenant = {
        let run = |args: &[&str]| {
            let output = program::program(args).env("MEMBRANE_STORE", &url).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        run(&["init", "--dir", &bench.dir]);
        let tenant = run(&["tenant", "create", "--dir", &bench.dir, "--id", "there"]);
        serde_json::from_slice::<Value>(&tenant).unwrap()
    };
    let (create, query) = (token(&tenant["create"]), token(&tenant["query"]));
    // One server all the time: it finds its way back by itself.
    let server = serve_with(&bench.dir, |command| {
        command.env("MEMBRANE_STORE", &url);
        command.env("MEMBRANE_LOG", "info");
    });
    for cycle in 0..cycles("MEMBRANE_STOP_CYCLES", 5) {
        bench.ledger.load(&server, create, || database.stop_at_once());
        database.start();
        let complaints = bench.ledger.verify(&server, query);
        assert!(complaints.is_empty(), "after stop {cycle}: {complaints:#?}");
        let check =
            program::program(&["check", "--dir", &bench.dir]).env("MEMBRANE_STORE", &url).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
    assert!(bench.ledger.answered() > 30, "there was load: {}", bench.ledger.answered());
    server.stop();
}
