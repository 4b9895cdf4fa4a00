//! Capabilities that pin a body: it is what is signed and sent, whatever way the request comes.

use crate::{assert_error, assert_signed, folder, membrane, options, recorded, shared};
use harness::gateway::Gateway;
use harness::http::Response;
use harness::origin::RECORDER;
use serde_json::json;

const BODY: &str = "{\"pinned\": \"bödy\"}\n";

fn last_body(gateway: &Gateway, target: &str) -> (Vec<u8>, Vec<String>) {
    let last = gateway.origin().requests(target).pop().expect("a request at the origin");
    (last.body.clone(), last.all("content-length"))
}

#[test]
fn it_is_what_is_signed_and_sent() {
    let gateway = shared();
    let membrane = membrane("pinned");
    let big = "x".repeat(32_768);
    for (name, body) in [("small", BODY), ("empty", ""), ("big", &big)] {
        let target = format!("/pinned/{name}/");
        let mut what = recorded(gateway, None, &target);
        what["body"] = body.into();
        let capability = gateway.export(&membrane, &what).unwrap();
        let expected = (body.as_bytes().to_vec(), vec![body.len().to_string()]);
        // More often than there are workers, so that each meets it cold and warm.
        for _ in 0..4 {
            let plain = gateway.request(&capability, "POST", "/");
            assert_eq!(plain.send().unwrap().status, 200, "{name}");
            assert_eq!(last_body(gateway, &target), expected, "{name}, no body");
            let smuggled = gateway.request(&capability, "GET", "/").header("x-membrane-body", "6576696c");
            assert_eq!(smuggled.send().unwrap().status, 200, "{name}");
            assert_eq!(last_body(gateway, &target), expected, "{name}, GET");
            let zero = gateway.request(&capability, "PUT", "/").body("");
            assert_eq!(zero.send().unwrap().status, 200, "{name}");
            assert_eq!(last_body(gateway, &target), expected, "{name}, content-length 0");
            assert_eq!(chunked(gateway, &capability, b"").status, 200, "{name}");
            assert_eq!(last_body(gateway, &target), expected, "{name}, chunked and empty");
        }
        assert!(
            gateway
                .origin()
                .requests(&target)
                .iter()
                .all(|request| request.all("x-membrane-body").is_empty())
        );
        assert_signed(gateway, &target);

        let before = gateway.origin().requests(&target).len();
        let theirs = gateway.request(&capability, "POST", "/").body("theirs").send().unwrap();
        assert_error(&theirs, 400, "body");
        assert_error(&chunked(gateway, &capability, b"theirs"), 400, "body");
        assert_eq!(gateway.origin().requests(&target).len(), before, "nothing of it may reach the origin");
    }
}

#[test]
fn over_http_2_too() {
    let gateway = shared();
    let mut what = recorded(gateway, None, "/pinned-h2/");
    what["body"] = BODY.into();
    let capability = gateway.export(&membrane("pinned/h2"), &what).unwrap();
    for body in [&[][..], &["--data", ""]] {
        let output = std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--http2", "--noproxy", "*", "--cacert"])
            .arg(gateway.dir.join("ca.pem"))
            .args(["--header", &format!("Authorization: Bearer {}", capability.rsplit('#').next().unwrap())])
            .args(["--header", "content-type: text/plain", "--write-out", " %{http_code} %{http_version}"])
            .args(body)
            .arg(gateway.url())
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.ends_with(" 200 2"), "{answer} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(last_body(gateway, "/pinned-h2/").0, BODY.as_bytes());
    }
    assert_signed(gateway, "/pinned-h2/");
}

/// Without the stage that puts the body in, or with one that fails, nothing goes anywhere: of a grant that does not sign its body the
/// upstream would not notice.
#[test]
fn without_its_stage_nothing_is_sent() {
    const STAGE: &str = "function envoy_on_request(request)";
    for (name, instead) in [
        ("missing", "function nothing(request)"),
        ("failing", "function envoy_on_request(request) error('no')"),
    ] {
        let gateway = Gateway::start_with(options(folder(&format!("pinned-{name}"))), |yaml| {
            assert!(yaml.contains(STAGE));
            Ok(yaml.replace(STAGE, instead))
        })
        .unwrap();
        let membrane = gateway.create_membrane("pinned").unwrap();
        let cap1 = json!({"cap1-hmac-sha512": {"keyId": "k", "key": "k"}});
        for (kind, hmac) in [("plain", json!(null)), ("cap1", cap1), ("aws4", gateway.aws4("lambda"))] {
            let uri = format!("https://{RECORDER}/pinned-{name}/{kind}");
            let what = json!({"uri": uri, "method": "DELETE", "body": BODY, "hmac": hmac});
            let capability = gateway.export(&membrane, &what).unwrap();
            for _ in 0..4 {
                assert_error(&gateway.request(&capability, "DELETE", "/").send().unwrap(), 404, "route");
            }
        }
        assert!(gateway.origin().requests("/pinned-").is_empty());
    }
}

fn chunked(gateway: &Gateway, capability: &str, body: &[u8]) -> Response {
    let token = capability.rsplit('#').next().unwrap();
    let port = gateway.ports.gateway.number();
    let mut bytes = format!(
        "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    if !body.is_empty() {
        bytes.extend([format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat());
    }
    bytes.extend(b"0\r\n\r\n");
    gateway.client.raw(&bytes, false).unwrap()
}
