//! Uploads to S3 of any size, in every payload mode, of which never more than a chunk is in memory.

use crate::failure::Outcome;

/// How the body is sent, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As it is; S3 gets `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// As it is, with a hash in the headers.
    Hash,
    /// In unsigned chunks with a checksum after them, which pass.
    Trailer,
    /// In signed chunks, which are signed again.
    Resigned,
    /// As it is, and framed in signed chunks by the filter.
    Framed,
}

impl Mode {
    pub const ALL: [Mode; 5] = [Mode::Unsigned, Mode::Hash, Mode::Trailer, Mode::Resigned, Mode::Framed];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Unsigned => "`UNSIGNED-PAYLOAD`",
            Mode::Hash => "the hash supplied",
            Mode::Trailer => "unsigned chunks and trailer",
            Mode::Resigned => "signed chunks, signed again",
            Mode::Framed => "framed in signed chunks (`payload: signed`)",
        }
    }

    /// Whether nothing of the body is hashed or changed.
    pub fn passes(self) -> bool {
        matches!(self, Mode::Unsigned | Mode::Hash | Mode::Trailer)
    }
}

/// Of data in a chunk that a client sends, as AWS' SDKs do.
const CHUNK: u64 = 65_536;

/// A body that is never in memory as a whole.
pub struct Body {
    pub headers: Vec<(&'static str, String)>,
    size: u64,
    /// Before each chunk of the data and after it, where there are chunks.
    framing: Option<(String, String)>,
    end: String,
}

impl Body {
    /// A body of `size` bytes, which are whole chunks, before it is framed.
    pub fn new(mode: Mode, size: u64) -> Self {
        let signature = "0123456789abcdef".repeat(4);
        let (payload, extension, end) = match mode {
            Mode::Unsigned | Mode::Framed => return Self::plain(Vec::new(), size),
            Mode::Hash => return Self::plain(vec![("x-amz-content-sha256", signature)], size),
            Mode::Trailer => (
                "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                String::new(),
                "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".to_owned(),
            ),
            Mode::Resigned => (
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                format!(";chunk-signature={signature}"),
                format!("0;chunk-signature={signature}\r\n\r\n"),
            ),
        };
        let mut headers = vec![
            ("x-amz-content-sha256", payload.to_owned()),
            ("content-encoding", "aws-chunked".into()),
            ("x-amz-decoded-content-length", size.to_string()),
        ];
        if mode == Mode::Trailer {
            headers.push(("x-amz-trailer", "x-amz-checksum-crc32".into()));
        }
        assert!(size.is_multiple_of(CHUNK), "bodies here are whole chunks");
        Self { headers, size, framing: Some((format!("{CHUNK:x}{extension}\r\n"), "\r\n".into())), end }
    }

    fn plain(headers: Vec<(&'static str, String)>, size: u64) -> Self {
        Self { headers, size, framing: None, end: String::new() }
    }

    /// As it is sent, with its framing.
    pub fn length(&self) -> u64 {
        let framing = self.framing.as_ref().map_or(0, |(before, after)| before.len() + after.len());
        self.size + (self.size / CHUNK) * framing as u64 + self.end.len() as u64
    }

    /// Hands it over piece by piece.
    pub fn send(&self, mut write: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        let data = vec![b'd'; CHUNK as usize];
        let (before, after) = self.framing.clone().unwrap_or_default();
        let piece = [before.as_bytes(), &data, after.as_bytes()].concat();
        for _ in 0..self.size / CHUNK {
            write(&piece)?;
        }
        write(self.end.as_bytes())
    }
}
