//! Which HTTP request a command means. Nothing here touches the network; secrets come through [`Sources`].

use crate::args::{
    Aws4Args, Cap1Args, ExportArgs, MembraneArgs, MembraneCommand, Payload, TargetArgs, TlsArgs,
};
use crate::failure::{Failure, Place};
use crate::profile::{Credentials, Role};
use crate::redact::Redactor;
use crate::secrets::{Given, MAX_INPUT_BYTES, SecretText, Sources};
use capability::{CapabilityUri, MembraneId, Scheme};
use clap::error::ErrorKind;
use serde::Serialize;
use std::path::Path;
use zeroize::Zeroizing;

/// The profile that is used when none is named.
const DEFAULT_PROFILE: &str = "default";

/// A request of the Membrane API: to `/` at the capability's authority, with its token as bearer.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) capability: CapabilityUri,
    /// Name and value, not yet percent-encoded.
    pub(crate) query: Vec<(&'static str, String)>,
    /// JSON, for POST.
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// The answer may take as long as gateways may honour what they were told.
    pub(crate) waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

/// The capability to use: the flag's, else the file's, else that of a profile named on the command line, else
/// CAPI_CAPABILITY's, else the default profile's.
pub(crate) fn capability(args: &MembraneArgs, sources: &mut Sources<'_>) -> Result<CapabilityUri, Failure> {
    let common = &args.common;
    let given = Given {
        flag: "--capability",
        variable: if common.profile.is_some() { None } else { Some("CAPI_CAPABILITY") },
        inline: common.capability.as_ref(),
        file: common.capability_file.as_deref(),
    };
    if let Some(text) = sources.secret(&given)? {
        let in_argument = common.capability.as_ref().is_some_and(|inline| inline.expose() != "-");
        return CapabilityUri::parse(text.expose()).map_err(|error| {
            match (in_argument, &common.capability_file) {
                (true, _) => Failure::bad_value(given.flag, error),
                (false, Some(file)) => bad_capability(Place::File(file.clone()), error),
                (false, None) if common.capability.is_some() => bad_capability(Place::Stdin, error),
                (false, None) => bad_capability(Place::Environment("CAPI_CAPABILITY"), error),
            }
        });
    }
    let profile = common.profile.as_deref().unwrap_or(DEFAULT_PROFILE);
    let (name, role) = role(&args.command);
    let found = match role {
        Some(role) => Credentials::load()?.capability(profile, role)?,
        None => None,
    };
    found.ok_or_else(|| Failure::NoCapability {
        role: name,
        profile: profile.to_owned(),
        configurable: role.is_some(),
    })
}

fn bad_capability(place: Place, reason: impl std::fmt::Display) -> Failure {
    Failure::BadCapability { place: place.to_string(), reason: reason.to_string() }
}

fn role(command: &MembraneCommand) -> (&'static str, Option<Role>) {
    match command {
        MembraneCommand::Create(_) => ("create", Some(Role::Create)),
        MembraneCommand::Query(_) => ("query", Some(Role::Query)),
        MembraneCommand::DeleteSelf(_) => ("deleteSelf", Some(Role::DeleteSelf)),
        MembraneCommand::Export(_) => ("export", None),
        MembraneCommand::Revoke(_) => ("revoke", None),
    }
}

/// The request of a command. Every secret in it is told to `redactor`.
pub(crate) fn request(
    args: &MembraneArgs,
    capability: CapabilityUri,
    sources: &mut Sources<'_>,
    redactor: &mut Redactor,
) -> Result<Request, Failure> {
    if capability.scheme() != Scheme::Https {
        return Err(Failure::PlainHttp { authority: capability.authority().to_string() });
    }
    let (method, query, body) = match &args.command {
        MembraneCommand::Create(create) => {
            let id = membrane_id("--id", &create.id)?;
            (Method::Post, Vec::new(), json(&CreateBody { id })?)
        }
        MembraneCommand::Export(export) => {
            let body = ExportSecrets::gather(export, sources)?.body(export, redactor)?;
            (Method::Post, Vec::new(), body)
        }
        MembraneCommand::Query(query) => {
            let mut pairs = Vec::new();
            if let Some(id) = &query.id {
                pairs.push(("id", membrane_id("--id", id)?.to_owned()));
            }
            if let Some(id) = &query.last_id {
                pairs.push(("lastId", membrane_id("--last-id", id)?.to_owned()));
            }
            if let Some(limit) = query.limit {
                pairs.push(("limit", limit.to_string()));
            }
            (Method::Get, pairs, Zeroizing::default())
        }
        command @ (MembraneCommand::Revoke(_) | MembraneCommand::DeleteSelf(_)) => {
            let wait = command.waits().then(|| ("wait", "fleet".to_owned()));
            (Method::Delete, wait.into_iter().collect(), Zeroizing::default())
        }
    };
    Ok(Request { method, capability, query, body, waits: args.command.waits() })
}

fn membrane_id<'a>(flag: &str, id: &'a str) -> Result<&'a str, Failure> {
    MembraneId::parse(id).map_err(|error| Failure::bad_value(flag, error))?;
    Ok(id)
}

#[derive(Serialize)]
struct CreateBody<'a> {
    id: &'a str,
}

/// What of an export can come from files, standard input and the environment, gathered.
#[derive(Default)]
struct ExportSecrets {
    capability: Option<SecretText>,
    body: Option<SecretText>,
    secret_access_key: Option<SecretText>,
    session_token: Option<SecretText>,
    cap1_key: Option<SecretText>,
    tls_ca: Option<SecretText>,
    tls_cert: Option<SecretText>,
    tls_key: Option<SecretText>,
}

impl ExportSecrets {
    /// Looks at the environment only for what the flags ask: a variable that is set for another command's sake must not
    /// end up in this export.
    fn gather(args: &ExportArgs, sources: &mut Sources<'_>) -> Result<ExportSecrets, Failure> {
        let ExportArgs { target, aws4, cap1, tls } = args;
        let mut secrets = ExportSecrets {
            capability: sources.secret(&Given {
                flag: "--capability-to-export",
                variable: None,
                inline: target.capability_to_export.as_ref(),
                file: target.capability_to_export_file.as_deref(),
            })?,
            body: text_or_file(sources, "--body", target.body.as_ref(), target.body_file.as_deref())?,
            ..ExportSecrets::default()
        };
        if aws4.aws4_access_key_id.is_some() {
            let key = Given {
                flag: "--aws4-hmac-sha256-secret-access-key",
                variable: Some("CAPI_AWS4_HMAC_SHA256_SECRET_ACCESS_KEY"),
                inline: aws4.aws4_secret_access_key.as_ref(),
                file: aws4.aws4_secret_access_key_file.as_deref(),
            };
            secrets.secret_access_key = Some(sources.secret(&key)?.ok_or_else(|| missing(&key))?);
            // Temporary credentials come in pairs: a token of the environment belongs to the key of the environment.
            let key_of_environment = key.inline.is_none() && key.file.is_none();
            secrets.session_token = sources.secret(&Given {
                flag: "--aws4-hmac-sha256-session-token",
                variable: key_of_environment.then_some("CAPI_AWS4_HMAC_SHA256_SESSION_TOKEN"),
                inline: aws4.aws4_session_token.as_ref(),
                file: aws4.aws4_session_token_file.as_deref(),
            })?;
        }
        if cap1.cap1_key_id.is_some() {
            let key = Given {
                flag: "--cap1-hmac-sha512-key",
                variable: Some("CAPI_CAP1_HMAC_SHA512_KEY"),
                inline: cap1.cap1_key.as_ref(),
                file: cap1.cap1_key_file.as_deref(),
            };
            secrets.cap1_key = Some(sources.secret(&key)?.ok_or_else(|| missing(&key))?);
        }
        secrets.gather_tls(tls, sources)?;
        Ok(secrets)
    }

    fn gather_tls(&mut self, tls: &TlsArgs, sources: &mut Sources<'_>) -> Result<(), Failure> {
        let public = |text: &Option<String>| text.clone().map(SecretText::new);
        self.tls_ca = pem(
            "--tls-ca",
            text_or_file(sources, "--tls-ca", public(&tls.tls_ca).as_ref(), tls.tls_ca_file.as_deref())?,
        )?;
        self.tls_cert = pem(
            "--tls-cert",
            text_or_file(
                sources,
                "--tls-cert",
                public(&tls.tls_cert).as_ref(),
                tls.tls_cert_file.as_deref(),
            )?,
        )?;
        let key = Given {
            flag: "--tls-key",
            // A key belongs to a certificate.
            variable: self.tls_cert.is_some().then_some("CAPI_TLS_KEY"),
            inline: tls.tls_key.as_ref(),
            file: tls.tls_key_file.as_deref(),
        };
        self.tls_key = pem(key.flag, sources.secret(&key)?)?;
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(missing(&key)),
            (None, Some(_)) => Err(Failure::usage(
                ErrorKind::MissingRequiredArgument,
                "--tls-key needs --tls-cert, or --tls-cert-file",
            )),
            _ => Ok(()),
        }
    }

    fn body(&self, args: &ExportArgs, redactor: &mut Redactor) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let ExportArgs { target, aws4, cap1, tls } = args;
        for secret in [
            &self.secret_access_key,
            &self.session_token,
            &self.cap1_key,
            &self.tls_key,
            &self.body,
            &self.capability,
        ] {
            secret.iter().for_each(|secret| redactor.learn(secret));
        }
        if let Some(capability) = &self.capability {
            CapabilityUri::parse(capability.expose())
                .map_err(|error| Failure::bad_value("--capability-to-export", error))?;
        }
        let headers = Headers::parse(target)?;
        headers.0.iter().for_each(|(_, value)| redactor.learn(&SecretText::new((*value).to_owned())));
        json(&ExportBody {
            uri: target.uri.as_deref(),
            capability: self.capability.as_ref(),
            method: target.method.as_deref(),
            allow_query: target.allow_query,
            allow_query_names: &target.allow_query_name,
            headers,
            allow_headers: &target.allow_header,
            timeout_ms: target.timeout_ms,
            body: self.body.as_ref(),
            hmac: self.hmac(aws4, cap1),
            tls: self.tls(tls),
            expires_at: target.expires_at.as_deref(),
        })
    }

    fn hmac<'a>(&'a self, aws4: &'a Aws4Args, cap1: &'a Cap1Args) -> Option<HmacBody<'a>> {
        match (aws4, cap1, &self.secret_access_key, &self.cap1_key) {
            (
                Aws4Args {
                    aws4_access_key_id: Some(id),
                    aws4_region: Some(region),
                    aws4_service: Some(service),
                    ..
                },
                _,
                Some(secret_access_key),
                _,
            ) => Some(HmacBody::Aws4 {
                aws_access_key_id: id,
                region,
                service,
                secret_access_key,
                session_token: self.session_token.as_ref(),
                payload: aws4.aws4_payload.map(|payload| match payload {
                    Payload::Signed => "signed",
                    Payload::Unsigned => "unsigned",
                }),
            }),
            (_, Cap1Args { cap1_key_id: Some(key_id), .. }, _, Some(key)) => {
                Some(HmacBody::Cap1 { key, key_id })
            }
            _ => None,
        }
    }

    fn tls(&self, args: &TlsArgs) -> Option<TlsBody<'_>> {
        let body = TlsBody {
            ca: self.tls_ca.as_ref(),
            cert: self.tls_cert.as_ref(),
            key: self.tls_key.as_ref(),
            reject_unauthorized: args.tls_reject_unauthorized,
        };
        let said = body.ca.is_some()
            || body.cert.is_some()
            || body.key.is_some()
            || body.reject_unauthorized.is_some();
        said.then_some(body)
    }
}

/// The export request's body: `docs/wire.md` and the Membrane API name the fields; what was not said is not sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<&'a SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_query: Option<bool>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allow_query_names: &'a [String],
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: Headers<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allow_headers: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hmac: Option<HmacBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<&'a str>,
}

#[derive(Serialize)]
enum HmacBody<'a> {
    #[serde(rename = "aws4-hmac-sha256", rename_all = "camelCase")]
    Aws4 {
        aws_access_key_id: &'a str,
        region: &'a str,
        service: &'a str,
        secret_access_key: &'a SecretText,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_token: Option<&'a SecretText>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'static str>,
    },
    #[serde(rename = "cap1-hmac-sha512", rename_all = "camelCase")]
    Cap1 { key: &'a SecretText, key_id: &'a str },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TlsBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<&'a SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<&'a SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a SecretText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reject_unauthorized: Option<bool>,
}

/// The pinned headers, in the order given.
struct Headers<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Headers<'a> {
    /// `Name: value`, blanks around both dropped. The value may hold colons (the published command line refused them).
    /// Errors count the header instead of showing it: its value can be a secret.
    fn parse(target: &'a TargetArgs) -> Result<Headers<'a>, Failure> {
        let mut headers: Vec<(&str, &str)> = Vec::with_capacity(target.header.len());
        for (index, header) in target.header.iter().enumerate() {
            let bad =
                |rule: &str| Failure::bad_value("--header", format_args!("header {}: {rule}", index + 1));
            let (name, value) =
                header.expose().split_once(':').ok_or_else(|| bad("write it as \"Name: value\""))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() {
                return Err(bad("its name is empty; write it as \"Name: value\""));
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(bad("its name was already given"));
            }
            headers.push((name, value));
        }
        Ok(Headers(headers))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// JSON in one allocation, so that growing leaves no copy of a secret behind. Escaping makes text at most six times
/// longer.
fn json(body: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT_BYTES as usize));
    serde_json::to_writer(&mut *bytes, body).map_err(std::io::Error::from)?;
    Ok(bytes)
}

fn text_or_file(
    sources: &mut Sources<'_>,
    flag: &'static str,
    text: Option<&SecretText>,
    file: Option<&Path>,
) -> Result<Option<SecretText>, Failure> {
    match (text, file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(file)) => sources.whole(flag, file).map(Some),
        (None, None) => Ok(None),
    }
}

fn pem(flag: &'static str, text: Option<SecretText>) -> Result<Option<SecretText>, Failure> {
    match text {
        Some(text) if !text.expose().contains("-----BEGIN ") => Err(Failure::bad_value(
            flag,
            format_args!("must be PEM text (-----BEGIN …); {flag}-file takes the name of a file"),
        )),
        text => Ok(text),
    }
}

fn missing(given: &Given<'_>) -> Failure {
    let Given { flag, variable, .. } = given;
    let variable = variable.map(|name| format!(", or set {name}")).unwrap_or_default();
    Failure::usage(
        ErrorKind::MissingRequiredArgument,
        format_args!(
            "the following is required: {flag} (`-` reads it from standard input), or {flag}-file{variable}"
        ),
    )
}

#[cfg(test)]
#[path = "intent_tests.rs"]
mod tests;
