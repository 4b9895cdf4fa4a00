//! `make run` as a process: a second start finds its data, two run beside each other, a signal ends everything.

use crate::folder;
use harness::http::Client;
use harness::ports::Port;
use harness::process::Process;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Run {
    dir: PathBuf,
    process: Process,
    client: Client,
}

impl Run {
    fn start(dir: &Path, port: u16) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let log = dir.join("run.log");
        // Of this start alone, or an earlier `ready` would be taken for this one's.
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_local-gateway"));
        command.arg("run").env("MEMBRANE_RUN", dir).env("MEMBRANE_PORT", port.to_string());
        let mut process = Process::spawn("local-gateway", command, &log).unwrap();
        let ready =
            || std::fs::read_to_string(&log).is_ok_and(|text| text.lines().any(|line| line == "ready"));
        process.wait_until(Duration::from_secs(60), "ready", ready).unwrap();
        let client = Client::tls(port, &dir.join("ca.pem")).unwrap();
        Self { dir: dir.into(), process, client }
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.join(file)).unwrap()).unwrap()
    }

    fn ask(&self, capability: &Value, method: &str, body: &Value) -> harness::http::Response {
        self.client.request(method, "/").bearer(capability.as_str().unwrap()).json(body).send().unwrap()
    }

    /// Creates a membrane and exports the local AWS's function; gives that capability and the one to revoke.
    fn export(&self, id: &str) -> (Value, Value) {
        let created = self
            .ask(&self.json("tenant.json")["create"], "POST", &json!({ "id": id }))
            .expect(201, "create")
            .unwrap()
            .json();
        let aws = self.json("aws.json");
        let [region, function] = ["region", "function"].map(|name| aws[name].as_str().unwrap());
        let exported = self.ask(
            &created["capabilities"]["export"],
            "POST",
            &json!({
                "uri": format!("https://lambda.{region}.amazonaws.com/2015-03-31/functions/{function}/invocations"),
                "method": "POST",
                "hmac": {"aws4-hmac-sha256": {
                    "awsAccessKeyId": aws["accessKeyId"], "secretAccessKey": aws["secretAccessKey"],
                    "region": region, "service": "lambda",
                }},
            }),
        );
        (
            exported.expect(201, "export").unwrap().json()["capability"].clone(),
            created["capabilities"]["revoke"].clone(),
        )
    }

    /// Sends Ctrl-C's signal to `local-gateway` alone, and checks that all it started is gone.
    fn interrupt(mut self) {
        let children = children(self.process.id());
        assert!(children.len() >= 3, "registry, Envoy and moto should run: {children:?}");
        rustix::process::kill_process(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap(),
            Signal::INT,
        )
        .unwrap();
        let mut status = None;
        for _ in 0..1_000 {
            status = self.process.exited();
            if status.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.process.log_tail(10));
        for child in children {
            assert!(!Path::new("/proc").join(child.to_string()).exists(), "process {child} is left");
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The fourth field, after the name in parentheses, is the parent.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        if after.split_whitespace().nth(1) == Some(&parent.to_string()) {
            all.push(id);
        }
    }
    all
}

#[test]
fn a_second_start_finds_its_data_again_and_two_run_beside_each_other() {
    let (first, second) = (Port::free().unwrap(), Port::free().unwrap());
    let (dir, other_dir) = (folder("run"), folder("run-beside"));
    let run = Run::start(&dir, first.number());
    let beside = Run::start(&other_dir, second.number());
    for file in ["ca.pem", "tenant.json", "aws.json", "registry/registry.db", "ports.json", "logs"] {
        assert!(dir.join(file).exists(), "{file}");
    }
    let tenant = run.json("tenant.json");
    for name in ["create", "query", "deleteSelf"] {
        let expected = format!("cpblty://localhost:{}/#CPBLTY1-", first.number());
        assert!(tenant[name].as_str().is_some_and(|uri| uri.starts_with(&expected)), "{name}");
    }
    let (invoke, _) = run.export("stays");
    let (revoked, revoke) = run.export("revoked");
    let event = json!({"a": 1});
    assert_eq!(run.ask(&invoke, "POST", &event).json(), event);
    assert_eq!(run.ask(&revoke, "DELETE", &json!(null)).status, 202);
    // The neighbour knows nothing of it.
    assert_eq!(beside.ask(&invoke, "POST", &event).status, 401);
    assert_eq!(beside.ask(&beside.export("own").0, "POST", &event).status, 200);
    let aws = run.json("aws.json");
    run.interrupt();
    assert_eq!(beside.ask(&beside.export("still").0, "POST", &event).status, 200, "the neighbour runs on");

    let again = Run::start(&dir, first.number());
    assert_eq!(again.json("tenant.json"), tenant);
    for name in ["accessKeyId", "secretAccessKey", "region", "function"] {
        assert_eq!(again.json("aws.json")[name], aws[name], "{name}");
    }
    assert_eq!(
        again.ask(&invoke, "POST", &event).json(),
        event,
        "a capability exported before still invokes"
    );
    assert_eq!(again.ask(&revoked, "POST", &event).status, 401, "and a revoked one is still refused");
    let twice = again.ask(&tenant["create"], "POST", &json!({"id": "stays"}));
    assert_eq!(twice.status, 409, "{}", twice.text());
    again.interrupt();
    beside.interrupt();
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing_running() {
    let port = Port::free().unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port.number())).unwrap();
    let start = |port: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local-gateway"));
        command.arg("run").env("MEMBRANE_RUN", folder("cannot-start")).env("MEMBRANE_PORT", port);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let message = start(&port.number().to_string());
    assert!(message.contains(&port.number().to_string()) && message.contains("MEMBRANE_PORT"), "{message}");
    assert!(start("none").contains("MEMBRANE_PORT"));
}
