//! SplitMix64: the same choices for the same seed.

use registry::ports::Random;
use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.get();
        let drawn = step(&mut state);
        self.0.set(state);
        drawn
    }

    /// At least `from`, below `to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    pub(crate) fn milliseconds(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    pub(crate) fn percent(&self, of_100: u64) -> bool {
        self.next() % 100 < of_100
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[usize::try_from(self.between(0, from.len() as u64)).unwrap()])
    }

    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// For the registry, which draws on several threads.
pub(crate) struct Shared(pub(crate) Mutex<u64>);

impl Random for Shared {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&step(&mut state).to_le_bytes()[..chunk.len()]);
        }
    }
}

fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
