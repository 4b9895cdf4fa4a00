//! `make bench`: plain Envoy, Envoy's own signer and this filter beside each other in one run, taking turns, so that whatever else the
//! machine does hits all alike. docs/performance.md says what is measured and how, and keeps the figures.

// A program for a person at a terminal: a failed expectation should stop it where it is found, and it is about time.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod calls;
mod capabilities;
mod envoys;
mod latency;
mod load;
mod processor;
mod report;
mod rig;
mod upload;
mod usage;

use envoys::{Envoy, SINK_HOST};
use harness::memory::Memory;
use harness::uploads::Mode;
use harness::{Failure, Outcome};
use latency::Latency;
use load::Requests;
use processor::{Cold, Processor};
use report::{Figure, table};
use rig::{Envoys, Rig};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use usage::cpu;

const USAGE: &str = "flags: --quick (some two minutes, kept nowhere), --starts N (of every Envoy), --rounds N (of each start), \
                     --seconds S (of each turn), --capabilities N, --upload MIB, --only PART (cpu, latency, memory, uploads), --case TEXT \
                     (of the cpu part), --variant TEXT (of the cpu part, beside plain and native; any number of times), --beside MODULE \
                     (another build of the filter, beside this one; any number of times), --calls (modules that do one thing many times, \
                     beside it), --keep (even where it is quick)";

/// How much is measured.
struct Plan {
    starts: usize,
    /// Of each start.
    rounds: usize,
    turn: Duration,
    capabilities: usize,
    upload: u64,
    only: Option<String>,
    case: String,
    variants: Vec<String>,
    beside: Vec<PathBuf>,
    calls: bool,
    keep: bool,
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut plan = Self {
            starts: 4,
            rounds: 11,
            turn: Duration::from_millis(250),
            capabilities: 100_000,
            upload: 1024,
            only: None,
            case: String::new(),
            variants: Vec::new(),
            beside: Vec::new(),
            calls: false,
            keep: true,
        };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Failure::new(format!("{flag} wants a value")));
            let number = |text: String| {
                text.parse::<f64>().map_err(|_| Failure::new(format!("{text:?} is no number")))
            };
            match flag.as_str() {
                "--quick" => {
                    plan.starts = 2;
                    plan.rounds = 4;
                    plan.turn = Duration::from_millis(200);
                    plan.capabilities = 5_000;
                    plan.upload = 256;
                    plan.keep = false;
                }
                "--starts" => plan.starts = (number(value()?)? as usize).max(1),
                "--rounds" => plan.rounds = (number(value()?)? as usize).max(1),
                "--seconds" => plan.turn = Duration::from_secs_f64(number(value()?)?.clamp(0.05, 60.0)),
                "--capabilities" => plan.capabilities = (number(value()?)? as usize).clamp(2_000, 1_000_000),
                "--upload" => plan.upload = (number(value()?)? as u64).clamp(1, 65_536),
                "--only" => (plan.only, plan.keep) = (Some(value()?), false),
                "--case" => (plan.case, plan.keep) = (value()?, false),
                "--variant" => {
                    plan.variants.push(value()?);
                    plan.keep = false;
                }
                "--beside" => {
                    plan.beside.push(PathBuf::from(value()?).canonicalize()?);
                    plan.keep = false;
                }
                "--calls" => (plan.calls, plan.keep) = (true, false),
                "--keep" => plan.keep = true,
                // What `cargo bench` adds.
                "--bench" => {}
                _ => return Err(Failure::new(format!("{flag}: {USAGE}"))),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }

    fn wants_variant(&self, name: &str) -> bool {
        self.variants.is_empty() || self.variants.iter().any(|text| name.contains(text))
    }

    /// How often every Envoy is started: once where nothing is wanted that is spread over starts.
    fn starts(&self) -> usize {
        if self.wants("cpu") || self.wants("latency") { self.starts } else { 1 }
    }
}

fn main() -> ExitCode {
    match Plan::parse(std::env::args().skip(1)).and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    eprintln!("\u{1b}[1m==>\u{1b}[0m {text}");
}

fn run(plan: &Plan) -> Outcome<()> {
    say(&format!("making {} capabilities", plan.capabilities));
    let rig = Rig::start(plan.capabilities, &plan.beside, plan.calls)?;
    let mut text = heading(plan)?;
    let (mut cold, mut processor, mut latency) =
        (Cold::default(), Processor::new(&rig, plan), Latency::default());
    let mut once = String::new();
    for start in 1..=plan.starts() {
        say(&format!("start {start} of {} of every Envoy", plan.starts()));
        let envoys = rig.envoys()?;
        // In any case: what comes next finds every capability cached.
        cold.measure(&rig, &envoys, plan)?;
        if plan.wants("cpu") {
            processor.measure(&envoys, plan)?;
        }
        if plan.wants("latency") {
            latency.measure(&rig, &envoys, plan)?;
        }
        let last = start == plan.starts();
        if last && plan.wants("memory") {
            once += &memory(&rig, &envoys)?;
        }
        if last && plan.wants("uploads") {
            once += &uploads(&rig, &envoys, plan)?;
        }
    }
    let mut groups = Vec::new();
    if plan.wants("cpu") {
        let (figures, bars) = processor.figures(plan);
        groups = bars;
        text += &figures;
        text += &cold.figures(plan);
    }
    if plan.wants("latency") {
        text += &latency.figures();
    }
    text += &once;
    println!("{text}");
    if plan.keep {
        let docs = harness::repository().join("docs");
        std::fs::write(docs.join("performance.svg"), report::plot(&groups))?;
        report::keep(
            &docs.join("performance.md"),
            &format!("{text}![CPU added to each request](performance.svg)\n"),
        )?;
        say("written to docs/performance.md and docs/performance.svg");
    }
    Ok(())
}

/// Which machine, Envoy and commit, and how long was measured.
fn heading(plan: &Plan) -> Outcome<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let of = |field: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").trim().to_owned()
    };
    let say = |program: &mut Command| -> Outcome<String> {
        Ok(String::from_utf8_lossy(&program.output()?.stdout).trim().to_owned())
    };
    let envoy = say(Command::new(harness::envoy::program()?).arg("--version"))?;
    let envoy = envoy
        .rsplit("version: ")
        .next()
        .unwrap_or_default()
        .split('/')
        .nth(1)
        .unwrap_or("unknown")
        .to_owned();
    let git =
        |arguments: &[&str]| say(Command::new("git").args(arguments).current_dir(harness::repository()));
    let changed = if git(&["status", "--porcelain", "-uno"])?.is_empty() { "" } else { ", with changes" };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{} (family {}, model {}), {} cores; load average {} before; Envoy {envoy}, one worker; commit {}{changed}; {} of every \
         Envoy, {} of {:?} a turn each. Medians, with quartiles in brackets.\n\n",
        of("model name"),
        of("cpu family"),
        of("model\t"),
        std::thread::available_parallelism()?,
        load.split_whitespace().next().unwrap_or_default(),
        git(&["rev-parse", "--short", "HEAD"])?,
        counted(plan.starts(), "start"),
        counted(plan.rounds, "round"),
        plan.turn,
    ))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn get(bearers: &[String]) -> Requests<'_> {
    Requests::new("GET", "", b"", bearers)
}

/// CPU that `envoy` spends on a request, in µs, and requests a second, in one turn.
fn turn(envoy: &Envoy, requests: &mut Requests<'_>, time: Duration, at_most: u64) -> Outcome<(f64, f64)> {
    let process = envoy.process.id();
    let before = cpu(process)?;
    let ran = load::closed(envoy.port, requests, time, at_most)?;
    let spent = cpu(process)?.saturating_sub(before);
    let count = ran.requests as f64;
    Ok((spent.as_secs_f64() * 1e6 / count, count / ran.elapsed.as_secs_f64()))
}

/// What a worker takes, how long a start takes, and the module.
fn memory(rig: &Rig, envoys: &Envoys) -> Outcome<String> {
    say("memory and startup");
    const MORE: u32 = 4;
    let bearers = &rig.capabilities.lambda[..1];
    let mut rows = Vec::new();
    for membrane in [false, true] {
        let mut sizes = Vec::new();
        let mut started = Duration::ZERO;
        for workers in [1, 1 + MORE] {
            let start = Instant::now();
            let envoy = rig.another(membrane, workers)?;
            if workers == 1 {
                // Until it answers; the filter's VM is there by then.
                while load::closed(envoy.port, &mut get(bearers), Duration::MAX, 1).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                started = start.elapsed();
            }
            // Connections are spread over the workers by the kernel; the tick is every tenth of a second.
            std::thread::sleep(Duration::from_millis(500));
            for _ in 0..20 {
                load::closed(envoy.port, &mut get(bearers), Duration::MAX, 2_000)?;
            }
            sizes.push(Memory::of(envoy.process.id()).resident()? as f64 / f64::from(1 << 20));
        }
        rows.push(vec![
            if membrane { "membrane" } else { "native" }.into(),
            format!("{:.0}", started.as_secs_f64() * 1e3),
            format!("{:.1}", sizes[0]),
            format!("{:.1}", (sizes[1] - sizes[0]) / f64::from(MORE)),
        ]);
    }
    let head =
        ["Envoy", "start to first answer, ms", "MiB resident, one worker", "MiB for each further worker"];
    let module = std::fs::metadata(harness::module()?)?.len();
    let cached = Memory::of(envoys.membrane.process.id()).resident()? as f64 / f64::from(1 << 20);
    Ok(format!(
        "{}\nWith {} capabilities cached: {cached:.0} MiB resident. The module has {module} bytes.\n\n",
        table(&head, &rows),
        rig.capabilities.lambda.len()
    ))
}

fn uploads(rig: &Rig, envoys: &Envoys, plan: &Plan) -> Outcome<String> {
    let size = plan.upload << 20;
    let rounds = (plan.starts * plan.rounds).div_ceil(10);
    let all = &rig.capabilities;
    let (plain, membrane) = (Memory::of(envoys.plain.process.id()), Memory::of(envoys.membrane.process.id()));
    let mut rows = Vec::new();
    for mode in Mode::ALL {
        say(&format!("an upload of {} MiB, {}", plan.upload, mode.name()));
        let bearer = if mode == Mode::Framed { &all.s3_signed } else { &all.s3 };
        let (mut seconds, mut ratios, mut growth, mut plain_growth) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let theirs = upload::upload(envoys.plain.port, SINK_HOST, bearer, mode, size, &plain)?;
            let ours = upload::upload(envoys.membrane.port, SINK_HOST, bearer, mode, size, &membrane)?;
            seconds.push(ours.took.as_secs_f64());
            ratios.push(ours.took.as_secs_f64() / theirs.took.as_secs_f64());
            growth.push(ours.growth as f64 / f64::from(1 << 20));
            plain_growth.push(theirs.growth as f64 / f64::from(1 << 20));
        }
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let bound = if mode.passes() { "1.5" } else { "" };
        rows.push(vec![
            mode.name().into(),
            Figure::of(seconds).text(2),
            Figure::of(ratios).text(2),
            bound.into(),
            format!("{:.1}", most(&growth)),
            format!("{:.1}", most(&plain_growth)),
        ]);
    }
    let head = [
        &format!("an upload of {} MiB", plan.upload)[..],
        "seconds",
        "of plain's time",
        "bound",
        "MiB above idle at the peak (bound: 32)",
        "plain's",
    ];
    Ok(format!("{}\n", table(&head, &rows)))
}
