//! The escrow by which `query` gives back the very URIs that `create` gave, though the store holds no token.
//!
//! HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. The private key lives inside the
//! tenant's sealed query record alone, the public key inside its sealed create record.

use crate::{EscrowKey, Uid};
use core::fmt;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

type Suite = X25519HkdfSha256;

const INFO: &[u8] = b"CPBLTY1/escrow/v1";
/// Bytes of the encapsulated key before the ciphertext (RFC 9180 §7.1, Nenc of DHKEM(X25519)).
const ENC_LEN: usize = 32;

/// The escrow could not be sealed or opened: wrong key, wrong place, or not an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EscrowError;

impl fmt::Display for EscrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the escrow does not open")
    }
}

impl std::error::Error for EscrowError {}

/// A tenant's pair (private, public) from 32 random bytes.
pub fn keypair(ikm: &[u8; 32]) -> (EscrowKey, EscrowKey) {
    let (private, public) = Suite::derive_keypair(ikm);
    let (mut private_bytes, mut public_bytes) = ([0; 32], [0; 32]);
    private.write_exact(&mut private_bytes);
    public.write_exact(&mut public_bytes);
    (EscrowKey::new(private_bytes), EscrowKey::new(public_bytes))
}

/// Seals `plaintext` so that it opens with the private key, for this membrane of this tenant alone.
pub fn seal(
    public: &EscrowKey,
    tenant: Uid,
    membrane: Uid,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, EscrowError> {
    let public = <Suite as Kem>::PublicKey::from_bytes(public.expose()).map_err(|_| EscrowError)?;
    let (enc, ciphertext) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeS::Base,
        &public,
        INFO,
        plaintext,
        &aad(tenant, membrane),
        rng,
    )
    .map_err(|_| EscrowError)?;
    let mut sealed = enc.to_bytes().to_vec();
    sealed.extend(ciphertext);
    Ok(sealed)
}

/// Opens what [`seal`] made.
pub fn open(
    private: &EscrowKey,
    tenant: Uid,
    membrane: Uid,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, EscrowError> {
    let (enc, ciphertext) = sealed.split_at_checked(ENC_LEN).ok_or(EscrowError)?;
    let private = <Suite as Kem>::PrivateKey::from_bytes(private.expose()).map_err(|_| EscrowError)?;
    let enc = <Suite as Kem>::EncappedKey::from_bytes(enc).map_err(|_| EscrowError)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeR::Base,
        &private,
        &enc,
        INFO,
        ciphertext,
        &aad(tenant, membrane),
    )
    .map(Zeroizing::new)
    .map_err(|_| EscrowError)
}

fn aad(tenant: Uid, membrane: Uid) -> [u8; 32] {
    crate::UnitPair { tenant, membrane: Some(membrane) }.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up: enough for a test, where nothing depends on its being random.
    struct Counter(u64);
    impl hpke::rand_core::TryRng for Counter {
        type Error = core::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            self.0 += 1;
            Ok(self.0 as u32)
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            self.0 += 1;
            Ok(self.0)
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            for byte in bytes {
                self.0 += 1;
                *byte = self.0 as u8;
            }
            Ok(())
        }
    }
    impl hpke::rand_core::TryCryptoRng for Counter {}

    #[test]
    fn opens_with_its_key_in_its_place_alone() {
        let (private, public) = keypair(&[1; 32]);
        let (tenant, membrane) = (Uid([1; 16]), Uid([2; 16]));
        let sealed = seal(&public, tenant, membrane, b"two uris", &mut Counter(0)).unwrap();
        assert_eq!(open(&private, tenant, membrane, &sealed).unwrap().as_slice(), b"two uris");
        assert!(open(&private, tenant, Uid([3; 16]), &sealed).is_err());
        assert!(open(&private, Uid([3; 16]), membrane, &sealed).is_err());
        assert!(open(&keypair(&[2; 32]).0, tenant, membrane, &sealed).is_err());
        assert!(open(&public, tenant, membrane, &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // RFC 7748 §5 masks the last bit of an X25519 key, but HPKE's key schedule binds the key as sent.
            assert!(open(&private, tenant, membrane, &flipped).is_err(), "bit {bit}");
        }
    }
}
