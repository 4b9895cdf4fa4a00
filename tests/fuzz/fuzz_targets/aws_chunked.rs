//! The reader of aws-chunked bodies, and what is signed again from it.
//!
//! Input: a byte for the framing and the announced trailers, a byte for how the body is cut, a line with the declared length, the body.
//! That form keeps seeds readable: see `corpus/aws_chunked`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use signing::aws4::{
    Checksum, ChunkSigner, DayKey, Fault, Framing, Reader, Resigner, Service, TrailerNames, Trailers,
};
use signing::{Secret, Timestamp};
use std::sync::LazyLock;

static SIGNER: LazyLock<ChunkSigner> = LazyLock::new(|| {
    let (now, s3) = (Timestamp::from_unix(1_369_353_600), Service::new("s3").expect("a service"));
    let key = DayKey::derive(&Secret::new("key".into()), &now, "us-east-1", &s3);
    ChunkSigner::new(&key, &now, "us-east-1", &s3, &[b'0'; 64])
});

type Read = (Result<Trailers, Fault>, Vec<u8>, u64);

fn read<'a>(mut reader: Reader, pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut data = Vec::new();
    for piece in pieces {
        if reader.push(piece, |span| data.extend_from_slice(span)).is_err() {
            break;
        }
    }
    let position = reader.position();
    (reader.finish(), data, position)
}

fn resign<'a>(reader: Reader, pieces: impl Iterator<Item = &'a [u8]>) -> (Result<(), Fault>, Vec<u8>) {
    let mut out = Vec::new();
    let mut resigner = Resigner::new(reader, SIGNER.clone());
    for piece in pieces {
        if resigner.push(piece, &mut out).is_err() {
            break;
        }
    }
    (resigner.finish(&mut out), out)
}

fuzz_target!(|input: &[u8]| {
    let [mode, cut, rest @ ..] = input else { return };
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return };
    let (line, body) = (&rest[..end], &rest[end + 1..]);
    let Some(declared) = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()) else { return };
    let framing = match mode % 3 {
        0 => Framing::UnsignedTrailer,
        1 => Framing::Signed,
        _ => Framing::SignedTrailer,
    };
    let first = usize::from(mode / 3) % Checksum::ALL.len();
    let announced =
        Checksum::ALL[first..].iter().take(usize::from(mode >> 6)).map(|one| one.header().as_bytes());
    let announced = TrailerNames::parse(announced).expect("known names");
    let Ok(reader) = Reader::new(framing, declared, announced.clone()) else { return };

    let whole = read(reader.clone(), std::iter::once(body));
    let (verdict, data, position) = &whole;
    assert!(data.len() as u64 <= declared && *position <= body.len() as u64);
    let size = usize::from(*cut) % 23 + 1;
    assert!(read(reader.clone(), body.chunks(size)) == whole);

    let (resigned, out) = resign(reader.clone(), std::iter::once(body));
    assert_eq!(resigned.err(), verdict.as_ref().err().copied());
    assert!(resign(reader.clone(), body.chunks(size)) == (resigned, out.clone()));
    if let Ok(trailers) = verdict {
        assert_eq!(data.len() as u64, declared);
        assert_eq!(reader.resigned_length(), Some(out.len() as u64));
        let framing = Framing::of(reader.resigned_payload()).expect("a framed payload");
        let again = Reader::new(framing, declared, announced).expect("what was taken before");
        assert!(
            read(again, std::iter::once(&out[..])) == (Ok(trailers.clone()), data.clone(), out.len() as u64)
        );
    }
});
