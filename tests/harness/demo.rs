//! The walk-through of the README, command by command, against a gateway of its own.

use crate::aws::REGION;
use crate::failure::{Failure, Outcome, While, tail};
use crate::gateway::{Gateway, Options, text};
use crate::ports::Ports;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a revocation may take to reach Envoy's workers. It takes milliseconds; the bound is for busy machines.
const REVOCATION: Duration = Duration::from_secs(5);

/// Starts a gateway in a new temporary folder, walks, and ends it. The folder stays only if something failed.
pub fn demo(out: &mut dyn Write) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("membrane-demo-{}", std::process::id()));
    writeln!(out, "Starting registry, Envoy and a local AWS that checks signatures and policies …")?;
    let walked = start_and_walk(&dir, out);
    match &walked {
        Ok(()) => std::fs::remove_dir_all(&dir).while_(|| format!("removing {}", dir.display()))?,
        Err(_) => {
            for log in ["registry.log", "envoy.log", "aws.log"] {
                let log = dir.join("logs").join(log);
                writeln!(out, "\n--- the end of {}:\n{}", log.display(), tail(&log, 15))?;
            }
        }
    }
    walked
}

fn start_and_walk(dir: &Path, out: &mut dyn Write) -> Outcome<()> {
    let options =
        Options { dir: dir.into(), ports: Ports::free()?, workers: Some(2), trace: false, observed: false };
    let gateway = Gateway::start(options)?;
    let mut shell = Shell::new(&gateway, out)?;
    walk(&mut shell)?;
    gateway.stop()
}

fn walk(shell: &mut Shell<'_>) -> Outcome<()> {
    shell.explain("A tenant's `create` capability makes a membrane. It comes with two capabilities, to export and to revoke.")?;
    shell.capi(r#"membrane create --capability "$CREATE" --id payments"#)?;
    shell.keep("EXPORT", &["capabilities", "export"])?;
    shell.keep("REVOKE", &["capabilities", "revoke"])?;

    shell.explain("Export one Lambda function as a capability: whoever holds it can invoke that function, and nothing else.")?;
    shell.capi(&export_lambda("$EXPORT", "$AWS_SECRET"))?;
    shell.keep("INVOKE", &["capability"])?;

    shell.explain("Invoke it with curl. No AWS credential is involved here; the gateway signs. (The function returns its event.)")?;
    shell.curl("INVOKE")?.must_be(200, &[r#"{"hello":"world"}"#])?;

    shell.explain(
        "Delegate: another membrane re-exports the capability, so that its holder can be cut off separately.",
    )?;
    shell.capi(r#"membrane create --capability "$CREATE" --id partner"#)?;
    shell.keep("PARTNER_EXPORT", &["capabilities", "export"])?;
    shell.capi(r#"membrane export --capability "$PARTNER_EXPORT" --capability-to-export "$INVOKE""#)?;
    shell.keep("DELEGATED", &["capability"])?;
    shell.curl("DELEGATED")?.must_be(200, &[r#"{"hello":"world"}"#])?;

    shell.explain(
        "Revoke the first membrane: its capability is dead, and so is what was delegated from it.",
    )?;
    shell.capi(r#"membrane revoke --capability "$REVOKE""#)?;
    shell.curl_until_refused("INVOKE")?;
    shell.curl_until_refused("DELEGATED")?;

    shell.explain(
        "AWS has the last word: with a wrong secret in the export, its own refusal comes through.",
    )?;
    shell.capi(&export_lambda("$PARTNER_EXPORT", "not-the-secret-not-the-secret-not-the-sec"))?;
    shell.keep("WRONG", &["capability"])?;
    shell.curl("WRONG")?.must_be(403, &["SignatureDoesNotMatch"])
}

fn export_lambda(through: &str, secret: &str) -> String {
    let uri = format!("https://lambda.{REGION}.amazonaws.com/2015-03-31/functions/$FUNCTION/invocations");
    [
        &format!(r#"membrane export --capability "{through}""#),
        &format!(r#"--uri "{uri}""#),
        "--method POST",
        r#"--aws4-hmac-sha256-aws-access-key-id "$AWS_KEY_ID""#,
        &format!("--aws4-hmac-sha256-region {REGION}"),
        "--aws4-hmac-sha256-service lambda",
        &format!(r#"--aws4-hmac-sha256-secret-access-key "{secret}""#),
    ]
    .join(" \\\n      ")
}

/// Runs commands as they are printed, in `sh`, with what was kept so far as variables.
struct Shell<'a> {
    out: &'a mut dyn Write,
    variables: BTreeMap<String, String>,
    path: PathBuf,
    last: Value,
}

struct Answer {
    command: String,
    status: u16,
    body: String,
}

impl Answer {
    fn must_be(&self, status: u16, containing: &[&str]) -> Outcome<()> {
        let missing = containing.iter().find(|part| !self.body.contains(*part));
        if self.status == status && missing.is_none() {
            return Ok(());
        }
        let expected = missing.map_or_else(|| status.to_string(), |part| format!("{status} with {part}"));
        Err(Failure::new(format!(
            "the command\n    {}\nexpected: {expected}\n    came: {} with {}",
            self.command, self.status, self.body
        )))
    }
}

impl<'a> Shell<'a> {
    fn new(gateway: &Gateway, out: &'a mut dyn Write) -> Outcome<Self> {
        let programs = crate::program("capi")?;
        let path = programs.parent().ok_or_else(|| Failure::new("capi has no folder"))?.to_path_buf();
        let function = crate::aws::FUNCTION;
        let given = [
            ("RUN", gateway.dir.display().to_string()),
            ("GATEWAY", gateway.url()),
            ("CREATE", text(&gateway.tenant, "create")?.to_owned()),
            ("FUNCTION", function.to_owned()),
            ("AWS_KEY_ID", gateway.aws.key.id.clone()),
            ("AWS_SECRET", gateway.aws.key.secret.clone()),
        ];
        let variables: BTreeMap<_, _> =
            given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        writeln!(out, "\nRUN={} GATEWAY={} FUNCTION={function}", variables["RUN"], variables["GATEWAY"])?;
        writeln!(
            out,
            "CREATE is `.create` of $RUN/tenant.json; AWS_KEY_ID and AWS_SECRET are in $RUN/aws.json."
        )?;
        Ok(Self { out, variables, path, last: Value::Null })
    }

    fn explain(&mut self, what: &str) -> Outcome<()> {
        let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        writeln!(self.out, "\n{bold}{what}{plain}")?;
        Ok(())
    }

    /// Runs `capi` with these arguments; it must succeed. Its answer is what [`Self::keep`] reads from.
    fn capi(&mut self, arguments: &str) -> Outcome<()> {
        let command = format!("capi {arguments} \\\n      --trustedCA-file-path \"$RUN/trusted-ca.json\"");
        let stdout = self.run(&command)?;
        self.last = serde_json::from_str(&stdout).unwrap_or_default();
        writeln!(self.out, "    {}", shorten_tokens(stdout.trim()).replace('\n', "\n    "))?;
        Ok(())
    }

    /// Keeps a text of the last answer as a variable.
    fn keep(&mut self, name: &str, members: &[&str]) -> Outcome<()> {
        let value = members.iter().fold(&self.last, |value, member| &value[member]);
        let value = value
            .as_str()
            .ok_or_else(|| Failure::new(format!("expected a .{} in the answer", members.join("."))))?;
        self.variables.insert(name.to_owned(), value.to_owned());
        writeln!(self.out, "  {name} is its .{}", members.join("."))?;
        Ok(())
    }

    fn curl(&mut self, capability: &str) -> Outcome<Answer> {
        let answer = self.ask(capability, true)?;
        self.show(&answer)?;
        Ok(answer)
    }

    fn show(&mut self, answer: &Answer) -> Outcome<()> {
        writeln!(self.out, "    {}\n    {}", answer.status, answer.body.trim().replace('\n', "\n    "))?;
        Ok(())
    }

    fn ask(&mut self, capability: &str, print: bool) -> Outcome<Answer> {
        // HTTP/1.1, because a refusal comes before the body was read; over HTTP/2 that is an answer followed by
        // RST_STREAM(NO_ERROR), which curl before 8 now and then takes for a failure (RFC 9113 section 8.1 says it is none).
        let command = [
            r#"curl --http1.1 --silent --show-error --cacert "$RUN/ca.pem" "$GATEWAY""#,
            &format!(r#"--header "Authorization: Bearer ${{{capability}#*#}}""#),
            r#"--header "Content-Type: application/json" --data '{"hello":"world"}' --write-out '\n%{http_code}'"#,
        ]
        .join(" \\\n      ");
        let stdout = if print { self.run(&command)? } else { self.run_quietly(&command)? };
        let (body, status) = stdout.rsplit_once('\n').unwrap_or_default();
        Ok(Answer { command, status: status.trim().parse().unwrap_or_default(), body: body.into() })
    }

    /// Asks until the answer is 401, and says how long that took if it was not the first one.
    fn curl_until_refused(&mut self, capability: &str) -> Outcome<()> {
        let start = Instant::now();
        let mut answer = self.ask(capability, true)?;
        while answer.status != 401 && start.elapsed() < REVOCATION {
            std::thread::sleep(Duration::from_millis(10));
            answer = self.ask(capability, false)?;
        }
        self.show(&answer)?;
        answer.must_be(401, &["Unauthorized"])
    }

    fn run(&mut self, command: &str) -> Outcome<String> {
        writeln!(self.out, "  $ {command}")?;
        self.out.flush()?;
        self.run_quietly(command)
    }

    fn run_quietly(&mut self, command: &str) -> Outcome<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([self.path.clone()].into_iter().chain(std::env::split_paths(&path)))
            .while_(|| "composing PATH".into())?;
        let output = Command::new("sh")
            .args(["-c", command])
            .envs(&self.variables)
            .env("PATH", path)
            .env("HOME", &self.variables["RUN"])
            // A proxy that this machine uses for the world is not the way to localhost.
            .env("no_proxy", "localhost,127.0.0.1")
            .env("NO_PROXY", "localhost,127.0.0.1")
            .output()
            .while_(|| "starting sh".into())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(shorten_tokens(&format!(
            "the command\n    {command}\nexpected: success\n    came: {}\n{}{stdout}",
            output.status,
            stderr.trim()
        ))))
    }
}

/// Shows the first characters of each token only: what is printed may end up in a log of somebody's CI.
fn shorten_tokens(text: &str) -> String {
    const PREFIX: &str = "CPBLTY1-";
    let mut parts = text.split(PREFIX);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let token = part
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            .count();
        shown += &format!("{PREFIX}{}…{}", &part[..token.min(6)], &part[token..]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::shorten_tokens;

    #[test]
    fn only_the_beginning_of_a_token_is_shown() {
        let shown = shorten_tokens(r#"{"a": "cpblty://x/#CPBLTY1-abcdefghijkl", "b": "CPBLTY1-_"}"#);
        assert_eq!(shown, r#"{"a": "cpblty://x/#CPBLTY1-abcdef…", "b": "CPBLTY1-_…"}"#);
    }
}
