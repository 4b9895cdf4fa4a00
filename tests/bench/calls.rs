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

/// What the module does, further callbacks, what is done in that of request headers, and how often.
const MODULES: [(&str, &str, &str, usize); 7] = [
    ("one callback", "", "", 0),
    ("seven callbacks", MORE_CALLBACKS, "", 0),
    ("50 calls for nothing", "", NOTHING, 50),
    ("50 clocks", "", CLOCK, 50),
    ("20 times all headers read", "", READ, 20),
    ("20 times all headers set", "", SET, 20),
    ("all headers read and set, once", "", "", 1),
];

fn text(callbacks: &str, what: &str, times: usize) -> String {
    // To be set, headers must have been read.
    let first = if what == SET || (what.is_empty() && times == 1) { READ } else { "" };
    let what = if what.is_empty() && times == 1 { SET } else { what };
    format!(
        r#"(module
 (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
 (import "env" "proxy_get_header_map_pairs" (func $get (param i32 i32 i32) (result i32)))
 (import "env" "proxy_set_header_map_pairs" (func $set (param i32 i32 i32) (result i32)))
 (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
 (memory (export "memory") 32)
 (func (export "_initialize"))
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
