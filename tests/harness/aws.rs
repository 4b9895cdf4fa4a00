//! The local AWS: `moto`, with its checks of signatures and policies switched on.
//!
//! moto keeps nothing on disk. So that capabilities exported earlier still work after a restart, it is seeded with a
//! number kept in the run folder and then set up by the same calls in the same order: that gives the same access key.

use crate::failure::{Failure, Outcome, While};
use crate::http::{Client, Request};
use crate::process::Process;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const REGION: &str = "us-east-1";
pub const FUNCTION: &str = "membrane-demo";

/// A zip file with `index.py`: `def handler(event, context): return event`. moto answers like it, without running it.
const FUNCTION_ZIP: &str = "UEsDBBQAAAAAAAAAIVy0CHBpLgAAAC4AAAAIAAAAaW5kZXgucHlkZWYgaGFuZGxlcihldmVudCwgY29udGV4dCk6CiAgICByZX\
R1cm4gZXZlbnQKUEsBAhQDFAAAAAAAAAAhXLQIcGkuAAAALgAAAAgAAAAAAAAAAAAAAIABAAAAAGluZGV4LnB5UEsFBgAAAAABAAEANgAAAFQAAAAAAA==";

const MAY_INVOKE: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["lambda:Invoke","lambda:InvokeFunction"],"Resource":"*"}]}"#;
const FOR_LAMBDA: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"lambda.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;

/// An IAM user's access key, whose policy allows invoking Lambda functions and nothing else.
#[derive(Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

pub struct Moto {
    pub process: Process,
    pub key: AccessKey,
    pub port: u16,
}

impl Moto {
    /// Starts moto, makes user, key, policy and function, and switches authentication on. `dir` keeps the seed.
    pub fn start(dir: &Path, logs: &Path, port: u16) -> Outcome<Self> {
        let seed = seed(&dir.join("aws-seed"))?;
        let mut command = Command::new(crate::tool("python")?);
        command.arg(crate::repository().join("tests/tools/moto_server.py"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        // Credentials and settings of whoever runs this must not reach it.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("AWS_") || text.starts_with("MOTO_") || text == "INITIAL_NO_AUTH_ACTION_COUNT"
            {
                command.env_remove(&name);
            }
        }
        let mut process = Process::spawn("moto", command, &logs.join("aws.log"))?;
        let client = Client::plain(port);
        process.wait_until(Duration::from_secs(60), "answering", || {
            client.request("GET", "/moto-api/data.json").send().is_ok()
        })?;
        let key = set_up(&client, seed).map_err(|failure| failure.with_log(process.log()))?;
        Ok(Self { process, key, port })
    }
}

fn seed(file: &Path) -> Outcome<u64> {
    if let Ok(text) = std::fs::read_to_string(file) {
        return text.trim().parse().while_(|| format!("reading {}", file.display()));
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).while_(|| "drawing a seed".into())?;
    let seed = u64::from_le_bytes(bytes);
    crate::gateway::write_private(file, &format!("{seed}\n"))?;
    Ok(seed)
}

fn set_up(moto: &Client, seed: u64) -> Outcome<AccessKey> {
    let ask = |request: Request<'_>, status, what: &str| {
        request.send().and_then(|answer| answer.expect(status, what))
    };
    let json = |path: &str, body: serde_json::Value| {
        moto.request("POST", path).header("Content-Type", "application/json").json(&body)
    };
    ask(json("/moto-api/config", json!({"lambda": {"use_docker": false}})), 201, "moto's configuration")?;
    ask(moto.request("POST", &format!("/moto-api/seed?a={seed}")), 200, "moto's seed")?;
    let iam = |what: &str, parameters: &[(&str, &str)]| {
        let mut form = format!("Version=2010-05-08&Action={what}");
        for (name, value) in parameters {
            form += &format!("&{name}={}", percent_encode(value));
        }
        let request =
            moto.request("POST", "/").header("Content-Type", "application/x-www-form-urlencoded").body(form);
        ask(scoped(request, "iam"), 200, what)
    };
    iam("CreateUser", &[("UserName", "membrane")])?;
    let created = iam("CreateAccessKey", &[("UserName", "membrane")])?.text();
    let key =
        AccessKey { id: element(&created, "AccessKeyId")?, secret: element(&created, "SecretAccessKey")? };
    iam(
        "PutUserPolicy",
        &[("UserName", "membrane"), ("PolicyName", "may-invoke"), ("PolicyDocument", MAY_INVOKE)],
    )?;
    iam("CreateRole", &[("RoleName", "membrane-function"), ("AssumeRolePolicyDocument", FOR_LAMBDA)])?;
    let function = json!({
        "FunctionName": FUNCTION, "Runtime": "python3.12", "Handler": "index.handler",
        "Role": "arn:aws:iam::123456789012:role/membrane-function", "Code": {"ZipFile": FUNCTION_ZIP},
    });
    ask(scoped(json("/2015-03-31/functions", function), "lambda"), 201, "CreateFunction")?;
    let switch_on =
        moto.request("POST", "/moto-api/reset-auth").header("Content-Type", "text/plain").body("0");
    ask(switch_on, 200, "switching moto's authentication on")?;
    // What follows proves nothing if nothing is checked: an unsigned invocation must be refused now.
    let unsigned = scoped(
        moto.request("POST", &format!("/2015-03-31/functions/{FUNCTION}/invocations")).body("{}"),
        "lambda",
    );
    ask(unsigned.header("X-Amz-Date", "20260101T000000Z"), 403, "moto, asked without a valid signature")?;
    Ok(key)
}

/// Names the service in a credential scope, as moto needs it to tell whom a request is for. Signs nothing.
fn scoped<'a>(request: Request<'a>, service: &str) -> Request<'a> {
    let scope = format!("Credential=setup/20260101/{REGION}/{service}/aws4_request");
    request.header("Authorization", &format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))
}

fn element(xml: &str, name: &str) -> Outcome<String> {
    let after = xml.split_once(&format!("<{name}>")).map(|(_, after)| after);
    let value =
        after.and_then(|after| after.split_once(&format!("</{name}>"))).map(|(value, _)| value.to_owned());
    value.ok_or_else(|| Failure::new(format!("moto's answer has no {name}")))
}

fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Port;

    /// Invokes the function with boto3; gives the status and what came.
    fn invoke(port: u16, key: &AccessKey) -> String {
        const INVOKE: &str = "import boto3, sys\n\
            client = boto3.client('lambda', endpoint_url=sys.argv[1], region_name='us-east-1',\n\
            \x20   aws_access_key_id=sys.argv[2], aws_secret_access_key=sys.argv[3])\n\
            try: print(client.invoke(FunctionName='membrane-demo', Payload=b'{}')['Payload'].read().decode())\n\
            except client.exceptions.ClientError as error: print(error)";
        let endpoint = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(crate::tool("python").unwrap());
        let output = command
            .args(["-c", INVOKE, &endpoint, &key.id, &key.secret])
            .env("NO_PROXY", "*")
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    #[test]
    fn moto_checks_signatures_and_keeps_its_key_over_a_restart() {
        let dir = std::env::temp_dir().join(format!("membrane-moto-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = Port::free().unwrap();
        let first = Moto::start(&dir, &dir, port.number()).unwrap();
        let key = first.key.clone();
        assert_eq!(invoke(port.number(), &key).trim(), "{}");
        let wrong = AccessKey { id: key.id.clone(), secret: "x".repeat(40) };
        assert!(invoke(port.number(), &wrong).contains("SignatureDoesNotMatch"));
        drop(first);
        let second = Moto::start(&dir, &dir, port.number()).unwrap();
        assert!(second.key.id == key.id && second.key.secret == key.secret, "another key after a restart");
        assert_eq!(invoke(port.number(), &key).trim(), "{}");
        drop(second);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
