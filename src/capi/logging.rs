//! What `--verbose` and CAPI_LOG show, on standard error.

use log::LevelFilter;
use std::ffi::OsString;

/// Starts logging: `-v` is info, `-vv` debug, `-vvv` trace; CAPI_LOG names a level; the more talkative of the two wins.
///
/// Only this program's own lines appear. ureq and rustls log what they handle (ureq at trace the `Location` and query
/// of every exchange), and what they will log next year is not ours to decide; the lines of `capi` are written to name
/// no secret.
pub(crate) fn start(verbose: u8, variable: Option<OsString>) {
    let flag = match verbose {
        0 => LevelFilter::Off,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let variable = variable
        .and_then(|value| value.into_string().ok())
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(LevelFilter::Off);
    env_logger::Builder::new()
        .filter_level(LevelFilter::Off)
        .filter_module(env!("CARGO_CRATE_NAME"), flag.max(variable))
        .init();
}
