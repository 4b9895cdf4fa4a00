//! An S3 that verifies what it is sent, and keeps objects as files: the program `s3s-fs` of the crate of that name.
//!
//! It recomputes the signature of a request, of every chunk and of trailers, and the body's hash where that is signed; a wrong one stores
//! nothing. What stands in a bucket's folder is what was stored, so tests compare files.

use crate::failure::{Outcome, While};
use crate::http::Client;
use crate::ports::Port;
use crate::process::Process;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The host that it answers for. Under amazonaws.com, so that envoy/local.yaml routes it as it is.
pub const HOST: &str = "s3.us-east-1.amazonaws.com";
pub const BUCKET: &str = "membrane";

pub struct S3 {
    process: Process,
    root: PathBuf,
    pub port: Port,
}

impl S3 {
    /// Keeps objects in `dir`, made if it is not there, and takes requests signed with that key.
    pub fn start(dir: &Path, access_key_id: &str, secret_access_key: &str) -> Outcome<Self> {
        let port = Port::free()?;
        let root = dir.join("s3");
        std::fs::create_dir_all(root.join(BUCKET)).while_(|| format!("making {}", root.display()))?;
        let program =
            crate::built(crate::repository().join(".tools/bin/s3s-fs"), "tests/tools/install.sh s3")?;
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.number().to_string()]);
        command.args(["--access-key", access_key_id, "--secret-key", secret_access_key]).arg(&root);
        command.env("RUST_LOG", "s3s=warn");
        let mut process = Process::spawn("s3s-fs", command, &dir.join("s3.log"))?;
        let client = Client::plain(port.number());
        process.wait_until(Duration::from_secs(30), "answering", || {
            // Unsigned, so refused: the check of signatures is on.
            client.request("GET", "/membrane/x").send().is_ok_and(|answer| answer.status == 403)
        })?;
        Ok(Self { process, root, port })
    }

    /// What is stored under that key; none if nothing is.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.root.join(BUCKET).join(key)).ok()
    }

    /// Every file that it keeps, half-written ones included.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { all.push(path) }
            }
        }
        all
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Response;
    use signing::aws4::{
        Credential, Framing, Payload, Reader, Resigner, Service, Signer, Target, TrailerNames,
    };
    use signing::{Scheme, Secret, Timestamp};
    use std::time::SystemTime;

    const KEY: (&str, &str) = ("AKIAEXAMPLE", "a-secret");
    const DATA: &[u8] = b"hello world";
    const CRC32: &str = "x-amz-checksum-crc32";
    const CRC32_OF_DATA: &str = "DUoRhQ==";

    /// Signs a PUT of `DATA` as our library does it, lets `spoil` at the body, and sends it.
    fn put(s3: &S3, key: &str, payload: Payload, checksum: &str, spoil: impl Fn(&str) -> String) -> Response {
        let credential = Credential {
            access_key_id: KEY.0.into(),
            secret_access_key: Secret::new(KEY.1.into()),
            session_token: None,
        };
        let service = Service::new("s3").unwrap();
        let authority = format!("127.0.0.1:{}", s3.port.number());
        let path = format!("/{BUCKET}/{key}");
        let target = Target::new(&service, Scheme::Http, &authority, path.as_bytes(), b"").unwrap();
        let mut signer = Signer::new(credential, "us-east-1", service).unwrap();
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let now = Timestamp::from_unix(unix);
        let mut headers: Vec<(&str, &str)> = Vec::new();
        if Framing::of(payload).is_some() {
            headers.extend([("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "11")]);
        }
        let has_trailers = matches!(payload, Payload::StreamingTrailer | Payload::StreamingUnsignedTrailer);
        if has_trailers {
            headers.push(("x-amz-trailer", CRC32));
        }
        let mut out = String::new();
        let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let signed = signer.sign(&now, "PUT", &target, pairs, payload, &mut out).unwrap();
        let client = Client::plain(s3.port.number());
        let mut request = client.request("PUT", &path);
        for (name, value) in headers.into_iter().chain(signed.headers()) {
            request = request.header(name, value);
        }
        let trailer = if has_trailers { format!("{CRC32}:{checksum}\r\n") } else { String::new() };
        let unsigned = format!("b\r\nhello world\r\n0\r\n{trailer}\r\n");
        let body = match payload {
            Payload::StreamingUnsignedTrailer => unsigned.into_bytes(),
            Payload::Streaming | Payload::StreamingTrailer => {
                let names = TrailerNames::parse(has_trailers.then_some(CRC32.as_bytes())).unwrap();
                let reader = Reader::new(Framing::UnsignedTrailer, 11, names).unwrap();
                assert_eq!(reader.resigned_payload(), payload);
                let mut resigner = Resigner::new(reader, signer.chunk_signer().unwrap());
                let mut framed = Vec::new();
                resigner.push(unsigned.as_bytes(), &mut framed).unwrap();
                resigner.finish(&mut framed).unwrap();
                framed
            }
            _ => DATA.to_vec(),
        };
        request.body(spoil(std::str::from_utf8(&body).unwrap())).send().unwrap()
    }

    /// What it verifies, and what it does not: tests that rely on the former would prove nothing otherwise.
    #[test]
    fn what_it_verifies() {
        let dir = std::env::temp_dir().join(format!("membrane-s3-{}", std::process::id()));
        let s3 = S3::start(&dir, KEY.0, KEY.1).unwrap();
        let same = |body: &str| body.to_owned();
        let hash =
            Payload::parse(b"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9").unwrap();
        let other_hash = Payload::Sha256([7; 32]);
        let all = [
            ("hash", hash),
            ("unsigned", Payload::Unsigned),
            ("unsigned-trailer", Payload::StreamingUnsignedTrailer),
            ("signed", Payload::Streaming),
            ("signed-trailer", Payload::StreamingTrailer),
        ];
        for (key, payload) in all {
            let answer = put(&s3, key, payload, CRC32_OF_DATA, same);
            assert_eq!(answer.status, 200, "{key}: {}", answer.text());
            assert_eq!(s3.object(key).as_deref(), Some(DATA), "{key}");
        }
        type Spoil = fn(&str) -> String;
        // Another hexadecimal digit at the end of the n-th signature.
        let nth = |n: usize, body: &str, of: &str| {
            let (at, _) = body.match_indices(of).nth(n).unwrap();
            let end = at + of.len() + 63;
            let digit = if &body[end..=end] == "0" { "1" } else { "0" };
            format!("{}{digit}{}", &body[..end], &body[end + 1..])
        };
        let first = |body: &str| nth(0, body, ";chunk-signature=");
        let last = |body: &str| nth(1, body, ";chunk-signature=");
        let trailer = |body: &str| nth(0, body, "x-amz-trailer-signature:");
        let data: Spoil = |body| body.replace("hello", "jello");
        let refused = |what: &str, answer: Response| {
            // It has 500 for what AWS has 400 for.
            assert!(answer.status >= 400, "{what}: {} {}", answer.status, answer.text());
            assert_eq!(s3.object("wrong"), None, "{what}: stored all the same");
        };
        let wrong =
            |payload, spoil: &dyn Fn(&str) -> String| put(&s3, "wrong", payload, CRC32_OF_DATA, spoil);
        refused("the hash", wrong(other_hash, &same));
        refused("data, hash", wrong(hash, &data));
        refused("data, signed", wrong(Payload::Streaming, &data));
        refused("the first chunk's signature", wrong(Payload::Streaming, &first));
        refused("the last chunk's signature", wrong(Payload::Streaming, &last));
        refused("a chunk's signature, with trailers", wrong(Payload::StreamingTrailer, &first));
        refused("the trailers' signature", wrong(Payload::StreamingTrailer, &trailer));
        // A wrong checksum it notices once the object is stored, and says so: only the answer can be relied on.
        for payload in [Payload::StreamingUnsignedTrailer, Payload::StreamingTrailer] {
            let answer = put(&s3, "checksum", payload, "AAAAAA==", same);
            assert!(answer.status >= 400, "{}", answer.text());
        }
        drop(s3);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
