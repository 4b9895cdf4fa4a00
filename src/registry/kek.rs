//! Where the key-encryption keys come from: a file, or a command that fetches them (from a KMS, from Vault).

use crate::files::{self, PrivateFileError};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long the command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes that it may print: some 90 keys.
const MAX_OUTPUT: u64 = 4_096;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekSource {
    /// In a file that its owner alone may read.
    File(PathBuf),
    /// On the standard output of a command, which a shell runs.
    Command(String),
}

/// The keys could not be had. Never holds what was read.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// Neither form.
    #[error("--kek must be file:PATH or exec:COMMAND")]
    Form,
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The command could not be run, or said that it failed; what it had to say is on standard error.
    #[error("the command of --kek failed: {0}")]
    Command(String),
    /// It took too long.
    #[error("the command of --kek did not end within {seconds} seconds", seconds = COMMAND_TIMEOUT.as_secs())]
    Slow,
    /// It printed too much.
    #[error("the command of --kek printed more than {MAX_OUTPUT} bytes")]
    Long,
}

impl KekSource {
    /// Reads `file:PATH` or `exec:COMMAND`.
    pub fn parse(text: &str) -> Result<KekSource, KekError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(KekSource::File(path.into())),
            Some(("exec", command)) if !command.trim().is_empty() => Ok(KekSource::Command(command.into())),
            _ => Err(KekError::Form),
        }
    }

    /// What stands there.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, KekError> {
        match self {
            KekSource::File(path) => Ok(files::read_private(path)?),
            KekSource::Command(command) => run(command, COMMAND_TIMEOUT),
        }
    }
}

fn run(command: &str, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, KekError> {
    let failed = |error: std::io::Error| KekError::Command(error.to_string());
    // In a group of its own, so that what the shell started ends with it.
    let mut child = Command::new("sh")
        .args(["-c", command])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let group = Pid::from_child(&child);
    let output = child.stdout.take();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_OUTPUT).unwrap_or(0) + 1));
        let read = output.map(|output| output.take(MAX_OUTPUT + 1).read_to_end(&mut bytes));
        let _ = tell.send(read.transpose().map(|_| bytes));
    });
    let read = told.recv_timeout(timeout);
    // One that has closed its output, or printed too much, has nothing left to do.
    let over = match &read {
        Ok(Ok(bytes)) if u64::try_from(bytes.len()).unwrap_or(u64::MAX) <= MAX_OUTPUT => None,
        Ok(_) => Some(KekError::Long),
        Err(_) => Some(KekError::Slow),
    };
    if let Some(error) = over {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait();
        return Err(error);
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(KekError::Command(status.to_string()));
    }
    read.map_err(|_| KekError::Slow)?.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_heard_within_bounds() {
        let second = Duration::from_secs(20);
        assert_eq!(run("printf key", second).unwrap().as_slice(), b"key");
        assert!(
            matches!(run("printf key; exit 3", second), Err(KekError::Command(why)) if why.contains('3'))
        );
        assert!(matches!(run("yes", second), Err(KekError::Long)));
        assert!(matches!(run("sleep 600", Duration::from_millis(50)), Err(KekError::Slow)));
        assert_eq!(
            KekSource::parse("exec:vault read x:y").unwrap(),
            KekSource::Command("vault read x:y".into())
        );
        for wrong in ["", "file:", "exec: ", "/etc/kek", "http://x"] {
            assert!(matches!(KekSource::parse(wrong), Err(KekError::Form)), "{wrong}");
        }
    }
}
