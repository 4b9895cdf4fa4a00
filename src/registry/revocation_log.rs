//! The revocation log: an append-only file beside the store, written and synced before each revocation is committed.
//!
//! A store that is restored from an older copy has forgotten revocations; the log has not. At start the two are compared; where
//! they disagree, every unit in the log is revoked again and a new epoch begins, so that gateways drop what they hold.
//!
//! One line for each revocation, `<epoch b64> <seq> <unit b64>`, and `<epoch b64> <seq> -` where an epoch begins. A line that
//! was torn by a crash was never acknowledged; it is closed with a newline and skipped from then on.

use crate::store::{Epoch, Position};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use capability::Unit;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longer than the longest line: an epoch (22), a number (20), a lookup id (43), two spaces and a newline.
const MAX_LINE: u64 = 128;

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where the store's head is once this is committed.
    pub position: Position,
    /// What was revoked; none where an epoch begins.
    pub unit: Option<Unit>,
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.split(' ');
        let (epoch, seq, unit) = (words.next()?, words.next()?, words.next()?);
        let mut bytes = [0; 16];
        let well_formed = words.next().is_none() && matches!(B64.decode_slice(epoch, &mut bytes), Ok(16));
        let unit = match unit {
            "-" => None,
            unit => Some(unit.parse().ok()?),
        };
        let position = Position { epoch: Epoch(bytes), seq: seq.parse().ok()? };
        well_formed.then_some(Entry { position, unit })
    }

    fn line(&self) -> String {
        let unit = self.unit.map_or_else(|| "-".to_owned(), |unit| unit.to_string());
        format!("{} {} {unit}\n", B64.encode(self.position.epoch.0), self.position.seq)
    }
}

/// The open log. Several processes may hold it; each appends only while it holds the store's write lock.
#[derive(Debug)]
pub struct RevocationLog {
    file: File,
}

impl RevocationLog {
    /// Opens the log, or begins it. A new file's name is made durable as well.
    pub fn open(path: &Path) -> io::Result<RevocationLog> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(RevocationLog { file })
    }

    /// The last whole line, if there is one.
    pub fn last(&mut self) -> io::Result<Option<Entry>> {
        let len = self.file.seek(SeekFrom::End(0))?;
        self.file.seek(SeekFrom::Start(len.saturating_sub(2 * MAX_LINE)))?;
        let mut tail = Vec::new();
        (&self.file).take(2 * MAX_LINE).read_to_end(&mut tail)?;
        let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
        let whole = tail.get(..end).unwrap_or_default();
        // A torn line that was closed later is skipped.
        let lines = whole.rsplit(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| std::str::from_utf8(line).ok()).find_map(Entry::parse))
    }

    /// Every entry, in order; lines that were torn are left out.
    pub fn entries(&mut self) -> io::Result<Vec<Entry>> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut entries = Vec::new();
        for line in BufReader::new(&self.file).split(b'\n') {
            entries.extend(std::str::from_utf8(&line?).ok().and_then(Entry::parse));
        }
        Ok(entries)
    }

    /// Appends lines in one write, and returns when they are on the disk.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut text = String::new();
        if self.is_torn()? {
            text.push('\n');
        }
        entries.iter().for_each(|entry| text.push_str(&entry.line()));
        self.file.write_all(text.as_bytes())?;
        if let Err(error) = self.file.sync_data() {
            crate::durability::end("the revocation log", &error);
        }
        Ok(())
    }

    fn is_torn(&mut self) -> io::Result<bool> {
        let len = self.file.seek(SeekFrom::End(0))?;
        if len == 0 {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(len - 1))?;
        let mut last = [0];
        self.file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capability::{LookupId, Uid};

    fn entry(seq: u64, unit: Option<Unit>) -> Entry {
        Entry { position: Position { epoch: Epoch([7; 16]), seq }, unit }
    }

    #[test]
    fn what_was_appended_is_read_again_and_torn_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations.log");
        let mut log = RevocationLog::open(&path).unwrap();
        assert_eq!(log.last().unwrap(), None);
        let first = entry(0, None);
        let second = entry(1, Some(Unit::Uid(Uid([1; 16]))));
        log.append(&[first]).unwrap();
        log.append(&[second]).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"BwcHBwcHBwc").unwrap();
        let mut log = RevocationLog::open(&path).unwrap();
        assert_eq!(log.last().unwrap(), Some(second));
        let third = entry(2, Some(Unit::Lookup(LookupId([2; 32]))));
        log.append(&[third]).unwrap();
        assert_eq!(log.last().unwrap(), Some(third));
        assert_eq!(log.entries().unwrap(), [first, second, third]);
    }
}
