//! Who did what: a line of JSON for each action of a control or of the operator, appended to a file.
//!
//! A line is written when the action is done and before it is answered. It names uids and lookup ids, which open nothing, and never a
//! token, an id that people chose, or anything sealed. A file that was renamed is begun anew, so that it can be rotated.

use crate::store::Position;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::{Control, LookupId, Uid, Unit};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// One action.
#[derive(Debug, Serialize)]
pub struct Event {
    /// Seconds since 1970.
    pub time: u64,
    /// What was done: `create`, `query`, `export`, `revoke`, `deleteSelf`; the operator's have `operator.` before them.
    pub action: &'static str,
    /// The status that it was answered with; 200 where the operator's command was done.
    pub status: u16,
    /// Whose control it was, or which tenant it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Uid>,
    /// Whose control it was, or which membrane was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membrane: Option<Uid>,
    /// The capability that was minted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<LookupId>,
    /// What was revoked by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// For a revocation: a position that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<At>,
    /// The address that asked: the gateway's, as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The request, as the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// A position as it is written.
#[derive(Debug, Serialize)]
pub struct At {
    epoch: String,
    seq: u64,
}

impl From<Position> for At {
    fn from(position: Position) -> At {
        At { epoch: B64.encode(position.epoch.0), seq: position.seq }
    }
}

impl Event {
    /// An action, of which the rest is not known yet.
    pub fn new(time: u64, action: &'static str) -> Event {
        Event {
            time,
            action,
            status: 200,
            tenant: None,
            membrane: None,
            capability: None,
            unit: None,
            position: None,
            peer: None,
            request: None,
        }
    }

    /// An action by a control.
    pub fn of(time: u64, control: &Control) -> Event {
        let (tenant, membrane) = (Some(control.tenant), control.membrane);
        Event { tenant, membrane, ..Event::new(time, control.role.as_str()) }
    }
}

/// Where events go.
#[derive(Debug, Default)]
pub struct Audit {
    file: Option<Mutex<(PathBuf, File)>>,
    failures: AtomicU64,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Audit {
    /// Appends to a file, which is made if it is not there.
    pub fn to(path: &Path) -> io::Result<Audit> {
        let file = open(path)?;
        Ok(Audit { file: Some(Mutex::new((path.to_owned(), file))), failures: AtomicU64::new(0) })
    }

    /// Writes one event. One that cannot be written is counted and logged: what it tells of has happened already.
    pub fn write(&self, event: &Event) {
        let Some(file) = &self.file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = append(&mut file, event) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, action = event.action, "an audit event could not be written");
        }
    }

    /// How many events could not be written.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn append((path, file): &mut (PathBuf, File), event: &Event) -> io::Result<()> {
    let there = std::fs::metadata(&*path).map(|now| (now.dev(), now.ino())).ok();
    let held = file.metadata()?;
    if there != Some((held.dev(), held.ino())) {
        *file = open(path)?;
    }
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_rotated_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = Audit::to(&path).unwrap();
        audit.write(&Event::new(1, "one"));
        std::fs::rename(&path, folder.path().join("audit.1")).unwrap();
        audit.write(&Event::new(2, "two"));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"time\":2,\"action\":\"two\",\"status\":200}\n"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        audit.write(&Event::new(3, "three"));
        assert_eq!(audit.failures(), 1);
    }
}
