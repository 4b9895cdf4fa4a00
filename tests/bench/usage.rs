//! What a process used, by the kernel's account.

use harness::Outcome;
use harness::failure::While;
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
