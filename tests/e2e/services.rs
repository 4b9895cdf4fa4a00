//! AWS services, as moto stands in for them with its authentication on: signatures are recomputed with botocore, and policies hold.
//! Each call is made through a capability, and again with one byte of the secret wrong, which must be refused.

use crate::own;
use harness::aws::{FUNCTION, REGION};
use harness::gateway::{Gateway, Membrane};
use harness::http::{Client, Response};
use harness::verifier::{Expected, verify};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const BUCKET: &str = "membrane-bucket";
const JSON_10: &str = "application/x-amz-json-1.0";
const JSON_11: &str = "application/x-amz-json-1.1";
const FORM: &str = "application/x-www-form-urlencoded";

struct Account {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Account {
    fn hmac(&self, service: &str) -> Value {
        let mut hmac = json!({
            "awsAccessKeyId": self.id, "secretAccessKey": self.secret, "region": REGION, "service": service,
        });
        if let Some(token) = &self.token {
            hmac["sessionToken"] = token.as_str().into();
        }
        json!({ "aws4-hmac-sha256": hmac })
    }

    /// The same with one byte of the secret wrong.
    fn forged(&self) -> Self {
        let mut secret = self.secret.clone();
        let last = secret.pop().unwrap();
        secret.push(if last == 'A' { 'B' } else { 'A' });
        Self { id: self.id.clone(), secret, token: self.token.clone() }
    }

    /// What the origin received after the first `seen` requests is signed with this account's secret; gives the services in the
    /// credential scopes.
    fn verify(&self, gateway: &Gateway, seen: usize) -> BTreeSet<String> {
        let mut by_service: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for request in gateway.origin().requests("").split_off(seen) {
            let authorization = request.one("authorization").unwrap();
            if authorization.contains(&format!("Credential={}/", self.id)) {
                let service = authorization.split('/').nth(3).unwrap().to_owned();
                by_service.entry(service).or_default().push(request);
            }
        }
        for (service, requests) in &by_service {
            let expected = Expected {
                access_key_id: &self.id,
                secret_access_key: &self.secret,
                region: REGION,
                service,
            };
            verify(requests, &expected).unwrap();
        }
        by_service.into_keys().collect()
    }
}

/// A gateway whose local AWS holds what the tests use.
struct World {
    gateway: Gateway,
    membrane: Membrane,
    account: Account,
    temporary: Account,
    queue: String,
    topic: String,
}

fn resources(gateway: &Gateway, as_: Option<&Account>, more: &[&str]) -> Value {
    let endpoint = format!("http://127.0.0.1:{}", gateway.ports.aws.number());
    let mut command = Command::new(harness::tool("python").unwrap());
    command
        .arg(harness::repository().join("tests/tools/aws_resources.py"))
        .args([&endpoint, REGION])
        .args(more);
    let (id, secret) = as_.map_or(("setup", "setup"), |account| (&account.id, &account.secret));
    // Nothing of whoever runs this.
    command.env("HOME", &gateway.dir).env("NO_PROXY", "*").env("AWS_EC2_METADATA_DISABLED", "true");
    let output = command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

impl World {
    fn new(name: &str) -> Self {
        let gateway = own(name);
        let moto = Client::plain(gateway.ports.aws.number());
        let authenticate_after = |count: &str| {
            let request = moto.request("POST", "/moto-api/reset-auth").header("Content-Type", "text/plain");
            request.body(count).send().unwrap().expect(200, "moto's authentication").unwrap();
        };
        authenticate_after("inf");
        let made = resources(&gateway, None, &[]);
        authenticate_after("0");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let account = |value: &Value| Account {
            id: text(&value["id"]),
            secret: text(&value["secret"]),
            token: value["token"].as_str().map(str::to_owned),
        };
        let membrane = gateway.create_membrane(name).unwrap();
        Self {
            account: account(&made),
            temporary: account(&made["temporary"]),
            queue: text(&made["queue"]),
            topic: text(&made["topic"]),
            gateway,
            membrane,
        }
    }

    fn export(&self, account: &Account, call: &Call) -> String {
        let mut what = json!({
            "uri": call.uri, "headers": {}, "hmac": account.hmac(call.service),
        });
        if let Some(method) = call.method {
            what["method"] = method.into();
        }
        if let Some(target) = call.target {
            what["headers"]["X-Amz-Target"] = target.into();
        }
        self.gateway.export(&self.membrane, &what).unwrap()
    }

    fn ask(&self, account: &Account, call: &Call) -> Response {
        let capability = self.export(account, call);
        let mut request = self.gateway.request(&capability, call.method.unwrap_or("GET"), "/");
        if !call.content_type.is_empty() {
            request = request.header("Content-Type", call.content_type);
        }
        if !call.body.is_empty() {
            request = request.body(call.body.as_bytes());
        }
        request.send().unwrap()
    }
}

/// One call of a service's API.
struct Call {
    name: &'static str,
    service: &'static str,
    uri: String,
    method: Option<&'static str>,
    /// `X-Amz-Target`, pinned in the grant.
    target: Option<&'static str>,
    content_type: &'static str,
    body: String,
    /// What the answer must hold.
    answer: String,
}

impl Call {
    /// A service that speaks JSON at `/`, the operation in `X-Amz-Target`.
    fn json(
        target: &'static str,
        service: &'static str,
        content_type: &'static str,
        body: &Value,
        answer: &str,
    ) -> Self {
        Self {
            name: target,
            service,
            uri: format!("https://{service}.{REGION}.amazonaws.com/"),
            method: Some("POST"),
            target: Some(target),
            content_type,
            body: body.to_string(),
            answer: answer.into(),
        }
    }

    /// A service that speaks forms at `/`, the operation in `Action`.
    fn form(name: &'static str, service: &'static str, fields: &[(&str, &str)], answer: &str) -> Self {
        let encode = |text: &str| -> String {
            let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let encode =
                |byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            text.bytes().map(encode).collect()
        };
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        Self {
            name,
            service,
            uri: format!("https://{service}.{REGION}.amazonaws.com/"),
            method: Some("POST"),
            target: None,
            content_type: FORM,
            body: fields.join("&"),
            answer: answer.into(),
        }
    }
}

/// In this order: some read what one before them wrote.
fn calls(world: &World) -> Vec<Call> {
    let queue = world.queue.as_str();
    let text = "some text, with ünïcödé & ampersands";
    let mut calls = vec![
        Call::json(
            "DynamoDB_20120810.PutItem",
            "dynamodb",
            JSON_10,
            &json!({"TableName": "things", "Item": {"id": {"S": "1"}, "text": {"S": "kept in DynamoDB"}}}),
            "{}",
        ),
        Call::json(
            "DynamoDB_20120810.GetItem",
            "dynamodb",
            JSON_10,
            &json!({"TableName": "things", "Key": {"id": {"S": "1"}}}),
            "kept in DynamoDB",
        ),
        Call::json(
            "AmazonSQS.SendMessage",
            "sqs",
            JSON_10,
            &json!({"QueueUrl": queue, "MessageBody": "sent as JSON"}),
            "MessageId",
        ),
        Call::json("AmazonSQS.ReceiveMessage", "sqs", JSON_10, &json!({"QueueUrl": queue}), "sent as JSON"),
        Call::form(
            "SQS SendMessage",
            "sqs",
            &[
                ("Action", "SendMessage"),
                ("Version", "2012-11-05"),
                ("QueueUrl", queue),
                ("MessageBody", "sent as a form"),
            ],
            "<MessageId>",
        ),
        Call::form(
            "SQS ReceiveMessage",
            "sqs",
            &[("Action", "ReceiveMessage"), ("Version", "2012-11-05"), ("QueueUrl", queue)],
            "sent as a form",
        ),
        Call::form(
            "SNS Publish",
            "sns",
            &[
                ("Action", "Publish"),
                ("Version", "2010-03-31"),
                ("TopicArn", &world.topic),
                ("Message", text),
            ],
            "<MessageId>",
        ),
        Call::form(
            "STS GetCallerIdentity, as a form",
            "sts",
            &[("Action", "GetCallerIdentity"), ("Version", "2011-06-15")],
            ":user/services</Arn>",
        ),
        Call::json(
            "secretsmanager.GetSecretValue",
            "secretsmanager",
            JSON_11,
            &json!({"SecretId": "hush"}),
            "what the secret holds",
        ),
        Call::json(
            "Kinesis_20131202.PutRecord",
            "kinesis",
            JSON_11,
            &json!({"StreamName": "events", "PartitionKey": "p", "Data": "ZGF0YQ=="}),
            "SequenceNumber",
        ),
    ];
    // Everything in the pinned query, and no body.
    let mut pinned = Call::form("STS GetCallerIdentity, in the query", "sts", &[], ":user/services</Arn>");
    pinned.uri += "?Action=GetCallerIdentity&Version=2011-06-15";
    (pinned.method, pinned.content_type) = (Some("GET"), "");
    let mut lambda =
        Call::json("Lambda Invoke", "lambda", "application/json", &json!({"hello": text}), "hello");
    lambda.uri += &format!("2015-03-31/functions/{FUNCTION}/invocations");
    lambda.target = None;
    calls.extend([pinned, lambda]);
    calls
}

#[test]
fn every_service_accepts_what_is_signed_and_refuses_a_wrong_secret() {
    let world = World::new("services");
    for call in calls(&world) {
        let answer = world.ask(&world.account, &call);
        let text = answer.text();
        assert_eq!(answer.status, 200, "{}: {text}", call.name);
        assert!(text.contains(&call.answer), "{}: expected {:?}, came {text}", call.name, call.answer);
    }
    // What reached AWS, verified once more over the received bytes, without moto's parsing.
    let verified = world.account.verify(&world.gateway, 0);
    let services = ["dynamodb", "kinesis", "lambda", "secretsmanager", "sns", "sqs", "sts"];
    assert_eq!(verified, services.map(str::to_owned).into());

    for call in calls(&world) {
        let answer = world.ask(&world.account.forged(), &call);
        assert_eq!(answer.status, 403, "{}: {}", call.name, answer.text());
        assert!(answer.text().contains("SignatureDoesNotMatch"), "{}: {}", call.name, answer.text());
    }
    world.gateway.stop().unwrap();
}

/// As the grant's uri has it, and the key that S3 must see.
const KEYS: [(&str, &str); 16] = [
    ("plain.txt", "plain.txt"),
    ("with%20spaces%20%20two", "with spaces  two"),
    ("plus+raw", "plus+raw"),
    ("plus%2Bencoded", "plus+encoded"),
    ("%C3%BCn%C3%AF/%E2%98%83/%F0%90%8D%88", "ünï/☃/\u{10348}"),
    ("a//b///c", "a//b///c"),
    ("dots/./x/../y", "dots/./x/../y"),
    ("trailing/slash/", "trailing/slash/"),
    ("a=b&c=d", "a=b&c=d"),
    ("(parens)!*'$,;", "(parens)!*'$,;"),
    ("at@colon:", "at@colon:"),
    ("per%25cent%2541", "per%cent%41"),
    ("enc%2Foded%2fslash", "enc/oded/slash"),
    ("tilde~%7Etilde", "tilde~~tilde"),
    ("%22quoted%22%3C%3E%5B%5D%7B%7D%7C%5C%5E%60", "\"quoted\"<>[]{}|\\^`"),
    ("question%3Fhash%23", "question?hash#"),
];

#[test]
fn s3_keys_of_every_kind() {
    let world = World::new("s3");
    for host in [format!("s3.{REGION}.amazonaws.com/{BUCKET}"), format!("{BUCKET}.s3.{REGION}.amazonaws.com")]
    {
        let seen = world.gateway.origin().requests("").len();
        let mut capabilities = Vec::new();
        for (number, (spelling, key)) in KEYS.iter().enumerate() {
            let call = Call {
                name: key,
                service: "s3",
                uri: format!("https://{host}/{spelling}"),
                method: None,
                target: None,
                content_type: "",
                body: String::new(),
                answer: String::new(),
            };
            // Every byte there is, and something of its own.
            let bytes: Vec<u8> = (0..=255).chain(format!("{host} {number}").bytes()).collect();
            let capability = world.export(&world.account, &call);
            let put = world.gateway.request(&capability, "PUT", "/").body(bytes.clone()).send().unwrap();
            assert_eq!(put.status, 200, "PUT {key:?}: {}", put.text());

            let forged = world.export(&world.account.forged(), &call);
            capabilities.push((capability, forged, key, bytes));
        }
        let listed = resources(&world.gateway, Some(&world.account), &["keys", BUCKET]);
        let listed: BTreeSet<&str> =
            listed.as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(listed, KEYS.iter().map(|(_, key)| *key).collect(), "at {host}");

        let ask = |capability: &str, method: &str| {
            let request = world.gateway.request(capability, method, "/");
            if method == "PUT" { request.body("forged").send().unwrap() } else { request.send().unwrap() }
        };
        for (capability, _, key, bytes) in &capabilities {
            let got = ask(capability, "GET");
            assert_eq!(got.status, 200, "GET {key:?}: {}", got.text());
            assert!(got.body == *bytes, "GET {key:?}: other bytes came");
            let length = ask(capability, "HEAD").header("content-length");
            assert_eq!(length.as_deref(), Some(bytes.len().to_string().as_str()), "HEAD {key:?}");
        }
        assert_eq!(world.account.verify(&world.gateway, seen), ["s3".to_owned()].into());

        for (capability, forged, key, bytes) in &capabilities {
            for method in ["PUT", "DELETE", "GET"] {
                let answer = ask(forged, method);
                assert_eq!(answer.status, 403, "{method} {key:?}: {}", answer.text());
                assert!(answer.text().contains("SignatureDoesNotMatch"), "{method}: {}", answer.text());
            }
            assert!(ask(capability, "GET").body == *bytes, "{key:?}: a wrong secret changed it");
            assert_eq!(ask(capability, "DELETE").status, 204, "DELETE {key:?}");
            assert_eq!(ask(capability, "GET").status, 404, "GET {key:?} after DELETE");
        }
    }
    world.gateway.stop().unwrap();
}

#[test]
fn temporary_credentials_with_their_session_token() {
    let world = World::new("temporary");
    let mut calls = calls(&world);
    calls.retain(|call| ["dynamodb", "sts", "lambda"].contains(&call.service));
    for call in &calls {
        let answer = world.ask(&world.temporary, call);
        assert_eq!(answer.status, 200, "{}: {}", call.name, answer.text());
        if call.service == "sts" {
            assert!(answer.text().contains(":assumed-role/services-role/e2e"), "{}", answer.text());
        }
    }
    assert_eq!(world.temporary.verify(&world.gateway, 0).len(), 3);
    for request in world.gateway.origin().requests("") {
        let signed = request.one("authorization").unwrap();
        assert!(signed.contains("x-amz-security-token"), "the token is sent and signed");
        assert_eq!(request.one("x-amz-security-token").ok(), world.temporary.token);
    }
    for call in &calls {
        let answer = world.ask(&world.temporary.forged(), call);
        assert_eq!(answer.status, 403, "{}: {}", call.name, answer.text());
        assert!(answer.text().contains("SignatureDoesNotMatch"), "{}: {}", call.name, answer.text());
    }
    world.gateway.stop().unwrap();
}

/// docs/compatibility.md claims nothing without a test: each file and function that it names is there.
#[test]
fn what_the_compatibility_table_names_exists() {
    let table = std::fs::read_to_string(harness::repository().join("docs/compatibility.md")).unwrap();
    let quoted: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    let mut tests = 0;
    for pair in quoted.windows(2) {
        let [file, name] = pair else { continue };
        let is_name =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if file.ends_with(".rs") && is_name {
            tests += 1;
            let source = std::fs::read_to_string(harness::repository().join(file)).unwrap();
            assert!(
                source.contains(&format!("#[test]\nfn {name}()"))
                    || source.contains(&format!("#[test]\n    fn {name}()")),
                "{file} has no test {name}"
            );
        }
    }
    assert!(tests >= 10, "only {tests} tests are named");
}
