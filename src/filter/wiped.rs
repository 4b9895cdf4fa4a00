//! Memory for what passes through in the clear: bearers, pinned headers. Wiped when dropped.

use core::ops::Deref;
use zeroize::Zeroize;

/// Bytes that are wiped when dropped, as `zeroize` wipes them but eight at a time: its stores are volatile, so that no engine
/// makes fewer of them, and byte by byte they were a sixth of the filter's own time for a request.
///
/// It never moves to larger memory by itself, which would leave the old behind unwiped: [`Wiped::extend`] sees to that.
#[derive(Debug, Default)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Takes over what somebody else wrote.
    pub fn new(bytes: Vec<u8>) -> Wiped {
        Wiped(bytes)
    }

    /// Empty, with room for so many bytes.
    pub fn with_capacity(capacity: usize) -> Wiped {
        Wiped(Vec::with_capacity(capacity))
    }

    /// Appends, in larger memory where there is no room: the old is then wiped.
    pub fn extend(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Wiped::with_capacity(needed * 2);
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        // Nothing is ever taken off the end, so that what lies behind it was never written.
        let (before, words, after) = bytemuck::pod_align_to_mut::<u8, u64>(&mut self.0);
        before.zeroize();
        words.zeroize();
        after.zeroize();
    }
}
