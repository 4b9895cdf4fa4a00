//! Capabilities by the hundred thousand: made by the registry's own code in its own store before it serves, since a request for each
//! would take longer than the run. Their tokens are in this process' memory alone.

use crate::envoys::{ACCESS_KEY, HOST, REGION, SECRET_KEY, SERVICE, SINK_HOST};
use capability::{CapabilityUri, Export, MembraneId};
use harness::failure::While;
use harness::gateway::text;
use harness::{Failure, Outcome};
use registry::home::{Home, Place};
use registry::ports::{Clock, Random};
use registry::registry::{Presented, Registry};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system's randomness");
    }
}

/// Bearers, by what they stand for.
pub(crate) struct Capabilities {
    /// A function of Lambda, each the same.
    pub(crate) lambda: Vec<String>,
    /// An object of S3.
    pub s3: String,
    /// An object of S3 whose body must be signed.
    pub s3_signed: String,
}

/// Makes them in the store of the registry whose folder is `dir`, of whose tenant `tenant` holds the controls.
pub(crate) fn make(dir: &Path, tenant: &Value, count: usize) -> Outcome<Capabilities> {
    let doing = || "making capabilities".to_owned();
    let home =
        Home::open(&Place { dir: dir.to_owned(), store: None, kek: None, audit: None }).while_(doing)?;
    let registry = home.registry(Arc::new(SystemClock), Arc::new(SystemRandom), false).while_(doing)?;
    let create = present(&registry, text(tenant, "create")?)?;
    let id = MembraneId::parse("bench").while_(doing)?;
    let created = registry.create(&create, &id).while_(doing)?;
    let export = present(&registry, &created.capabilities.export)?;
    let mint = |what: &Value| -> Outcome<String> {
        let what = Export::parse(what.to_string().as_bytes()).while_(doing)?;
        let minted = registry.export(&export, what).while_(doing)?;
        bearer(&minted.capability)
    };
    let hmac = |service: &str| {
        json!({
            "awsAccessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY, "region": REGION, "service": service,
        })
    };
    let lambda = json!({
        "uri": format!("https://{HOST}/2015-03-31/functions/bench/invocations"),
        "hmac": {"aws4-hmac-sha256": hmac(SERVICE)},
    });
    let mut s3 = json!({
        "uri": format!("https://{SINK_HOST}/object"), "method": "PUT", "hmac": {"aws4-hmac-sha256": hmac("s3")},
    });
    let unsigned = mint(&s3)?;
    s3["hmac"]["aws4-hmac-sha256"]["payload"] = "signed".into();
    Ok(Capabilities {
        lambda: (0..count).map(|_| mint(&lambda)).collect::<Outcome<_>>()?,
        s3: unsigned,
        s3_signed: mint(&s3)?,
    })
}

fn present(registry: &Registry, uri: &str) -> Outcome<Presented> {
    let uri = CapabilityUri::parse(uri).while_(|| "reading a control's URI".into())?;
    registry.present(uri.token()).while_(|| "presenting a control".into())
}

fn bearer(uri: &str) -> Outcome<String> {
    let token = uri.rsplit('#').next().filter(|token| token.starts_with("CPBLTY1-"));
    token.map(str::to_owned).ok_or_else(|| Failure::new("a capability's URI without a token"))
}
