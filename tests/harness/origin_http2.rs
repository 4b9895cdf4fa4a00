//! The recorder over HTTP/2 with prior knowledge (RFC 9113 §3.3), as Envoy speaks it to a cluster with `http2_protocol_options`. Fields
//! are kept as they were decoded; `:authority` stands among them as `host`, beside a `host` of its own if one came as well.

use crate::failure::{Failure, Outcome, While};
use crate::origin::{ANSWER, RECORDER, Recorded};
use bytes::Bytes;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether the connection begins as HTTP/2 does. Reads nothing away; waits until that can be told.
pub(crate) fn is_spoken_on(stream: &TcpStream) -> Outcome<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        let length = match stream.peek(&mut start) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 || start[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == PREFACE.len() {
            return Ok(true);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Answers requests on one connection until the peer closes it.
pub(crate) fn serve(stream: TcpStream, kept: &Arc<Mutex<Vec<Recorded>>>) -> Outcome<()> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let mut connection = h2::server::handshake(stream).await.while_(|| "an HTTP/2 handshake".into())?;
        while let Some(request) = connection.accept().await {
            let (request, respond) = request.while_(|| "reading an HTTP/2 request".into())?;
            let kept = Arc::clone(kept);
            // In a task, because bodies come only while the connection is asked for the next request. One that Envoy gives up ends
            // with an error that concerns nobody.
            drop(tokio::spawn(async move { answer(request, respond, &kept).await }));
        }
        Ok(())
    })
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    kept: &Mutex<Vec<Recorded>>,
) -> Outcome<()> {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data.while_(|| "reading an HTTP/2 body".into())?;
        incoming.flow_control().release_capacity(data.len()).while_(|| "flow control".into())?;
        body.extend_from_slice(&data);
    }
    let authority = parts.uri.authority().map(|it| ("host".to_owned(), it.as_str().as_bytes().to_vec()));
    let fields =
        parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let headers: Vec<_> = authority.into_iter().chain(fields).collect();
    let for_recorder = headers.iter().any(|(name, value)| name == "host" && value == RECORDER.as_bytes());
    let method = parts.method.as_str().to_owned();
    let target = parts.uri.path_and_query().map(|it| it.as_str().to_owned()).unwrap_or_default();
    let head = method == "HEAD";
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(Recorded {
        head: Vec::new(),
        method,
        target,
        headers,
        body,
    });
    if !for_recorder {
        respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
        return Err(Failure::new("moto speaks HTTP/1.1 only"));
    }
    let response = http::Response::builder()
        .header("content-type", "text/plain")
        .header("content-length", ANSWER.len())
        .body(())
        .while_(|| "making an answer".into())?;
    let mut stream = respond.send_response(response, head).while_(|| "answering".into())?;
    if !head {
        stream.send_data(Bytes::from_static(ANSWER.as_bytes()), true).while_(|| "answering".into())?;
    }
    Ok(())
}
