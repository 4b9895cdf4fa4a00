//! The memory of a process that we started, by the kernel's account.

use crate::failure::{Failure, Outcome, While};
use std::path::PathBuf;

/// Memory of a process, in bytes.
pub struct Memory(PathBuf);

impl Memory {
    pub fn of(process: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{process}")))
    }

    fn field(&self, name: &str) -> Outcome<u64> {
        let status = std::fs::read_to_string(self.0.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| Failure::new(format!("/proc/…/status has no {name}")))
    }

    /// What is resident now.
    pub fn resident(&self) -> Outcome<u64> {
        self.field("VmRSS")
    }

    /// The most that was resident since [`Memory::forget_peak`].
    pub fn peak(&self) -> Outcome<u64> {
        self.field("VmHWM")
    }

    /// proc_pid_clear_refs(5): 5 makes the present size the peak.
    pub fn forget_peak(&self) -> Outcome<()> {
        let file = self.0.join("clear_refs");
        std::fs::write(&file, "5").while_(|| format!("writing {}", file.display()))
    }
}
