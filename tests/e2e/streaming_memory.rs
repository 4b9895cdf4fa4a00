//! What a large upload takes of Envoy's memory, in every mode in which bodies stream. `make bench` measures the same with 1 GiB.

use crate::{folder, options};
use harness::gateway::{Gateway, Options};
use harness::uploads::{Body, Mode};
use harness::upstream::{Script, Upstream};
use serde_json::json;
use std::time::Duration;

const SIZE: u64 = 64 << 20;
/// Envoy's own buffers hold 1 MiB on each side, and the filter 64 KiB.
const BOUND: u64 = 32 << 20;

#[test]
fn an_upload_takes_no_more_memory_for_being_long() {
    // Without a log of every call, which has buffers of its own; one worker, so that every upload meets the same.
    let gateway =
        Gateway::start(Options { trace: false, workers: Some(1), ..options(folder("streaming-memory")) })
            .unwrap();
    let membrane = gateway.create_membrane("memory").unwrap();
    let host = "memory.s3.us-east-1.amazonaws.com";
    let upstream = Upstream::start(Script::Take).unwrap();
    gateway.origin().route(host, upstream.port.number());
    let memory = gateway.memory();
    let mut grown = Vec::new();
    for (count, mode) in Mode::ALL.into_iter().enumerate() {
        let mut what =
            json!({"uri": format!("https://{host}/key"), "method": "PUT", "hmac": gateway.aws4("s3")});
        if mode == Mode::Framed {
            what["hmac"]["aws4-hmac-sha256"]["payload"] = "signed".into();
        }
        let capability = gateway.export(&membrane, &what).unwrap();
        let token = capability.rsplit('#').next().unwrap();
        let body = Body::new(mode, SIZE);
        let mut head = format!(
            "PUT / HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n",
            gateway.client.authority()
        );
        for (name, value) in &body.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.length());

        let before = memory.resident().unwrap();
        memory.forget_peak().unwrap();
        let mut connection = gateway.client.connect().unwrap();
        connection.write(head.as_bytes()).unwrap();
        body.send(|piece| connection.write(piece)).unwrap();
        let answer = connection.read(false).unwrap();
        assert_eq!(answer.status, 200, "{mode:?}: {}", answer.text());
        let growth = memory.peak().unwrap().saturating_sub(before);

        // It was all there: nothing is small because nothing came.
        let received = upstream.wait_for(count + 1, Duration::from_secs(10)).pop().unwrap();
        assert!(received.whole && received.length >= SIZE, "{mode:?}: {received:?}");
        if growth > BOUND {
            grown.push(format!("{mode:?}: {} MiB", growth >> 20));
        }
    }
    assert!(grown.is_empty(), "Envoy grew by more than {} MiB: {grown:?}", BOUND >> 20);
    gateway.stop().unwrap();
}
