//! What is printed: results on standard output, everything else on standard error.

use crate::args::{Cli, Format, MembraneCommand, Shell};
use crate::client::Answer;
use crate::failure::Failure;
use crate::redact::{Redactor, printable};
use crate::secrets::SecretText;
use capability::without_tokens;
use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde::Deserialize;
use serde_json::json;
use std::io::Write as _;
use std::process::ExitCode;
use zeroize::Zeroizing;

/// A result, ready to be printed. Capability URIs are what people ask this program for: here, and only here, they appear.
pub(crate) struct Printed {
    stdout: Zeroizing<Vec<u8>>,
    /// A remark for a person.
    stderr: Option<String>,
}

impl Printed {
    /// JSON, indented by two.
    pub(crate) fn json(value: &impl serde::Serialize) -> Result<Printed, Failure> {
        let mut stdout = Zeroizing::new(serde_json::to_vec_pretty(value).map_err(std::io::Error::from)?);
        stdout.push(b'\n');
        Ok(Printed { stdout, stderr: None })
    }

    /// A secret that was asked for, on a line of its own.
    pub(crate) fn line(text: &SecretText) -> Printed {
        let mut stdout = Zeroizing::new(Vec::with_capacity(text.expose().len() + 1));
        stdout.extend_from_slice(text.expose().as_bytes());
        stdout.push(b'\n');
        Printed { stdout, stderr: None }
    }

    /// Nothing but a remark for a person.
    pub(crate) fn remark(text: String) -> Printed {
        Printed { stdout: Zeroizing::default(), stderr: Some(text) }
    }
}

/// Prints a result. A result that could not be printed whole is a failure: it may hold the only copy of a capability.
pub(crate) fn print(printed: Printed) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&printed.stdout)?;
    stdout.flush()?;
    if let Some(remark) = printed.stderr {
        self::remark(&remark)?;
    }
    Ok(())
}

/// Says something to a person, on standard error.
pub(crate) fn remark(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{text}")
}

/// Turns the service's answer into a result, or into a failure where it is an error or none of the Membrane API's.
pub(crate) fn answer(command: &MembraneCommand, answer: Answer, format: Format) -> Result<Printed, Failure> {
    let Answer { authority, status, body } = answer;
    let not_the_api = |what| Failure::NotTheApi { authority: authority.clone(), status, what };
    if (300..400).contains(&status) {
        return Err(not_the_api(
            "with a redirect, which is not followed: it would carry the capability elsewhere",
        ));
    }
    let pretty = pretty(&body).ok_or_else(|| {
        not_the_api("with something that is not JSON: check that the capability's authority is a gateway, and not an upstream or a proxy")
    })?;
    if !(200..300).contains(&status) {
        #[derive(Deserialize)]
        struct ErrorBody {
            message: String,
        }
        let message = serde_json::from_slice::<ErrorBody>(&body)
            .map(|error| error.message)
            .unwrap_or_else(|_| format!("{authority} answered {status}"));
        let body = String::from_utf8_lossy(&pretty).trim_end().to_owned();
        return Err(Failure::Refused { message, body });
    }
    if command.waits() {
        let Accepted { unconfirmed, .. } = serde_json::from_slice(&body)
            .map_err(|_| not_the_api("with JSON that is not this command's answer"))?;
        if unconfirmed != Some(0) {
            let body = String::from_utf8_lossy(&pretty).trim_end().to_owned();
            return Err(Failure::Unconfirmed { count: unconfirmed, body });
        }
    }
    match format {
        Format::Json => Ok(Printed { stdout: pretty, stderr: None }),
        Format::Text => text(command, &body).ok_or_else(|| {
            not_the_api("with JSON that is not this command's answer; --output json shows it")
        }),
    }
}

/// The same JSON, its members in the same order, indented.
fn pretty(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Reserved generously: indentation seldom doubles an answer, and growing would leave copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(body.len() * 2 + 64));
    let mut from = serde_json::Deserializer::from_slice(body);
    serde_transcode::transcode(&mut from, &mut serde_json::Serializer::pretty(&mut *out)).ok()?;
    from.end().ok()?;
    out.push(b'\n');
    Some(out)
}

#[derive(Deserialize)]
struct Membrane {
    id: String,
    capabilities: Capabilities,
}

#[derive(Deserialize)]
struct Capabilities {
    export: SecretText,
    revoke: SecretText,
}

#[derive(Deserialize)]
struct Membranes {
    membranes: Vec<Membrane>,
    completed: bool,
}

#[derive(Deserialize)]
struct Exported {
    capability: SecretText,
}

#[derive(Deserialize)]
struct Accepted {
    message: String,
    /// With --wait: how many workers of gateways may still honour what was revoked.
    unconfirmed: Option<u64>,
}

/// One line a result, columns separated by tabs: create and query: id, export, revoke; export: the capability alone.
fn text(command: &MembraneCommand, body: &[u8]) -> Option<Printed> {
    let mut stdout = Zeroizing::new(Vec::with_capacity(body.len() + 64));
    let mut stderr = None;
    let mut line = |columns: &[&str]| {
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                stdout.push(b'\t');
            }
            stdout.extend_from_slice(printable(column).as_bytes());
        }
        stdout.push(b'\n');
    };
    match command {
        MembraneCommand::Create(_) => {
            let Membrane { id, capabilities } = serde_json::from_slice(body).ok()?;
            line(&[&id, capabilities.export.expose(), capabilities.revoke.expose()]);
        }
        MembraneCommand::Query(_) => {
            let Membranes { membranes, completed } = serde_json::from_slice(body).ok()?;
            for Membrane { id, capabilities } in &membranes {
                line(&[id, capabilities.export.expose(), capabilities.revoke.expose()]);
            }
            if !completed {
                stderr = Some("There are more: ask again with --last-id and the last id above.".to_owned());
            }
        }
        MembraneCommand::Export(_) => {
            let Exported { capability } = serde_json::from_slice(body).ok()?;
            line(&[capability.expose()]);
        }
        MembraneCommand::Revoke(_) | MembraneCommand::DeleteSelf(_) => {
            let Accepted { message, .. } = serde_json::from_slice(body).ok()?;
            line(&[&message]);
        }
    }
    Some(Printed { stdout, stderr })
}

/// The completion script of `shell`.
pub(crate) fn completions(shell: Shell) -> Printed {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut stdout = Zeroizing::default();
    clap_complete::generate(shell, &mut Cli::command(), "capi", &mut *stdout);
    Printed { stdout, stderr: None }
}

/// Prints `FAILED`, the reason and, unless text is wanted, JSON: the service's own where there is one. Exit status 1.
pub(crate) fn failed(failure: &Failure, format: Format, redactor: &Redactor) -> ExitCode {
    let message = printable(&redactor.apply(&failure.to_string()));
    let body = match failure {
        Failure::Refused { body, .. } | Failure::Unconfirmed { body, .. } => redactor.apply(body),
        _ => {
            let mut body = json!({ "error": failure.code(), "message": message });
            if let (Some(object), Failure::NotTheApi { status, .. }) = (body.as_object_mut(), failure) {
                object.insert("statusCode".to_owned(), json!(status));
            }
            serde_json::to_string_pretty(&body).unwrap_or_default()
        }
    };
    let mut stderr = std::io::stderr().lock();
    // Where standard error itself is gone, the exit status is all that can still be said.
    let _ = match format {
        Format::Json => writeln!(stderr, "FAILED\n{message}\n{body}"),
        Format::Text => writeln!(stderr, "FAILED\n{message}"),
    };
    ExitCode::FAILURE
}

/// Prints a usage error, or the help that was asked for, as clap does, but without what may be a secret: a token, or an
/// argument that stands where none belongs.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let status = if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    let stray = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) => !argument.starts_with('-'),
        _ => false,
    };
    let shown = if stray {
        let rule = "an argument stands where none belongs (it is not shown, as it may be a secret)";
        Cli::command().error(ErrorKind::UnknownArgument, rule).print()
    } else if error.to_string().contains("CPBLTY1-") {
        write!(std::io::stderr(), "{}", without_tokens(&error.to_string()))
    } else {
        error.print()
    };
    // As above: the exit status is all that is left to say.
    drop(shown);
    status
}
