//! No memory is given back to the allocator with a bearer, or with what is made of a grant, in it.

// Tests from the first line to the last, which clippy cannot tell of helper functions.
#![allow(clippy::unwrap_used)]

#[path = "../../capability/tests/common/freed.rs"]
mod freed;

use freed::{CANARY, found};
use membrane_filter::pairs::{self, Pairs};
use membrane_filter::wiped::Wiped;

#[test]
fn what_is_dropped_is_wiped_wherever_it_lies() {
    for before in 0..20 {
        for after in 0..20 {
            let bytes = [&vec![b'x'; before], CANARY.as_bytes(), &vec![b'x'; after]].concat();
            let wiped = Wiped::new(bytes);
            assert_eq!(found(|| drop(wiped)), 0, "{before} {after}");
        }
    }
}

#[test]
fn what_grows_leaves_nothing_behind() {
    let mut wiped = Wiped::with_capacity(CANARY.len());
    wiped.extend(CANARY.as_bytes());
    let found = found(|| {
        (0..10).for_each(|_| wiped.extend(&[b'x'; 100]));
        assert!(wiped.starts_with(CANARY.as_bytes()) && wiped.len() == CANARY.len() + 1_000);
        drop(wiped);
    });
    assert_eq!(found, 0);
}

#[test]
fn headers_that_were_read_and_set_are_wiped() {
    let found = found(|| {
        let headers = [(&b"authorization"[..], CANARY.as_bytes()), (b":path", b"/")];
        let read = pairs::encode(headers.into_iter()).unwrap();
        let mut bytes = Vec::with_capacity(read.len());
        bytes.extend_from_slice(&read);
        assert_eq!(Pairs::parse(bytes).unwrap().only(b"authorization"), Some(CANARY.as_bytes()));
    });
    assert_eq!(found, 0);
}
