//! proxy-wasm's ABI 0.2.1 as Envoy offers it: the host's functions behind safe ones.
//!
//! Why not the Rust SDK (crate `proxy-wasm`), which is otherwise the obvious choice: its `Action` cannot express
//! `StopAllIterationAndWatermark`, without which a large upload during a lookup gets Envoy's bare 413; it exports every callback
//! there is, and Envoy pays for each; and its string getters panic on bytes that are not UTF-8. `docs/decisions.md` has more.
//! `tests/abi.rs` compares our numbers with the SDK's.

use crate::abi_numbers::{METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM, STATUS_OK};
use core::ptr::{null, null_mut};

/// How loud a log line is.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum LogLevel {
    Info = 2,
    Warn = 3,
    Critical = 5,
}

mod raw {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, text: *const u8, length: usize) -> u32;
        pub(super) fn proxy_set_tick_period_milliseconds(milliseconds: u32) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            kind: u32,
            start: usize,
            length: usize,
            to: *mut *mut u8,
            to_length: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_buffer_bytes(
            kind: u32,
            start: usize,
            length: usize,
            from: *const u8,
            from_length: usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_pairs(kind: u32, to: *mut *mut u8, to_length: *mut usize) -> u32;
        pub(super) fn proxy_set_header_map_pairs(kind: u32, from: *const u8, length: usize) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            kind: u32,
            name: *const u8,
            name_length: usize,
            value: *const u8,
            value_length: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(kind: u32, name: *const u8, length: usize) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            length: usize,
            to: *mut *mut u8,
            to_length: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_property(
            path: *const u8,
            length: usize,
            from: *const u8,
            from_length: usize,
        ) -> u32;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            key_length: usize,
            to: *mut *mut u8,
            to_length: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            key_length: usize,
            from: *const u8,
            length: usize,
            cas: u32,
        ) -> u32;
        pub(super) fn proxy_continue_stream(stream: u32) -> u32;
        pub(super) fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_length: usize,
            body: *const u8,
            body_length: usize,
            headers: *const u8,
            headers_length: usize,
            grpc_status: i32,
        ) -> u32;
        pub(super) fn proxy_http_call(
            cluster: *const u8,
            cluster_length: usize,
            headers: *const u8,
            headers_length: usize,
            body: *const u8,
            body_length: usize,
            trailers: *const u8,
            trailers_length: usize,
            timeout_milliseconds: u32,
            call: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) fn proxy_define_metric(kind: u32, name: *const u8, length: usize, id: *mut u32) -> u32;
        pub(super) fn proxy_increment_metric(id: u32, by: i64) -> u32;
        pub(super) fn proxy_record_metric(id: u32, value: u64) -> u32;
    }
}

/// Memory for what the host writes. It calls this before it fills in a pointer, and forgets the memory then: whoever gets the
/// pointer owns it.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let memory = Box::<[u8]>::new_uninit_slice(size);
    Box::into_raw(memory).cast()
}

/// Takes over what the host wrote through [`proxy_on_memory_allocate`].
fn take(status: u32, from: *mut u8, length: usize) -> Option<Vec<u8>> {
    if status != STATUS_OK {
        return None;
    }
    if from.is_null() || length == 0 {
        return Some(Vec::new());
    }
    let memory = core::ptr::slice_from_raw_parts_mut(from, length);
    // SAFETY: the host got this memory from `proxy_on_memory_allocate`, which leaked a boxed slice of exactly this length, has
    // written all of it, and hands it over by giving us the pointer; nobody else has it.
    Some(unsafe { Box::from_raw(memory) }.into_vec())
}

pub(crate) fn log(level: LogLevel, text: &str) {
    // SAFETY: the host copies the text during the call.
    unsafe { raw::proxy_log(level as u32, text.as_ptr(), text.len()) };
}

pub(crate) fn set_tick(milliseconds: u32) {
    // SAFETY: no memory is passed.
    unsafe { raw::proxy_set_tick_period_milliseconds(milliseconds) };
}

pub(crate) fn buffer(kind: u32, start: usize, length: usize) -> Option<Vec<u8>> {
    let (mut to, mut to_length) = (null_mut(), 0);
    // SAFETY: the host writes the two out parameters, which live until the call returns.
    let status = unsafe { raw::proxy_get_buffer_bytes(kind, start, length, &mut to, &mut to_length) };
    take(status, to, to_length)
}

/// Puts `with` in place of `length` bytes from `start`.
pub(crate) fn set_buffer(kind: u32, start: usize, length: usize, with: &[u8]) -> bool {
    // SAFETY: the host copies the bytes during the call.
    let status = unsafe { raw::proxy_set_buffer_bytes(kind, start, length, with.as_ptr(), with.len()) };
    status == STATUS_OK
}

pub(crate) fn header_map(kind: u32) -> Option<Vec<u8>> {
    let (mut to, mut to_length) = (null_mut(), 0);
    // SAFETY: as in `buffer`.
    let status = unsafe { raw::proxy_get_header_map_pairs(kind, &mut to, &mut to_length) };
    take(status, to, to_length)
}

pub(crate) fn set_header_map(kind: u32, pairs: &[u8]) -> bool {
    // SAFETY: the host copies the pairs during the call.
    let status = unsafe { raw::proxy_set_header_map_pairs(kind, pairs.as_ptr(), pairs.len()) };
    status == STATUS_OK
}

/// Of a name that stands once or not at all.
pub(crate) fn replace_header(kind: u32, name: &[u8], value: &[u8]) -> bool {
    // SAFETY: the host copies name and value during the call.
    let status = unsafe {
        raw::proxy_replace_header_map_value(kind, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    };
    status == STATUS_OK
}

/// All of a name.
pub(crate) fn remove_header(kind: u32, name: &[u8]) -> bool {
    // SAFETY: the host reads the name during the call.
    let status = unsafe { raw::proxy_remove_header_map_value(kind, name.as_ptr(), name.len()) };
    status == STATUS_OK
}

/// A property by its path, the parts joined by NUL.
pub(crate) fn property(path: &str) -> Option<Vec<u8>> {
    let (mut to, mut to_length) = (null_mut(), 0);
    // SAFETY: as in `buffer`; the path is read during the call.
    let status = unsafe { raw::proxy_get_property(path.as_ptr(), path.len(), &mut to, &mut to_length) };
    take(status, to, to_length)
}

/// Keeps a value for the request, where Envoy's access logs find it: `%FILTER_STATE(wasm.<name>:PLAIN)%`.
pub(crate) fn set_property(name: &str, value: &[u8]) {
    // SAFETY: name and value are copied during the call.
    unsafe { raw::proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

pub(crate) fn shared_data(key: &str) -> Option<Vec<u8>> {
    let (mut to, mut to_length, mut cas) = (null_mut(), 0, 0);
    // SAFETY: as in `buffer`; the key is read during the call.
    let status =
        unsafe { raw::proxy_get_shared_data(key.as_ptr(), key.len(), &mut to, &mut to_length, &mut cas) };
    take(status, to, to_length)
}

pub(crate) fn set_shared_data(key: &str, value: &[u8]) {
    // SAFETY: key and value are copied during the call. A CAS of 0 means unconditionally.
    unsafe { raw::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), 0) };
}

pub(crate) fn continue_stream(stream: u32) {
    // SAFETY: no memory is passed.
    unsafe { raw::proxy_continue_stream(stream) };
}

pub(crate) fn send_local_response(status: u16, headers: &[u8], body: &[u8]) {
    // SAFETY: all texts are copied during the call. No gRPC status: -1.
    unsafe {
        raw::proxy_send_local_response(
            u32::from(status),
            null(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    };
}

pub(crate) fn http_call(cluster: &str, headers: &[u8], timeout_milliseconds: u32) -> Option<u32> {
    let no_trailers = 0u32.to_le_bytes();
    let mut call = 0;
    // SAFETY: all texts are copied during the call, and `call` is written before it returns.
    let status = unsafe {
        raw::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            null(),
            0,
            no_trailers.as_ptr(),
            no_trailers.len(),
            timeout_milliseconds,
            &mut call,
        )
    };
    (status == STATUS_OK).then_some(call)
}

/// Makes the following calls act on another context; `false` if there is none of that number.
pub(crate) fn set_effective_context(context: u32) -> bool {
    // SAFETY: no memory is passed.
    let status = unsafe { raw::proxy_set_effective_context(context) };
    status == STATUS_OK
}

fn define_metric(kind: u32, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: the name is copied during the call, and `id` is written before it returns.
    let status = unsafe { raw::proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
    (status == STATUS_OK).then_some(id)
}

pub(crate) fn define_counter(name: &str) -> Option<u32> {
    define_metric(METRIC_COUNTER, name)
}

pub(crate) fn define_gauge(name: &str) -> Option<u32> {
    define_metric(METRIC_GAUGE, name)
}

pub(crate) fn define_histogram(name: &str) -> Option<u32> {
    define_metric(METRIC_HISTOGRAM, name)
}

pub(crate) fn increment(id: u32, by: u32) {
    // SAFETY: no memory is passed.
    unsafe { raw::proxy_increment_metric(id, i64::from(by)) };
}

pub(crate) fn record(id: u32, value: u64) {
    // SAFETY: no memory is passed.
    unsafe { raw::proxy_record_metric(id, value) };
}
