//! A requester's path and query against a grant's: what leaves begins as the grant has it, and no name of the grant's or of a signature's is
//! said twice.
//!
//! Input: a byte (how the grant signs, what it lets through), the path and query of the grant up to a line end, those of the requester.

#![no_main]

#[path = "../opening.rs"]
mod opening;

use capability::{Export, Exported, Uid, UnitPair, Units};
use libfuzzer_sys::fuzz_target;
use membrane_filter::config::OnMissing;
use membrane_filter::incoming::{Arrival, Incoming};
use membrane_filter::{outgoing, pairs, payload};
use serde_json::json;
use signing::aws4::Payload;

/// Decoded names of a query, by another reading than the filter's own.
fn names(query: &[u8]) -> Vec<Vec<u8>> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    query
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            let (mut decoded, mut at) = (Vec::new(), 0);
            while let Some(byte) = name.get(at) {
                match (byte, name.get(at + 1).copied().and_then(hex), name.get(at + 2).copied().and_then(hex))
                {
                    (b'%', Some(high), Some(low)) => {
                        decoded.push((high * 16 + low) as u8);
                        at += 2;
                    }
                    (b'+', ..) => decoded.push(b' '),
                    _ => decoded.push(*byte),
                }
                at += 1;
            }
            decoded
        })
        .collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let (Ok(own), asked) = (std::str::from_utf8(&rest[..end]), &rest[end + 1..]) else { return };
    let mut export = json!({"uri": format!("https://a.example/{own}"), "method": "GET"});
    let service = ["s3", "lambda", "execute-api", ""][usize::from(mode & 3)];
    if !service.is_empty() {
        export["hmac"] = json!({"aws4-hmac-sha256":
            {"awsAccessKeyId": "AKID", "secretAccessKey": "secret", "region": "us-east-1", "service": service}});
    } else if mode & 4 != 0 {
        export["hmac"] = json!({"cap1-hmac-sha512": {"key": "a2V5", "keyId": "id"}});
    }
    let lets = match mode >> 3 & 3 {
        0 => "nothing",
        1 => {
            export["allowQueryNames"] = json!(["a", "versionId"]);
            "names"
        }
        _ => {
            export["allowQuery"] = true.into();
            "all"
        }
    };
    let Ok(Export { what: Exported::Grant(grant), .. }) = Export::parse(export.to_string().as_bytes()) else {
        return;
    };
    let (own_path, own_query) = (grant.target.path.clone(), grant.target.query.clone().unwrap_or_default());
    let units = Units::own(UnitPair { tenant: Uid([1; 16]), membrane: None });
    let opened = opening::opened(grant, &units, None).expect("what is exported can be signed");
    let path = [b"/", asked].concat();
    let headers: [(&[u8], &[u8]); 4] = [
        (b":method", b"GET"),
        (b":path", &path),
        (b":authority", b"gateway"),
        (b"authorization", b"Bearer CPBLTY1-x"),
    ];
    let bytes = pairs::encode(headers.into_iter()).expect("they fit").to_vec();
    let pairs = pairs::Pairs::parse(bytes).expect("what was written is read");
    let Arrival::Capability(incoming) = Incoming::arrive(pairs, true, OnMissing::Deny) else {
        panic!("a bearer makes it a capability's");
    };
    if outgoing::check(&incoming, &opened).is_err() {
        return;
    }
    let Ok(plan) = payload::plan(&incoming, &opened, 1_000) else { return };
    let Ok((out, _)) = outgoing::build(&incoming, &opened, &plan, Payload::Empty, None, 1_767_225_600, 1_000)
    else {
        return;
    };
    assert!(asked.is_empty() || asked[0] == b'?', "a path of the requester's own");
    let value = |name: &[u8]| out.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_vec());
    assert_eq!(value(b":authority").as_deref(), Some(&b"a.example"[..]));
    let sent = value(b":path").expect("a path");
    assert!(sent.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#'), "{sent:?}");
    let at = sent.iter().position(|byte| *byte == b'?').unwrap_or(sent.len());
    // What is signed is encoded as its scheme wants it.
    if service.is_empty() && mode & 4 == 0 {
        assert_eq!(&sent[..at], own_path.as_bytes());
    }
    let (owned, all) = (names(own_query.as_bytes()), names(sent.get(at + 1..).unwrap_or_default()));
    let count = |list: &[Vec<u8>], name: &[u8]| list.iter().filter(|other| *other == name).count();
    for name in &all {
        let is_own = count(&owned, name) > 0;
        assert!(is_own || lets != "nothing");
        assert!(is_own || lets != "names" || matches!(&name[..], b"a" | b"versionId"));
        assert!(
            is_own || !name.to_ascii_lowercase().starts_with(b"x-amz-"),
            "{}",
            String::from_utf8_lossy(&sent)
        );
        assert!(!is_own || count(&owned, name) == count(&all, name), "{}", String::from_utf8_lossy(&sent));
    }
});
