use crate::Error;

/// The name of an AWS service as the credential scope has it, and the rules that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    name: String,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Keys are opaque: a path is encoded once and not normalised.
    S3,
    /// Takes `UNSIGNED-PAYLOAD` and no other payload ("SigV4 authenticated requests for Amazon VPC Lattice").
    Lattice,
    /// Like [`Family::Other`], but demands `x-amz-content-sha256`.
    Hashed,
    Other,
}

impl Service {
    /// # Errors
    /// [`Error::Service`].
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(Error::Service);
        }
        let family = match name.as_str() {
            "s3" | "s3express" | "s3-outposts" | "s3-object-lambda" => Family::S3,
            "vpc-lattice-svcs" => Family::Lattice,
            "aoss" | "es" | "glacier" => Family::Hashed,
            _ => Family::Other,
        };
        Ok(Self { name, family })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// S3 and its kin: paths are encoded once and not normalised, and bodies may go unhashed over TLS.
    pub fn is_s3_family(&self) -> bool {
        self.family == Family::S3
    }

    /// Whether `x-amz-content-sha256` must be sent, even without a body.
    pub fn requires_content_sha256(&self) -> bool {
        self.family != Family::Other
    }

    /// Whether the service takes `UNSIGNED-PAYLOAD` and nothing else: VPC Lattice. [`super::Signer::sign`] then signs that
    /// literal whatever payload it is given, so a body need not be hashed.
    pub fn is_always_unsigned(&self) -> bool {
        self.family == Family::Lattice
    }
}
