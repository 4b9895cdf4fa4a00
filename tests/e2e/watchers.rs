//! Thousands of watchers on one registry: a revocation reaches all of them, in order, and soon.
//!
//! Watchers are simulated, in this process: each has a connection of its own and asks as a gateway's worker does. `make
//! bench-watchers` runs the same with as many as the claim names, and writes what it measured to docs/performance.md.

mod figures;
mod follower;
mod rig;

use figures::{Figures, millis};
use rig::{Link, Rig};
use std::time::Duration;

/// How much is done: little in `make test`, all that the claim says where `MEMBRANE_WATCHERS` is `full`.
struct Sizes {
    plain: usize,
    tls: usize,
    revocations: usize,
    /// How long an idle fleet is watched.
    idle: Duration,
    /// Within this every watcher must have heard of a revocation, wherever this runs and whatever runs beside it.
    within: Duration,
    /// Whether figures are held against the claim, rather than merely shown.
    judged: bool,
}

impl Sizes {
    fn asked() -> Self {
        if std::env::var_os("MEMBRANE_WATCHERS").is_some_and(|text| text == "full") {
            let idle = Duration::from_secs(30);
            // Figures that miss the claim are worth seeing.
            let within = Duration::from_secs(60);
            Self { plain: 10_000, tls: 1_000, revocations: 20, idle, within, judged: true }
        } else {
            let within = Duration::from_secs(15);
            Self { plain: 1_000, tls: 100, revocations: 4, idle: Duration::ZERO, within, judged: false }
        }
    }
}

/// The claims: in the clear the last of 10,000, over mutual TLS 99 of 100.
const ALL_WITHIN: Duration = Duration::from_secs(1);
const P99_WITHIN: Duration = Duration::from_millis(250);

#[test]
fn a_revocation_reaches_every_watcher() {
    let sizes = Sizes::asked();
    let mut all = Vec::new();
    for (link, count) in [(Link::Plain, sizes.plain), (Link::MutualTls, sizes.tls)] {
        // A process of its own each, whose memory is that of its watchers.
        let mut rig = Rig::start(link);
        let figures = rig.measure(count, sizes.revocations, sizes.idle, sizes.within);
        rig.check_alive();
        all.push(figures);
    }
    figures::write(&all);
    if sizes.judged {
        let [plain, tls]: [Figures; 2] = all.try_into().ok().unwrap();
        let (last, p99) = (plain.from_answer.max(), tls.from_answer.p99());
        assert!(last <= ALL_WITHIN, "the last of {} heard after {} ms", sizes.plain, millis(last));
        assert!(p99 <= P99_WITHIN, "over mutual TLS p99 is {} ms", millis(p99));
    }
}
