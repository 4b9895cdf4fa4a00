//! The module for diagnosing: why AWS refused a signature, by an upstream that says what botocore would have signed for what came.

use crate::folder;
use harness::gateway::{Gateway, Membrane, Options};
use harness::origin::{RECORDER, Recorded};
use harness::ports::Ports;
use harness::verifier::{Expected, verify};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a request meets on its way to AWS.
type Way = fn(&mut Recorded);

const SECRET: &str = "canary-diagnosis-secret";
const SESSION: &str = "canary-diagnosis-session-token";
const PINNED: &str = "canary-diagnosis-pinned";

/// The canonical request that botocore makes of what came.
fn canonical(request: &Recorded, service: &str) -> String {
    let other_secret = Expected {
        access_key_id: "AKIADIAGNOSIS",
        secret_access_key: "another",
        region: "us-east-1",
        service,
    };
    let refused = verify(std::slice::from_ref(request), &other_secret).unwrap_err().to_string();
    let (_, canonical) = refused.split_once("canonical request is:\n").unwrap_or_else(|| panic!("{refused}"));
    canonical.trim_end().to_owned()
}

/// AWS's refusal, in the form of its services with a JSON protocol.
fn refusal(request: &Recorded, service: &str) -> String {
    let date = request.one("x-amz-date").unwrap();
    let scope = format!("{}/us-east-1/{service}/aws4_request", &date[..8]);
    let message = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing \
         method. Consult the service documentation for details.\n\nThe Canonical String for this request should have been\n'{}'\n\n\
         The String-to-Sign should have been\n'AWS4-HMAC-SHA256\n{date}\n{scope}\n0'\n",
        canonical(request, service)
    );
    json!({ "message": message }).to_string()
}

fn gateway() -> Gateway {
    let options = Options {
        dir: folder("diagnosis"),
        ports: Ports::free().unwrap(),
        workers: Some(1),
        trace: false,
        observed: true,
    };
    let shipped = harness::module().unwrap().display().to_string();
    let diagnosing = harness::diagnosing_module().unwrap().display().to_string();
    Gateway::start_with(options, |config| {
        assert!(config.contains(&shipped));
        Ok(config.replace(&shipped, &diagnosing))
    })
    .unwrap()
}

fn export(gateway: &Gateway, membrane: &Membrane, path: &str, service: &str, session: bool) -> String {
    let mut key = json!({
        "awsAccessKeyId": "AKIADIAGNOSIS", "secretAccessKey": SECRET, "region": "us-east-1", "service": service,
    });
    if session {
        key["sessionToken"] = SESSION.into();
    }
    let what = json!({
        "uri": format!("https://{RECORDER}/refused/{service}{path}"), "headers": {"x-pinned": PINNED}, "allowQuery": true,
        "hmac": {"aws4-hmac-sha256": key},
    });
    gateway.export(membrane, &what).unwrap()
}

/// What the filter logged since the last call, waiting until something is.
fn said(gateway: &Gateway, before: usize) -> String {
    let start = Instant::now();
    loop {
        let log = std::fs::read_to_string(gateway.logs().join("envoy.log")).unwrap();
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains("AWS refused the signature")).collect();
        if let Some(line) = lines.get(before) {
            assert_eq!(lines.len(), before + 1);
            return (*line).to_owned();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "nothing was logged");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_first_line_that_differs_is_logged_and_no_secret() {
    let gateway = gateway();
    let membrane = gateway.create_membrane("diagnosis").unwrap();
    let change: Arc<Mutex<Way>> = Arc::new(Mutex::new(|_| {}));
    let of_origin = Arc::clone(&change);
    gateway.origin().refuse_with(Arc::new(move |request| {
        let mut request = request.clone();
        (of_origin.lock().unwrap())(&mut request);
        let service = if request.target.contains("/s3/") { "s3" } else { "lambda" };
        refusal(&request, service)
    }));
    // Warnings of one kind come once a second at most.
    let pause = || std::thread::sleep(Duration::from_millis(1_100));
    let mut count = 0;
    let mut ask = |capability: &str, target: &str, body: &str| {
        let answer = gateway.request(capability, "POST", target).body(body).send().unwrap();
        assert_eq!(answer.status, 403, "{}", answer.text());
        // The answer is AWS's, untouched.
        assert!(answer.json()["message"].as_str().unwrap().contains("String-to-Sign"));
        let line = said(&gateway, count);
        count += 1;
        pause();
        line
    };

    // Nothing was changed on the way: what was signed here is what botocore signs, in every part, so that the key must be another.
    for (path, service, session) in [
        ("/2015-03-31/functions/arn%3Aaws%3Alambda/invocations?Qualifier=%24LATEST&a", "lambda", true),
        ("/a b/../ü+~/x?list-type=2".replace(' ', "%20").replace('ü', "%C3%BC").as_str(), "s3", false),
    ] {
        let capability = export(&gateway, &membrane, path, service, session);
        for (target, body) in [("/", "hello"), ("/?more=1%2B1&b=", "")] {
            let line = ask(&capability, target, body);
            assert!(
                line.contains("the canonical requests are the same, so the grant's secret access key"),
                "{line}"
            );
        }
    }

    let capability = export(&gateway, &membrane, "/function", "lambda", true);
    let changes: [(Way, &str); 4] = [
        (
            |request| set(request, "host", "internal.example"),
            "the header: AWS has \"host:internal.example\", signed was \"host:recorder.us-east-1.amazonaws.com\"",
        ),
        (|request| request.body = b"other".to_vec(), "the hash of the body: AWS has "),
        (
            |request| request.target = request.target.replace("/function", "/another"),
            "the path, from its byte ",
        ),
        (
            |request| set(request, "x-amz-security-token", "canary-diagnosis-changed"),
            "the value of the header \"x-amz-security-token\" was changed on its way to AWS",
        ),
    ];
    for (way, expected) in changes {
        *change.lock().unwrap() = way;
        let line = ask(&capability, "/", "hello");
        assert!(line.contains(expected), "{line}\n{expected}");
    }
    let log = std::fs::read_to_string(gateway.logs().join("envoy.log")).unwrap();
    assert!(!log.contains("canary-diagnosis"), "a secret is in the log");

    // Other refusals are AWS's own matter.
    gateway.origin().refuse_with(Arc::new(|_| json!({"message": "not authorized"}).to_string()));
    assert_eq!(gateway.request(&capability, "POST", "/").send().unwrap().status, 403);
    pause();
    let log = std::fs::read_to_string(gateway.logs().join("envoy.log")).unwrap();
    assert_eq!(log.matches("AWS refused the signature").count(), count);
}

fn set(request: &mut Recorded, name: &str, value: &str) {
    let header = request.headers.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(name)).unwrap();
    header.1 = value.into();
}

/// Envoy calls what it finds exported, for every request: what everybody runs has none of it.
#[test]
fn the_shipped_module_looks_at_no_answer() {
    let exports = |module: std::path::PathBuf| -> Vec<String> {
        const LIST: &str = "const m = new WebAssembly.Module(require('fs').readFileSync(process.argv[1]));\
             console.log(JSON.stringify(WebAssembly.Module.exports(m).map(e => e.name)))";
        let output = std::process::Command::new("node").args(["-e", LIST]).arg(module).output().unwrap();
        let names: Value = serde_json::from_slice(&output.stdout).unwrap();
        names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let (shipped, diagnosing) =
        (exports(harness::module().unwrap()), exports(harness::diagnosing_module().unwrap()));
    let mut more: Vec<&String> = diagnosing.iter().filter(|name| !shipped.contains(name)).collect();
    more.sort();
    assert_eq!(more, ["proxy_on_response_body", "proxy_on_response_headers"]);
}
