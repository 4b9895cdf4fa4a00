//! How soon a revocation is everywhere, and that `wait=fleet` answers when it is.

use super::report::{self, millis};
use super::targets::Targets;
use super::{CONNECTIONS, EVERY, REGISTRY, Sizes};
use crate::folder;
use harness::fleet::Fleet;
use harness::load::{Load, percentile};
use std::sync::Arc;
use std::time::{Duration, Instant};

const STALENESS: Duration = Duration::from_secs(60);

#[test]
fn membranes_revoked_one_by_one_under_load() {
    let sizes = Sizes::asked();
    let count = sizes.plain + sizes.awaited;
    let settings = format!(r#""staleness": "60s", {REGISTRY}"#);
    let mut fleet = Fleet::start(folder("revocation-timely"), 2, &settings).unwrap();
    let targets = Arc::new(Targets::make(&fleet, "timely", count));
    let load = Load::start(&fleet.clients(), CONNECTIONS, EVERY, Arc::clone(&targets));
    let mut waits = Vec::new();
    for number in 1..=count {
        targets.turn_to(number, CONNECTIONS);
        let awaited = number > sizes.plain;
        let asked = Instant::now();
        let answer = targets.revoke(&fleet.gateway.client, number, awaited, STALENESS);
        if awaited {
            assert_eq!(answer["unconfirmed"], 0, "{answer}");
            waits.push(asked.elapsed());
        }
        targets.wait_refused(number, CONNECTIONS);
    }
    let samples = load.stop();
    fleet.check_alive().unwrap();

    // The last request that was let in, by when it began and by when its answer was there.
    let mut last = vec![(Duration::ZERO, Duration::ZERO); count + 1];
    for sample in samples.iter().filter(|sample| sample.is_admitted()) {
        if let Some(told) = targets.told(sample.about) {
            let (began, ended) = &mut last[sample.about];
            *began = (*began).max(sample.began.saturating_duration_since(told.at));
            *ended = (*ended).max(sample.ended.saturating_duration_since(told.at));
        }
    }
    let column = |which: fn(&(Duration, Duration)) -> Duration, of: std::ops::RangeInclusive<usize>| {
        let mut values: Vec<Duration> = last[of].iter().map(which).collect();
        values.sort();
        values
    };
    let plain = 1..=sizes.plain;
    let awaited = sizes.plain + 1..=count;
    let ended = column(|(_, ended)| *ended, plain.clone());
    waits.sort();
    let rows = [
        ("`revoke`: last 2xx was there", ended.clone()),
        ("`revoke`: last request let in began", column(|(began, _)| *began, plain)),
        ("`revoke?wait=fleet`: last request let in began", column(|(began, _)| *began, awaited)),
        ("`revoke?wait=fleet`: from asking to its answer", waits),
    ];
    let mut table =
        "| ms after the answer of `revoke` | membranes | p50 | p99 | max |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (name, values) in &rows {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| millis(percentile(values, part)));
        table += &format!("| {name} | {} | {p50} | {p99} | {max} |\n", values.len());
    }
    table += &format!(
        "\n2 Envoys with 2 workers each, {CONNECTIONS} connections, {} requests in all, of which {} were let in.\n",
        samples.len(),
        samples.iter().filter(|sample| sample.is_admitted()).count()
    );
    report::write("timely", &table);

    let (wrong, late) = targets.judge(&samples, |told| told.bound);
    assert!(wrong.is_empty(), "{} of {late} were let in after the bound: {:?}", wrong.len(), wrong.first());
    let failed = samples.iter().filter(|sample| !matches!(sample.status, Some(200 | 401))).count();
    assert_eq!(failed, 0, "nothing but 200 and 401 while nothing fails");
    let lived = samples.iter().filter(|sample| sample.about == 0);
    assert!(lived.clone().count() > 0 && lived.clone().all(|sample| sample.is_admitted()));
    if sizes.judged {
        assert!(percentile(&ended, 0.99) <= Duration::from_millis(50), "p99 above 50 ms");
    }
}
