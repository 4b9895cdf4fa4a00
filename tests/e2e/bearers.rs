//! What is not exactly one live bearer gets one uniform answer.

use crate::{assert_error, eventually, membrane, recorded, shared};
use harness::gateway::Gateway;
use harness::http::Response;
use std::time::Duration;

fn ask(gateway: &Gateway, authorization_lines: &[u8]) -> Response {
    let head = format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n", gateway.ports.gateway.number());
    let bytes = [head.as_bytes(), authorization_lines, b"\r\n"].concat();
    gateway.client.raw(&bytes, false).unwrap()
}

fn token(capability: &str) -> &str {
    capability.rsplit('#').next().unwrap()
}

#[test]
fn missing_malformed_doubled_unknown_and_revoked_bearers_are_401() {
    let gateway = shared();
    let membrane = membrane("bearers");
    let capability = gateway.export(&membrane, &recorded(gateway, None, "/bearers")).unwrap();
    let live = token(&capability).to_owned();
    let line = |text: &str| format!("Authorization: {text}\r\n").into_bytes();
    assert_eq!(
        ask(gateway, &line(&format!("Bearer {live}"))).status,
        200,
        "the control: the live token alone"
    );
    assert_eq!(ask(gateway, &line(&format!("bEARER {live}"))).status, 200, "the scheme has no case");

    let revoked_membrane = gateway.create_membrane("bearers/revoked").unwrap();
    let revoked = gateway.export(&revoked_membrane, &recorded(gateway, None, "/bearers")).unwrap();
    gateway.revoke(&revoked_membrane).unwrap();

    let with_last = |last: char| format!("{}{last}", &live[..live.len() - 1]);
    // The last character carries four unused bits, so that all but four spellings of it are not canonical.
    let non_canonical = "BCDEFGH".chars().map(with_last).find(|other| *other != live).unwrap();
    let unknown = format!("CPBLTY1-{}", "A".repeat(86));
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("missing", Vec::new()),
        ("empty", line("")),
        ("scheme alone", line("Bearer")),
        ("token alone", line(&live)),
        ("another scheme", line(&format!("Basic {live}"))),
        ("not a token", line("Bearer abc")),
        ("no prefix", line(&format!("Bearer {}", &live["CPBLTY1-".len()..]))),
        ("prefix in lower case", line(&format!("Bearer {}", live.replacen("CPBLTY1", "cpblty1", 1)))),
        ("cut short", line(&format!("Bearer {}", &live[..live.len() - 1]))),
        ("too long", line(&format!("Bearer {live}A"))),
        ("padded", line(&format!("Bearer {live}=="))),
        ("something after it", line(&format!("Bearer {live} x"))),
        ("a list", line(&format!("Bearer {live}, Bearer {live}"))),
        ("another spelling", line(&format!("Bearer {non_canonical}"))),
        ("unknown", line(&format!("Bearer {unknown}"))),
        ("revoked", line(&format!("Bearer {}", token(&revoked)))),
        // Answered by the registry, all others by the filter.
        ("a dead control", line(&format!("Bearer {}", token(&revoked_membrane.export)))),
        ("not UTF-8", b"Authorization: Bearer \xff\xfe\x80\r\n".to_vec()),
        (
            "a live one and not UTF-8",
            [line(&format!("Bearer {live}")), b"Authorization: \xff\r\n".to_vec()].concat(),
        ),
    ];
    let twice = |first: &str, second: &str| {
        [line(&format!("Bearer {first}")), line(&format!("Bearer {second}"))].concat()
    };
    cases.push(("doubled", twice(&live, &live)));
    cases.push(("a live one first", twice(&live, &unknown)));
    cases.push(("a live one last", twice(&unknown, &live)));

    let uniform = ask(gateway, b"");
    for (name, lines) in cases {
        let answer = eventually(401, Duration::from_secs(5), || ask(gateway, &lines));
        assert_error(&answer, 401, "");
        assert_eq!(answer.header("www-authenticate").as_deref(), Some("Bearer"), "{name}");
        for header in ["content-type", "cache-control", "content-length"] {
            assert_eq!(answer.header(header), uniform.header(header), "{name}");
        }
        assert_eq!(answer.body, uniform.body, "{name}: one answer for all");
    }
    assert_eq!(ask(gateway, &line(&format!("Bearer {live}"))).status, 200, "the live one is still served");
}

#[test]
fn a_token_in_the_url_or_a_cookie_is_no_bearer() {
    let gateway = shared();
    let membrane = membrane("bearers/elsewhere");
    let capability = gateway.export(&membrane, &recorded(gateway, None, "/bearers/elsewhere")).unwrap();
    let token = token(&capability);
    let in_query = gateway.client.request("GET", &format!("/?access_token={token}&authorization={token}"));
    assert_error(&in_query.send().unwrap(), 401, "");
    let in_cookie =
        gateway.client.request("GET", "/").header("Cookie", &format!("authorization=Bearer {token}"));
    assert_error(&in_cookie.send().unwrap(), 401, "");
    let for_proxy =
        gateway.client.request("GET", "/").header("Proxy-Authorization", &format!("Bearer {token}"));
    assert_error(&for_proxy.send().unwrap(), 401, "");
    assert!(gateway.origin().requests("/bearers/elsewhere").is_empty());
}
