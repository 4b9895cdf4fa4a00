//! What was measured: printed, and put into the file that `MEMBRANE_WATCHERS_REPORT` names.

use super::rig::Link;
use harness::load::percentile;
use std::process::Command;
use std::time::Duration;

const BEGIN: &str = "<!-- make bench-watchers writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// How long each watcher took to hear of each revocation.
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(super) fn p99(&self) -> Duration {
        percentile(&self.0, 0.99)
    }

    pub(super) fn max(&self) -> Duration {
        percentile(&self.0, 1.0)
    }

    fn cells(&self) -> String {
        [percentile(&self.0, 0.5), self.p99(), self.max()].map(millis).join(" | ")
    }
}

pub(super) struct Figures {
    pub(super) link: Link,
    pub(super) watchers: usize,
    pub(super) revocations: usize,
    pub(super) from_answer: Times,
    pub(super) from_request: Times,
    /// From the answer, of the last watcher for each revocation.
    pub(super) lasts: Times,
    /// Resident bytes before anybody watched; what all who wait add to it; what was added at most.
    pub(super) before: u64,
    pub(super) waiting: u64,
    pub(super) peak: u64,
    /// Seconds of CPU for each watcher and revocation: the answer, and the next question.
    pub(super) cpu_each: f64,
    /// Cores while nothing is revoked.
    pub(super) idle_cpu: Option<f64>,
}

/// Milliseconds, to a tenth.
pub(super) fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1_000.0)
}

fn table(all: &[Figures]) -> String {
    let name = |figures: &Figures| {
        let link = match figures.link {
            Link::Plain => "plain",
            Link::MutualTls => "mutual TLS",
        };
        format!("{} watchers, {link}", figures.watchers)
    };
    let mut text = format!("{}\n\n", machine());
    text += "| ms until a watcher heard | revocations | p50 | p99 | max |\n| --- | --- | --- | --- | --- |\n";
    for figures in all {
        for (since, times) in [("answer", &figures.from_answer), ("request", &figures.from_request)] {
            let (name, count, cells) = (name(figures), figures.revocations, times.cells());
            text += &format!("| {name}: from the {since} of `revoke` | {count} | {cells} |\n");
        }
        let (name, count, cells) = (name(figures), figures.revocations, figures.lasts.cells());
        text += &format!("| {name}: the last of each revocation, from the answer | {count} | {cells} |\n");
    }
    text += "\n| the registry | MiB without | MiB added, all waiting | KiB each | MiB added at the peak | µs of CPU to tell each | cores while nothing is revoked |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for figures in all {
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
        let idle = figures.idle_cpu.map_or_else(String::new, |cores| format!("{cores:.3}"));
        text += &format!(
            "| {} | {} | {} | {:.1} | {} | {:.0} | {idle} |\n",
            name(figures),
            mib(figures.before),
            mib(figures.waiting),
            figures.waiting as f64 / 1_024.0 / figures.watchers as f64,
            mib(figures.peak),
            figures.cpu_each * 1e6,
        );
    }
    text
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    let git = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .current_dir(harness::repository())
        .output();
    let commit = git
        .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    // proc_pid_stat(5): the 19th field, the 17th after the name.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let nice = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16)).unwrap_or("0").to_owned();
    let nice = if nice == "0" { String::new() } else { format!(", all at nice {nice}") };
    format!(
        "{cores} cores, which the watchers share; load average {load} after{nice}; commit {commit}; SQLite."
    )
}

// Figures are what a bench is for; `cargo test` shows them where they are asked for.
#[allow(clippy::print_stdout)]
pub(super) fn write(all: &[Figures]) {
    let text = table(all);
    println!("\n{text}");
    let Some(file) = std::env::var_os("MEMBRANE_WATCHERS_REPORT") else { return };
    let file = harness::repository().join(file);
    let before = std::fs::read_to_string(&file).unwrap();
    let around = before.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = around.unwrap_or_else(|| panic!("{} has no place for figures", file.display()));
    std::fs::write(&file, [head, BEGIN, "\n", &text, "\n", END, tail].concat()).unwrap();
}
