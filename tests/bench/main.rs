//! `make bench`: plain Envoy, Envoy's own signer and this filter beside each other in one run, taking turns, so that whatever else the
//! machine does hits all alike. docs/performance.md says what is measured and how, and keeps the figures.

// A program for a person at a terminal: a failed expectation should stop it where it is found, and it is about time.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod calls;
mod capabilities;
mod envoys;
mod load;
mod report;
mod rig;
mod upload;
mod usage;

use envoys::{Envoy, SINK_HOST};
use harness::memory::Memory;
use harness::uploads::Mode;
use harness::{Failure, Outcome};
use load::Requests;
use report::{Figure, Group, table};
use rig::Rig;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use usage::cpu;

const USAGE: &str = "flags: --quick (some two minutes, kept nowhere), --rounds N, --seconds S (of each turn), --capabilities N, \
                     --upload MIB, --only PART (cpu, latency, memory, uploads), --case TEXT (of the cpu part), --beside MODULE (another \
                     build of the filter, beside this one; any number of times), --calls (modules that do one thing many times, beside it), --keep (even where it is quick)";

/// Before each case, for each Envoy.
const WARM_UP: Duration = Duration::from_millis(500);

/// How much is measured.
struct Plan {
    rounds: usize,
    turn: Duration,
    capabilities: usize,
    upload: u64,
    only: Option<String>,
    case: String,
    beside: Vec<PathBuf>,
    calls: bool,
    keep: bool,
}

impl Plan {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut plan = Self {
            rounds: 41,
            turn: Duration::from_millis(250),
            capabilities: 100_000,
            upload: 1024,
            only: None,
            case: String::new(),
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
                    plan.rounds = 7;
                    plan.turn = Duration::from_millis(200);
                    plan.capabilities = 5_000;
                    plan.upload = 256;
                    plan.keep = false;
                }
                "--rounds" => plan.rounds = (number(value()?)? as usize).max(1),
                "--seconds" => plan.turn = Duration::from_secs_f64(number(value()?)?.clamp(0.05, 60.0)),
                "--capabilities" => plan.capabilities = (number(value()?)? as usize).clamp(2_000, 1_000_000),
                "--upload" => plan.upload = (number(value()?)? as u64).clamp(1, 65_536),
                "--only" => (plan.only, plan.keep) = (Some(value()?), false),
                "--case" => (plan.case, plan.keep) = (value()?, false),
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
    say(&format!("making {} capabilities, and starting the Envoys", plan.capabilities));
    let rig = Rig::start(plan.capabilities, &plan.beside, plan.calls)?;
    let mut text = heading(plan)?;
    let mut groups = Vec::new();
    let cold = warm(&rig, plan)?;
    if plan.wants("cpu") {
        let (figures, bars) = processor(&rig, plan)?;
        groups = bars;
        text += &figures;
        text += &cold;
    }
    if plan.wants("latency") {
        text += &latency(&rig, plan)?;
    }
    if plan.wants("memory") {
        text += &memory(&rig)?;
    }
    if plan.wants("uploads") {
        text += &uploads(&rig, plan)?;
    }
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
        "{} (family {}, model {}), {} cores; load average {} before; Envoy {envoy}, one worker; commit {}{changed}; {} rounds of {:?} a \
         turn. Medians, with quartiles in brackets.\n\n",
        of("model name"),
        of("cpu family"),
        of("model\t"),
        std::thread::available_parallelism()?,
        load.split_whitespace().next().unwrap_or_default(),
        git(&["rev-parse", "--short", "HEAD"])?,
        plan.rounds,
        plan.turn,
    ))
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

/// Uses every capability once: each is looked up, and then cached.
fn warm(rig: &Rig, plan: &Plan) -> Outcome<String> {
    say("cold lookups, each capability once");
    let mut requests = get(&rig.capabilities.lambda);
    let (mut added, mut rates) = (Vec::new(), Vec::new());
    // The first requests of all make connections.
    turn(&rig.plain, &mut get(&rig.capabilities.lambda), plan.turn, u64::MAX)?;
    let rounds = plan.rounds.min(11);
    let every = plan.capabilities / rounds;
    for round in 0..rounds {
        let last = if round + 1 == rounds { plan.capabilities % rounds } else { 0 };
        let (plain, _) = turn(&rig.plain, &mut get(&rig.capabilities.lambda), plan.turn / 2, u64::MAX)?;
        let (spent, rate) = turn(&rig.membrane, &mut requests, Duration::MAX, (every + last) as u64)?;
        added.push(spent - plain);
        rates.push(rate);
    }
    let rows = [vec![
        format!("GET, {} capabilities, each for the first time", plan.capabilities),
        Figure::of(rates).text(0),
        Figure::of(added).text(0),
    ]];
    Ok(format!(
        "{}\n",
        table(&["cold lookups (mutual TLS to the registry)", "requests/s", "µs added"], &rows)
    ))
}

/// One thing that is measured: requests of one kind, through one Envoy after the other.
struct Case<'a> {
    name: &'static str,
    variants: Vec<(String, &'a Envoy, Requests<'a>)>,
}

fn cases<'a>(rig: &'a Rig) -> Vec<Case<'a>> {
    let all = &rig.capabilities.lambda[..];
    let one = &all[..1];
    let thousand = &all[..1_000];
    let hash = format!("x-amz-content-sha256: {}\r\n", "0123456789abcdef".repeat(4));
    let (small, large) = (vec![b'{'; 1 << 10], vec![b'{'; 64 << 10]);
    let case =
        |name, method, headers: &str, body: &[u8], ours: &[(&'static str, &'a [String])], unsigned: bool| {
            let requests = |bearers| Requests::new(method, headers, body, bearers);
            let mut variants = vec![
                ("plain".to_owned(), &rig.plain, requests(one)),
                ("native".into(), &rig.native, requests(one)),
            ];
            if unsigned {
                variants.push(("native, unsigned payload".into(), &rig.native_unsigned, requests(one)));
            }
            variants.extend(
                ours.iter().map(|(name, bearers)| ((*name).to_owned(), &rig.membrane, requests(*bearers))),
            );
            variants.extend(rig.beside.iter().map(|(name, envoy)| (name.clone(), envoy, requests(one))));
            Case { name, variants }
        };
    let few = [("membrane, 1 capability", one), ("membrane, 1,000 by turns", thousand)];
    let many = [few[0], few[1], ("membrane, all by turns", all)];
    vec![
        case("GET", "GET", "", b"", &many, false),
        case("POST 1 KiB", "POST", "", &small, &few, false),
        case("POST 64 KiB", "POST", "", &large, &few[..1], false),
        case("POST 64 KiB, its hash supplied", "POST", &hash, &large, &few[..1], true),
    ]
}

fn processor(rig: &Rig, plan: &Plan) -> Outcome<(String, Vec<Group>)> {
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    for mut case in cases(rig).into_iter().filter(|case| case.name.contains(&plan.case)) {
        say(case.name);
        let count = case.variants.len();
        let mut spent = vec![Vec::new(); count];
        let mut rates = vec![Vec::new(); count];
        for (_, envoy, requests) in &mut case.variants {
            // The engine compiles anew what is used much.
            turn(envoy, requests, WARM_UP, u64::MAX)?;
        }
        for round in 0..plan.rounds {
            for step in 0..count {
                // Another one is first each time.
                let index = (round + step) % count;
                let (_, envoy, requests) = &mut case.variants[index];
                let (cost, rate) = turn(envoy, requests, plan.turn, u64::MAX)?;
                spent[index].push(cost);
                rates[index].push(rate);
            }
        }
        let added = |index: usize| -> Vec<f64> {
            spent[index].iter().zip(&spent[0]).map(|(cost, plain)| cost - plain).collect()
        };
        let native = added(1);
        let mut bars = Vec::new();
        for (index, (name, ..)) in case.variants.iter().enumerate() {
            let ours = added(index);
            let (added, ratio) = if index == 0 {
                (String::new(), String::new())
            } else {
                bars.push((name.clone(), Figure::of(ours.iter().copied())));
                let ratios = ours.iter().zip(&native).map(|(ours, native)| ours / native);
                (Figure::of(ours.iter().copied()).text(1), Figure::of(ratios).text(2))
            };
            let (each, rate) =
                (Figure::of(spent[index].iter().copied()), Figure::of(rates[index].iter().copied()));
            rows.push(vec![case.name.into(), name.clone(), rate.text(0), each.text(1), added, ratio]);
        }
        groups.push(Group { name: case.name.into(), bars });
    }
    let head = ["request", "Envoy", "requests/s", "µs of CPU each", "µs added", "of native's"];
    let all = format!("`all` are {} capabilities.", plan.capabilities);
    Ok((format!("{}\n{all}\n\n", table(&head, &rows)), groups))
}

fn latency(rig: &Rig, plan: &Plan) -> Outcome<String> {
    say("latency at a fixed rate");
    let bearers = &rig.capabilities.lambda[..1_000];
    let envoys =
        [("plain", &rig.plain), ("native", &rig.native), ("membrane, 1,000 by turns", &rig.membrane)];
    let mut most = f64::MAX;
    for (_, envoy) in envoys {
        most = most.min(turn(envoy, &mut get(bearers), plan.turn, u64::MAX)?.1);
    }
    let rate = (most / 2.0 / 100.0).round() * 100.0;
    let mut half = vec![Vec::new(); envoys.len()];
    let mut late = half.clone();
    for round in 0..plan.rounds {
        for step in 0..envoys.len() {
            let index = (round + step) % envoys.len();
            let mut took = load::at_rate(envoys[index].1.port, &mut get(bearers), rate, plan.turn)?;
            took.sort();
            let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
            half[index].push(at(0.5));
            late[index].push(at(0.99));
        }
    }
    let rows: Vec<Vec<String>> = envoys
        .iter()
        .enumerate()
        .map(|(index, (name, _))| {
            let of = |values: &[f64]| Figure::of(values.iter().copied()).text(0);
            let ratios = late[index].iter().zip(&late[0]).map(|(ours, plain)| ours / plain);
            vec![(*name).into(), of(&half[index]), of(&late[index]), Figure::of(ratios).text(2)]
        })
        .collect();
    let head = format!("GET, {rate} a second, half of what the slowest can");
    Ok(format!("{}\n", table(&[&head, "p50, µs", "p99, µs", "p99 of plain's"], &rows)))
}

/// What a worker takes, how long a start takes, and the module.
fn memory(rig: &Rig) -> Outcome<String> {
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
    let cached = Memory::of(rig.membrane.process.id()).resident()? as f64 / f64::from(1 << 20);
    Ok(format!(
        "{}\nWith {} capabilities cached: {cached:.0} MiB resident. The module has {module} bytes.\n\n",
        table(&head, &rows),
        rig.capabilities.lambda.len()
    ))
}

fn uploads(rig: &Rig, plan: &Plan) -> Outcome<String> {
    let size = plan.upload << 20;
    let rounds = plan.rounds.div_ceil(10);
    let all = &rig.capabilities;
    let (plain, membrane) = (Memory::of(rig.plain.process.id()), Memory::of(rig.membrane.process.id()));
    let mut rows = Vec::new();
    for mode in Mode::ALL {
        say(&format!("an upload of {} MiB, {}", plan.upload, mode.name()));
        let bearer = if mode == Mode::Framed { &all.s3_signed } else { &all.s3 };
        let (mut seconds, mut ratios, mut growth, mut plain_growth) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let theirs = upload::upload(rig.plain.port, SINK_HOST, bearer, mode, size, &plain)?;
            let ours = upload::upload(rig.membrane.port, SINK_HOST, bearer, mode, size, &membrane)?;
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
