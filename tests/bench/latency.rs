//! The part `latency`: how long a request takes at a fixed rate, over all starts.

use crate::processor::WARM_UP;
use crate::report::{Figure, table};
use crate::rig::{Envoys, Rig};
use crate::{Plan, get, load, say, turn};
use harness::Outcome;

const NAMES: [&str; 3] = ["plain", "native", "membrane, 1,000 by turns"];

#[derive(Default)]
pub(crate) struct Latency {
    /// Requests a second: of the first start, so that all starts are asked the same.
    rate: Option<f64>,
    half: [Vec<f64>; 3],
    late: [Vec<f64>; 3],
}

impl Latency {
    /// The rounds with the Envoys of one start.
    pub(crate) fn measure(&mut self, rig: &Rig, envoys: &Envoys, plan: &Plan) -> Outcome<()> {
        say("latency at a fixed rate");
        let bearers = &rig.capabilities.lambda[..1_000];
        let envoys = [&envoys.plain, &envoys.native, &envoys.membrane];
        let mut most = f64::MAX;
        for envoy in envoys {
            // Nothing else has used the native one where only this part runs.
            turn(envoy, &mut get(bearers), WARM_UP, u64::MAX)?;
            if self.rate.is_none() {
                most = most.min(turn(envoy, &mut get(bearers), plan.turn, u64::MAX)?.1);
            }
        }
        let rate = *self.rate.get_or_insert((most / 2.0 / 100.0).round() * 100.0);
        let before = self.half[0].len();
        for round in before..before + plan.rounds {
            for step in 0..envoys.len() {
                let index = (round + step) % envoys.len();
                let mut took = load::at_rate(envoys[index].port, &mut get(bearers), rate, plan.turn)?;
                took.sort();
                let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
                self.half[index].push(at(0.5));
                self.late[index].push(at(0.99));
            }
        }
        Ok(())
    }

    pub(crate) fn figures(&self) -> String {
        let of = |values: &[f64]| Figure::of(values.iter().copied()).text(0);
        let rows: Vec<Vec<String>> = NAMES
            .iter()
            .zip(self.half.iter().zip(&self.late))
            .map(|(name, (half, late))| {
                let ratios = late.iter().zip(&self.late[0]).map(|(ours, plain)| ours / plain);
                vec![(*name).into(), of(half), of(late), Figure::of(ratios).text(2)]
            })
            .collect();
        let rate = self.rate.unwrap_or_default();
        let head = format!("GET, {rate} a second, half of what the slowest can");
        format!("{}\n", table(&[&head, "p50, µs", "p99, µs", "p99 of plain's"], &rows))
    }
}
