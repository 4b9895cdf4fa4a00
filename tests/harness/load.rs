//! Load from connections that stay open, each sending one request after the other; of every request it is noted when it began,
//! when it ended, and how.

use crate::http::{Client, Connection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it was for, as whoever chose it says.
    pub about: usize,
    /// Before its first byte was written.
    pub began: Instant,
    /// After the last byte of its answer was read.
    pub ended: Instant,
    /// None: the connection failed.
    pub status: Option<u16>,
}

impl Sample {
    pub fn is_admitted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What is sent next, and is told how it went. Called by all connections at once.
pub trait Source: Send + Sync + 'static {
    /// `connection` and `turn` count from 0. None: nothing at the moment.
    fn next(&self, connection: usize, turn: usize) -> Option<(usize, Vec<u8>)>;
    fn done(&self, _sample: &Sample) {}
}

/// Running load; it ends when this is dropped.
pub struct Load {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    /// `connections` in all, dealt out to `clients`. Each begins a request every `every`, or as soon as the one before has ended.
    pub fn start(clients: &[Client], connections: usize, every: Duration, source: Arc<impl Source>) -> Self {
        Self::start_with(clients, connections, every, source, || ())
    }

    /// The same, but whoever sends it stands aside.
    pub fn start_aside(
        clients: &[Client],
        connections: usize,
        every: Duration,
        source: Arc<impl Source>,
    ) -> Self {
        Self::start_with(clients, connections, every, source, stand_aside)
    }

    fn start_with(
        clients: &[Client],
        connections: usize,
        every: Duration,
        source: Arc<impl Source>,
        prepare: impl Fn() + Copy + Send + 'static,
    ) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let threads = (0..connections)
            .map(|number| {
                let client = clients[number % clients.len()].clone();
                let (ending, source) = (Arc::clone(&ending), Arc::clone(&source));
                std::thread::spawn(move || {
                    prepare();
                    run(number, &client, every, &ending, source.as_ref())
                })
            })
            .collect();
        Self { ending, threads }
    }

    /// Ends it; gives all that was noted.
    pub fn stop(mut self) -> Vec<Sample> {
        self.ending.store(true, Ordering::Relaxed);
        self.threads.drain(..).flat_map(|thread| thread.join().expect("a connection's thread ends")).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// The priority of those who must not be in the way.
const LOWEST: i32 = 19;

/// From here on this thread takes as little as possible from the machine: for those who in the world would have another.
pub fn stand_aside() {
    // On Linux a priority is the thread's (setpriority(2), "C library/kernel differences").
    let _ = rustix::process::setpriority_process(None, LOWEST);
}

/// Between two attempts to connect.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(10);

fn run(
    number: usize,
    client: &Client,
    every: Duration,
    ending: &AtomicBool,
    source: &impl Source,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut open: Option<Connection> = None;
    let mut turn = 0;
    while !ending.load(Ordering::Relaxed) {
        let Some((about, request)) = source.next(number, turn) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        turn += 1;
        let Some(mut connection) = open.take().or_else(|| client.connect().ok()) else {
            std::thread::sleep(BETWEEN_CONNECTS);
            continue;
        };
        let began = Instant::now();
        let answer = connection.write(&request).and_then(|()| connection.read(false));
        let ended = Instant::now();
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let closes = answer.is_ok_and(|answer| {
            answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
        });
        let sample = Sample { about, began, ended, status };
        source.done(&sample);
        samples.push(sample);
        if status.is_some() && !closes {
            open = Some(connection);
        }
        std::thread::sleep(every.saturating_sub(ended - began));
    }
    samples
}

/// The `part`th (0 to 1) of sorted values, by the nearest rank.
pub fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        for (part, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)] {
            assert_eq!(percentile(&values, part), Duration::from_millis(expected));
        }
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
