//! No memory is given back to the allocator with a secret in it: not when a signer is dropped, and not when a buffer grows.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use signing::aws4::{self, Credential, Payload, Service, SessionToken};
use signing::{Scheme, Secret, Timestamp, cap1};

/// Looks into every block that is freed. (It has no `realloc` of its own: the trait's goes through `alloc` and `dealloc`.)
struct Watching;

const CANARY: [u8; 13] = *b"CANARY/SECRET";

thread_local! {
    static FOUND: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came. Blocks are allocated zeroed, so that all of a block may be read.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the block is the caller's until the next line, and was initialised when it was allocated.
        let block = unsafe { std::slice::from_raw_parts(pointer, layout.size()) };
        if block.windows(CANARY.len()).any(|window| window == CANARY) {
            let _ = FOUND.try_with(|found| found.set(found.get() + 1));
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn canary() -> String {
    String::from_utf8(CANARY.to_vec()).unwrap()
}

/// How many blocks `work` freed with the canary in them.
fn found(work: impl FnOnce()) -> usize {
    let before = FOUND.get();
    work();
    FOUND.get() - before
}

#[test]
fn would_be_found() {
    let text = canary();
    assert_eq!(found(|| drop(text)), 1);
    let mut grows = canary();
    assert_eq!(found(|| grows.push_str(&"x".repeat(1000))), 1);
    let secret = Secret::new(canary());
    assert_eq!(found(|| drop(secret)), 0);
}

#[test]
fn aws4() {
    let service = Service::new("s3").unwrap();
    let target = aws4::Target::new(&service, Scheme::Https, "a.example", b"/", b"").unwrap();
    let credential = Credential {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new(canary()),
        session_token: Some(SessionToken::Sts(Secret::new(canary()))),
    };
    let mut signer = aws4::Signer::new(credential, "us-east-1", service).unwrap();
    let found = found(move || {
        let (now, mut out) = (Timestamp::from_unix(1_767_268_800), String::new());
        // Long enough to outgrow every buffer, and then short again.
        for length in [1, 100, 1000, 10_000, 1] {
            let value = "x".repeat(length);
            let headers = [(&b"x-amz-zz"[..], value.as_bytes())];
            signer.sign(&now, "GET", &target, headers, Payload::Streaming, &mut out).unwrap();
        }
        let chunks = signer.chunk_signer().unwrap();
        drop((signer.clone(), signer, chunks));
    });
    assert_eq!(found, 0);
}

#[test]
fn cap1() {
    let target = cap1::Target::new(Scheme::Https, "a.example", b"/", b"").unwrap();
    let mut signer = cap1::Signer::new("id", Secret::new(canary())).unwrap();
    let found = found(move || {
        let (now, mut out) = (Timestamp::from_unix(1_767_268_800), String::new());
        signer.sign(&now, "GET", &target, [], &mut out).unwrap();
        drop((signer.clone(), signer));
    });
    assert_eq!(found, 0);
}
