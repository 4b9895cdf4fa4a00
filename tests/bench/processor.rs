//! The part `cpu`: what a request costs each Envoy, one after the other in every round, over all starts.

use crate::load::Requests;
use crate::report::{Figure, Group, table};
use crate::rig::{Envoys, Rig};
use crate::{Envoy, Plan, get, say, turn};
use harness::Outcome;
use std::time::Duration;

/// Before each case, for each Envoy.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);

/// Which Envoy of a start.
#[derive(Clone, Copy)]
enum Which {
    Plain,
    Native,
    NativeUnsigned,
    Membrane,
    Other(usize),
}

impl Which {
    fn of(self, envoys: &Envoys) -> &Envoy {
        match self {
            Self::Plain => &envoys.plain,
            Self::Native => &envoys.native,
            Self::NativeUnsigned => &envoys.native_unsigned,
            Self::Membrane => &envoys.membrane,
            Self::Other(number) => &envoys.others[number],
        }
    }
}

/// Requests through one Envoy, and what came of them in each round so far.
struct Variant<'a> {
    name: String,
    which: Which,
    requests: Requests<'a>,
    spent: Vec<f64>,
    rates: Vec<f64>,
}

/// One thing that is measured: requests of one kind, through one Envoy after the other. The first is the plain one, the second the native.
struct Case<'a> {
    name: &'static str,
    variants: Vec<Variant<'a>>,
}

fn cases<'a>(rig: &'a Rig, plan: &Plan) -> Vec<Case<'a>> {
    let all = &rig.capabilities.lambda[..];
    let one = &all[..1];
    let thousand = &all[..1_000];
    let hash = format!("x-amz-content-sha256: {}\r\n", "0123456789abcdef".repeat(4));
    let (small, large) = (vec![b'{'; 1 << 10], vec![b'{'; 64 << 10]);
    let case = |name, method, headers: &str, body: &[u8], ours: &[(&str, &'a [String])], unsigned: bool| {
        let variant = |name: &str, which, bearers| {
            let requests = Requests::new(method, headers, body, bearers);
            Variant { name: name.to_owned(), which, requests, spent: Vec::new(), rates: Vec::new() }
        };
        let mut variants = vec![variant("plain", Which::Plain, one), variant("native", Which::Native, one)];
        if unsigned {
            variants.push(variant("native, unsigned payload", Which::NativeUnsigned, one));
        }
        variants.extend(ours.iter().map(|(name, bearers)| variant(name, Which::Membrane, *bearers)));
        let others = rig.others.iter().enumerate();
        variants.extend(others.map(|(number, other)| variant(&other.name, Which::Other(number), one)));
        variants.retain(|variant| {
            // What the others are compared with.
            matches!(variant.which, Which::Plain | Which::Native) || plan.wants_variant(&variant.name)
        });
        Case { name, variants }
    };
    let few = [("membrane, 1 capability", one), ("membrane, 1,000 by turns", thousand)];
    let many = [few[0], few[1], ("membrane, all by turns", all)];
    let mut cases = vec![
        case("GET", "GET", "", b"", &many, false),
        case("POST 1 KiB", "POST", "", &small, &few, false),
        case("POST 64 KiB", "POST", "", &large, &few[..1], false),
        case("POST 64 KiB, its hash supplied", "POST", &hash, &large, &few[..1], true),
    ];
    cases.retain(|case| case.name.contains(&plan.case));
    cases
}

pub(crate) struct Processor<'a> {
    cases: Vec<Case<'a>>,
}

impl<'a> Processor<'a> {
    pub(crate) fn new(rig: &'a Rig, plan: &Plan) -> Self {
        Self { cases: cases(rig, plan) }
    }

    /// Every case's rounds with the Envoys of one start.
    pub(crate) fn measure(&mut self, envoys: &Envoys, plan: &Plan) -> Outcome<()> {
        for case in &mut self.cases {
            say(case.name);
            let count = case.variants.len();
            for variant in &mut case.variants {
                // The engine compiles anew what is used much.
                turn(variant.which.of(envoys), &mut variant.requests, WARM_UP, u64::MAX)?;
            }
            let before = case.variants[0].spent.len();
            for round in before..before + plan.rounds {
                for step in 0..count {
                    // Another one is first each time.
                    let variant = &mut case.variants[(round + step) % count];
                    let envoy = variant.which.of(envoys);
                    let (cost, rate) = turn(envoy, &mut variant.requests, plan.turn, u64::MAX)?;
                    variant.spent.push(cost);
                    variant.rates.push(rate);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn figures(&self, plan: &Plan) -> (String, Vec<Group>) {
        let (mut rows, mut groups) = (Vec::new(), Vec::new());
        for case in &self.cases {
            let added = |variant: &Variant<'_>| -> Vec<f64> {
                variant.spent.iter().zip(&case.variants[0].spent).map(|(cost, plain)| cost - plain).collect()
            };
            let native = added(&case.variants[1]);
            let mut bars = Vec::new();
            for variant in &case.variants {
                let ours = added(variant);
                let (added, ratio) = if matches!(variant.which, Which::Plain) {
                    (String::new(), String::new())
                } else {
                    bars.push((variant.name.clone(), Figure::of(ours.iter().copied())));
                    let ratios = ours.iter().zip(&native).map(|(ours, native)| ours / native);
                    (Figure::of(ours.iter().copied()).text(1), Figure::of(ratios).text(2))
                };
                let each = Figure::of(variant.spent.iter().copied());
                let rate = Figure::of(variant.rates.iter().copied());
                let name = variant.name.clone();
                rows.push(vec![case.name.into(), name, rate.text(0), each.text(1), added, ratio]);
            }
            groups.push(Group { name: case.name.into(), bars });
        }
        let head = ["request", "Envoy", "requests/s", "µs of CPU each", "µs added", "of native's"];
        let all = format!("`all` are {} capabilities.", plan.capabilities);
        (format!("{}\n{all}\n\n", table(&head, &rows)), groups)
    }
}

/// Lookups of each start, before anything else.
#[derive(Default)]
pub(crate) struct Cold {
    added: Vec<f64>,
    rates: Vec<f64>,
}

impl Cold {
    /// Uses every capability once: each is looked up, and then cached.
    pub(crate) fn measure(&mut self, rig: &Rig, envoys: &Envoys, plan: &Plan) -> Outcome<()> {
        say("cold lookups, each capability once");
        let all = &rig.capabilities.lambda;
        let mut requests = get(all);
        // The first requests of all make connections.
        turn(&envoys.plain, &mut get(all), plan.turn, u64::MAX)?;
        let rounds = plan.rounds.min(11);
        let every = plan.capabilities / rounds;
        for round in 0..rounds {
            let last = if round + 1 == rounds { plan.capabilities % rounds } else { 0 };
            let (plain, _) = turn(&envoys.plain, &mut get(all), plan.turn / 2, u64::MAX)?;
            let (spent, rate) = turn(&envoys.membrane, &mut requests, Duration::MAX, (every + last) as u64)?;
            self.added.push(spent - plain);
            self.rates.push(rate);
        }
        Ok(())
    }

    pub(crate) fn figures(&self, plan: &Plan) -> String {
        let rows = [vec![
            format!("GET, {} capabilities, each for the first time", plan.capabilities),
            Figure::of(self.rates.iter().copied()).text(0),
            Figure::of(self.added.iter().copied()).text(0),
        ]];
        let head = ["cold lookups (mutual TLS to the registry)", "requests/s", "µs added"];
        format!("{}\n", table(&head, &rows))
    }
}
