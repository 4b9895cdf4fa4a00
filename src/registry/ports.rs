//! What the registry takes from outside: the time and randomness. Parameters, so that tests are deterministic.

use rand_core::{Infallible, TryCryptoRng, TryRng};

/// A source of the time.
pub trait Clock: Send + Sync + 'static {
    /// Whole seconds since 1970, UTC.
    fn now(&self) -> u64;
}

/// A cryptographic random source. It does not fail: an implementation that cannot deliver must end the process, because
/// everything the registry hands out depends on it.
pub trait Random: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// `N` random bytes.
pub(crate) fn draw<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// A [`Random`] as the trait through which HPKE draws.
pub(crate) struct Rng<'a>(pub(crate) &'a dyn Random);

impl TryRng for Rng<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(draw(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(draw(self.0)))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Rng<'_> {}
