//! A body on its way: what is done with its bytes between the moment its request is signed and its end.

use signing::aws4::{CHUNK_SIZE, ChunkSigner, Fault, Framer, Reader, Resigner};

/// How a body that streams passes. Whatever way it is cut, what leaves is the same.
pub enum Passing {
    /// As it is.
    AsItIs,
    /// As it is, its framing checked, so that a broken one ends before it can be taken for a whole.
    Checked(Box<Reader>),
    /// Framed already; signed again in chunks of our own.
    Resigned(Box<Resigner>),
    /// Framed by us, in signed chunks.
    Framed(Box<Framer>),
}

impl Passing {
    /// Signs again what comes framed.
    pub fn resigned(reader: Reader, signer: ChunkSigner) -> Passing {
        Passing::Resigned(Box::new(Resigner::new(reader, signer)))
    }

    /// Frames a plain body of `length` bytes.
    pub fn framed(signer: ChunkSigner, length: u64) -> Passing {
        Passing::Framed(Box::new(Framer::new(signer, length)))
    }

    /// Whether its bytes must be seen at all.
    pub fn looks(&self) -> bool {
        !matches!(self, Passing::AsItIs)
    }

    /// Whether what leaves is not what came.
    pub fn rewrites(&self) -> bool {
        matches!(self, Passing::Resigned(_) | Passing::Framed(_))
    }

    /// What it keeps of the body, in bytes: at most one chunk, since a chunk's signature goes before its data.
    pub fn size(&self) -> usize {
        core::mem::size_of::<Resigner>() + if self.rewrites() { CHUNK_SIZE } else { 0 }
    }

    /// Takes bytes in; what can leave by then is appended to `out` where it rewrites.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Passing::AsItIs => Ok(()),
            Passing::Checked(reader) => reader.check(input),
            Passing::Resigned(resigner) => resigner.push(input, out),
            Passing::Framed(framer) => framer.push(input, out),
        }
    }

    /// The body has ended: appends what must follow. `Err`: it is not whole.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Passing::AsItIs => Ok(()),
            Passing::Checked(reader) => reader.finish().map(drop),
            Passing::Resigned(resigner) => resigner.finish(out),
            Passing::Framed(framer) => framer.finish(None, out),
        }
    }
}

impl core::fmt::Debug for Passing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Passing::AsItIs => "AsItIs",
            Passing::Checked(_) => "Checked",
            Passing::Resigned(_) => "Resigned",
            Passing::Framed(_) => "Framed",
        })
    }
}
