//! One watcher: it asks the feed from where it stands, as a gateway's worker with the default `staleness` does, and notes when it
//! heard of each revocation.

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// In seconds: the default `staleness`.
const LEASE: u64 = 60;
/// In milliseconds: a third of it.
const HOLD: u64 = 20_000;
/// An answer with a handful of events is some hundred bytes.
const MAX_ANSWER: usize = 65_536;

/// What watchers tell while they follow.
#[derive(Default)]
pub(super) struct Told {
    /// How many have had their first answer.
    pub(super) begun: AtomicUsize,
    /// How many have heard of each revocation, by its sequence number.
    pub(super) heard: Vec<AtomicUsize>,
}

/// A watcher ended otherwise than by being stopped, and why.
pub(super) type Broken = String;

/// Follows until the connection ends or the last revocation was heard of; when it heard of each.
pub(super) async fn follow(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    name: String,
    told: Arc<Told>,
) -> Result<Vec<Instant>, Broken> {
    let mut buffer = Vec::with_capacity(1_024);
    let mut at = ask(&mut stream, &mut buffer, &format!("?watcher={name}&lease={LEASE}")).await?.1;
    told.begun.fetch_add(1, Ordering::AcqRel);
    let epoch = at["position"]["epoch"].as_str().ok_or("no epoch")?.to_owned();
    let mut heard = Vec::with_capacity(told.heard.len());
    loop {
        let after = at["position"]["seq"].as_u64().ok_or("no position")?;
        // The last answer is acknowledged, as by whoever goes on.
        let query = format!("?epoch={epoch}&after={after}&hold={HOLD}&watcher={name}&lease={LEASE}");
        let (moment, answer) = ask(&mut stream, &mut buffer, &query).await?;
        let events = answer["events"].as_array().ok_or("no events")?;
        for (event, expected) in events.iter().zip(after + 1..) {
            if event["seq"] != expected {
                return Err(format!("after {after} came {answer}"));
            }
            heard.push(moment);
            let place = usize::try_from(expected).ok().and_then(|seq| told.heard.get(seq - 1));
            place.ok_or_else(|| format!("nobody revoked number {expected}"))?.fetch_add(1, Ordering::AcqRel);
        }
        if answer["position"]["epoch"] != *epoch || answer["position"]["seq"] != after + events.len() as u64 {
            return Err(format!("after {after} came {answer}"));
        }
        if heard.len() == told.heard.len() {
            return Ok(heard);
        }
        at = answer;
    }
}

/// One question on a connection that stays open; when its whole answer was there, and what it was.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut Vec<u8>,
    query: &str,
) -> Result<(Instant, Value), Broken> {
    let failed = |error: std::io::Error| error.to_string();
    let request = format!("GET /v1/events{query} HTTP/1.1\r\nhost: membrane.registry\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await.map_err(failed)? == 0 {
            return Err("the connection ended".into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(begin)) = head.parse(buffer) else {
            if buffer.len() > MAX_ANSWER {
                return Err("the answer is too long".into());
            }
            continue;
        };
        let status = head.code.unwrap_or_default();
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length: usize = length
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
            .filter(|length| *length <= MAX_ANSWER)
            .ok_or("no good content-length")?;
        let Some(body) = buffer.get(begin..begin + length) else { continue };
        let moment = Instant::now();
        if status != 200 {
            return Err(format!("{status}: {}", String::from_utf8_lossy(body)));
        }
        return Ok((moment, serde_json::from_slice(body).map_err(|error| error.to_string())?));
    }
}
