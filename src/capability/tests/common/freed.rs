//! An allocator that looks into every block that is freed: the tests of what is wiped, of several crates, are run with it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What must not be in a block that is freed.
pub(crate) const CANARY: &str = "CANARY/SECRET";

/// (It has no `realloc` of its own: the trait's goes through `alloc` and `dealloc`.)
struct Watching;

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
pub(crate) fn found(work: impl FnOnce()) -> usize {
    let before = FOUND.get();
    work();
    FOUND.get() - before
}

#[test]
fn would_be_found() {
    let text = CANARY.to_owned();
    assert_eq!(found(|| drop(text)), 1);
    let mut grows = CANARY.to_owned();
    assert_eq!(found(|| grows.push_str(&"x".repeat(1000))), 1);
}
