//! docs/quick-start.md, docs/delegation.md and docs/guides/: what they tell people to type is typed, block by block in one shell, against a
//! gateway of its own; and the policies are held against what moto can check of them.
//!
//! moto looks at the actions of a policy, and at its resources for S3 alone: for the others a copy of the policy is used whose resource is `*`.
//! It calls `lambda:InvokeFunction` `lambda:Invoke`. It has no models, so that Bedrock's requests go to an upstream that keeps them.

use crate::{own, recorded};
use harness::aws::REGION;
use harness::gateway::Gateway;
use harness::http::Client;
use harness::upstream::{Script, Upstream};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output};

const SERVICES: [&str; 5] = ["bedrock", "dynamodb", "lambda", "s3", "sqs"];

fn page(name: &str) -> String {
    std::fs::read_to_string(harness::repository().join("docs").join(name)).unwrap()
}

/// What a page tells people to type.
fn commands(name: &str) -> String {
    let page = page(name);
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "{name}");
    blocks.concat()
}

fn policy(service: &str) -> Value {
    serde_json::from_str(&page(&format!("guides/policies/{service}.json"))).unwrap()
}

struct Reader {
    gateway: Gateway,
    /// Where the commands are typed.
    dir: PathBuf,
    admin: Value,
}

impl Reader {
    fn new(name: &str) -> Self {
        let gateway = own(name);
        let dir = gateway.dir.join("reader");
        let policies = dir.join("docs/guides/policies");
        std::fs::create_dir_all(&policies).unwrap();
        for service in SERVICES {
            let mut policy = policy(service);
            let statement = &mut policy["Statement"][0];
            if service != "s3" {
                statement["Resource"] = "*".into();
            }
            if service == "lambda" {
                statement["Action"] = json!([statement["Action"], "lambda:Invoke"]);
            }
            std::fs::write(policies.join(format!("{service}.json")), policy.to_string()).unwrap();
        }
        std::os::unix::fs::symlink(&gateway.dir, dir.join("run")).unwrap();
        let mut this = Self { gateway, dir, admin: Value::Null };
        // Whoever follows a guide may do everything.
        this.authenticate("inf");
        let all = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]});
        let made = this.run(&format!(
            "aws iam create-user --user-name admin > user.json\n\
             aws iam put-user-policy --user-name admin --policy-name all --policy-document '{all}'\n\
             aws iam create-access-key --user-name admin"
        ));
        this.admin = serde_json::from_slice::<Value>(&made.stdout).unwrap()["AccessKey"].clone();
        this.authenticate("0");
        this
    }

    fn authenticate(&self, after: &str) {
        let moto = Client::plain(self.gateway.ports.aws.number());
        let request = moto.request("POST", "/moto-api/reset-auth").header("Content-Type", "text/plain");
        request.body(after).send().unwrap().expect(200, "moto's authentication").unwrap();
    }

    /// Types these commands; what prints nothing of use is not looked at.
    fn run(&self, commands: &str) -> Output {
        let clients = harness::repository().join(".tools/venv-clients/bin");
        let release = harness::program("capi").unwrap().parent().unwrap().to_owned();
        let path = std::env::join_paths(
            [release, clients].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        )
        .unwrap();
        let port = self.gateway.ports.gateway.number();
        // A guide's own ports are those of docs/wire.md.
        let commands = commands.replace("https://localhost:8443", &format!("https://localhost:{port}"));
        // For SQS the command line does not heed the environment's endpoint.
        let aws = format!("http://127.0.0.1:{}", self.gateway.ports.aws.number());
        let commands = format!("aws() {{ command aws --endpoint-url {aws} \"$@\"; }}\n{commands}");
        let key = |name: &str| self.admin[name].as_str().unwrap_or("setup").to_owned();
        let output = Command::new("sh")
            .args(["-euc", &commands])
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.dir)
            .env("NO_PROXY", "*")
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", key("AccessKeyId"))
            .env("AWS_SECRET_ACCESS_KEY", key("SecretAccessKey"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{commands}\n{printed}\n{said}");
        output
    }

    /// What the quick start and then these pages print.
    fn follow(&self, pages: &[&str]) -> String {
        let all: String = ["quick-start.md"].iter().chain(pages).map(|name| commands(name)).collect();
        String::from_utf8(self.run(&all).stdout).unwrap()
    }

    /// Whether a service lets the guide's user do something else: with a capability for that, from the user's own key.
    fn may(&self, service: &str, target: &str, body: &Value) -> bool {
        let made = self.run(&format!("aws iam create-access-key --user-name membrane-{service}"));
        let key = serde_json::from_slice::<Value>(&made.stdout).unwrap()["AccessKey"].clone();
        let membrane = self.gateway.create_membrane(&format!("other/{target}")).unwrap();
        let mut what = recorded(&self.gateway, Some("POST"), "/");
        what["uri"] = format!("https://{service}.{REGION}.amazonaws.com/").into();
        what["headers"] = json!({"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0"});
        what["hmac"]["aws4-hmac-sha256"] = json!({
            "awsAccessKeyId": key["AccessKeyId"], "secretAccessKey": key["SecretAccessKey"], "region": REGION, "service": service,
        });
        let capability = self.gateway.export(&membrane, &what).unwrap();
        let answer = self.gateway.request(&capability, "POST", "/").json(body).send().unwrap();
        // A user has two keys at most.
        let id = key["AccessKeyId"].as_str().unwrap();
        self.run(&format!("aws iam delete-access-key --user-name membrane-{service} --access-key-id {id}"));
        assert!(
            answer.status == 200 || answer.text().contains("AccessDenied"),
            "{}: {}",
            answer.status,
            answer.text()
        );
        answer.status == 200
    }
}

#[test]
fn every_policy_allows_one_thing_on_one_resource() {
    let listed = std::fs::read_dir(harness::repository().join("docs/guides/policies")).unwrap();
    let mut names: Vec<String> =
        listed.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, SERVICES.map(|service| format!("{service}.json")));
    for service in SERVICES {
        let policy = policy(service);
        assert_eq!(policy["Version"], "2012-10-17");
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 1, "{service}");
        let statement = &statements[0];
        assert_eq!(statement["Effect"], "Allow");
        let actions = match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            one => vec![one.clone()],
        };
        for action in actions {
            let action = action.as_str().unwrap().to_owned();
            assert!(action.starts_with(&format!("{service}:")) && !action.contains('*'), "{action}");
        }
        let resource = statement["Resource"].as_str().unwrap();
        assert!(resource.starts_with(&format!("arn:aws:{service}:")), "{resource}");
        assert!(!resource.trim_end_matches("/inbox/*").contains('*'), "{resource}");
        assert!(page(&format!("guides/{service}.md")).contains(&format!("(policies/{service}.json)")));
    }
}

#[test]
fn the_quick_start_and_delegation_hold_word_by_word() {
    let reader = Reader::new("guides-delegation");
    let printed = reader.follow(&["delegation.md"]);
    let refused = r#"{"statusCode":401,"error":"Unauthorized","message":"a valid capability is required: Authorization: Bearer CPBLTY1-…"}"#;
    let expected =
        [r#"{"hello":"world"}"#, r#"{"hello":"alice"}"#, refused, r#"{"still":"alive"}"#, refused].concat();
    assert_eq!(printed, expected);
}

#[test]
fn the_guides_hold_word_by_word_and_their_policies_allow_no_more() {
    let reader = Reader::new("guides");
    let upstream = Upstream::start(Script::Take).unwrap();
    let model = "bedrock-runtime.us-east-1.amazonaws.com";
    reader.gateway.origin().route(model, upstream.port.number());
    let pages = SERVICES.map(|service| format!("guides/{service}.md"));
    let printed = reader.follow(&pages.each_ref().map(String::as_str));
    for expected in [r#"{"hello":"lambda"}"#, "a report\n", "the first thing", "MessageId"] {
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
    }
    // The key of Bedrock's guide has been removed by it; what was sent tells that it was signed for Bedrock, and for the right path.
    let received = upstream.received();
    assert_eq!(received.len(), 1);
    let head = &received[0].head;
    assert_eq!(head.target, "/model/amazon.nova-micro-v1:0/invoke");
    assert!(head.one("authorization").unwrap().contains("/us-east-1/bedrock/aws4_request"));
    let key = reader.run("aws iam list-access-keys --user-name membrane-bedrock");
    let key: Value = serde_json::from_slice(&key.stdout).unwrap();
    let id = key["AccessKeyMetadata"][0]["AccessKeyId"].as_str().unwrap();
    assert!(head.one("authorization").unwrap().contains(id));

    // What the policies do not allow.
    let item = json!({"TableName": "things", "Item": {"id": {"S": "2"}}});
    assert!(reader.may(
        "dynamodb",
        "DynamoDB_20120810.GetItem",
        &json!({"TableName": "things", "Key": {"id": {"S": "1"}}})
    ));
    assert!(!reader.may("dynamodb", "DynamoDB_20120810.PutItem", &item));
    let queue: Value =
        serde_json::from_slice(&std::fs::read(reader.dir.join("queue.json")).unwrap()).unwrap();
    assert!(!reader.may("sqs", "AmazonSQS.ReceiveMessage", &json!({"QueueUrl": queue["QueueUrl"]})));
    let outside = reader.run(
        "aws iam create-access-key --user-name membrane-s3 > other.json\n\
         key() { python3 -c 'import json,sys; print(json.load(open(\"other.json\"))[\"AccessKey\"][sys.argv[1]])' \"$1\"; }\n\
         AWS_ACCESS_KEY_ID=$(key AccessKeyId); AWS_SECRET_ACCESS_KEY=$(key SecretAccessKey)\n\
         aws s3 cp report.txt s3://membrane-inbox/inbox/allowed.txt\n\
         aws s3 cp report.txt s3://membrane-inbox/elsewhere.txt 2>&1 || true\n\
         aws s3 rm s3://membrane-inbox/inbox/report.txt 2>&1 || true",
    );
    let said = String::from_utf8_lossy(&outside.stdout);
    assert_eq!(said.matches("AccessDenied").count(), 2, "{said}");
}
