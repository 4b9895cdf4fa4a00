//! Revocation, bounded and proven: two Envoys with two workers each on one registry, under load, while membranes are revoked one by
//! one and parts fail.
//!
//! `make bench-revocation` runs the same at the sizes of the claim, and writes what it measured to docs/performance.md.

mod faults;
mod flood;
mod report;
mod stopped;
mod targets;
mod timely;
mod uploads;

use std::time::Duration;

/// How much is done: little in `make test`, all that the claim says where `MEMBRANE_REVOCATION` is `full`.
struct Sizes {
    /// Membranes that are revoked.
    plain: usize,
    /// Those that are revoked with `wait=fleet`, besides.
    awaited: usize,
    faults: usize,
    /// Fewest requests for revoked capabilities after the bound, in the run with faults.
    late_requests: usize,
    /// One window of the flood.
    window: Duration,
    /// Rounds of quiet, flood, quiet.
    rounds: usize,
    /// Whether figures are held against the claim, rather than merely shown.
    judged: bool,
}

impl Sizes {
    fn asked() -> Self {
        if std::env::var_os("MEMBRANE_REVOCATION").is_some_and(|text| text == "full") {
            let window = Duration::from_secs(5);
            Self {
                plain: 1_000,
                awaited: 100,
                faults: 36,
                late_requests: 10_000,
                window,
                rounds: 6,
                judged: true,
            }
        } else {
            let window = Duration::from_millis(1_500);
            Self { plain: 60, awaited: 20, faults: 9, late_requests: 1_000, window, rounds: 1, judged: false }
        }
    }
}

/// The filter's setting of the registry, without a budget for unknown tokens: the load comes from one address and goes on trying what
/// was revoked, and each of these requests is to be judged by what the registry knows, not by how many there were.
const REGISTRY: &str = r#""registry": {"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "2s", "max_unknown": 0}"#;
/// Connections of the load.
const CONNECTIONS: usize = 32;
/// Between the beginnings of a connection's requests: constant load, not as much as the machine can take.
const EVERY: Duration = Duration::from_millis(8);
