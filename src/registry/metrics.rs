//! Counters for Prometheus, in its text format (version 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted. No label holds anything that a request or the store held.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers of the control listener by hundreds of their status, from 1xx.
    pub(crate) control: [AtomicU64; 5],
    /// Answers of the gateway listener by hundreds of their status.
    pub(crate) gateway: [AtomicU64; 5],
    /// Lookups answered with a record.
    pub(crate) lookups_found: AtomicU64,
    /// Lookups of controls.
    pub(crate) lookups_control: AtomicU64,
    /// Lookups answered with 404.
    pub(crate) lookups_missing: AtomicU64,
    /// Membranes created.
    pub(crate) membranes_created: AtomicU64,
    /// Capabilities exported.
    pub(crate) capabilities_exported: AtomicU64,
    /// Revocations that changed something.
    pub(crate) revocations: AtomicU64,
    /// Questions to the feed answered with a start-over.
    pub(crate) feed_start_overs: AtomicU64,
    /// Questions to the feed that wait at the moment.
    pub(crate) feed_waiting: AtomicU64,
    /// The head's sequence number as last read.
    pub(crate) head_seq: AtomicU64,
    /// Dead records removed.
    pub(crate) records_removed: AtomicU64,
    /// Connections that were refused because there were too many.
    pub(crate) connections_refused: AtomicU64,
    /// Handshakes that failed or took too long.
    pub(crate) handshakes_failed: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn count_status(counters: &[AtomicU64; 5], status: u16) {
    if let Some(counter) = usize::from(status / 100).checked_sub(1).and_then(|class| counters.get(class)) {
        count(counter);
    }
}

impl Metrics {
    /// All of it as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, &AtomicU64)]| {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "# HELP membrane_registry_{name} {help}\n# TYPE membrane_registry_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(text, "membrane_registry_{name}{labels} {}", value.load(Relaxed));
            }
        };
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let labels: Vec<(String, &AtomicU64)> = [("control", &self.control), ("gateway", &self.gateway)]
            .into_iter()
            .flat_map(|(listener, counters)| {
                classes.iter().zip(counters).map(move |(class, counter)| {
                    (format!("{{listener=\"{listener}\",status=\"{class}\"}}"), counter)
                })
            })
            .collect();
        let samples: Vec<_> = labels.iter().map(|(labels, counter)| (labels.as_str(), *counter)).collect();
        family("requests_total", "counter", "Answers, by listener and class of status.", &samples);
        family(
            "lookups_total",
            "counter",
            "Lookups by gateways, by result.",
            &[
                ("{result=\"grant\"}", &self.lookups_found),
                ("{result=\"control\"}", &self.lookups_control),
                ("{result=\"none\"}", &self.lookups_missing),
            ],
        );
        for (name, kind, help, value) in [
            ("membranes_created_total", "counter", "Membranes created.", &self.membranes_created),
            ("capabilities_exported_total", "counter", "Capabilities exported.", &self.capabilities_exported),
            ("revocations_total", "counter", "Revocations through this server.", &self.revocations),
            (
                "feed_start_overs_total",
                "counter",
                "Readers of the feed told to start over.",
                &self.feed_start_overs,
            ),
            ("feed_waiting", "gauge", "Questions to the feed held at the moment.", &self.feed_waiting),
            ("head_seq", "gauge", "Revocations in this epoch, as last read.", &self.head_seq),
            ("records_removed_total", "counter", "Dead records removed.", &self.records_removed),
            (
                "connections_refused_total",
                "counter",
                "Connections beyond the limit.",
                &self.connections_refused,
            ),
            ("handshakes_failed_total", "counter", "TLS handshakes that failed.", &self.handshakes_failed),
        ] {
            family(name, kind, help, &[("", value)]);
        }
        text
    }
}
