//! Recomputes signatures from what the origin received, with AWS's own code (PyPI `botocore`).

use crate::failure::{Failure, Outcome, While};
use crate::origin::Recorded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// What a request must have been signed with.
pub struct Expected<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// Fails with the reason, and the verifier's canonical request, if any of the requests is not signed as expected.
pub fn verify(requests: &[Recorded], expected: &Expected<'_>) -> Outcome<()> {
    let question = json!({
        "accessKeyId": expected.access_key_id, "secretAccessKey": expected.secret_access_key,
        "region": expected.region, "service": expected.service, "requests": shown(requests),
    });
    let mut verifier = Command::new(crate::tool("python")?);
    verifier.arg(crate::repository().join("tests/tools/verify_sigv4.py"));
    ask(verifier, &question)
}

/// The same for CAP1-HMAC-SHA512, with a verifier in the language of the reference implementation.
pub fn verify_cap1(requests: &[Recorded], key_id: &str, key: &str) -> Outcome<()> {
    let question = json!({"keyId": key_id, "key": key, "requests": shown(requests)});
    let mut verifier = Command::new("node");
    verifier.arg(crate::repository().join("tests/tools/verify_cap1.mjs"));
    ask(verifier, &question)
}

fn shown(requests: &[Recorded]) -> Vec<Value> {
    let header = |(name, value): &(String, Vec<u8>)| json!([name, STANDARD.encode(value)]);
    let shown = |request: &Recorded| {
        json!({
            "method": request.method, "target": request.target,
            "headers": request.headers.iter().map(header).collect::<Vec<_>>(),
            "body": STANDARD.encode(&request.body),
        })
    };
    requests.iter().map(shown).collect()
}

fn ask(mut verifier: Command, question: &Value) -> Outcome<()> {
    let mut child = verifier
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .while_(|| "starting the verifier".into())?;
    // It reads everything before it writes anything, so the pipes cannot block each other.
    child.stdin.take().ok_or_else(|| Failure::new("no pipe"))?.write_all(question.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(())
    } else {
        let why = [output.stdout, output.stderr].concat();
        Err(Failure::new(format!("signature check: {}", String::from_utf8_lossy(&why))))
    }
}

/// The decoded data of a signed aws-chunked body, once each of its signatures is found right, beginning with its request's
/// own (which [`verify`] looks at).
pub fn verify_chunks(request: &Recorded, expected: &Expected<'_>) -> Outcome<Vec<u8>> {
    let authorization = request.one("authorization")?;
    let (_, seed) =
        authorization.rsplit_once("Signature=").ok_or_else(|| Failure::new("no signature to begin with"))?;
    let question = json!({
        "secretAccessKey": expected.secret_access_key, "region": expected.region, "service": expected.service,
        "date": request.one("x-amz-date")?, "seed": seed,
        "trailer": request.one("x-amz-content-sha256")?.ends_with("-TRAILER"), "body": STANDARD.encode(&request.body),
    });
    let mut child = Command::new(crate::tool("python")?)
        .arg(crate::repository().join("tests/tools/verify_chunks.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .while_(|| "starting the verifier of chunks".into())?;
    child.stdin.take().ok_or_else(|| Failure::new("no pipe"))?.write_all(question.to_string().as_bytes())?;
    let answer: Value = serde_json::from_slice(&child.wait_with_output()?.stdout)
        .while_(|| "reading what the verifier of chunks says".into())?;
    match answer["body"].as_str() {
        Some(body) => STANDARD.decode(body).while_(|| "reading the verified data".into()),
        None => Err(Failure::new(format!("signature check: {}", answer["error"]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected<'_> = Expected {
        access_key_id: "AKIAEXAMPLE",
        secret_access_key: "a secret",
        region: "us-east-1",
        service: "lambda",
    };

    /// A request signed now, by botocore's own signer.
    fn signed() -> Recorded {
        const SIGN: &str = "import json\n\
            from botocore.auth import SigV4Auth\n\
            from botocore.awsrequest import AWSRequest\n\
            from botocore.credentials import Credentials\n\
            request = AWSRequest('POST', 'https://h.example/a%20b?x=1&a=2', data=b'body', headers={'x-amz-meta': 'm'})\n\
            SigV4Auth(Credentials('AKIAEXAMPLE', 'a secret'), 'lambda', 'us-east-1').add_auth(request)\n\
            print(json.dumps(list(request.headers.items())))";
        let output = Command::new(crate::tool("python").unwrap()).args(["-c", SIGN]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let headers: Vec<(String, String)> = serde_json::from_slice::<Vec<[String; 2]>>(&output.stdout)
            .unwrap()
            .into_iter()
            .map(|[name, value]| (name, value))
            .chain([("Host".into(), "h.example".into())])
            .collect();
        Recorded {
            head: Vec::new(),
            method: "POST".into(),
            target: "/a%20b?x=1&a=2".into(),
            headers: headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect(),
            body: b"body".to_vec(),
        }
    }

    #[test]
    fn accepts_botocores_signature_and_nothing_that_differs() {
        let good = signed();
        verify(std::slice::from_ref(&good), &EXPECTED).unwrap();
        type Change = fn(&mut Recorded);
        let changes: [(&str, Change); 7] = [
            ("method", |request| request.method = "PUT".into()),
            ("path", |request| request.target = "/a%20c?x=1&a=2".into()),
            ("query", |request| request.target = "/a%20b?x=1&a=3".into()),
            ("body", |request| request.body = b"Body".to_vec()),
            ("host", |request| request.headers.last_mut().unwrap().1 = b"i.example".to_vec()),
            ("an unsigned x-amz header", |request| {
                request.headers.push(("x-amz-acl".into(), b"public-read".to_vec()))
            }),
            ("a doubled authorization", |request| {
                let again = request.headers.iter().find(|(name, _)| name == "Authorization").unwrap().clone();
                request.headers.push(again);
            }),
        ];
        for (what, change) in changes {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(verify(&[changed], &EXPECTED).is_err(), "{what} was not noticed");
        }
        let other = Expected { secret_access_key: "another secret", ..EXPECTED };
        assert!(verify(&[good], &other).is_err(), "another secret");
    }
}
