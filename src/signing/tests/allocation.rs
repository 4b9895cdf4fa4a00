//! Signing a bodyless request allocates nothing once its buffer has grown: not per request, and not at the turn of a second. Nor does
//! reading or framing a body, piece by piece.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use signing::aws4::{self, Credential, Payload, Service, SessionToken};
use signing::{Scheme, Secret, Timestamp, cap1};

/// Counts what the thread that asks allocates: the test runner's own threads do as well.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter is a plain `Cell`, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

const HEADERS: [(&[u8], &[u8]); 3] =
    [(b"x-amz-target", b"T.  Op"), (b"content-type", b"application/json"), (b"user-agent", b"curl")];

#[test]
fn counts_at_all() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1_u8]))) >= 1);
}

#[test]
fn aws4() {
    for service in ["s3", "dynamodb"] {
        let service = Service::new(service).unwrap();
        let target =
            aws4::Target::new(&service, Scheme::Https, "example.amazonaws.com", b"/a%20b", b"b=1&a=2")
                .unwrap();
        let credential = Credential {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: Some(SessionToken::Sts(Secret::new("token".repeat(200)))),
        };
        let mut signer = aws4::Signer::new(credential, "us-east-1", service).unwrap();
        let mut out = String::new();
        let mut sign = |second| {
            let now = Timestamp::from_unix(second);
            allocations(|| {
                signer.sign(&now, "GET", &target, HEADERS, Payload::Empty, &mut out).unwrap();
            })
        };
        assert!(sign(1_700_000_000) > 0, "the first one derives the key");
        assert_eq!(sign(1_700_000_000), 0);
        assert_eq!(sign(1_700_000_001), 0);
    }
}

#[test]
fn cap1() {
    let target = cap1::Target::new(Scheme::Https, "example.com", b"/a%20b", b"b=1&a=2").unwrap();
    let mut signer = cap1::Signer::new("id", Secret::new("key".into())).unwrap();
    let mut out = String::new();
    let mut sign = |second| {
        let now = Timestamp::from_unix(second);
        allocations(|| {
            signer.sign(&now, "GET", &target, HEADERS, &mut out).unwrap();
        })
    };
    assert!(sign(1_700_000_000) > 0, "the first one derives the key");
    assert_eq!(sign(1_700_000_000), 0);
    assert_eq!(sign(1_700_000_001), 0);
}

#[test]
fn bodies() {
    use aws4::{CHUNK_SIZE, ChunkSigner, DayKey, Framing, Reader, Resigner, TrailerNames};

    let (now, s3) = (Timestamp::from_unix(1_700_000_000), Service::new("s3").unwrap());
    let key = DayKey::derive(&Secret::new("key".into()), &now, "us-east-1", &s3);
    let signer = ChunkSigner::new(&key, &now, "us-east-1", &s3, &[b'0'; 64]);
    let mut body = Vec::new();
    for _ in 0..8 {
        body.extend_from_slice(b"10001\r\n");
        body.resize(body.len() + CHUNK_SIZE + 1, 7);
        body.extend_from_slice(b"\r\n");
    }
    let length = 8 * (CHUNK_SIZE as u64 + 1);
    let reader = Reader::new(Framing::UnsignedTrailer, length, TrailerNames::default()).unwrap();
    let mut checked = reader.clone();
    assert_eq!(allocations(|| body.chunks(777).for_each(|piece| checked.check(piece).unwrap())), 0);

    let mut resigner = Resigner::new(reader, signer);
    let mut out = Vec::with_capacity(2 * CHUNK_SIZE);
    let mut push = |piece| {
        out.clear();
        allocations(|| resigner.push(piece, &mut out).unwrap())
    };
    let (first, rest) = body.split_at(777);
    assert_eq!(push(first), 1, "room for one chunk");
    for piece in rest.chunks(20_000) {
        assert_eq!(push(piece), 0);
    }
}
