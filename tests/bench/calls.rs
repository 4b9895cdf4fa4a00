//! Modules of a few lines that do one thing in a request's callback, never or many times: what crossing the border between Envoy and WebAssembly
//! costs. Anything else that a filter adds is its own.

use harness::failure::{Failure, While};
use harness::{Outcome, repository};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Callbacks beside the one for request headers, which every module has: of another six Envoy calls each once a request.
const MORE_CALLBACKS: &str = r#"
 (func (export "proxy_on_context_create") (param i32 i32))
 (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
 (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0))
 (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
 (func (export "proxy_on_log") (param i32))
 (func (export "proxy_on_delete") (param i32))"#;
const NOTHING: &str = "(drop (call $effective (local.get $context)))";
const CLOCK: &str = "(drop (call $clock (i32.const 0) (i64.const 1) (i32.const 1024)))";
const READ: &str = "(drop (call $get (i32.const 0) (i32.const 1024) (i32.const 1028)))";
const SET: &str = "(drop (call $set (i32.const 0) (i32.load (i32.const 1024)) (i32.load (i32.const 1028))))";

/// As this filter does it: bearer, path, authority, date and route, each put at its name; and what Envoy or clients add taken off.
const SOME: &str = r#"
 (drop (call $get (i32.const 0) (i32.const 1024) (i32.const 1028)))
 (drop (call $replace (i32.const 0) (i32.const 2048) (i32.const 13) (i32.const 3072) (i32.const 220)))
 (drop (call $replace (i32.const 0) (i32.const 2080) (i32.const 5) (i32.const 3328) (i32.const 38)))
 (drop (call $replace (i32.const 0) (i32.const 2112) (i32.const 10) (i32.const 3392) (i32.const 30)))
 (drop (call $replace (i32.const 0) (i32.const 2144) (i32.const 10) (i32.const 3456) (i32.const 16)))
 (drop (call $replace (i32.const 0) (i32.const 2176) (i32.const 16) (i32.const 3488) (i32.const 5)))
 (drop (call $remove (i32.const 0) (i32.const 2208) (i32.const 15)))
 (drop (call $remove (i32.const 0) (i32.const 2240) (i32.const 12)))
 (drop (call $remove (i32.const 0) (i32.const 2272) (i32.const 10)))"#;
/// The names and values that [`SOME`] points at.
const TEXTS: [(usize, &str); 13] = [
    (2048, "authorization"),
    (2080, ":path"),
    (2112, ":authority"),
    (2144, "x-amz-date"),
    (2176, "x-membrane-route"),
    (2208, "x-forwarded-for"),
    (2240, "x-request-id"),
    (2272, "user-agent"),
    (
        3072,
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/lambda/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date;x-amz-invocation-type, \
         Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ),
    (3328, "/2015-03-31/functions/echo/invocations"),
    (3392, "lambda.us-east-1.amazonaws.com"),
    (3456, "20260101T000000Z"),
    (3488, "https"),
];

/// What the module does, further callbacks, what is done in that of request headers, and how often.
const MODULES: [(&str, &str, &str, usize); 8] = [
    ("one callback", "", "", 0),
    ("seven callbacks", MORE_CALLBACKS, "", 0),
    ("50 calls for nothing", "", NOTHING, 50),
    ("50 clocks", "", CLOCK, 50),
    ("20 times all headers read", "", READ, 20),
    ("20 times all headers set", "", SET, 20),
    ("all headers read and set, once", "", "", 1),
    ("all headers read, five set, three taken off, once", "", SOME, 1),
];

fn text(callbacks: &str, what: &str, times: usize) -> String {
    // To be set, headers must have been read.
    let first = if what == SET || (what.is_empty() && times == 1) { READ } else { "" };
    let what = if what.is_empty() && times == 1 { SET } else { what };
    let texts: String =
        TEXTS.iter().map(|(place, text)| format!(" (data (i32.const {place}) \"{text}\")\n")).collect();
    format!(
        r#"(module
 (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
 (import "env" "proxy_get_header_map_pairs" (func $get (param i32 i32 i32) (result i32)))
 (import "env" "proxy_set_header_map_pairs" (func $set (param i32 i32 i32) (result i32)))
 (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
 (import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
 (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
 (memory (export "memory") 32)
{texts} (func (export "_initialize"))
 (func (export "proxy_abi_version_0_2_1"))
 (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
 (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
 (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536)){callbacks}
 (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
 {first}{} (i32.const 0)))
"#,
        what.repeat(times)
    )
}

/// Makes them in `dir`; names and files.
pub(crate) fn modules(dir: &Path) -> Outcome<Vec<(&'static str, PathBuf)>> {
    let assembler = repository().join(".tools/binaryen/node_modules/binaryen/bin/wasm-as");
    MODULES
        .iter()
        .enumerate()
        .map(|(number, (name, callbacks, what, times))| {
            let source = dir.join(format!("calls-{number}.wat"));
            let module = source.with_extension("wasm");
            std::fs::write(&source, text(callbacks, what, *times)).while_(|| format!("writing {name}"))?;
            let made = Command::new("node").arg(&assembler).arg(&source).arg("-o").arg(&module).status()?;
            if !made.success() {
                return Err(Failure::new(format!("wasm-as does not take the module for {name}")));
            }
            Ok((*name, module))
        })
        .collect()
}
