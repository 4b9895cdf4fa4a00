//! The local AWS: `moto`, with its checks of signatures and policies switched on. tests/tools/moto_server.py sets it up.

use crate::failure::{Outcome, While};
use crate::gateway::text;
use crate::http::Client;
use crate::process::Process;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const REGION: &str = "us-east-1";
pub const FUNCTION: &str = "membrane-demo";

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
    /// Starts moto, and waits until it answers. By then user, key, policy and function are there, `dir` holds aws.json, and
    /// authentication is on.
    pub fn start(dir: &Path, logs: &Path, port: u16) -> Outcome<Self> {
        let mut process = Process::spawn("moto", command(dir, port)?, &logs.join("aws.log"))?;
        let client = Client::plain(port);
        process.wait_until(Duration::from_secs(60), "answering", || {
            client.request("GET", "/moto-api/config").send().is_ok_and(|answer| answer.status == 201)
        })?;
        let file = dir.join("aws.json");
        let said: Value = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|said| serde_json::from_slice(&said).map_err(|error| error.to_string()))
            .while_(|| format!("reading {}", file.display()))?;
        let key = AccessKey {
            id: text(&said, "accessKeyId")?.to_owned(),
            secret: text(&said, "secretAccessKey")?.to_owned(),
        };
        Ok(Self { process, key, port })
    }
}

/// What docker-compose.yaml starts too.
pub fn command(dir: &Path, port: u16) -> Outcome<Command> {
    let mut command = Command::new(crate::tool("python")?);
    command.arg(crate::repository().join("tests/tools/moto_server.py"));
    command.arg("--dir").arg(dir).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    // Credentials and settings of whoever runs this must not reach it.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AWS_") || text.starts_with("MOTO_") || text == "INITIAL_NO_AUTH_ACTION_COUNT" {
            command.env_remove(&name);
        }
    }
    Ok(command)
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
