//! The numbers of proxy-wasm's ABI 0.2.1 that we use (proxy-wasm/spec, `abi-versions/v0.2.1`), and those of Envoy beyond it.
//! `tests/abi.rs` compares them with the Rust SDK's.

/// What a headers callback answers: Envoy's `FilterHeadersStatus` (`envoy/http/filter.h`), which proxy-wasm hands through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HeadersStatus {
    /// Go on.
    Continue = 0,
    /// Hold the headers; body callbacks still come (with `allow_on_headers_stop_iteration`), and Envoy buffers the body up to
    /// its limit, past which it answers 413 itself.
    Stop = 1,
    /// Hold everything: no body callback comes, and past the buffer limit the client is slowed down instead of refused.
    StopAllAndWatermark = 4,
}

/// What a body callback answers: Envoy's `FilterDataStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DataStatus {
    /// Pass it on.
    Continue = 0,
    /// Keep it in Envoy's buffer and wait.
    StopAndBuffer = 1,
    /// Keep it in Envoy's buffer for a moment. Not where the body may be read outside a body callback afterwards: that crashes
    /// Envoy 1.40.
    StopAndWatermark = 2,
    /// Throw it away.
    StopNoBuffer = 3,
}

/// What a trailers callback answers: Envoy's `FilterTrailersStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TrailersStatus {
    /// Go on.
    Continue = 0,
    /// Wait.
    Stop = 1,
}

/// Which header map: request headers.
pub const MAP_REQUEST_HEADERS: u32 = 0;
/// Which header map: request trailers.
pub const MAP_REQUEST_TRAILERS: u32 = 1;
/// Which header map: response headers.
pub const MAP_RESPONSE_HEADERS: u32 = 2;
/// Which header map: headers of a callout's answer.
pub const MAP_CALL_RESPONSE_HEADERS: u32 = 6;
/// Which buffer: the request's body.
pub const BUFFER_REQUEST_BODY: u32 = 0;
/// Which buffer: the response's body.
pub const BUFFER_RESPONSE_BODY: u32 = 1;
/// Which buffer: the body of a callout's answer.
pub const BUFFER_CALL_RESPONSE_BODY: u32 = 4;
/// Which buffer: the plugin's configuration.
pub const BUFFER_PLUGIN_CONFIGURATION: u32 = 7;
/// Which stream `proxy_continue_stream` continues: the request.
pub const STREAM_REQUEST: u32 = 0;
/// A metric that counts up.
pub const METRIC_COUNTER: u32 = 0;
/// A metric that is set.
pub const METRIC_GAUGE: u32 = 1;
/// A metric of which each value is kept.
pub const METRIC_HISTOGRAM: u32 = 2;
/// A host call that succeeded.
pub const STATUS_OK: u32 = 0;
