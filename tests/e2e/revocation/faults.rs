//! Parts fail while membranes are revoked, and nobody is let in after the bound.

use super::targets::Targets;
use super::{CONNECTIONS, EVERY, Sizes, report};
use crate::folder;
use harness::fleet::Fleet;
use harness::load::Load;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest that can be set, so that the bound is passed often.
const STALENESS: Duration = Duration::from_secs(1);
const SETTINGS: &str = r#""registry": {"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "500ms", "max_unknown": 0}, "staleness": "1s""#;
/// How long a fault lasts beyond the bound.
const BEYOND: Duration = Duration::from_millis(600);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Both links to the registry are cut before the revocation.
    Cut,
    /// SIGSTOP right after the answer.
    Stopped,
    /// Killed right after the answer, and started again at once.
    Killed,
    /// Killed after the answer, and started with a copy of the store from before it.
    OlderCopy,
    /// An Envoy is killed right after the answer, and started again.
    SecondEnvoyKilled,
    /// `wait=fleet` while the links are cut: it answers when the leases have run out.
    AwaitedWhileCut,
    /// Every answer comes later than the bound.
    SlowerThanTheBound,
    /// The links come and go.
    Flapping,
    /// The link of one Envoy is cut before the revocation.
    OneCut,
    /// Every answer comes late, within the bound.
    Slow,
    FirstEnvoyKilled,
    /// `wait=fleet` just after an Envoy was killed and started: its former workers are waited out.
    AwaitedAfterARestart,
}

const ALL: [Fault; 12] = [
    Fault::Cut,
    Fault::Stopped,
    Fault::Killed,
    Fault::OlderCopy,
    Fault::SecondEnvoyKilled,
    Fault::AwaitedWhileCut,
    Fault::SlowerThanTheBound,
    Fault::Flapping,
    Fault::OneCut,
    Fault::Slow,
    Fault::FirstEnvoyKilled,
    Fault::AwaitedAfterARestart,
];

#[test]
fn nobody_is_let_in_after_the_bound_whatever_fails() {
    let sizes = Sizes::asked();
    let mut fleet = Fleet::start(folder("revocation-faults"), 2, SETTINGS).unwrap();
    let targets = Arc::new(Targets::make(&fleet, "faults", sizes.faults));
    let load = Load::start(&fleet.clients(), CONNECTIONS, EVERY, Arc::clone(&targets));
    let mut recoveries = Vec::new();
    for (number, fault) in (1..=sizes.faults).zip(ALL.into_iter().cycle()) {
        targets.turn_to(number, CONNECTIONS);
        bring_about(fault, &mut fleet, &targets, number);
        let ended = Instant::now();
        let (before, start) = (targets.admitted(0), Instant::now());
        while targets.admitted(0) < before + 8 {
            assert!(start.elapsed() < Duration::from_secs(20), "after {fault:?} nobody is let in any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        recoveries.push((ended.elapsed(), fault));
        fleet.check_alive().unwrap();
    }
    let samples = load.stop();

    let (wrong, late) = targets.judge(&samples, |told| told.bound);
    let (within, _) = targets.judge(&samples, |_| Duration::ZERO);
    let (slowest, fault) = recoveries.iter().max_by_key(|(took, _)| *took).unwrap();
    report::write(
        "faults",
        &format!(
            "{} faults of {} kinds, staleness 1 s; {} requests, of which {late} were for a revoked capability and began after the \
             bound: {} of those were let in. {} were let in within the bound. Slowest recovery of other traffic: {} ms ({fault:?}).\n",
            sizes.faults,
            ALL.len().min(sizes.faults),
            samples.len(),
            wrong.len(),
            within.len(),
            slowest.as_millis(),
        ),
    );
    assert!(wrong.is_empty(), "{} of {late} were let in after the bound: {:?}", wrong.len(), wrong.first());
    assert!(late >= sizes.late_requests, "only {late} requests came after the bound");
    // That this judge can find something: where a link is cut, what is cached goes on within the lease, so that without a bound
    // there is something to object to.
    assert!(!within.is_empty(), "the judge would have found nothing in any case");
}

fn bring_about(fault: Fault, fleet: &mut Fleet, targets: &Targets, number: usize) {
    let cut = |fleet: &Fleet| fleet.links().iter().for_each(|link| link.cut());
    let restore = |fleet: &Fleet| fleet.links().iter().for_each(|link| link.restore());
    let delay = |fleet: &Fleet, by| fleet.links().iter().for_each(|link| link.delay(by));
    // Past Envoy, which forwards no control whose kind it cannot ask for.
    let control = fleet.gateway.control().unwrap();
    let revoke = || targets.revoke(&control, number, false, STALENESS);
    match fault {
        Fault::Cut => {
            cut(fleet);
            revoke();
            std::thread::sleep(STALENESS + BEYOND);
            restore(fleet);
        }
        Fault::OneCut => {
            fleet.second.link.cut();
            revoke();
            std::thread::sleep(STALENESS + BEYOND);
            fleet.second.link.restore();
        }
        Fault::Flapping => {
            let flap = |fleet: &Fleet, times| {
                for _ in 0..times {
                    cut(fleet);
                    std::thread::sleep(Duration::from_millis(60));
                    restore(fleet);
                    std::thread::sleep(Duration::from_millis(60));
                }
            };
            flap(fleet, 4);
            cut(fleet);
            revoke();
            restore(fleet);
            flap(fleet, 12);
        }
        Fault::Slow | Fault::SlowerThanTheBound => {
            let beyond = fault == Fault::SlowerThanTheBound;
            delay(fleet, if beyond { STALENESS + BEYOND / 2 } else { STALENESS / 3 });
            revoke();
            std::thread::sleep(STALENESS + BEYOND);
            delay(fleet, Duration::ZERO);
        }
        Fault::Stopped => {
            revoke();
            fleet.gateway.signal_registry(Signal::STOP);
            std::thread::sleep(STALENESS + BEYOND);
            fleet.gateway.signal_registry(Signal::CONT);
        }
        Fault::Killed => {
            revoke();
            fleet.gateway.kill_registry();
            fleet.gateway.start_registry().unwrap();
            std::thread::sleep(STALENESS);
        }
        Fault::OlderCopy => {
            let dir = fleet.gateway.registry_dir();
            let older = dir.join(format!("older-{number}"));
            fleet.gateway.kill_registry();
            copy_store(&dir, &older);
            fleet.gateway.start_registry().unwrap();
            targets.turn_to(number, targets.admitted(number) as usize + CONNECTIONS);
            revoke();
            fleet.gateway.kill_registry();
            copy_store(&older, &dir);
            let begun_anew = |fleet: &Fleet| {
                let name = "wasmcustom.membrane_feed_polls_total.result.start_over";
                fleet.gateway.stat(name).unwrap().unwrap_or(0)
            };
            let before = begun_anew(fleet);
            fleet.gateway.start_registry().unwrap();
            std::thread::sleep(STALENESS + BEYOND);
            assert!(begun_anew(fleet) > before, "an older store is another epoch");
        }
        Fault::FirstEnvoyKilled => {
            revoke();
            fleet.gateway.restart_envoy().unwrap();
            std::thread::sleep(STALENESS);
        }
        Fault::SecondEnvoyKilled => {
            revoke();
            fleet.second.restart().unwrap();
            std::thread::sleep(STALENESS);
        }
        Fault::AwaitedWhileCut => {
            cut(fleet);
            let answer = targets.revoke(&control, number, true, STALENESS);
            assert_eq!(answer["unconfirmed"], 0, "{answer}");
            std::thread::sleep(BEYOND);
            restore(fleet);
        }
        Fault::AwaitedAfterARestart => {
            fleet.second.restart().unwrap();
            let answer = targets.revoke(&control, number, true, STALENESS);
            assert_eq!(answer["unconfirmed"], 0, "{answer}");
            std::thread::sleep(BEYOND);
        }
    }
}

/// The registry's store as its files are, the registry being down.
fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let files: [PathBuf; 2] = [from, to].map(|dir| dir.join(name));
        let _ = std::fs::remove_file(&files[1]);
        if files[0].exists() {
            std::fs::copy(&files[0], &files[1]).unwrap();
        }
    }
}
