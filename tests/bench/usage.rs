//! What a process used, by the kernel's account.

use harness::failure::While;
use harness::{Failure, Outcome};
use std::path::PathBuf;
use std::time::Duration;

/// CPU time of all threads of a process. `schedstat` counts nanoseconds where `stat` counts hundredths of a second.
pub(crate) fn cpu(process: u32) -> Outcome<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that ended meanwhile takes what it used along; Envoy's do not end.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let first = text.split_whitespace().next().unwrap_or_default();
        sum += first.parse::<u64>().while_(|| "reading schedstat".into())?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Memory of a process, in bytes.
pub(crate) struct Memory(PathBuf);

impl Memory {
    pub(crate) fn of(process: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{process}")))
    }

    fn field(&self, name: &str) -> Outcome<u64> {
        let status = std::fs::read_to_string(self.0.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| Failure::new(format!("/proc/…/status has no {name}")))
    }

    /// What is resident now.
    pub(crate) fn resident(&self) -> Outcome<u64> {
        self.field("VmRSS")
    }

    /// The most that was resident since [`Memory::forget_peak`].
    pub(crate) fn peak(&self) -> Outcome<u64> {
        self.field("VmHWM")
    }

    /// proc_pid_clear_refs(5): 5 makes the present size the peak.
    pub(crate) fn forget_peak(&self) -> Outcome<()> {
        let file = self.0.join("clear_refs");
        std::fs::write(&file, "5").while_(|| format!("writing {}", file.display()))
    }
}
