//! The filter's configuration: read or refused, and what is read works.

#![no_main]

use libfuzzer_sys::fuzz_target;
use membrane_filter::Worker;
use membrane_filter::config::Config;
use membrane_filter::records::Records;

#[path = "../../../src/filter/tests/simulation/mod.rs"]
#[allow(dead_code)]
mod simulation;

use simulation::{Envoy, KEK};

fuzz_target!(|input: &[u8]| {
    let Ok(mut config) = Config::parse(input) else { return };
    let Ok(records) = Records::take(&mut config, Some(KEK.as_bytes())) else { return };
    let mut envoy = Envoy::default();
    let mut worker = Worker::new(config, records, [1; 16]);
    for _ in 0..3 {
        worker.on_tick(&mut envoy);
        envoy.seconds += 1.0;
    }
});
