//! Bodies framed as signed aws-chunked in passing: plain ones, and those that came framed already.

use super::chunks::{CHUNK_SIZE, ChunkSigner};
use super::fault::Fault;
use super::{Reader, Trailers};

/// Frames a plain body of a known length in signed chunks of [`CHUNK_SIZE`]. It holds at most one chunk, since a chunk's
/// signature comes before its data. What it writes does not depend on how the body is cut.
#[derive(Clone, Debug)]
pub struct Framer {
    signer: ChunkSigner,
    held: Vec<u8>,
    missing: u64,
    failed: bool,
}

impl Framer {
    /// For a body of `length` bytes. [`super::framed_length`] says how long the framed one is.
    pub fn new(signer: ChunkSigner, length: u64) -> Self {
        Self { signer, held: Vec::new(), missing: length, failed: false }
    }

    /// Takes `data` in, and appends to `out` the chunks that are full by then, or complete the body.
    ///
    /// # Errors
    /// [`Fault::TooLong`], and ever after. `out` is as it was then.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match self.missing.checked_sub(data.len() as u64) {
            Some(missing) if !self.failed => self.missing = missing,
            _ => {
                self.failed = true;
                return Err(Fault::TooLong);
            }
        }
        let mut rest = data;
        if !self.held.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(CHUNK_SIZE.saturating_sub(self.held.len())));
            self.held.extend_from_slice(head);
            rest = tail;
            if self.held.len() == CHUNK_SIZE {
                self.write_held(out);
            }
        }
        // What is a whole chunk in itself is not copied twice.
        while let Some((chunk, tail)) = rest.split_at_checked(CHUNK_SIZE) {
            self.signer.chunk(chunk, out);
            rest = tail;
        }
        if !rest.is_empty() {
            let still = usize::try_from(self.missing).unwrap_or(CHUNK_SIZE);
            self.held.reserve_exact(rest.len().saturating_add(still).min(CHUNK_SIZE));
            self.held.extend_from_slice(rest);
        }
        if self.missing == 0 {
            self.write_held(out);
        }
        Ok(())
    }

    /// Appends the end of the body. `trailers` is `None` for `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`.
    ///
    /// # Errors
    /// [`Fault::TooShort`], [`Fault::TooLong`] if that came before. `out` is as it was then.
    pub fn finish(self, trailers: Option<&Trailers>, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.failed {
            return Err(Fault::TooLong);
        }
        if self.missing > 0 {
            return Err(Fault::TooShort);
        }
        let trailers = trailers.map(|trailers| {
            trailers.iter().map(|(name, value)| (name.as_bytes(), value)).collect::<Vec<_>>()
        });
        self.signer.finish(trailers.as_deref(), out).map_err(|_| Fault::TrailerValue)
    }

    fn write_held(&mut self, out: &mut Vec<u8>) {
        self.signer.chunk(&self.held, out);
        self.held.clear();
    }
}

/// Reads an aws-chunked body and signs it again, in chunks of our own: the requester's have no bound, and no right signatures.
#[derive(Clone, Debug)]
pub struct Resigner {
    reader: Reader,
    framer: Framer,
    has_trailers: bool,
}

impl Resigner {
    /// `signer` is for a request signed with [`Reader::resigned_payload`] and sent with [`Reader::resigned_length`].
    pub fn new(reader: Reader, signer: ChunkSigner) -> Self {
        let has_trailers = reader.resigned_payload() == super::Payload::StreamingTrailer;
        let framer = Framer::new(signer, reader.declared());
        Self { reader, framer, has_trailers }
    }

    /// Reads on, and appends to `out` the chunks that are full by then.
    ///
    /// # Errors
    /// Those of [`Reader::push`]. What was appended is right, but no whole body will come of it.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let (framer, mut framed) = (&mut self.framer, Ok(()));
        let read = self.reader.push(input, |data| framed = framed.and_then(|()| framer.push(data, out)));
        read.and(framed)
    }

    /// Appends the end of the body.
    ///
    /// # Errors
    /// Those of [`Reader::finish`]; nothing has been appended then, and what is out is no whole body.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let trailers = self.reader.finish()?;
        self.framer.finish(self.has_trailers.then_some(&trailers), out)
    }

    /// [`Reader::position`].
    pub fn position(&self) -> u64 {
        self.reader.position()
    }
}
