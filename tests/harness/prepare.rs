//! What lies in a run folder before the parts are started (docs/wire.md names the files): keys and certificates, the store, a
//! tenant, the CA for `capi`, and Envoy's configuration. `make run` and docker-compose.yaml come through here.

use crate::envoy::{self, Upstreams};
use crate::failure::{Failure, Outcome, While};
use crate::gateway::text;
use crate::ports::Ports;
use crate::registry;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A run folder, ours until this is dropped.
pub struct Prepared {
    /// Where it is, from the root.
    pub dir: PathBuf,
    /// What the registry's `tenant create` gave, now or at an earlier start: {`id`, `create`, `query`, `deleteSelf`}.
    pub tenant: Value,
    pub lock: File,
}

/// Makes what is missing in `dir`, for a gateway at `https://localhost:port`. What is there stays.
pub fn folder(dir: &Path, port: u16) -> Outcome<Prepared> {
    let logs = dir.join("logs");
    let making = || format!("making {}", logs.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs).while_(making)?;
    let dir = dir.canonicalize()?;
    let lock = lock(&dir)?;
    let authority = format!("localhost:{port}");
    if !dir.join("registry.db").exists() {
        registry::init(&dir, &authority)?;
    }
    let tenant = tenant(&dir, &authority)?;
    let ca = dir.join("ca.pem");
    let pem = std::fs::read_to_string(&ca).while_(|| format!("reading {}", ca.display()))?;
    write(&dir.join("trusted-ca.json"), &format!("{:#}\n", json!({ authority: pem })))?;
    Ok(Prepared { dir, tenant, lock })
}

/// Writes Envoy's configuration into the run folder; gives where.
pub fn envoy(
    dir: &Path,
    module: &Path,
    upstreams: &Upstreams,
    change: impl FnOnce(String) -> Outcome<String>,
) -> Outcome<PathBuf> {
    let config = dir.join("envoy.yaml");
    write(&config, &change(envoy::render(dir, module, upstreams)?)?)?;
    Ok(config)
}

/// Everything for parts that somebody else starts: on the ports of docs/wire.md, but for the gateway's own, which listens at `listen`.
/// The filter is copied into the folder, so that Envoy needs no other.
pub fn everything(dir: &Path, port: u16, listen: Ipv4Addr, module: &Path) -> Outcome<PathBuf> {
    let prepared = folder(dir, port)?;
    let [_, admin, control, registry, _, aws] = Ports::DEFAULT;
    let copy = prepared.dir.join("membrane.wasm");
    // Put in place whole: an Envoy that is just starting must not read half a file.
    let unfinished = prepared.dir.join(".membrane.wasm");
    std::fs::copy(module, &unfinished)
        .and_then(|_| std::fs::rename(&unfinished, &copy))
        .while_(|| format!("copying {} to {}", module.display(), copy.display()))?;
    let upstreams = Upstreams { listen, gateway: port, admin, control, registry, aws };
    envoy(&prepared.dir, &copy, &upstreams, Ok)?;
    Ok(prepared.dir)
}

/// Writes a file that only its owner may read.
pub fn write_private(file: &Path, content: &str) -> Outcome<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut open = options.open(file).while_(|| format!("writing {}", file.display()))?;
    open.write_all(content.as_bytes()).while_(|| format!("writing {}", file.display()))
}

fn write(file: &Path, content: &str) -> Outcome<()> {
    std::fs::write(file, content).while_(|| format!("writing {}", file.display()))
}

/// One gateway a folder.
fn lock(dir: &Path) -> Outcome<File> {
    let lock = File::create(dir.join("lock"))?;
    lock.try_lock().map_err(|_| {
        Failure::new(format!(
            "another gateway runs in {}: stop it, or choose another MEMBRANE_RUN",
            dir.display()
        ))
    })?;
    Ok(lock)
}

/// The tenant of an earlier start, or a new one.
fn tenant(dir: &Path, authority: &str) -> Outcome<Value> {
    let file = dir.join("tenant.json");
    let Ok(kept) = std::fs::read(&file) else {
        let tenant = registry::create_tenant(dir, "local")?;
        write_private(&file, &format!("{tenant:#}\n"))?;
        return Ok(tenant);
    };
    let tenant: Value = serde_json::from_slice(&kept).while_(|| format!("reading {}", file.display()))?;
    let minted_for =
        text(&tenant, "create")?.strip_prefix("cpblty://").and_then(|rest| rest.split('/').next());
    if minted_for == Some(authority) {
        Ok(tenant)
    } else {
        Err(Failure::new(format!(
            "{} was made for {}, and capabilities name their gateway: start it with that MEMBRANE_PORT, or choose another \
             MEMBRANE_RUN",
            dir.display(),
            minted_for.unwrap_or("another gateway")
        )))
    }
}
