//! Why AWS did not accept a signature: its own canonical request, which it gives with the refusal, beside the one that was signed here.
//!
//! Only in the module for diagnosing (feature `diagnose`): what was signed must be kept until the answer, and to look at answers at all
//! costs every request. What is said names the first line that differs; a value is said only of what is no secret and none of the
//! grant's own, since a canonical request holds session tokens and pinned headers.

use crate::opened::{Opened, Route};
use crate::outgoing::Outgoing;
use crate::worker::ContextId;
use hashbrown::HashMap;
use signing::Scheme;
use signing::aws4::{Payload, Target, stages};
use std::hash::RandomState;
use zeroize::Zeroizing;

/// Most of an answer that is read, in bytes: AWS's errors are some 2 KiB, more where the request had many headers.
pub const MAX_ANSWER: usize = 65_536;
/// Most requests that are kept at a time; what comes on top is not diagnosed.
const MAX_KEPT: usize = 256;
/// Most of a value that is said, in characters.
const MAX_SAID: usize = 120;
/// Of a path, how many characters are said from where it differs.
const MAX_PATH_SAID: usize = 8;

/// What was signed.
pub struct Signed {
    canonical: Zeroizing<Vec<u8>>,
    date: String,
    /// `<date>/<region>/<service>/aws4_request`.
    scope: String,
}

impl Signed {
    /// What was signed of a request that leaves. `None`: it is not signed for AWS.
    pub fn of(outgoing: &Outgoing<'_>, opened: &Opened, payload: Payload) -> Option<Signed> {
        let Route::Aws4 { signer, .. } = &opened.route else { return None };
        let one = |name: &[u8]| {
            let (_, value) = outgoing.iter().find(|(other, _)| *other == name)?;
            core::str::from_utf8(value).ok()
        };
        let (_, authorization) = one(b"authorization")?.split_once("Credential=")?;
        let (credential, rest) = authorization.split_once(", SignedHeaders=")?;
        let (names, _) = rest.split_once(", Signature=")?;
        let (_, scope) = credential.split_once('/')?;
        let signer = signer.try_borrow().ok()?;
        let (path, query) = one(b":path")?.split_once('?').unwrap_or((one(b":path")?, ""));
        let authority = one(b":authority")?;
        // Path and query as they are sent are a spelling of their own canonical form.
        let scheme = if one(b":scheme")? == "http" { Scheme::Http } else { Scheme::Https };
        let target =
            Target::new(signer.service(), scheme, authority, path.as_bytes(), query.as_bytes()).ok()?;
        let payload = if signer.service().is_always_unsigned() { Payload::Unsigned } else { payload };
        let host = (b"host".as_slice(), target.authority().as_bytes());
        let headers = names
            .split(';')
            .filter(|name| *name != "host")
            .flat_map(|name| outgoing.iter().filter(move |(other, _)| *other == name.as_bytes()));
        let headers = core::iter::once(host).chain(headers);
        let canonical = stages::canonical_request(one(b":method")?, &target, headers, payload).ok()?;
        let date = one(b"x-amz-date")?.to_owned();
        Some(Signed { canonical: Zeroizing::new(canonical), date, scope: scope.to_owned() })
    }
}

/// Requests whose answers are awaited.
#[derive(Default)]
pub(crate) struct Diagnosis {
    kept: HashMap<ContextId, Kept, RandomState>,
}

struct Kept {
    signed: Signed,
    /// The answer as far as it came, once it was seen to be a refusal.
    answer: Option<Vec<u8>>,
}

impl Diagnosis {
    /// Keeps what was signed until the answer comes.
    pub(crate) fn keep(&mut self, context: ContextId, signed: Option<Signed>) {
        if let Some(signed) = signed.filter(|_| self.kept.len() < MAX_KEPT) {
            self.kept.insert(context, Kept { signed, answer: None });
        }
    }

    /// The request is over.
    pub(crate) fn forget(&mut self, context: ContextId) {
        self.kept.remove(&context);
    }

    /// An answer began. AWS refuses signatures with 403, some services with 400.
    pub(crate) fn on_headers(&mut self, context: ContextId, status: Option<u16>) {
        if !matches!(status, Some(400 | 403)) {
            self.forget(context);
        } else if let Some(kept) = self.kept.get_mut(&context) {
            kept.answer = Some(Vec::new());
        }
    }

    /// How much more of this answer is wanted, in bytes.
    pub(crate) fn wants(&self, context: ContextId) -> usize {
        let answer = self.kept.get(&context).and_then(|kept| kept.answer.as_ref());
        answer.map_or(0, |answer| MAX_ANSWER.saturating_sub(answer.len()))
    }

    /// More of an answer came; `ended`: and that is all. What is to be told of it.
    pub(crate) fn on_body(&mut self, context: ContextId, more: &[u8], ended: bool) -> Option<String> {
        if let Some(answer) = self.kept.get_mut(&context).and_then(|kept| kept.answer.as_mut()) {
            answer.extend_from_slice(more);
        }
        if !ended {
            return None;
        }
        let kept = self.kept.remove(&context)?;
        explain(&kept.answer?, &kept.signed)
    }
}

/// What AWS says that it would have signed.
struct Theirs {
    canonical: String,
    to_sign: Option<String>,
}

/// Says why AWS refused a signature, if `answer` is such a refusal.
pub fn explain(answer: &[u8], signed: &Signed) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let refused =
        ["SignatureDoesNotMatch", "InvalidSignatureException", "The request signature we calculated"];
    if !refused.iter().any(|sign| text.contains(sign)) {
        return None;
    }
    let why = match theirs(&text) {
        None => "and did not say what it would have signed".to_owned(),
        Some(theirs) => compare(&theirs, signed),
    };
    Some(format!("AWS refused the signature of a request for {}: {why}", signed.scope))
}

fn theirs(text: &str) -> Option<Theirs> {
    // S3's own error, then an error of the JSON and REST protocols, then one of the query protocol.
    if let Some(canonical) = element(text, "CanonicalRequest") {
        return Some(Theirs { canonical, to_sign: element(text, "StringToSign") });
    }
    let json = serde_json::from_str::<serde_json::Value>(text).ok();
    let message = match &json {
        Some(json) => json.get("message").or_else(|| json.get("Message"))?.as_str()?.to_owned(),
        None => element(text, "Message")?,
    };
    let (_, rest) = message.split_once("The Canonical String for this request should have been\n'")?;
    let (canonical, rest) = rest.split_once("'\n\nThe String-to-Sign should have been\n'")?;
    let to_sign = rest.rsplit_once('\'').map(|(to_sign, _)| to_sign.to_owned());
    Some(Theirs { canonical: canonical.to_owned(), to_sign })
}

/// The text of the first element of that name, its entities resolved.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let mut resolved = text.to_owned();
    // The ampersand's own last, or `&amp;lt;` would become `<`.
    for (entity, character) in [
        ("&#xD;", "\r"),
        ("&#13;", "\r"),
        ("&#xA;", "\n"),
        ("&#10;", "\n"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ] {
        resolved = resolved.replace(entity, character);
    }
    Some(resolved)
}

/// What a line of a canonical request is (AWS General Reference, "Create a signed AWS API request", step 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Method,
    Path,
    Query,
    Header(&'a str),
    EndOfHeaders,
    Names,
    Payload,
}

/// The lines of a canonical request, and what each is.
fn lines(canonical: &str) -> impl Iterator<Item = (Line<'_>, &str)> {
    let end = canonical.split('\n').skip(3).position(str::is_empty).map_or(usize::MAX, |at| at + 3);
    canonical.split('\n').enumerate().map(move |(place, text)| {
        let line = match place {
            0 => Line::Method,
            1 => Line::Path,
            2 => Line::Query,
            _ if place < end => Line::Header(text.split(':').next().unwrap_or_default()),
            _ if place == end => Line::EndOfHeaders,
            _ if place == end + 1 => Line::Names,
            _ => Line::Payload,
        };
        (line, text)
    })
}

fn compare(theirs: &Theirs, signed: &Signed) -> String {
    let ours = String::from_utf8_lossy(&signed.canonical);
    let mut of_ours = lines(&ours);
    let mut of_theirs = lines(&theirs.canonical);
    for number in 1.. {
        match (of_ours.next(), of_theirs.next()) {
            (None, None) => break,
            (Some((_, ours)), Some((_, theirs))) if ours == theirs => {}
            (ours, theirs) => {
                return format!(
                    "line {number} of its canonical request differs: {}",
                    difference(ours, theirs)
                );
            }
        }
    }
    // The same was signed, so that what it was signed with differs.
    let to_sign: Vec<&str> = theirs.to_sign.as_deref().unwrap_or_default().split('\n').collect();
    match to_sign.get(1..3) {
        Some([date, _]) if *date != signed.date => {
            format!("the canonical requests are the same, but its date is {}, ours {}", said(date), said(&signed.date))
        }
        Some([_, scope]) if *scope != signed.scope => {
            format!("the canonical requests are the same, but its scope is {}: correct the grant's region or service", said(scope))
        }
        _ => "the canonical requests are the same, so the grant's secret access key is not that of its access key id".to_owned(),
    }
}

fn difference(ours: Option<(Line<'_>, &str)>, theirs: Option<(Line<'_>, &str)>) -> String {
    let Some((line, ours)) = ours else { return "AWS has more lines than were signed".to_owned() };
    let Some((their_line, theirs)) = theirs else { return "AWS has fewer lines than were signed".to_owned() };
    match (line, their_line) {
        (Line::Header(our_name), Line::Header(name)) if our_name == name => match name {
            // Where it went, when, and by which rules: none of it is the grant's secret.
            "host" | "x-amz-date" | "x-amz-content-sha256" | "content-type" => {
                both("the header", ours, theirs)
            }
            _ => format!("the value of the header {} was changed on its way to AWS", said(name)),
        },
        (Line::Header(our_name), Line::Header(name)) => {
            format!("AWS has the header {} where {} was signed", said(name), said(our_name))
        }
        (Line::Header(name), _) => format!("the header {} did not reach AWS", said(name)),
        (_, Line::Header(name)) => format!("AWS has the header {}, which was not signed", said(name)),
        (Line::Method, _) => both("the method", ours, theirs),
        (Line::Names, _) => both("the list of signed headers", ours, theirs),
        (Line::Payload, _) => both("the hash of the body", ours, theirs),
        (Line::Path, _) => {
            let at = ours.bytes().zip(theirs.bytes()).take_while(|(ours, theirs)| ours == theirs).count();
            let from = |text: &str| {
                let rest = text.get(at..).unwrap_or_default();
                said(&rest.chars().take(MAX_PATH_SAID).collect::<String>())
            };
            format!("the path, from its byte {at} on: AWS has {}, signed was {}", from(theirs), from(ours))
        }
        (Line::Query, _) => {
            let changed = ours.split('&').zip(theirs.split('&')).find(|(ours, theirs)| ours != theirs);
            let name = changed.map_or("", |(ours, _)| ours.split('=').next().unwrap_or_default());
            format!("the query, from the parameter {} on", said(name))
        }
        (Line::EndOfHeaders, _) => "AWS has other headers".to_owned(),
    }
}

fn both(what: &str, ours: &str, theirs: &str) -> String {
    format!("{what}: AWS has {}, signed was {}", said(theirs), said(ours))
}

/// A value for the log: bounded, and nothing in it that could end a line.
fn said(value: &str) -> String {
    let mut said: String = value.chars().take(MAX_SAID).collect();
    if said.len() < value.len() {
        said.push('…');
    }
    format!("{said:?}")
}

#[cfg(test)]
mod tests;
