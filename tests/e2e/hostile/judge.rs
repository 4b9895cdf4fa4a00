//! What may have come to the origin, and what must not. It looks at everything that came, not at what a test expects to find.

use harness::gateway::Gateway;
use harness::origin::{Origin, RECORDER, Recorded};
use harness::verifier::{Expected, verify};
use std::collections::BTreeMap;

/// What attacks plant wherever they can: upstream may see it in a body alone.
pub(super) const PLANTED: &str = "evil";

/// Every header that a request may have upstream. What a requester may add is named by the attacks that add it ([`Granted::headers`]).
const ALLOWED: [&str; 5] = ["authorization", "content-length", "host", "x-amz-date", "x-request-id"];

/// What one capability lets through.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    /// Path and query, as they must come.
    pub target: String,
    /// How often, exactly; none: any number of times.
    pub times: Option<usize>,
    /// Headers that are let through by it beside [`ALLOWED`].
    pub headers: &'static [&'static str],
    /// What its requests are signed for.
    pub service: &'static str,
}

/// What is wrong with one request by itself, its signature aside. Empty: nothing.
pub(super) fn faults(request: &Recorded, granted: Option<&Granted>, key_id: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if request.method != "POST" {
        faults.push(format!("method {}", request.method));
    }
    match granted {
        None => faults.push(format!("target {}", request.target)),
        Some(granted) if granted.target != request.target => {
            faults.push(format!("target {}", request.target));
        }
        Some(_) => {}
    }
    if request.all("host") != [RECORDER] {
        faults.push(format!("host {:?}", request.all("host")));
    }
    let ours = format!("AWS4-HMAC-SHA256 Credential={key_id}/");
    if !request.one("authorization").is_ok_and(|value| value.starts_with(&ours)) {
        faults.push("authorization".to_owned());
    }
    let more = granted.map_or(&[][..], |granted| granted.headers);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        *seen.entry(name.clone()).or_default() += 1;
        if !ALLOWED.contains(&name.as_str()) && !more.contains(&name.as_str()) {
            faults.push(format!("header {name}"));
        }
        let (lower, planted) = (value.to_ascii_lowercase(), PLANTED.as_bytes());
        if lower.windows(planted.len()).any(|window| window == planted) || name.contains(PLANTED) {
            faults.push(format!("planted in {name}: {:?}", String::from_utf8_lossy(value)));
        }
    }
    faults.extend(seen.iter().filter(|(_, times)| **times > 1).map(|(name, _)| format!("doubled {name}")));
    if request.target.to_ascii_lowercase().contains(PLANTED) {
        faults.push("planted in the target".to_owned());
    }
    faults
}

/// Everything that is wrong at this origin, given what was granted.
pub(super) fn judge(gateway: &Gateway, origin: &Origin, granted: &[Granted]) -> Vec<String> {
    let key = &gateway.aws.key;
    let all = origin.requests("");
    let mut found = Vec::new();
    let mut by_service: BTreeMap<&str, Vec<Recorded>> = BTreeMap::new();
    for request in &all {
        let own = granted.iter().find(|granted| granted.target == request.target);
        let faults = faults(request, own, &key.id);
        if !faults.is_empty() {
            found.push(format!("{}: {}", request.target, faults.join("; ")));
        }
        if let Some(own) = own {
            by_service.entry(own.service).or_default().push(request.clone());
        }
    }
    for granted in granted {
        let came = all.iter().filter(|request| request.target == granted.target).count();
        if granted.times.is_some_and(|times| times != came) {
            found.push(format!("{}: came {came} times, not {:?}", granted.target, granted.times));
        }
    }
    for (service, requests) in by_service {
        let (access_key_id, secret_access_key) = (key.id.as_str(), key.secret.as_str());
        let region = harness::aws::REGION;
        let expected = Expected { access_key_id, secret_access_key, region, service };
        if let Err(failure) = verify(&requests, &expected) {
            found.push(format!("{service}: {failure}"));
        }
    }
    found.extend(origin.broken().iter().map(|it| format!("broken: {}", String::from_utf8_lossy(&it.head))));
    found
}
