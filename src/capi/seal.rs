//! Capabilities for a gateway without a registry: `kek` makes the key, `seal` turns a grant into a capability and the record that
//! goes into the gateway's configuration. Nothing here touches the network.

use crate::args::{KekArgs, SealArgs};
use crate::failure::Failure;
use crate::output::Printed;
use crate::secrets::{Given, SecretText, Sources};
use capability::configured::ConfiguredRecord;
use capability::record::Keks;
use capability::{Authority, CapabilityUri, Export, Token};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// The variable that a gateway reads its key from, too.
const VARIABLE: &str = "MEMBRANE_KEK";

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure::NoRandomness(error.to_string()))?;
    Ok(bytes)
}

/// A new key: into a file of its own, or printed.
pub(crate) fn kek(args: &KekArgs) -> Result<Printed, Failure> {
    let bytes = Zeroizing::new(random::<32>()?);
    let key = SecretText::new(capability::encode_key(&bytes));
    match &args.out {
        None => Ok(Printed::line(&key)),
        Some(path) => {
            write_new(path, &key)?;
            Ok(Printed::remark(format!("{}: a new key, readable by you alone", path.display())))
        }
    }
}

/// Never over a key that is there: what it sealed would be lost.
fn write_new(path: &Path, key: &SecretText) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        writeln!(file, "{}", key.expose())?;
        file.sync_all()
    })
    .map_err(|error| Failure::Unwritable { path: path.to_owned(), reason: error.to_string() })
}

#[derive(Serialize)]
struct Sealed {
    capability: SecretText,
    record: ConfiguredRecord,
}

/// Seals a grant under a new token.
pub(crate) fn seal(args: &SealArgs, sources: &mut Sources<'_>) -> Result<Printed, Failure> {
    let authority: Authority =
        args.authority.parse().map_err(|error| Failure::bad_value("--authority", error))?;
    let given =
        Given { flag: "--kek", variable: Some(VARIABLE), inline: None, file: args.kek_file.as_deref() };
    let key = sources.secret(&given)?.ok_or_else(|| {
        Failure::bad_value("--kek-file", format_args!("name a file that capi kek made, or set {VARIABLE}"))
    })?;
    let keks = Keks::parse(key.expose().as_bytes()).ok_or_else(|| {
        Failure::bad_value("--kek-file", "must hold what capi kek makes: 32 bytes in base64url")
    })?;
    let grant = sources.whole("--grant", &args.grant)?;
    let export = Export::parse(grant.expose().as_bytes())
        .map_err(|error| Failure::BadGrant { reason: error.to_string() })?;
    let token = Token::mint(random()?);
    let record = ConfiguredRecord::seal(export, &token, &keks, [random()?, random()?])
        .map_err(|error| Failure::BadGrant { reason: error.to_string() })?;
    let capability = SecretText::new(CapabilityUri::new(authority, token).to_secret_string().to_string());
    Printed::json(&Sealed { capability, record })
}
