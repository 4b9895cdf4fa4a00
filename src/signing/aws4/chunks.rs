//! Signed aws-chunked bodies: `STREAMING-AWS4-HMAC-SHA256-PAYLOAD` and `…-TRAILER`.
//!
//! Source: AWS, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "… Including
//! Trailing Headers", Amazon S3 API Reference.

use std::fmt;
use std::io::Write;

use sha2::{Digest, Sha256};

use super::key::{self, DayKey, HmacSha256};
use super::payload::EMPTY_SHA256;
use super::service::Service;
use super::stages;
use crate::encoding::{ascii, hex32, trim};
use crate::headers::Headers;
use crate::{Error, Timestamp};

/// How much of a body goes into each of our chunks but the last: what AWS recommends, and the most of a body that is ever held
/// (a chunk's signature comes before its data). AWS takes no less than 8 KiB.
pub const CHUNK_SIZE: usize = 65_536;

pub(super) const CHUNK_SIGNATURE: &str = ";chunk-signature=";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature:";
pub(super) const SIGNATURE_LENGTH: u64 = 64;
const LINE_END: &[u8] = b"\r\n";

/// Signs the chunks of one body, each with the signature before it. It goes on with the day of its request, even past midnight.
#[derive(Clone)]
pub struct ChunkSigner {
    key: DayKey,
    /// `\n<time>\n<scope>\n`
    moment: String,
    previous: [u8; 64],
}

impl ChunkSigner {
    /// `seed` is the request's own signature, 64 hexadecimal digits. [`super::Signer::chunk_signer`] is the usual way.
    pub fn new(key: &DayKey, now: &Timestamp, region: &str, service: &Service, seed: &[u8; 64]) -> Self {
        let scope = stages::credential_scope(now, region, service);
        Self { key: key.clone(), moment: format!("\n{}\n{scope}\n", now.amz()), previous: *seed }
    }

    /// Appends `data`, framed and signed, to `out`: to be called with [`CHUNK_SIZE`] bytes, and with fewer only for the last ones.
    /// Nothing is appended for no data, since an empty chunk ends the body.
    pub fn chunk(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if !data.is_empty() {
            self.frame(data, out);
            out.extend_from_slice(data);
            out.extend_from_slice(LINE_END);
        }
    }

    /// Appends the last chunk. `trailers` (lower-case names) is `None` for `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`.
    ///
    /// # Errors
    /// [`Error::HeaderName`], [`Error::HeaderValue`], [`Error::TooManyHeaders`] for a trailer; `out` is as it was then.
    pub fn finish(mut self, trailers: Option<&[(&[u8], &[u8])]>, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut signed = Headers::default();
        for (name, value) in trailers.unwrap_or_default() {
            signed.insert(name, value)?;
        }
        self.frame(&[], out);
        if let Some(trailers) = trailers {
            let mut hash = Sha256::new();
            for (name, value) in trailers {
                let value = trim(value);
                for part in [name, &b":"[..], value, b"\n"] {
                    hash.update(part);
                }
                for part in [name, &b":"[..], value, LINE_END] {
                    out.extend_from_slice(part);
                }
            }
            let mac = self.begin("AWS4-HMAC-SHA256-TRAILER");
            let signature = hex32(&key::digest(mac, &hex32(&hash.finalize().into())));
            out.extend_from_slice(TRAILER_SIGNATURE.as_bytes());
            out.extend_from_slice(&signature);
            out.extend_from_slice(LINE_END);
        }
        out.extend_from_slice(LINE_END);
        Ok(())
    }

    /// Appends the line before a chunk's data.
    fn frame(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut mac = self.begin("AWS4-HMAC-SHA256-PAYLOAD");
        hmac::Mac::update(&mut mac, EMPTY_SHA256.as_bytes());
        hmac::Mac::update(&mut mac, b"\n");
        self.previous = hex32(&key::digest(mac, &hex32(&Sha256::digest(data).into())));
        // Into a `Vec`, which cannot fail.
        let _ = write!(out, "{:x}{CHUNK_SIGNATURE}", data.len());
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(LINE_END);
    }

    /// A MAC that has taken in what every string to sign begins with.
    fn begin(&self, algorithm: &str) -> HmacSha256 {
        self.key.begin(&[algorithm, &self.moment, ascii(&self.previous), "\n"])
    }
}

impl fmt::Debug for ChunkSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The `content-length` of a body of `decoded` bytes once it is framed. `trailers`: `None` for
/// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, else how long each trailer's name and (trimmed) value will be. `None` beyond `u64`.
pub fn framed_length(decoded: u64, trailers: Option<&[(usize, usize)]>) -> Option<u64> {
    let line_end = LINE_END.len() as u64;
    let frame = |size: u64| {
        let digits = u64::from(size.checked_ilog(16).unwrap_or_default()) + 1;
        digits + CHUNK_SIGNATURE.len() as u64 + SIGNATURE_LENGTH + line_end
    };
    let chunk_size = CHUNK_SIZE as u64;
    let whole_chunks = (decoded / chunk_size).checked_mul(frame(chunk_size) + chunk_size + line_end)?;
    let last_chunk = match decoded % chunk_size {
        0 => 0,
        rest => frame(rest) + rest + line_end,
    };
    let mut length = whole_chunks.checked_add(last_chunk + frame(0) + line_end)?;
    if let Some(trailers) = trailers {
        for (name, value) in trailers {
            let line = u64::try_from(name.checked_add(*value)?).ok()?.checked_add(1 + line_end)?;
            length = length.checked_add(line)?;
        }
        length = length.checked_add(TRAILER_SIGNATURE.len() as u64 + SIGNATURE_LENGTH + line_end)?;
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    fn signer(seed: &str) -> ChunkSigner {
        let (now, s3) = (Timestamp::from_unix(1_369_353_600), Service::new("s3").unwrap());
        assert_eq!(now.amz(), "20130524T000000Z");
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into());
        let key = DayKey::derive(&secret, &now, "us-east-1", &s3);
        ChunkSigner::new(&key, &now, "us-east-1", &s3, seed.as_bytes().try_into().unwrap())
    }

    fn framed(mut signer: ChunkSigner, body: &[u8], trailers: Option<&[(&[u8], &[u8])]>) -> Vec<u8> {
        let mut out = Vec::new();
        body.chunks(CHUNK_SIZE).for_each(|chunk| signer.chunk(chunk, &mut out));
        signer.finish(trailers, &mut out).unwrap();
        out
    }

    /// Both examples of the S3 API Reference: 65 KiB of `a`.
    #[test]
    fn the_published_examples() {
        let body = vec![b'a'; 66_560];
        let mut expected = Vec::new();
        let frame = |size: &str, signature: &str, data: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(format!("{size};chunk-signature={signature}\r\n").as_bytes());
            out.extend_from_slice(data);
        };
        let (first, second) = (&[&body[..65_536], b"\r\n"].concat(), &[&body[65_536..], b"\r\n"].concat());
        frame(
            "10000",
            "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
            first,
            &mut expected,
        );
        frame(
            "400",
            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
            second,
            &mut expected,
        );
        frame(
            "0",
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            b"\r\n",
            &mut expected,
        );
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        assert!(framed(signer(seed), &body, None) == expected);
        assert_eq!(expected.len(), 66_824, "the example's content-length");
        assert_eq!(framed_length(66_560, None), Some(66_824));

        let mut expected = Vec::new();
        frame(
            "10000",
            "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
            first,
            &mut expected,
        );
        frame(
            "400",
            "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
            second,
            &mut expected,
        );
        frame("0", "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992", b"", &mut expected);
        expected.extend_from_slice(
            b"x-amz-checksum-crc32c:sOO8/Q==\r\n\
              x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
        );
        let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
        let trailers: [(&[u8], &[u8]); 1] = [(b"x-amz-checksum-crc32c", b" sOO8/Q== ")];
        assert!(framed(signer(seed), &body, Some(&trailers)) == expected);
        assert_eq!(framed_length(66_560, Some(&[(21, 8)])), Some(expected.len() as u64));
    }

    #[test]
    fn the_length_is_known_beforehand() {
        let trailers: [(&[u8], &[u8]); 2] =
            [(b"x-amz-checksum-sha1", b"2jmj7l5rSw0yVb/vlWAYkK/YBwk="), (b"a", b"")];
        for length in [0, 1, 15, 16, 4095, 4096, 65_535, 65_536, 65_537, 131_072, 200_000] {
            let body = vec![7; length];
            let plain = framed(signer(&"0".repeat(64)), &body, None);
            assert_eq!(framed_length(length as u64, None), Some(plain.len() as u64), "{length}");
            let trailed = framed(signer(&"0".repeat(64)), &body, Some(&trailers));
            assert_eq!(framed_length(length as u64, Some(&[(19, 28), (1, 0)])), Some(trailed.len() as u64));
        }
        assert_eq!(framed_length(u64::MAX, None), None);
        assert_eq!(framed_length(0, Some(&[(usize::MAX, 1)])), None);
    }

    #[test]
    fn a_trailer_cannot_smuggle_lines() {
        for (trailer, error) in [
            ((&b"a"[..], &b"b\r\nc"[..]), Error::HeaderValue),
            ((b"a:b", b""), Error::HeaderName),
            ((b"A", b""), Error::HeaderName),
        ] {
            let mut out = Vec::new();
            assert_eq!(signer(&"0".repeat(64)).finish(Some(&[trailer]), &mut out), Err(error));
            assert!(out.is_empty());
        }
    }
}
