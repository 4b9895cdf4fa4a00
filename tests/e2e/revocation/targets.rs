//! What the load asks for, and the judge of what came.

use harness::fleet::Fleet;
use harness::gateway::Membrane;
use harness::http::Client;
use harness::load::{Sample, Source};
use harness::origin::RECORDER;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A capability, and the membrane that kills it.
struct Target {
    membrane: Membrane,
    request: Vec<u8>,
    admitted: AtomicU32,
    refused: AtomicU32,
    told: OnceLock<Told>,
}

/// That its revocation was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// When the answer had been read.
    pub(super) at: Instant,
    /// For how long after it a request may still be let in.
    pub(super) bound: Duration,
}

/// Number 0 lives on; the others are revoked in order.
pub(super) struct Targets {
    targets: Vec<Target>,
    current: AtomicUsize,
}

impl Targets {
    /// Makes one more than `revoked`.
    pub(super) fn make(fleet: &Fleet, name: &str, revoked: usize) -> Self {
        let gateway = &fleet.gateway;
        let what = json!({
            "uri": format!("https://{RECORDER}/"), "method": "GET", "hmac": gateway.aws4("lambda"),
        });
        let targets = (0..=revoked).map(|number| {
            let membrane = gateway.create_membrane(&format!("{name}/{number}")).unwrap();
            let capability = gateway.export(&membrane, &what).unwrap();
            let request = gateway.request(&capability, "GET", "/").bytes();
            let (admitted, refused) = Default::default();
            Target { membrane, request, admitted, refused, told: OnceLock::new() }
        });
        Self { targets: targets.collect(), current: AtomicUsize::new(0) }
    }

    /// Most of the load goes to this one from now on, until every connection could have been let in.
    #[track_caller]
    pub(super) fn turn_to(&self, number: usize, admissions: usize) {
        self.current.store(number, Ordering::Relaxed);
        self.wait("admissions", &self.targets[number].admitted, admissions);
    }

    /// Revokes; the bound counts from the answer. With `wait=fleet` the answer tells how many were not waited for, and there is
    /// no bound if it was nobody.
    pub(super) fn revoke(
        &self,
        through: &Client,
        number: usize,
        awaited: bool,
        staleness: Duration,
    ) -> Value {
        let Target { membrane, told, .. } = &self.targets[number];
        let target = if awaited { "/?wait=fleet" } else { "/" };
        let answer = through.request("DELETE", target).bearer(&membrane.revoke).send().unwrap();
        let at = Instant::now();
        let answer = answer.expect(202, "revoking").unwrap().json();
        let bound = if answer["unconfirmed"] == 0 { Duration::ZERO } else { staleness };
        told.set(Told { at, bound }).unwrap();
        answer
    }

    /// Waits until so many requests for it were refused.
    #[track_caller]
    pub(super) fn wait_refused(&self, number: usize, refusals: usize) {
        self.wait("refusals", &self.targets[number].refused, refusals);
    }

    pub(super) fn admitted(&self, number: usize) -> u32 {
        self.targets[number].admitted.load(Ordering::Relaxed)
    }

    pub(super) fn told(&self, number: usize) -> Option<Told> {
        self.targets[number].told.get().copied()
    }

    #[track_caller]
    fn wait(&self, what: &str, counter: &AtomicU32, count: usize) {
        let start = Instant::now();
        loop {
            let have = counter.load(Ordering::Relaxed) as usize;
            if have >= count {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{have} {what}, not {count}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What was let in although it began later than `bound` says after the answer; and how many requests began so late.
    pub(super) fn judge<'a>(
        &self,
        samples: &'a [Sample],
        bound: impl Fn(&Told) -> Duration,
    ) -> (Vec<&'a Sample>, usize) {
        let late = |sample: &&Sample| {
            self.told(sample.about).is_some_and(|told| sample.began > told.at + bound(&told))
        };
        let late: Vec<&Sample> = samples.iter().filter(late).collect();
        let count = late.len();
        (late.into_iter().filter(|sample| sample.is_admitted()).collect(), count)
    }
}

impl Source for Targets {
    /// Of eight requests five are for the current one, one for the one that lives, two for any that was revoked before.
    fn next(&self, connection: usize, turn: usize) -> Option<(usize, Vec<u8>)> {
        let current = self.current.load(Ordering::Relaxed);
        let about = match turn % 8 {
            5 => 0,
            3 | 7 if current > 0 => 1 + (connection.wrapping_mul(31) + turn.wrapping_mul(17)) % current,
            _ => current,
        };
        Some((about, self.targets[about].request.clone()))
    }

    fn done(&self, sample: &Sample) {
        let Target { admitted, refused, .. } = &self.targets[sample.about];
        let counter = match sample.status {
            Some(200) => admitted,
            Some(401) => refused,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
