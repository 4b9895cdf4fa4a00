//! Clients of S3 as their users install them, which know nothing of capabilities: boto3, the AWS CLI, AWS's SDK for JavaScript.

use crate::failure::{Failure, Outcome, While};
use std::path::Path;
use std::process::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Client {
    Boto3,
    /// `aws s3 cp`, which asks for an object's size (HEAD) before it gets it.
    Cli,
    /// A body that is a stream.
    JavaScript,
    /// A body that is a buffer.
    JavaScriptBuffer,
}

impl S3Client {
    /// Sends `file` to `url` as an object, in one request.
    pub fn put(self, url: &str, ca: &Path, bucket: &str, key: &str, file: &Path) -> Outcome<()> {
        self.run("put", url, ca, bucket, key, file)
    }

    /// Gets an object into `file`, in one request.
    pub fn get(self, url: &str, ca: &Path, bucket: &str, key: &str, file: &Path) -> Outcome<()> {
        self.run("get", url, ca, bucket, key, file)
    }

    fn run(self, what: &str, url: &str, ca: &Path, bucket: &str, key: &str, file: &Path) -> Outcome<()> {
        let root = crate::repository();
        let tool = |path: &str| crate::built(root.join(".tools").join(path), "tests/tools/install.sh s3");
        let mut command = match self {
            Self::Boto3 => {
                let mut command = Command::new(tool("venv-clients/bin/python")?);
                command.arg(root.join("tests/clients/s3/boto3_client.py")).arg(what);
                command.args([url, bucket, key]).arg(file);
                command
            }
            Self::Cli => {
                let mut command = Command::new(tool("venv-clients/bin/aws")?);
                command.args(["--endpoint-url", url, "--region", "us-east-1", "s3", "cp", "--no-progress"]);
                let object = format!("s3://{bucket}/{key}");
                if what == "put" {
                    command.arg(file).arg(object)
                } else {
                    command.arg(object).arg(file)
                };
                command
            }
            Self::JavaScript | Self::JavaScriptBuffer => {
                let mut command = Command::new("node");
                command.env("MEMBRANE_NODE_S3", tool("node-s3")?.canonicalize()?);
                command.arg(root.join("tests/clients/s3/client.mjs"));
                let buffer = self == Self::JavaScriptBuffer && what == "put";
                command.arg(if buffer { "put-buffer" } else { what });
                command.args([url, bucket, key]).arg(file);
                command
            }
        };
        // Settings, credentials and proxies of whoever runs this must not reach it.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            if text.starts_with("aws_") || text.ends_with("_proxy") {
                command.env_remove(&name);
            }
        }
        command.env("AWS_ACCESS_KEY_ID", "AKIANOBODY").env("AWS_SECRET_ACCESS_KEY", "nothing");
        // In one request, whatever the size; only the CLI reads these.
        let settings = file.with_extension("config");
        std::fs::write(&settings, "[default]\ns3 =\n  multipart_threshold = 1GB\n")?;
        command.env("AWS_CONFIG_FILE", &settings).env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_MAX_ATTEMPTS", "1");
        command.env("AWS_CA_BUNDLE", ca).env("NODE_EXTRA_CA_CERTS", ca);
        let output = command.output().while_(|| format!("starting {self:?}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(Failure::new(format!("{self:?}, {what} {bucket}/{key}: {}", String::from_utf8_lossy(&said))))
    }
}
