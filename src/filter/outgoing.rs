//! The request that leaves: built from scratch out of the grant, with those of the requester's headers that are let through.

use crate::allow_list::copy_headers;
use crate::incoming::{BODY_HEADER, Incoming, ROUTE_HEADER};
use crate::opened::{Opened, Route};
use crate::passing::Passing;
use crate::payload::Plan;
use crate::query;
use crate::reply::Reply;
use crate::wiped::Wiped;
use core::cell::RefCell;
use core::ops::Range;
use signing::aws4::{self, Payload};
use signing::{Timestamp, cap1};
use std::borrow::Cow;
use zeroize::Zeroizing;

/// A header's value.
enum Value<'a> {
    /// Somebody else's: the requester's, or the grant's.
    Given(&'a [u8]),
    /// A part of [`Outgoing::made`].
    Made(Range<usize>),
}

/// Headers to set, in order, pseudo-headers first. What is made for them is wiped when dropped.
pub struct Outgoing<'a> {
    headers: Vec<(&'a [u8], Value<'a>)>,
    made: Wiped,
    /// How many of the requester's headers were left out, for a metric.
    pub dropped: u32,
}

/// What is made for most requests fits, so that it is allocated once: path, authority, signature.
const USUALLY_MADE: usize = 1_024;

impl<'a> Outgoing<'a> {
    pub(crate) fn empty() -> Outgoing<'a> {
        Outgoing { headers: Vec::with_capacity(32), made: Wiped::with_capacity(USUALLY_MADE), dropped: 0 }
    }

    /// Sets a header to a value that outlives this.
    pub(crate) fn set(&mut self, name: &'a [u8], value: &'a [u8]) {
        self.headers.push((name, Value::Given(value)));
    }

    /// Sets a header to a copy of `value`.
    fn make(&mut self, name: &'a [u8], value: &[u8]) {
        let start = self.made.len();
        self.made.extend(value);
        self.headers.push((name, Value::Made(start..self.made.len())));
    }

    fn value<'b>(&'b self, value: &'b Value<'a>) -> &'b [u8] {
        match value {
            Value::Given(value) => value,
            Value::Made(range) => self.made.get(range.clone()).unwrap_or_default(),
        }
    }

    /// Names and values to set.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.headers.iter().map(|(name, value)| (*name, self.value(value)))
    }
}

/// What is asked of a grant that its form alone can refuse: path, method, query. Done before a body is awaited.
pub fn check(incoming: &Incoming, opened: &Opened) -> Result<(), Reply> {
    let (path, _) = incoming.path_and_query();
    if path != b"/" {
        return Err(Reply::not_found());
    }
    // The answer's framing would break: a HEAD answered like a GET puts a body where none is read, and a GET answered like a HEAD
    // waits for one that never comes.
    match (opened.grant.method, incoming.method()) {
        (Some("HEAD"), b"HEAD") => Ok(()),
        (Some("HEAD"), _) => {
            Err(Reply::method_not_allowed("this capability answers HEAD alone", Some("HEAD")))
        }
        (None, b"HEAD") if opened.pinned_body().is_some() => {
            Err(Reply::method_not_allowed("this capability sends a body, which HEAD has not", None))
        }
        (Some(_), b"HEAD") => Err(Reply::method_not_allowed(
            "this capability's method is another: HEAD cannot stand for it",
            None,
        )),
        _ => Ok(()),
    }
}

/// Builds and signs the request that leaves, and says how its body follows. `payload` is what is signed of the body; `length` the
/// body's length where it was held or will be framed by us, else what the requester declared passes.
pub fn build<'a>(
    incoming: &'a Incoming,
    opened: &'a Opened,
    plan: &Plan,
    payload: Payload,
    length: Option<u64>,
    now: u64,
    max_timeout_ms: u32,
) -> Result<(Outgoing<'a>, Passing), Reply> {
    check(incoming, opened)?;
    let grant = &opened.grant;
    let mut out = Outgoing::empty();
    let method: &'a [u8] = grant.method.map_or(incoming.method(), str::as_bytes);
    out.set(b":method", method);
    out.set(b":scheme", grant.target.scheme.as_str().as_bytes());

    let requested = query::requesters(incoming, opened)?;
    let body = Body { plan, length };
    let mut passing = Passing::AsItIs;
    match &opened.route {
        Route::Aws4 { target, signer, .. } => {
            let target = match requested {
                None => Cow::Borrowed(target.as_ref()),
                Some(query) => Cow::Owned(target.with_query(&query::decoded(opened, query)?)),
            };
            out.rebuild(incoming, opened, &body, target.authority(), target.path_and_query().as_bytes())?;
            sign_aws4(opened, incoming.bearer(), signer, &target, method, payload, now, &mut out)?;
            passing = pass(plan, signer)?;
        }
        Route::Cap1 { target, signer } => {
            let target = match requested {
                None => Cow::Borrowed(target.as_ref()),
                Some(query) => Cow::Owned(
                    target
                        .with_query(query::verbatim(opened, query)?)
                        .map_err(|error| cannot_sign(&error))?,
                ),
            };
            out.rebuild(incoming, opened, &body, target.authority(), target.path_and_query().as_bytes())?;
            sign_cap1(signer, &target, method, now, &mut out)?;
        }
        Route::Plain => {
            let path = plain_path(opened, requested)?;
            out.rebuild(incoming, opened, &body, grant.target.authority.as_str(), &path)?;
        }
    }
    if let Some(body) = grant.body.as_ref().filter(|_| matches!(plan, Plan::Pinned)) {
        out.make(BODY_HEADER, hex::encode(body.expose()).as_bytes());
    }
    if let Some(timeout) = grant.timeout_ms.filter(|timeout| *timeout <= max_timeout_ms) {
        out.make(b"x-envoy-upstream-rq-timeout-ms", timeout.to_string().as_bytes());
    }
    set_routing(&mut out, grant.target.scheme.as_str());
    Ok((out, passing))
}

/// How the body follows a request that `signer` just signed.
fn pass(plan: &Plan, signer: &RefCell<aws4::Signer>) -> Result<Passing, Reply> {
    let chunks = || {
        let signer = signer.try_borrow().map_err(|_| Reply::misconfigured(BUSY))?;
        signer.chunk_signer().ok_or_else(|| Reply::misconfigured("nothing was signed"))
    };
    Ok(match plan {
        Plan::Stream(_) | Plan::Hash | Plan::Pinned => Passing::AsItIs,
        Plan::Check(reader) => Passing::Checked(reader.clone()),
        Plan::Resign(reader) => Passing::resigned((**reader).clone(), chunks()?),
        Plan::Frame(length) => Passing::framed(chunks()?, *length),
    })
}

/// What Envoy's route table looks at. It chooses no route for a request without `x-forwarded-proto`, which the connection
/// manager had set and which is not among what is let through (Envoy, `source/common/router/config_impl.cc`,
/// `VirtualHostImpl::getRouteFromEntries`); with `http` a virtual host that asks for TLS would redirect. Routes remove both.
fn set_routing(out: &mut Outgoing<'_>, route: &'static str) {
    out.set(b"x-forwarded-proto", b"https");
    out.set(ROUTE_HEADER, route.as_bytes());
}

/// The control request that is forwarded: path and headers rebuilt, the bearer kept. The registry decides everything else.
pub fn build_control<'a>(incoming: &'a Incoming, authority: &str) -> Result<Outgoing<'a>, Reply> {
    let (path, query) = incoming.path_and_query();
    if path != b"/" {
        return Err(Reply::not_found());
    }
    let mut out = Outgoing::empty();
    out.set(b":method", incoming.method());
    out.set(b":scheme", b"https");
    out.make(b":authority", authority.as_bytes());
    let known: Vec<&[u8]> = query
        .unwrap_or_default()
        .split(|byte| *byte == b'&')
        .filter(|pair| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            matches!(name, b"id" | b"lastId" | b"limit" | b"wait")
        })
        .collect();
    if !known.iter().copied().flatten().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Reply::bad_request("the query must be percent-encoded"));
    }
    let mut path = b"/".to_vec();
    if !known.is_empty() {
        path.push(b'?');
        path.extend(known.join(&b'&'));
    }
    out.make(b":path", &path);
    let mut bearer = Zeroizing::new(b"Bearer ".to_vec());
    bearer.extend_from_slice(incoming.bearer());
    out.make(b"authorization", &bearer);
    for (name, value) in incoming.headers() {
        let passes = matches!(
            name,
            b"accept"
                | b"content-type"
                | b"content-length"
                | b"user-agent"
                | b"x-request-id"
                | b"traceparent"
                | b"tracestate"
        );
        if passes {
            out.set(name, value);
        }
    }
    set_routing(&mut out, "control");
    Ok(out)
}

/// Path and query where nothing is signed: the grant's own byte for byte, then the requester's as it came.
fn plain_path(opened: &Opened, requested: Option<&[u8]>) -> Result<Vec<u8>, Reply> {
    let target = &opened.grant.target;
    let mut path = target.path.clone().into_bytes();
    let mut separator = b'?';
    if let Some(own) = &target.query {
        path.push(separator);
        path.extend(own.as_bytes());
        separator = b'&';
    }
    if let Some(query) = requested {
        path.push(separator);
        path.extend(query::verbatim(opened, query)?);
    }
    Ok(path)
}

const AWS_CHUNKED: &[u8] = b"aws-chunked";

/// What is known of the body when the headers leave.
struct Body<'b> {
    plan: &'b Plan,
    length: Option<u64>,
}

impl<'a> Outgoing<'a> {
    /// Everything between the method and the signature.
    fn rebuild(
        &mut self,
        incoming: &'a Incoming,
        opened: &'a Opened,
        body: &Body<'_>,
        authority: &str,
        path: &[u8],
    ) -> Result<(), Reply> {
        self.make(b":authority", authority.as_bytes());
        self.make(b":path", path);
        copy_headers(incoming, opened, body.plan, self)?;
        self.describe_framing(body.plan);
        // The stage that adds a pinned body sets its length, too: without that stage none is claimed.
        if !matches!(body.plan, Plan::Pinned)
            && let Some(length) = self.body_length(incoming, body)
        {
            self.make(b"content-length", length.to_string().as_bytes());
        }
        Ok(())
    }

    /// What S3 must know of a body that is framed by us (Amazon S3 API Reference, "Signature Calculations for the Authorization
    /// Header: Transferring Payload in Multiple Chunks").
    fn describe_framing(&mut self, plan: &Plan) {
        let decoded = match plan {
            Plan::Resign(reader) => reader.declared(),
            Plan::Frame(length) => *length,
            _ => return,
        };
        self.make(b"x-amz-decoded-content-length", decoded.to_string().as_bytes());
        if let Plan::Resign(reader) = plan {
            let mut names = String::new();
            reader.announced().write(&mut names);
            if !names.is_empty() {
                self.make(b"x-amz-trailer", names.as_bytes());
            }
        }
        // Codings stand in the order in which they were applied (RFC 9110 §8.4), and S3 wants its own first.
        let place = self.headers.iter().position(|(name, _)| *name == b"content-encoding");
        let given = place.and_then(|place| Some((place, self.value(&self.headers.get(place)?.1).to_vec())));
        match given {
            Some((_, value)) if value.starts_with(AWS_CHUNKED) => {}
            Some((place, value)) => {
                self.make(b"content-encoding", &[AWS_CHUNKED, b",", &value].concat());
                self.headers.swap_remove(place);
            }
            None => self.set(b"content-encoding", AWS_CHUNKED),
        }
    }

    /// The body's length as it will be: that of the held body, or what was declared; a `0` where a method's body is expected
    /// (RFC 9110 §8.6). Chunked framing is Envoy's own to write.
    fn body_length(&self, incoming: &Incoming, body: &Body<'_>) -> Option<u64> {
        if body.length.is_some() || !incoming.ended {
            return body.length.or(incoming.content_length);
        }
        let method = self.iter().next().map(|(_, method)| method);
        matches!(method, Some(b"POST" | b"PUT" | b"PATCH")).then_some(0)
    }

    fn extend<'b>(&mut self, headers: impl Iterator<Item = (&'static str, &'b str)>) {
        for (name, value) in headers {
            self.make(name.as_bytes(), value.as_bytes());
        }
    }

    /// Names and values without the pseudo-headers.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter().filter(|(name, _)| !name.starts_with(b":"))
    }
}

fn cannot_sign(error: &signing::Error) -> Reply {
    Reply::bad_request(format!("this request cannot be signed: {error}"))
}

fn text(method: &[u8]) -> Result<&str, Reply> {
    core::str::from_utf8(method).map_err(|_| Reply::bad_request("the method must be an HTTP token"))
}

const BUSY: &str = "a signature is being made";

#[expect(clippy::too_many_arguments, reason = "each is a part of what is signed")]
fn sign_aws4(
    opened: &Opened,
    bearer: &[u8],
    signer: &RefCell<aws4::Signer>,
    target: &aws4::Target,
    method: &[u8],
    payload: Payload,
    now: u64,
    out: &mut Outgoing<'_>,
) -> Result<(), Reply> {
    let mut signer = signer.try_borrow_mut().map_err(|_| Reply::misconfigured(BUSY))?;
    let now = Timestamp::from_unix(now);
    if !signer.is_ready(&now) {
        opened
            .renew(&mut signer, bearer, &now)
            .map_err(|_| Reply::misconfigured("the day's signing key cannot be derived"))?;
    }
    let pinned = |name: &[u8]| opened.grant.headers.iter().any(|header| header.name.as_bytes() == name);
    let to_sign = out.fields().filter(|(name, _)| aws4::is_signed_by_default(name) || pinned(name));
    let mut buffer = String::new();
    let signed = signer
        .sign(&now, text(method)?, target, to_sign, payload, &mut buffer)
        .map_err(|error| cannot_sign(&error))?;
    out.extend(signed.headers());
    Ok(())
}

/// Every header is signed, but for those that proxies rewrite and the length, which framing may change.
fn sign_cap1(
    signer: &RefCell<cap1::Signer>,
    target: &cap1::Target,
    method: &[u8],
    now: u64,
    out: &mut Outgoing<'_>,
) -> Result<(), Reply> {
    let mut signer = signer.try_borrow_mut().map_err(|_| Reply::misconfigured(BUSY))?;
    let to_sign = out.fields().filter(|(name, _)| *name != b"content-length");
    let mut buffer = String::new();
    let signed = signer
        .sign(&Timestamp::from_unix(now), text(method)?, target, to_sign, &mut buffer)
        .map_err(|error| cannot_sign(&error))?;
    out.extend(signed.headers());
    Ok(())
}
