//! What a person does after `docker compose up`, with each of the two stores.

use super::native::Native;
use super::{POSTGRES, SQLITE};
use crate::{assert_error, eventually};
use harness::aws::{FUNCTION, REGION};
use harness::gateway::text;
use harness::http::{Client, Response};
use harness::layout;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a revocation may take. It takes milliseconds; the bound is for busy machines.
const SOON: Duration = Duration::from_secs(20);

fn said(command: &Command) -> (PathBuf, Vec<String>) {
    let arguments = command.get_args().map(|argument| argument.to_str().unwrap().to_owned()).collect();
    (command.get_program().into(), arguments)
}

#[test]
fn its_parts_are_started_as_make_run_starts_them() {
    let native = Native::new("compose-commands", SQLITE);
    let run = native.root.join("run");
    let (here, repository) =
        (format!("{}/", native.root.display()), format!("{}/", harness::repository().display()));
    // `make run` names folders from the root, Compose from the repository's folder.
    let relative = |(program, arguments): (PathBuf, Vec<String>)| {
        let shorten = |argument: String| argument.replace(&here, "").replace(&repository, "");
        (program, arguments.into_iter().map(shorten).collect::<Vec<_>>())
    };
    for (name, made) in [
        ("registry", harness::registry::command(&layout::registry(&run), &native.ports).unwrap()),
        ("moto", harness::aws::command(&layout::aws(&run), native.ports.aws.number()).unwrap()),
        ("gateway", harness::envoy::command(&layout::envoy(&run)).unwrap()),
    ] {
        assert_eq!(relative(said(&native.part(name))), relative(said(&made)), "{name}");
    }
}

fn member(object: &Value, name: &str) -> String {
    text(object, name).unwrap().to_owned()
}

/// What a person has after the first steps.
struct Walk {
    client: Client,
    capability: String,
    revoke: String,
}

impl Walk {
    /// Creates a membrane and exports the function, by what a person finds in run/ after `docker compose up`.
    fn begin(native: &Native, id: &str) -> Self {
        let (tenant, aws) = (native.json("run/tenant.json"), native.json("run/aws.json"));
        let client = Client::tls(native.ports.gateway.number(), &native.root.join("run/ca.pem")).unwrap();
        assert_eq!(client.request("GET", "/").send().unwrap().status, 401);
        let created =
            native.capi(&["membrane", "create", "--capability", &member(&tenant, "create"), "--id", id]);
        let own = &created["capabilities"];
        assert_eq!(member(&aws, "function"), FUNCTION);
        let uri =
            format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/{FUNCTION}/invocations");
        let exported = native.capi(&[
            "membrane",
            "export",
            "--capability",
            &member(own, "export"),
            "--uri",
            &uri,
            "--method",
            "POST",
            "--aws4-hmac-sha256-aws-access-key-id",
            &member(&aws, "accessKeyId"),
            "--aws4-hmac-sha256-region",
            &member(&aws, "region"),
            "--aws4-hmac-sha256-service",
            "lambda",
            "--aws4-hmac-sha256-secret-access-key",
            &member(&aws, "secretAccessKey"),
        ]);
        Self { client, capability: member(&exported, "capability"), revoke: member(own, "revoke") }
    }

    fn ask(&self) -> Response {
        self.client.request("POST", "/").bearer(&self.capability).body(r#"{"hello":"world"}"#).send().unwrap()
    }

    #[track_caller]
    fn invoke(&self) {
        let answer = self.ask();
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"hello":"world"}"#));
    }

    #[track_caller]
    fn revoke(&self, native: &Native) {
        native.capi(&["membrane", "revoke", "--capability", &self.revoke]);
        assert_error(&eventually(401, SOON, || self.ask()), 401, "");
        // By every worker: whose feed was at a registry that is gone hears of it a little later. `--wait` would say when, but for the first
        // minute of a registry on PostgreSQL, in which it waits for whoever it may not know of.
        let (start, mut refused) = (Instant::now(), 0);
        while refused < 16 {
            assert!(start.elapsed() < SOON, "a revoked capability is still let in");
            refused = if self.ask().status == 401 { refused + 1 } else { 0 };
        }
    }
}

/// Create, export, invoke, revoke.
#[test]
fn its_services_walk() {
    let mut native = Native::new("compose-walk", SQLITE);
    native.up();
    let started: Vec<&str> = native.running.keys().map(String::as_str).collect();
    assert_eq!(started, ["gateway", "moto", "pod", "registry"]);
    let read_only = native.read_only();
    let walk = Walk::begin(&native, "payments");
    walk.invoke();

    // A local AWS that begins anew, alone, knows the same key; and a second `up` finds what the first made.
    let (tenant, aws) = (native.json("run/tenant.json"), native.json("run/aws.json"));
    drop(native.running.remove("moto"));
    let gone = Instant::now();
    while native.is_healthy("moto") {
        assert!(gone.elapsed() < Duration::from_secs(5), "moto's health check succeeds without moto");
    }
    native.start("moto");
    assert_eq!(native.json("run/aws.json"), aws);
    walk.invoke();
    native.complete("init");
    assert_eq!(native.json("run/tenant.json"), tenant);
    walk.revoke(&native);
    assert_eq!(native.read_only(), read_only, "somebody wrote where nobody may");
    refuses_the_other_store(&native, POSTGRES, "SQLite, not PostgreSQL");
}

/// How many lookups each of the two registries has answered, by what its metrics say; what Prometheus asks.
fn lookups(native: &Native) -> [u64; 2] {
    [&native.ports.metrics, &native.second[2]].map(|port| {
        let answer = Client::plain(port.number()).request("GET", "/metrics").send().unwrap();
        let text = answer.expect(200, "metrics").unwrap().text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("membrane_registry_lookups_total{"));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    })
}

/// The same with two registries on one PostgreSQL, of which either may be gone.
#[test]
fn its_services_walk_with_postgres_and_two_registries() {
    let mut native = Native::new("compose-postgres", POSTGRES);
    native.up();
    let started: Vec<&str> = native.running.keys().map(String::as_str).collect();
    assert_eq!(started, ["gateway", "moto", "pod", "postgres", "registry", "registry-2"]);
    assert!(!native.root.join("run/registry/registry.db").exists(), "there is a SQLite store");
    let read_only = native.read_only();
    let walk = Walk::begin(&native, "payments");
    let balanced = |native: &Native, id: &str| {
        let before = lookups(native);
        let start = Instant::now();
        for number in 0.. {
            let now = lookups(native);
            if before.iter().zip(now).all(|(before, now)| now > *before) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "one of the registries is never asked: {now:?}"
            );
            Walk::begin(native, &format!("{id}/{number}")).invoke();
        }
    };
    balanced(&native, "at-first");
    walk.invoke();
    walk.revoke(&native);
    let tenant = native.json("run/tenant.json");
    native.complete("password");
    native.complete("init");
    assert_eq!(native.json("run/tenant.json"), tenant);

    for dies in ["registry-2", "registry"] {
        let walk = Walk::begin(&native, &format!("outlives/{dies}"));
        native.running.get_mut(dies).unwrap().kill();
        drop(native.running.remove(dies));
        // What was exported before, what is looked up for the first time, and the end of both.
        walk.invoke();
        let during = Walk::begin(&native, &format!("without/{dies}"));
        during.invoke();
        during.revoke(&native);
        walk.revoke(&native);
        // The one that comes back honours nothing that it has not heard of.
        native.start(dies);
        assert_eq!(walk.ask().status, 401);
        // Envoy leaves it out for a second or two more; a death of the other one in that time would be an outage.
        balanced(&native, &format!("after/{dies}"));
    }
    assert_eq!(native.read_only(), read_only, "somebody wrote where nobody may");

    // The password is asked for, even on this namespace's loopback, and stands in no log.
    let password = native.file("run/postgres/password");
    assert!(!native.logs().contains(password.trim()), "the password is in a log");
    let mut without = native.part("registry");
    without.env_remove("PGPASSFILE");
    let refused = without.output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("password"), "{why}");
    refuses_the_other_store(&native, SQLITE, "PostgreSQL, not SQLite");
}

/// `init` of the other composition, on this one's run folder.
fn refuses_the_other_store(native: &Native, files: &[&str], why: &str) {
    let other = Native::new(&format!("compose-other-{}", files.len()), files);
    let output = other.part("init").current_dir(native.view("init")).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains(why) && message.contains("MEMBRANE_RUN"),
        "{message}"
    );
}
