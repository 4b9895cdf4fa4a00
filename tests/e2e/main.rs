//! End-to-end tests: a real Envoy with two workers, the real registry, and a local AWS that verifies signatures.
//!
//! Tests share one gateway where they can; those that disturb a part have their own.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods)]

mod api;
mod architecture;
mod bad_input;
mod bearers;
mod bodies;
mod cap1;
mod clients;
mod command_line;
mod compose;
mod configuration;
mod delegation;
mod diagnosis;
mod dist;
mod documented;
mod drop_in;
mod export_fields;
mod guides;
mod hostile;
mod mesh;
mod monitoring;
mod operator;
mod outage;
mod paging;
mod pinned_bodies;
#[path = "../../src/registry/tests/common/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "the registry's tests need more of it")]
mod postgres;
mod production;
mod reload;
mod replicas;
mod requesters;
mod restart;
mod revocation;
mod schema;
mod secrets;
mod services;
mod shipped;
mod signed_as_sent;
mod streaming;
mod streaming_memory;
mod walk;
mod watchers;

use harness::gateway::{Gateway, Membrane, Options};
use harness::http::Response;
use harness::origin::RECORDER;
use harness::ports::Ports;
use harness::verifier::{Expected, verify};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The gateway that most tests share. Its processes end with this one.
fn shared() -> &'static Gateway {
    static SHARED: OnceLock<Gateway> = OnceLock::new();
    SHARED.get_or_init(|| own("shared"))
}

/// A gateway of one's own, in `target/tmp/e2e-<process>/<name>`.
fn own(name: &str) -> Gateway {
    Gateway::start(options(folder(name))).unwrap()
}

fn options(dir: PathBuf) -> Options {
    Options { dir, ports: Ports::free().unwrap(), workers: Some(2), trace: true, observed: true }
}

/// A folder that is kept for looking at after a failure, until the next run.
fn folder(name: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let all = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name
                .strip_prefix("e2e-")
                .and_then(|id| id.parse().ok())
                .and_then(rustix::process::Pid::from_raw);
            if process.is_some_and(|process| rustix::process::test_kill_process(process).is_err()) {
                // Of a run that has ended. What cannot be removed now is removed by a later run.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        all.join(format!("e2e-{}", std::process::id()))
    });
    root.join(name)
}

/// A membrane of the shared gateway.
fn membrane(id: &str) -> Membrane {
    shared().create_membrane(id).unwrap()
}

/// What to export to get requests to the recording origin, signed for Lambda.
fn recorded(gateway: &Gateway, method: Option<&str>, path: &str) -> Value {
    let mut what = json!({"uri": format!("https://{RECORDER}{path}"), "hmac": gateway.aws4("lambda")});
    if let Some(method) = method {
        what["method"] = method.into();
    }
    what
}

/// Fails unless every request that reached the origin at `target` is signed with the local AWS's key for Lambda.
fn assert_signed(gateway: &Gateway, target: &str) {
    let requests = gateway.origin().requests(target);
    assert!(!requests.is_empty(), "nothing came to {target}");
    let key = &gateway.aws.key;
    let region = harness::aws::REGION;
    let expected =
        Expected { access_key_id: &key.id, secret_access_key: &key.secret, region, service: "lambda" };
    verify(&requests, &expected).unwrap();
}

/// Longer than the filter's tick, at which a worker asks the feed, tells Envoy its counts, and begins.
const TICKS: Duration = Duration::from_millis(250);

/// Asks with a capability of the recording origin until both workers answer from their own caches; gives the number of
/// requests that took.
fn warm(gateway: &Gateway, capability: &str, method: &str) -> usize {
    const ROUND: usize = 16;
    let lookups = || {
        std::thread::sleep(TICKS);
        let count = |result: &str| {
            gateway.stat(&format!("wasmcustom.membrane_lookups_total.result.{result}")).unwrap()
        };
        count("found").unwrap_or(0) + count("shared").unwrap_or(0)
    };
    for round in 1..20 {
        let before = lookups();
        for _ in 0..ROUND {
            let answer = gateway.request(capability, method, "/").send().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        // Others may look up meanwhile on the shared gateway; then another round tells.
        if lookups() == before {
            return round * ROUND;
        }
    }
    panic!("lookups go on: nothing is cached");
}

/// The error form of the API: status, JSON with that status and a message that holds `part`.
#[track_caller]
fn assert_error(answer: &Response, status: u16, part: &str) {
    let body = answer.json();
    assert_eq!(
        (answer.status, body["statusCode"].as_u64()),
        (status, Some(status.into())),
        "{}",
        answer.text()
    );
    assert!(body["error"].is_string(), "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.contains(part), "expected a message with {part:?}, came {message:?}");
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "content-type: {kind}");
}

/// Asks until the answer has that status; fails with the last answer after `within`.
#[track_caller]
fn eventually(status: u16, within: Duration, mut ask: impl FnMut() -> Response) -> Response {
    let start = Instant::now();
    loop {
        let answer = ask();
        if answer.status == status {
            return answer;
        }
        assert!(
            start.elapsed() < within,
            "expected {status} within {within:?}, last came {}: {}",
            answer.status,
            answer.text()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
