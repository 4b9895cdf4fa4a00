//! A case, signed by us.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use signing::aws4::{
    Credential, Payload, Query, Service, SessionToken, Signer, Target, is_unsigned_by_nature, stages,
};
use signing::{Secret, Timestamp};

use crate::case::{Body, Case, Token};

/// What we made of a case.
pub(crate) struct Ours {
    pub(crate) target: Target,
    pub(crate) canonical_request: String,
    pub(crate) string_to_sign: String,
    pub(crate) authorization: String,
    pub(crate) content_sha256: Option<String>,
    /// The canonical request's last line.
    pub(crate) payload: String,
}

impl Case {
    pub(crate) fn service(&self) -> Service {
        Service::new(self.service.as_str()).unwrap()
    }

    /// Headers that an oracle is to sign: ours minus what signing sets and what nobody may sign.
    pub(crate) fn signable_headers(&self) -> impl Iterator<Item = &(String, String)> {
        self.headers.iter().filter(|(name, _)| {
            !signing::aws4::is_set_by_signing(name.as_bytes()) && !is_unsigned_by_nature(name.as_bytes())
        })
    }

    fn sign(&self, signer: &mut Signer) -> Ours {
        let service = self.service();
        let now = Timestamp::from_unix(self.now);
        let pinned = Target::new(
            &service,
            self.scheme(),
            &self.authority(),
            self.path.as_bytes(),
            self.query.as_bytes(),
        )
        .unwrap();
        let target = pinned.with_query(&Query::parse(self.requester_query.as_bytes()).unwrap());
        let headers = || self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut out = String::new();
        let signed = signer.sign(&now, &self.method, &target, headers(), self.payload(), &mut out).unwrap();

        // The stages once more, from what is *sent*: they have to lead to the very signature.
        let sent: Vec<(&str, &str)> = [("host", target.authority())]
            .into_iter()
            .chain(self.signable_headers().map(|(name, value)| (name.as_str(), value.as_str())))
            .chain(
                signed
                    .headers()
                    .map(|(name, value)| (name as &str, value))
                    .filter(|(name, _)| *name != "authorization"),
            )
            .collect();
        let payload = if service.is_always_unsigned() { Payload::Unsigned } else { self.payload() };
        let sent = sent.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let canonical_request = stages::canonical_request(&self.method, &target, sent, payload).unwrap();
        let string_to_sign = stages::string_to_sign(&now, &self.region, &service, &canonical_request);
        let canonical_request = String::from_utf8(canonical_request).unwrap();
        Ours {
            canonical_request: canonical_request.clone(),
            string_to_sign,
            authorization: signed.authorization.to_owned(),
            content_sha256: signed.amz_content_sha256.map(str::to_owned),
            payload: canonical_request.rsplit('\n').next().unwrap().to_owned(),
            target,
        }
    }

    fn signer(&self) -> Signer {
        let session_token = self.token.clone().map(|token| match token {
            Token::Sts(text) => SessionToken::Sts(Secret::new(text)),
            Token::S3Express(text) => SessionToken::S3Express(Secret::new(text)),
        });
        let credential = Credential {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: Secret::new(self.secret.clone()),
            session_token,
        };
        Signer::new(credential, self.region.clone(), self.service()).unwrap()
    }

    /// Signed by a signer that signed at another moment before: what it remembers must not show.
    pub(crate) fn sign_afresh_and_again(&self) -> Result<Ours, TestCaseError> {
        let mut signer = self.signer();
        let ours = self.sign(&mut signer);
        for now in [self.now + 1, self.now + 86_400, self.now, self.now] {
            let then = Case { now, ..self.clone() };
            let again = then.sign(&mut signer);
            prop_assert_eq!(again.authorization, then.sign(&mut then.signer()).authorization);
        }
        for other in self.relatives() {
            let between = other.sign(&mut signer);
            prop_assert_eq!(between.authorization, other.sign(&mut other.signer()).authorization);
            prop_assert_eq!(&self.sign(&mut signer).authorization, &ours.authorization);
        }
        Ok(ours)
    }

    /// Requests through the same grant that differ in one thing each, at the start, in the middle or at the end of the canonical
    /// request.
    fn relatives(&self) -> [Self; 4] {
        let method = if self.method == "GET" { "HEAD" } else { "GET" }.to_owned();
        let body = if self.body == Body::None { Body::Bytes(vec![7]) } else { Body::None };
        [
            Self { method, ..self.clone() },
            Self { requester_query: "zz=1".into(), ..self.clone() },
            Self { headers: Vec::new(), ..self.clone() },
            Self { body, ..self.clone() },
        ]
    }
}
