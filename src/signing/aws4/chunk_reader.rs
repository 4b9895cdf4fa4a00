//! Reads aws-chunked bodies as requesters send them, whatever way they are cut.
//!
//! ```text
//! chunk      = size [ ";chunk-signature=" 64 hex ] CR LF  data CR LF
//! last chunk = "0"  [ ";chunk-signature=" 64 hex ] CR LF
//! end        = CR LF                                              without trailers
//!            | *( name ":" value EOL ) [ "x-amz-trailer-signature:" 64 hex EOL ] EOL        EOL = [CR] LF
//! ```
//!
//! Sizes are read in either case (aws-c-s3 and the SDK for .NET write upper). Lines of trailers may end with LF alone, and empty lines
//! may stand between and after them: AWS' own description has `name:value\n\r\n`, and minio-go sends that. What a requester's SDK
//! sends otherwise is CR LF throughout: botocore, @smithy/util-stream, aws-c-s3, SDKs for Java, .NET, Go and Rust.
//!
//! Source: AWS, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "… Including
//! Trailing Headers", Amazon S3 API Reference.

use arrayvec::ArrayVec;

use super::Payload;
use super::chunks::{CHUNK_SIGNATURE, SIGNATURE_LENGTH, framed_length};
use super::fault::Fault;
use super::trailers::{TrailerNames, Trailers};
use crate::encoding::{hex_value, trim};

/// Hexadecimal digits of a chunk's size: what a `u64` holds.
const MAX_SIZE_DIGITS: u8 = 16;
/// The longest line of a trailer, its end not counted: the longest name and value, and some white space.
const MAX_LINE: usize = 160;
/// How many empty lines may stand between and after trailers.
const MAX_EMPTY_LINES: u8 = 4;
const TRAILER_SIGNATURE: &[u8] = b"x-amz-trailer-signature";

/// How an aws-chunked body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
    UnsignedTrailer,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`.
    Signed,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`.
    SignedTrailer,
}

impl Framing {
    /// `None` for a payload that is not framed.
    pub fn of(payload: Payload) -> Option<Self> {
        match payload {
            Payload::StreamingUnsignedTrailer => Some(Self::UnsignedTrailer),
            Payload::Streaming => Some(Self::Signed),
            Payload::StreamingTrailer => Some(Self::SignedTrailer),
            Payload::Empty | Payload::Sha256(_) | Payload::Unsigned => None,
        }
    }

    fn is_signed(self) -> bool {
        self != Self::UnsignedTrailer
    }

    fn has_trailers(self) -> bool {
        self != Self::Signed
    }
}

/// Reads one body, pushed into it piece by piece. It keeps none of the data, and of the rest at most some 600 bytes. A requester's
/// signatures are checked for their form alone: requesters have no AWS key, so there is nothing that they could be right by.
#[derive(Clone, Debug)]
pub struct Reader {
    framing: Framing,
    announced: TrailerNames,
    declared: u64,
    /// What is still to come of `declared`.
    missing: u64,
    position: u64,
    state: State,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    /// So much of `;chunk-signature=` has been read.
    Extension {
        size: u64,
        matched: usize,
    },
    Signature {
        size: u64,
        digits: u64,
    },
    SizeLineFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataLineFeed,
    /// After the last chunk, with trailers.
    Lines,
    /// After the last chunk, without trailers.
    LastReturn,
    LastLineFeed,
    Ended,
    Failed(Fault),
}

/// What comes after the last chunk.
#[derive(Clone, Debug, Default)]
struct End {
    line: ArrayVec<u8, MAX_LINE>,
    trailers: Trailers,
    signed: bool,
    empty_lines: u8,
    /// All that was announced has come, and an empty line after it.
    complete: bool,
}

const NEXT_CHUNK: State = State::Size { size: 0, digits: 0 };

impl Reader {
    /// `decoded` is the requester's `x-amz-decoded-content-length`.
    ///
    /// # Errors
    /// [`Fault::TrailersAnnounced`].
    pub fn new(framing: Framing, decoded: u64, announced: TrailerNames) -> Result<Self, Fault> {
        if !framing.has_trailers() && !announced.is_empty() {
            return Err(Fault::TrailersAnnounced);
        }
        Ok(Self {
            framing,
            announced,
            declared: decoded,
            missing: decoded,
            position: 0,
            state: NEXT_CHUNK,
            end: End::default(),
        })
    }

    /// Reads on. `data` is given the decoded data, as slices of `input`, in order.
    ///
    /// # Errors
    /// What is wrong, at the first byte that shows it: of that byte and what follows, nothing has gone to `data`. The same ever after.
    pub fn push<'a>(&mut self, input: &'a [u8], mut data: impl FnMut(&'a [u8])) -> Result<(), Fault> {
        if let State::Failed(fault) = self.state {
            return Err(fault);
        }
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            if let State::Data { left } = self.state {
                let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                let (span, after) = rest.split_at(length);
                data(span);
                self.advance(span.len() as u64, left);
                rest = after;
                continue;
            }
            self.state = self.step(byte).inspect_err(|&fault| self.state = State::Failed(fault))?;
            self.position = self.position.saturating_add(1);
            rest = after;
        }
        Ok(())
    }

    /// [`Self::push`] for a body that passes as it is.
    ///
    /// # Errors
    /// Those of [`Self::push`].
    pub fn check(&mut self, input: &[u8]) -> Result<(), Fault> {
        self.push(input, |_| {})
    }

    /// To be called when the body ends. Only then is it known to be whole.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::TrailerMissing`], and what [`Self::push`] failed with.
    pub fn finish(self) -> Result<Trailers, Fault> {
        match self.state {
            State::Failed(fault) => Err(fault),
            State::Ended => Ok(self.end.trailers),
            State::Lines if !self.end.line.is_empty() => Err(Fault::Truncated),
            State::Lines if self.end.complete => Ok(self.end.trailers),
            State::Lines if self.end.empty_lines > 0 => Err(Fault::TrailerMissing),
            _ => Err(Fault::Truncated),
        }
    }

    /// How many bytes of the framed body were read without a fault; after one, the place of the byte that showed it.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The decoded length that was declared.
    pub fn declared(&self) -> u64 {
        self.declared
    }

    /// The trailers that were announced.
    pub fn announced(&self) -> &TrailerNames {
        &self.announced
    }

    /// What a [`super::Resigner`] of this body must be signed as.
    pub fn resigned_payload(&self) -> Payload {
        if self.announced.is_empty() { Payload::Streaming } else { Payload::StreamingTrailer }
    }

    /// The `content-length` of what a [`super::Resigner`] of this body writes. `None` beyond `u64`.
    pub fn resigned_length(&self) -> Option<u64> {
        let lengths = self.announced.lengths();
        framed_length(self.declared, (!lengths.is_empty()).then_some(&lengths))
    }

    fn advance(&mut self, length: u64, left: u64) {
        self.position = self.position.saturating_add(length);
        self.missing = self.missing.saturating_sub(length);
        self.state = match left.saturating_sub(length) {
            0 => State::DataReturn,
            left => State::Data { left },
        };
    }

    /// The state after one more byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        Ok(match self.state {
            State::Size { size, digits } => match (hex_value(byte), byte) {
                (Some(_), _) if digits == MAX_SIZE_DIGITS => return Err(Fault::ChunkSize),
                (Some(value), _) => State::Size { size: size << 4 | u64::from(value), digits: digits + 1 },
                (None, b';' | b'\r') if digits == 0 => return Err(Fault::ChunkSize),
                (None, b';') if self.framing.is_signed() => State::Extension { size, matched: 1 },
                (None, b'\r') if !self.framing.is_signed() => State::SizeLineFeed { size },
                (None, b';' | b'\r') => return Err(Fault::ChunkExtension),
                (None, _) => return Err(Fault::ChunkSize),
            },
            State::Extension { size, matched } => {
                if CHUNK_SIGNATURE.as_bytes().get(matched) != Some(&byte) {
                    return Err(Fault::ChunkExtension);
                }
                match matched + 1 {
                    all if all == CHUNK_SIGNATURE.len() => State::Signature { size, digits: 0 },
                    matched => State::Extension { size, matched },
                }
            }
            State::Signature { size, digits: SIGNATURE_LENGTH } => {
                expect(byte, b'\r', State::SizeLineFeed { size }, Fault::ChunkSignature)?
            }
            State::Signature { size, digits } => {
                hex_value(byte).ok_or(Fault::ChunkSignature)?;
                State::Signature { size, digits: digits + 1 }
            }
            State::SizeLineFeed { size } => {
                expect(byte, b'\n', (), Fault::LineEnd)?;
                self.begin(size)?
            }
            State::DataReturn => expect(byte, b'\r', State::DataLineFeed, Fault::LineEnd)?,
            State::DataLineFeed => expect(byte, b'\n', NEXT_CHUNK, Fault::LineEnd)?,
            State::Lines => {
                self.end.read(byte, self.framing, &self.announced)?;
                State::Lines
            }
            State::LastReturn => expect(byte, b'\r', State::LastLineFeed, Fault::LineEnd)?,
            State::LastLineFeed => expect(byte, b'\n', State::Ended, Fault::LineEnd)?,
            State::Ended => return Err(Fault::AfterEnd),
            State::Failed(fault) => return Err(fault),
            // `push` takes data whole; one byte of it would be no fault.
            State::Data { left } => State::Data { left },
        })
    }

    /// After the line with a chunk's size.
    fn begin(&self, size: u64) -> Result<State, Fault> {
        match size {
            0 if self.missing > 0 => Err(Fault::TooShort),
            0 if self.framing.has_trailers() => Ok(State::Lines),
            0 => Ok(State::LastReturn),
            size if size > self.missing => Err(Fault::TooLong),
            left => Ok(State::Data { left }),
        }
    }
}

fn expect<T>(byte: u8, expected: u8, then: T, fault: Fault) -> Result<T, Fault> {
    if byte == expected { Ok(then) } else { Err(fault) }
}

impl End {
    fn read(&mut self, byte: u8, framing: Framing, announced: &TrailerNames) -> Result<(), Fault> {
        if self.complete && !matches!(byte, b'\r' | b'\n') {
            return Err(Fault::AfterEnd);
        }
        if byte != b'\n' {
            // A CR ends a line, so nothing may follow it but the LF.
            if self.line.last() == Some(&b'\r') || (byte.is_ascii_control() && !matches!(byte, b'\r' | b'\t'))
            {
                return Err(Fault::TrailerLine);
            }
            return self.line.try_push(byte).map_err(|_| Fault::TrailerLine);
        }
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if !line.is_empty() {
            return self.read_line(line, framing, announced);
        }
        if self.empty_lines == MAX_EMPTY_LINES {
            return Err(Fault::AfterEnd);
        }
        self.empty_lines += 1;
        let is_signed = self.signed || !framing.is_signed();
        self.complete = is_signed && self.trailers.are_all(announced);
        Ok(())
    }

    fn read_line(&mut self, line: &[u8], framing: Framing, announced: &TrailerNames) -> Result<(), Fault> {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return Err(Fault::TrailerLine) };
        // AWS takes white space before the colon as well; before the name it would be a folded line.
        let (name, value) = (name.trim_ascii_end(), trim(value));
        if self.signed {
            return Err(Fault::TrailerSignature);
        }
        if !name.eq_ignore_ascii_case(TRAILER_SIGNATURE) {
            return self.trailers.insert(name, value, announced);
        }
        let is_signature =
            value.len() as u64 == SIGNATURE_LENGTH && value.iter().all(|&byte| hex_value(byte).is_some());
        if !framing.is_signed() || !is_signature {
            return Err(Fault::TrailerSignature);
        }
        self.signed = true;
        Ok(())
    }
}
