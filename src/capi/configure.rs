//! `capi config`: puts capabilities into profiles and shows which ones are there.

use crate::args::{self, ConfigArgs, ConfigureArgs, ListArgs};
use crate::failure::Failure;
use crate::output::Printed;
use crate::profile::{Credentials, Document, Role};
use crate::secrets::{SecretText, Sources};
use capability::CapabilityUri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use zeroize::Zeroizing;

/// What `--from` reads: a tenant as the registry prints it. Members that are not capabilities are of no interest here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tenant {
    create: Option<SecretText>,
    query: Option<SecretText>,
    delete_self: Option<SecretText>,
}

/// Puts capabilities into the profile and shows it.
pub(crate) fn configure(
    config: &ConfigArgs,
    args: &ConfigureArgs,
    sources: &mut Sources<'_>,
) -> Result<Printed, Failure> {
    let args::Service::Membrane = args.service;
    let given = match &args.from {
        Some(from) => tenant(from, sources)?,
        None if std::io::stdin().is_terminal() => asked(&config.profile)?,
        None => {
            let rule = "standard input is no terminal to ask on; name a JSON file with `create`, `query`, `deleteSelf` (`-` is standard input)";
            return Err(Failure::bad_value("--from", rule));
        }
    };
    if given.is_empty() {
        return Err(Failure::bad_value("--from", "no capability was given, so nothing was changed"));
    }
    let credentials = Credentials::store(&config.profile, given)?;
    shown(&config.profile, credentials.profile(&config.profile))
}

/// Shows one profile, or all of them.
pub(crate) fn list(config: &ConfigArgs, args: &ListArgs) -> Result<Printed, Failure> {
    let args::Service::Membrane = args.service;
    let credentials = Credentials::load()?;
    if args.all {
        let all: Vec<_> =
            credentials.profiles().map(|document| Preview::of(&document.profile, Some(document))).collect();
        return Printed::json(&all);
    }
    shown(&config.profile, credentials.profile(&config.profile))
}

fn tenant(from: &Path, sources: &mut Sources<'_>) -> Result<Vec<(Role, SecretText)>, Failure> {
    let text = sources.whole("--from", from)?;
    let tenant: Tenant = serde_json::from_str(text.expose()).map_err(|error| {
        // Not the parser's message: it can quote the text.
        let rule = format!(
            "not a JSON object of capability URIs (line {}, column {})",
            error.line(),
            error.column()
        );
        Failure::bad_value("--from", rule)
    })?;
    let members =
        [(Role::Create, tenant.create), (Role::Query, tenant.query), (Role::DeleteSelf, tenant.delete_self)];
    members
        .into_iter()
        .filter_map(|(role, text)| text.map(|text| (role, text)))
        .map(|(role, text)| {
            let uri = parse(&text)
                .map_err(|reason| Failure::bad_value("--from", format_args!("{}: {reason}", role.name())))?;
            Ok((role, uri))
        })
        .collect()
}

/// Asks on the terminal, without echo. An empty answer leaves a capability as it is.
fn asked(profile: &str) -> Result<Vec<(Role, SecretText)>, Failure> {
    let credentials = Credentials::load()?;
    let known = credentials.profile(profile);
    let mut given = Vec::new();
    for role in Role::ALL {
        let now = match known.and_then(|document| document.membrane.get(role)) {
            Some(_) => "set; Enter keeps it",
            None => "none; Enter skips it",
        };
        loop {
            let prompt = format!("{} capability ({now}): ", role.name());
            let answer = Zeroizing::new(rpassword::prompt_password(prompt)?);
            if answer.trim().is_empty() {
                break;
            }
            match parse(&SecretText::new(answer.trim().to_owned())) {
                Ok(uri) => {
                    given.push((role, uri));
                    break;
                }
                Err(reason) => crate::output::remark(&reason)?,
            }
        }
    }
    Ok(given)
}

/// The capability URI in the one way in which it is written.
fn parse(text: &SecretText) -> Result<SecretText, String> {
    let uri = CapabilityUri::parse(text.expose()).map_err(|error| error.to_string())?;
    Ok(SecretText::new(uri.to_secret_string().to_string()))
}

fn shown(name: &str, document: Option<&Document>) -> Result<Printed, Failure> {
    Printed::json(&Preview::of(name, document))
}

/// A profile without its secrets. A lookup id is what the registry knows a capability by, and of no use to anybody who
/// would invoke it; the published command line showed the token's last characters.
#[derive(Serialize)]
struct Preview<'a> {
    profile: &'a str,
    membrane: Service,
}

#[derive(Serialize)]
struct Service {
    capabilities: BTreeMap<&'static str, Value>,
}

impl<'a> Preview<'a> {
    fn of(profile: &'a str, document: Option<&Document>) -> Preview<'a> {
        let known =
            Role::ALL.into_iter().filter_map(|role| Some((role.name(), document?.membrane.get(role)?)));
        let capabilities = known
            .map(|(name, text)| match CapabilityUri::parse(text.expose()) {
                Ok(uri) => (
                    name,
                    json!({ "authority": uri.authority().as_str(), "lookupId": uri.token().lookup_id() }),
                ),
                Err(_) => (name, json!("(not a capability URI)")),
            })
            .collect();
        Preview { profile, membrane: Service { capabilities } }
    }
}
