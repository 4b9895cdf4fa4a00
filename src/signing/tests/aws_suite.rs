//! AWS's own signing suite, as it ships inside the crate `aws-sigv4`: every case, each stage.
//!
//! What does not apply to this crate stands, with its reason, in `tests/vectors/sigv4/exceptions.json`; an exception that is not
//! needed fails the test, as does a case that the suite gains and nobody looked at.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use signing::aws4::{Credential, DayKey, Payload, Service, SessionToken, Signer, Target, stages};
use signing::{Scheme, Secret, Timestamp};

/// What [`run`] reads of a case.
const FILES: [&str; 6] = [
    "request.txt",
    "context.json",
    "header-canonical-request.txt",
    "header-string-to-sign.txt",
    "header-signature.txt",
    "header-signed-request.txt",
];

#[derive(Deserialize)]
struct Context {
    credentials: Credentials,
    normalize: bool,
    region: String,
    service: String,
    timestamp: String,
    sign_body: bool,
    #[serde(default)]
    omit_session_token: bool,
}

#[derive(Deserialize)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn host(&self) -> &str {
        self.headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.as_str()).unwrap()
    }

    fn payload(&self) -> Payload {
        if self.body.is_empty() { Payload::Empty } else { Payload::Sha256(Sha256::digest(&self.body).into()) }
    }
}

fn suite() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package =
        metadata["packages"].as_array().unwrap().iter().find(|it| it["name"] == "aws-sigv4").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().join("aws-signing-test-suite")
}

/// An HTTP/1.1 request in which paths may hold spaces and header lines may be continued.
fn parse(text: &str) -> Request {
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let (method, rest) = lines.next().unwrap().split_once(' ').unwrap();
    let target = rest.strip_suffix(" HTTP/1.1").unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with(' ') {
            let (_, value) = headers.last_mut().unwrap();
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    Request { method: method.into(), path: path.into(), query: query.into(), headers, body: body.into() }
}

/// Only these texts occur in the suite.
fn timestamp(text: &str) -> Timestamp {
    let now = Timestamp::from_unix(match text {
        "2015-08-30T12:36:00Z" | "20150830T123600Z" => 1_440_938_160,
        "20210511T154045Z" => 1_620_747_645,
        other => panic!("add {other}"),
    });
    assert_eq!(now.amz(), text.replace(['-', ':'], ""));
    now
}

fn pairs(headers: &[(String, String)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

/// What each stage made of a case, beside what the suite says. A stage without a file is absent.
fn run(case: &Path) -> Vec<(&'static str, String, String)> {
    let read = |name: &str| {
        std::fs::read_to_string(case.join(name))
            .ok()
            .map(|text| text.replace("\r\n", "\n").trim_end().to_owned())
    };
    let request = parse(&std::fs::read_to_string(case.join("request.txt")).unwrap());
    let expected_canonical = read("header-canonical-request.txt").unwrap();
    let context: Option<Context> = read("context.json").map(|text| serde_json::from_str(&text).unwrap());

    // The two cases in the suite's old format have no context: they are about encoding twice, and carry their own date.
    let now = match &context {
        Some(context) => timestamp(&context.timestamp),
        None => {
            timestamp(expected_canonical.lines().find_map(|line| line.strip_prefix("x-amz-date:")).unwrap())
        }
    };
    let rules = stages::PathRules {
        normalise: context.as_ref().is_none_or(|context| context.normalize),
        encode_again: context.is_none(),
    };
    let target: Target = stages::target(
        rules,
        Scheme::Https,
        request.host(),
        request.path.as_bytes(),
        request.query.as_bytes(),
    )
    .unwrap();

    let mut headers: Vec<_> =
        request.headers.iter().filter(|(name, _)| name != "x-amz-date").cloned().collect();
    headers.push(("x-amz-date".into(), now.amz().into()));
    if let Some(context) = &context {
        if context.sign_body {
            headers.push(("x-amz-content-sha256".into(), hex::encode(Sha256::digest(&request.body))));
        }
        if let (Some(token), false) = (&context.credentials.token, context.omit_session_token) {
            headers.push(("x-amz-security-token".into(), token.clone()));
        }
    }
    let canonical =
        stages::canonical_request(&request.method, &target, pairs(&headers), request.payload()).unwrap();
    let mut results = vec![(
        "canonical request",
        expected_canonical.clone(),
        String::from_utf8(canonical.clone()).unwrap(),
    )];

    if let Some(expected) = read("header-string-to-sign.txt") {
        let scope: Vec<&str> = expected.lines().nth(2).unwrap().split('/').collect();
        let service = Service::new(scope[2]).unwrap();
        let text = stages::string_to_sign(&now, scope[1], &service, &canonical);
        results.push(("string to sign", expected, text.clone()));
        if let (Some(context), Some(expected)) = (&context, read("header-signature.txt")) {
            let secret = Secret::new(context.credentials.secret_access_key.clone());
            let key = DayKey::derive(&secret, &now, &context.region, &service);
            results.push(("signature", expected, key.sign(&text)));
        }
    }

    if let Some(context) = context {
        let expected = parse(&read("header-signed-request.txt").unwrap());
        let credential = Credential {
            access_key_id: context.credentials.access_key_id,
            secret_access_key: Secret::new(context.credentials.secret_access_key),
            session_token: context.credentials.token.map(|token| SessionToken::Sts(Secret::new(token))),
        };
        let mut signer =
            Signer::new(credential, context.region, Service::new(context.service).unwrap()).unwrap();
        let mut out = String::new();
        let payload = request.payload();
        let signed =
            signer.sign(&now, &request.method, &target, pairs(&request.headers), payload, &mut out).unwrap();
        let mut sent: Vec<(String, String)> = request.headers.clone();
        sent.extend(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())));
        results.push(("request", sorted(expected.headers), sorted(sent)));
    }
    results
}

fn sorted(mut headers: Vec<(String, String)>) -> String {
    headers.iter_mut().for_each(|(_, value)| *value = value.trim().to_owned());
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    headers.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

#[test]
fn every_case_at_each_stage() {
    let exceptions: BTreeMap<String, String> =
        serde_json::from_str(include_str!("../../../tests/vectors/sigv4/exceptions.json")).unwrap();
    let mut unused: Vec<&String> = exceptions.keys().collect();
    let (mut cases, mut stages, mut failures) = (0, 0, Vec::new());
    for version in std::fs::read_dir(suite()).unwrap().map(Result::unwrap).filter(|it| it.path().is_dir()) {
        let version_name = version.file_name().into_string().unwrap();
        if exceptions.contains_key(&version_name) {
            unused.retain(|name| **name != version_name);
            continue;
        }
        for case in std::fs::read_dir(version.path()).unwrap().map(Result::unwrap) {
            let name = format!("{version_name}/{}", case.file_name().into_string().unwrap());
            cases += 1;
            for file in std::fs::read_dir(case.path()).unwrap().map(|it| it.unwrap().file_name()) {
                let file = file.into_string().unwrap();
                if file.starts_with("query-") && exceptions.contains_key("query-*.txt") {
                    unused.retain(|name| *name != "query-*.txt");
                } else {
                    assert!(FILES.contains(&file.as_str()), "{name}: nobody reads {file}");
                }
            }
            for (stage, expected, actual) in run(&case.path()) {
                stages += 1;
                let stage_name = format!("{name}: {stage}");
                if exceptions.contains_key(&stage_name) {
                    if expected != actual {
                        unused.retain(|name| **name != stage_name);
                    }
                } else if expected != actual {
                    failures.push(format!("{stage_name}\n--- AWS\n{expected}\n--- ours\n{actual}\n"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(unused.is_empty(), "exceptions that are not needed: {unused:?}");
    // aws-sigv4 1.6.4 has 40 cases: 38 with all four stages, one with two, one with the canonical request alone.
    assert!(cases >= 40 && stages >= 38 * 4 + 3, "{cases} cases, {stages} stages: has the suite moved?");
}
