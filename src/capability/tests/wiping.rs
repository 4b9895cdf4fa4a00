//! No memory is given back to the allocator with a secret of an export body in it: not when a grant is dropped, and not when a body
//! is refused, in whatever field the secret stands.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used, clippy::panic)]

use capability::record::Kind;
use capability::{Content, Export, Exported};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Looks into every block that is freed. (It has no `realloc` of its own: the trait's goes through `alloc` and `dealloc`.)
struct Watching;

const CANARY: &str = "CANARY/SECRET";

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
        if block.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
            let _ = FOUND.try_with(|found| found.set(found.get() + 1));
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// How many blocks `work` freed with the canary in them.
fn found(work: impl FnOnce()) -> usize {
    let before = FOUND.get();
    work();
    FOUND.get() - before
}

#[test]
fn would_be_found() {
    let text = CANARY.to_owned();
    assert_eq!(found(|| drop(text)), 1);
}

#[test]
fn a_grant_is_wiped() {
    let body = format!(
        r#"{{"uri": "https://a.s3.us-east-1.amazonaws.com/k", "headers": {{"x-key": " {CANARY} "}}, "body": "{CANARY}",
            "hmac": {{"aws4-hmac-sha256": {{"awsAccessKeyId": "A", "region": "r", "service": "s3", "secretAccessKey": "{CANARY}",
                "sessionToken": "{CANARY}"}}}}}}"#
    );
    let found = found(|| {
        let Exported::Grant(grant) = Export::parse(body.as_bytes()).unwrap().what else { panic!() };
        let json = Content::Grant(grant).to_json();
        drop(Content::from_json(Kind::Grant, json.expose()).unwrap());
    });
    assert_eq!(found, 0);
}

#[test]
fn what_is_refused_is_wiped() {
    let hmac = |field: &str, value: &str| {
        format!(r#"{{"uri": "https://a/", "hmac": {{"aws4-hmac-sha256": {{"{field}": {value}}}}}}}"#)
    };
    let secret = format!("\"{CANARY}\"");
    for body in [
        format!(r#"{{"uri": "https://a/", "unknown": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "unknown": [[{secret}], {{"x": {secret}}}]}}"#),
        format!(r#"{{"uri": [{secret}]}}"#),
        format!(r#"{{"uri": "https://a/", "allowQuery": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "timeoutMs": {{"x": [{secret}]}}}}"#),
        format!(r#"{{"uri": "https://a/", "allowHeaders": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "allowHeaders": [[{secret}]]}}"#),
        format!(r#"{{"uri": "https://a/", "headers": [{secret}]}}"#),
        format!(r#"{{"uri": "https://a/", "headers": {{"a b": {secret}, "x": {secret}}}}}"#),
        format!(r#"{{"uri": "https://a/", "body": {secret}, "body": {secret}}}"#),
        format!(r#"{{"uri": "https://a/", "body": {secret}, "method": "HEAD"}}"#),
        format!(r#"[{secret}]"#),
        format!(r#"{{"capability": {secret}}}"#),
        hmac("secretAccessKey", &secret),
        hmac("secretAccessKey", &format!("[{secret}]")),
        hmac("unknown", &secret),
    ] {
        assert_eq!(found(|| assert!(Export::parse(body.as_bytes()).is_err(), "{body}")), 0, "{body}");
    }
}
