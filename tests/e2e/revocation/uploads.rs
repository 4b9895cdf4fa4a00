//! Uploads that are held open while their capability is revoked, or while nobody can say whether it was.

use crate::{assert_error, folder, options};
use harness::fleet::with_settings;
use harness::gateway::{Gateway, Membrane};
use harness::http::Connection;
use harness::upstream::{Script, Upstream};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

const STALENESS: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Held by Envoy until it is hashed.
    Hashed,
    Unsigned,
    /// The requester says the hash.
    WithItsHash,
    /// Framed by the filter, in signed chunks.
    Framed,
    /// Its length is not said.
    Chunked,
}

const ALL: [Kind; 5] = [Kind::Hashed, Kind::Unsigned, Kind::WithItsHash, Kind::Framed, Kind::Chunked];

fn gateway() -> Gateway {
    let change = |config| with_settings(config, r#""staleness": "3s""#);
    Gateway::start_with(options(folder("revocation-uploads")), change).unwrap()
}

fn body() -> Vec<u8> {
    (0..300_000u32).map(|n| (n % 251) as u8).collect()
}

/// One upload, of which the first half was sent.
struct Upload {
    kind: Kind,
    membrane: Membrane,
    upstream: Upstream,
    connection: Connection,
}

impl Upload {
    /// Begins it, and waits until upstream has its head if it streams.
    fn begin(gateway: &Gateway, kind: Kind, number: usize) -> Self {
        let upstream = Upstream::start(Script::Take).unwrap();
        let host = format!("upload-{number}.us-east-1.amazonaws.com");
        gateway.origin().route(&host, upstream.port.number());
        let membrane = gateway.create_membrane(&format!("uploads/{number}")).unwrap();
        let mut what = json!({ "uri": format!("https://{host}/key"), "method": "PUT" });
        match kind {
            Kind::Hashed => what["hmac"] = gateway.aws4("lambda"),
            Kind::Unsigned | Kind::WithItsHash => what["hmac"] = gateway.aws4("s3"),
            Kind::Framed => {
                what["hmac"] = gateway.aws4("s3");
                what["hmac"]["aws4-hmac-sha256"]["payload"] = "signed".into();
            }
            Kind::Chunked => {}
        }
        let capability = gateway.export(&membrane, &what).unwrap();
        let mut request = gateway.request(&capability, "PUT", "/");
        request = match kind {
            Kind::Chunked => request.header("transfer-encoding", "chunked"),
            _ => request.header("content-length", &body().len().to_string()),
        };
        if kind == Kind::WithItsHash {
            let hash: String = Sha256::digest(body()).iter().map(|byte| format!("{byte:02x}")).collect();
            request = request.header("x-amz-content-sha256", &hash);
        }
        let mut connection = gateway.client.connect().unwrap();
        connection.write(&request.bytes()).unwrap();
        let mut upload = Self { kind, membrane, upstream, connection };
        upload.send(&body()[..150_000]);
        let start = Instant::now();
        let heads = || {
            gateway
                .origin()
                .requests("/key")
                .iter()
                .filter(|head| head.all("host") == [host.as_str()])
                .count()
        };
        while kind != Kind::Hashed && heads() == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "{kind:?} does not stream");
            std::thread::sleep(Duration::from_millis(10));
        }
        upload
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.kind == Kind::Chunked {
            let size = format!("{:x}\r\n", bytes.len());
            self.connection.write(&[size.as_bytes(), bytes, b"\r\n"].concat()).unwrap();
        } else {
            self.connection.write(bytes).unwrap();
        }
    }

    fn send_rest(&mut self) {
        self.send(&body()[150_000..]);
        if self.kind == Kind::Chunked {
            self.connection.write(b"0\r\n\r\n").unwrap();
        }
    }

    #[track_caller]
    fn assert_taken(&mut self) {
        self.connection.read(false).unwrap().expect(200, &format!("{:?}", self.kind)).unwrap();
        let received = self.upstream.wait_for(1, Duration::from_secs(5));
        assert!(received.len() == 1 && received[0].whole, "{:?}", self.kind);
        if self.kind != Kind::Framed {
            assert_eq!(received[0].sha256[..], Sha256::digest(body())[..], "{:?}", self.kind);
        }
    }
}

#[test]
fn a_revoked_capabilitys_upload_is_refused_when_it_completes() {
    let gateway = gateway();
    for (number, kind) in ALL.into_iter().enumerate() {
        for revoked in [false, true] {
            let mut upload = Upload::begin(&gateway, kind, number * 2 + usize::from(revoked));
            if !revoked {
                upload.send_rest();
                upload.assert_taken();
                continue;
            }
            let request = gateway.request(&upload.membrane.revoke, "DELETE", "/?wait=fleet");
            let answer: Value = request.send().unwrap().expect(202, "revoking").unwrap().json();
            assert_eq!(answer["unconfirmed"], 0, "{answer}");
            upload.send_rest();
            assert_error(&upload.connection.read(false).unwrap(), 401, "capability");
            if kind == Kind::Hashed {
                assert!(upload.upstream.received().is_empty(), "nothing goes upstream before it is hashed");
            } else {
                let received = upload.upstream.wait_for(1, Duration::from_secs(5));
                assert!(received.len() == 1 && !received[0].whole, "{kind:?}: upstream has a whole");
            }
        }
    }
    held_while_nobody_can_say(&gateway);
    gateway.stop().unwrap();
}

/// The registry stands still for longer than the lease: ends of uploads wait for its word, and go on with it.
fn held_while_nobody_can_say(gateway: &Gateway) {
    let mut uploads: Vec<Upload> = ALL
        .into_iter()
        .enumerate()
        .map(|(number, kind)| Upload::begin(gateway, kind, 100 + number))
        .collect();
    gateway.signal_registry(Signal::STOP);
    std::thread::sleep(STALENESS + Duration::from_millis(300));
    uploads.iter_mut().for_each(Upload::send_rest);
    std::thread::sleep(Duration::from_millis(300));
    for upload in &uploads {
        assert!(upload.upstream.received().is_empty(), "{:?} went on unasked", upload.kind);
    }
    gateway.signal_registry(Signal::CONT);
    uploads.iter_mut().for_each(Upload::assert_taken);

    // And are refused without it.
    let mut uploads: Vec<Upload> = ALL
        .into_iter()
        .enumerate()
        .map(|(number, kind)| Upload::begin(gateway, kind, 200 + number))
        .collect();
    gateway.signal_registry(Signal::STOP);
    std::thread::sleep(STALENESS + Duration::from_millis(300));
    uploads.iter_mut().for_each(Upload::send_rest);
    for upload in &mut uploads {
        assert_error(&upload.connection.read(false).unwrap(), 503, "registry");
        assert!(upload.upstream.received().iter().all(|received| !received.whole), "{:?}", upload.kind);
    }
    gateway.signal_registry(Signal::CONT);
}
