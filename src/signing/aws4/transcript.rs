use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::encoding::{Sink, hex32};

/// Most canonical requests fit, so that the buffer is allocated once.
const USUAL_LENGTH: usize = 512;
/// A longer one is not kept: a signer lives as long as its grant is cached, and one long query must not stay with it.
pub(super) const LONGEST_KEPT: usize = 2_048;

/// The canonical request that was signed last, and what of the work on it can be used again.
///
/// Requests through one grant differ little: often in nothing but the date, and within a second not even in that. So the next
/// canonical request is written over the last one, compared as it is written. Up to where they differ its hash has been
/// computed before; and if they do not differ, nor do their signatures, since the date is a part of both.
///
/// It may hold a session token: wiped when dropped.
#[derive(Clone, Default)]
pub(super) struct Transcript {
    text: Zeroizing<Vec<u8>>,
    /// How much of `text` the state has taken in.
    head: usize,
    head_state: Sha256,
    /// Of `text`; `None` until it is signed.
    signature: Option<[u8; 64]>,
    /// The text was too long to keep, so that there is nothing to compare the next one with.
    dropped: bool,
}

impl Transcript {
    /// Replaces the canonical request by what `write` writes, and returns its signature: `sign` of its hash (in hexadecimal), if it
    /// is another than before.
    pub(super) fn signature<E>(
        &mut self,
        write: impl FnOnce(&mut Rewriter<'_>) -> Result<(), E>,
        sign: impl FnOnce(&[u8; 64]) -> [u8; 64],
    ) -> Result<[u8; 64], E> {
        let known = self.signature.take().filter(|_| !self.dropped);
        self.dropped = false;
        let mut rewriter = Rewriter { text: &mut self.text, position: 0, difference: None };
        write(&mut rewriter)?;
        let signature = match (rewriter.finish(), known) {
            (None, Some(signature)) => signature,
            (difference, _) => sign(&self.hash(difference.unwrap_or(self.text.len()))),
        };
        if self.text.capacity() > LONGEST_KEPT {
            *self = Transcript { dropped: true, ..Transcript::default() };
        }
        self.signature = Some(signature);
        Ok(signature)
    }

    /// The last signature.
    pub(super) fn last_signature(&self) -> Option<&[u8; 64]> {
        self.signature.as_ref()
    }

    /// The hash of the text, of which the first `same` bytes are as they were.
    fn hash(&mut self, same: usize) -> [u8; 64] {
        if same < self.head {
            self.head = 0;
            self.head_state = Sha256::new();
        }
        self.head_state.update(self.text.get(self.head..same).unwrap_or_default());
        self.head = same;
        let rest = self.text.get(same..).unwrap_or_default();
        hex32(&self.head_state.clone().chain_update(rest).finalize().into())
    }
}

/// Writes over a text, and leaves alone what is there already.
pub(super) struct Rewriter<'a> {
    text: &'a mut Zeroizing<Vec<u8>>,
    position: usize,
    /// Where the first difference was.
    difference: Option<usize>,
}

impl Rewriter<'_> {
    /// How many bytes at the start are as they were; `None` if all are, and there were no more.
    fn finish(self) -> Option<usize> {
        let shortened = self.position < self.text.len();
        self.text.truncate(self.position);
        self.difference.or(shortened.then_some(self.position))
    }

    /// Puts `bytes` where something else was.
    fn replace(&mut self, bytes: &[u8]) {
        self.difference.get_or_insert(self.position);
        self.text.truncate(self.position);
        self.append(bytes);
    }

    /// Appends. A vector that grows leaves its old memory behind unwiped; this one does not.
    fn append(&mut self, bytes: &[u8]) {
        let needed = self.text.len() + bytes.len();
        if needed > self.text.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().max(USUAL_LENGTH)));
            larger.extend_from_slice(self.text);
            *self.text = larger;
        }
        self.text.extend_from_slice(bytes);
    }
}

impl Sink for Rewriter<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len();
        if self.difference.is_some() || self.text.get(self.position..end) != Some(bytes) {
            self.replace(bytes);
        }
        self.position = end;
    }

    fn put_byte(&mut self, byte: u8) {
        if self.difference.is_some() || self.text.get(self.position) != Some(&byte) {
            self.replace(&[byte]);
        }
        self.position += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(parts: &[&str]) -> impl FnOnce(&mut Rewriter<'_>) -> Result<(), ()> {
        let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        move |out: &mut Rewriter<'_>| {
            parts.iter().for_each(|part| out.put(part.as_bytes()));
            Ok(())
        }
    }

    #[test]
    fn a_long_text_is_not_kept() {
        let mut transcript = Transcript::default();
        let long = "x".repeat(LONGEST_KEPT + 1);
        for _ in 0..2 {
            let mut asked = false;
            let signed = transcript.signature(put(&[&long]), |_| {
                asked = true;
                [7; 64]
            });
            assert_eq!(signed, Ok([7; 64]));
            assert!(asked, "it is signed anew each time");
            assert_eq!(transcript.text.capacity(), 0);
            assert_eq!(transcript.last_signature(), Some(&[7; 64]));
        }
        // Nor does its signature stand for the empty text that is left.
        assert_eq!(transcript.signature(put(&[]), |_| [8; 64]), Ok([8; 64]));
    }

    /// Every text after every other, longer and shorter and equal, in pieces that end in other places: the hash is always that of
    /// the whole text, and is asked for only when the text is new.
    #[test]
    fn whatever_came_before() {
        let long = "x".repeat(700);
        let texts: [&[&str]; 9] = [
            &["a", "b", "c"],
            &["a", "b", "d"],
            &["a", "b"],
            &["ab"],
            &[],
            &["a", "b", "c", "d"],
            &["", "abc", ""],
            &["a", &long],
            &["a", &long, "c"],
        ];
        for first in texts {
            for second in texts {
                for third in texts {
                    let mut transcript = Transcript::default();
                    let mut previous = None;
                    for parts in [first, second, third, third] {
                        let text = parts.concat();
                        let mut asked = false;
                        let signature = transcript
                            .signature(put(parts), |hash| {
                                asked = true;
                                *hash
                            })
                            .unwrap();
                        assert_eq!(
                            signature,
                            hex32(&Sha256::digest(&text).into()),
                            "{first:?} {second:?} {third:?}"
                        );
                        if previous.as_ref() != Some(&text) {
                            assert!(asked);
                        }
                        previous = Some(text);
                    }
                    let again = transcript.signature(put(third), |_| panic!("signed the same twice"));
                    assert!(again.is_ok());
                }
            }
        }
    }

    #[test]
    fn a_failed_writer_leaves_nothing_to_trust() {
        let mut transcript = Transcript::default();
        let sign = |hash: &[u8; 64]| *hash;
        let whole = transcript.signature(put(&["a", "b"]), sign).unwrap();
        for written in [&["a"][..], &["z"], &[], &["a", "b", "c"]] {
            let failed = transcript.signature(
                |out| {
                    put(written)(out).unwrap();
                    Err(())
                },
                sign,
            );
            assert_eq!(failed, Err(()));
            let hash = hex32(&Sha256::digest(written.concat()).into());
            assert_eq!(transcript.clone().signature(put(written), sign), Ok(hash));
            assert_eq!(transcript.signature(put(&["a", "b"]), sign), Ok(whole));
        }
    }
}
