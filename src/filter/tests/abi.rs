//! Our numbers of the ABI against the Rust SDK's, which is another reading of the same specification.

use membrane_filter::abi_numbers as ours;
use proxy_wasm::types::{Action, BufferType, MapType, MetricType, Status, StreamType};

#[test]
fn the_numbers_are_those_of_the_sdk() {
    assert_eq!(ours::HeadersStatus::Continue as u32, Action::Continue as u32);
    assert_eq!(ours::HeadersStatus::Stop as u32, Action::Pause as u32);
    assert_eq!(ours::DataStatus::Continue as u32, Action::Continue as u32);
    assert_eq!(ours::DataStatus::StopAndBuffer as u32, Action::Pause as u32);
    assert_eq!(ours::TrailersStatus::Stop as u32, Action::Pause as u32);
    assert_eq!(ours::MAP_REQUEST_HEADERS, MapType::HttpRequestHeaders as u32);
    assert_eq!(ours::MAP_REQUEST_TRAILERS, MapType::HttpRequestTrailers as u32);
    assert_eq!(ours::MAP_RESPONSE_HEADERS, MapType::HttpResponseHeaders as u32);
    assert_eq!(ours::BUFFER_RESPONSE_BODY, BufferType::HttpResponseBody as u32);
    assert_eq!(ours::MAP_CALL_RESPONSE_HEADERS, MapType::HttpCallResponseHeaders as u32);
    assert_eq!(ours::BUFFER_REQUEST_BODY, BufferType::HttpRequestBody as u32);
    assert_eq!(ours::BUFFER_CALL_RESPONSE_BODY, BufferType::HttpCallResponseBody as u32);
    assert_eq!(ours::BUFFER_PLUGIN_CONFIGURATION, BufferType::PluginConfiguration as u32);
    assert_eq!(ours::STREAM_REQUEST, StreamType::HttpRequest as u32);
    assert_eq!(ours::METRIC_COUNTER, MetricType::Counter as u32);
    assert_eq!(ours::METRIC_GAUGE, MetricType::Gauge as u32);
    assert_eq!(ours::METRIC_HISTOGRAM, MetricType::Histogram as u32);
    assert_eq!(ours::STATUS_OK, Status::Ok as u32);
}
