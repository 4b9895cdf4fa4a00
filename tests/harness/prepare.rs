//! What lies in a run folder before the parts are started (docs/wire.md names the files): keys and certificates, the store, a
//! tenant, the CA for `capi`, and Envoy's configuration. `make run` and docker-compose.yaml come through here.

use crate::envoy::{self, Upstreams};
use crate::failure::{Failure, Outcome, While};
use crate::gateway::text;
use crate::layout;
use crate::ports::Ports;
use crate::registry::{self, Store};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a registry needs of the operator's folder: all but the keys of others.
const OF_REGISTRY: [&str; 4] = ["ca.pem", "registry.json", "tls/control.pem", "tls/control-key.pem"];
/// What Envoy needs of it.
const OF_GATEWAY: [&str; 5] = [
    "ca.pem",
    "tls/gateway.pem",
    "tls/gateway-key.pem",
    "tls/gateway-client.pem",
    "tls/gateway-client-key.pem",
];

/// A run folder, ours until this is dropped.
pub struct Prepared {
    /// Where it is, from the root.
    pub dir: PathBuf,
    /// What the registry's `tenant create` gave, now or at an earlier start: {`id`, `create`, `query`, `deleteSelf`}.
    pub tenant: Value,
    pub lock: File,
}

/// Makes what is missing in `dir`, for a gateway at `https://localhost:port` whose registry keeps its store in its own folder. What is
/// there stays.
pub fn folder(dir: &Path, port: u16) -> Outcome<Prepared> {
    folder_with(dir, port, None)
}

/// [`folder`], for two registries on one PostgreSQL where `postgres` is its URL.
pub fn folder_with(dir: &Path, port: u16, postgres: Option<&str>) -> Outcome<Prepared> {
    make_folder(&layout::logs(dir))?;
    let dir = dir.canonicalize()?;
    let lock = lock(&dir)?;
    refuse_another_layout(&dir, postgres.is_some())?;
    let authority = format!("localhost:{port}");
    let store = hand_out(&dir, &authority, postgres)?;
    let tenant = tenant(&dir, &authority, &store)?;
    let ca = dir.join("ca.pem");
    let pem = std::fs::read_to_string(&ca).while_(|| format!("reading {}", ca.display()))?;
    write(&dir.join("trusted-ca.json"), &format!("{:#}\n", json!({ authority: pem })))?;
    Ok(Prepared { dir, tenant, lock })
}

/// Gives each part its folder. The operator's commands may have renewed certificates since the last start: those are handed out too.
fn hand_out(dir: &Path, authority: &str, postgres: Option<&str>) -> Outcome<Store> {
    let (operator, first) = (layout::operator(dir), layout::registry(dir));
    for part in [&first, &layout::gateway(dir), &layout::aws(dir)] {
        make_folder(part)?;
    }
    let store = match postgres {
        None => Store { url: format!("sqlite:{}", first.join("registry.db").display()), pass_file: None },
        Some(url) => {
            let pass_file = pass_file(dir, &first)?;
            Store { url: url.to_owned(), pass_file }
        }
    };
    // The last that `init` writes: a run that was killed before is completed by this one.
    if !operator.join("registry.json").exists() {
        registry::init_with(&operator, authority, &store)?;
    }
    // The registry's alone: a second copy of its key would be one more to lose.
    for own in ["kek", "revocations.log"] {
        let made = operator.join(own);
        if made.exists() {
            std::fs::rename(&made, first.join(own)).while_(|| format!("moving {}", made.display()))?;
        }
    }
    copy(&operator, &first, &OF_REGISTRY)?;
    copy(&operator, &layout::gateway(dir), &OF_GATEWAY)?;
    copy(&operator, dir, &["ca.pem"])?;
    if postgres.is_some() {
        // With the first one's key, and never with its revocation log.
        let second = layout::second_registry(dir);
        copy(&operator, &second, &OF_REGISTRY)?;
        copy(&first, &second, &["kek"])?;
        pass_file(dir, &second)?;
    }
    // The local AWS says it in its own folder; people read it here.
    let aws = dir.join("aws.json");
    if aws.symlink_metadata().is_err() {
        symlink("aws/aws.json", &aws).while_(|| format!("linking {}", aws.display()))?;
    }
    Ok(store)
}

/// The password in libpq's form, for a registry; none where it stands in the URL.
fn pass_file(dir: &Path, registry: &Path) -> Outcome<Option<PathBuf>> {
    let password = layout::postgres_password(dir);
    if !password.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&password).while_(|| format!("reading {}", password.display()))?;
    make_folder(registry)?;
    let file = registry.join("pgpass");
    write_private(&file, &format!("*:*:*:*:{}\n", text.trim()))?;
    Ok(Some(file))
}

/// Makes a password that nobody has to know, unless there is one.
pub fn password(file: &Path) -> Outcome<()> {
    if file.exists() {
        return Ok(());
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).while_(|| "asking for randomness".into())?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Put in place whole: PostgreSQL takes what is there when it starts for the first time.
    let unfinished = file.with_extension("unfinished");
    write_private(&unfinished, &format!("{hex}\n"))?;
    std::fs::rename(&unfinished, file).while_(|| format!("writing {}", file.display()))
}

/// Writes Envoy's configuration into the run folder; gives where.
pub fn envoy(
    dir: &Path,
    module: &Path,
    upstreams: &Upstreams,
    change: impl FnOnce(String) -> Outcome<String>,
) -> Outcome<PathBuf> {
    let config = layout::envoy(dir);
    write(&config, &change(envoy::render(dir, module, upstreams)?)?)?;
    Ok(config)
}

/// Everything for parts that somebody else starts: on the ports of docs/wire.md, but for the gateway's own, which listens at `listen`.
/// The filter is copied into the folder, so that Envoy needs no other.
pub fn everything(
    dir: &Path,
    port: u16,
    listen: Ipv4Addr,
    module: &Path,
    postgres: Option<&str>,
) -> Outcome<PathBuf> {
    let prepared = folder_with(dir, port, postgres)?;
    let [_, admin, control, registry, _, aws] = Ports::DEFAULT;
    let [second_control, second_registry, _] = Ports::SECOND_REGISTRY;
    let copy = layout::gateway(&prepared.dir).join("membrane.wasm");
    replace(module, &copy)?;
    let second = postgres.map(|_| (second_control, second_registry));
    let upstreams = Upstreams { listen, gateway: port, admin, control, registry, second, aws };
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

fn make_folder(dir: &Path) -> Outcome<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).while_(|| format!("making {}", dir.display()))
}

/// Copies what is not there yet, or is no longer the same.
fn copy(from: &Path, to: &Path, names: &[&str]) -> Outcome<()> {
    for name in names {
        let (source, target) = (from.join(name), to.join(name));
        if let Some(folder) = target.parent() {
            make_folder(folder)?;
        }
        let read = std::fs::read(&source).while_(|| format!("reading {}", source.display()))?;
        if std::fs::read(&target).ok() != Some(read) {
            replace(&source, &target)?;
        }
    }
    Ok(())
}

/// Copies a file with its permissions, and puts it in place whole: whoever is just starting must not read half of it.
fn replace(source: &Path, target: &Path) -> Outcome<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = target.with_file_name(format!(".{name}.unfinished"));
    std::fs::copy(source, &unfinished)
        .and_then(|_| std::fs::rename(&unfinished, target))
        .while_(|| format!("copying {} to {}", source.display(), target.display()))
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

/// A store is not moved from one place to the other by starting: its tenant would be unknown there.
fn refuse_another_layout(dir: &Path, in_postgres: bool) -> Outcome<()> {
    let refuse = |holds: &str| {
        Err(Failure::new(format!(
            "{} {holds}: choose another MEMBRANE_RUN, or remove it with all that was made in it",
            dir.display()
        )))
    };
    if dir.join("registry.db").exists() || dir.join("kek").exists() {
        return refuse("was made before each part had a folder of its own");
    }
    match (
        layout::registry(dir).join("registry.db").exists(),
        layout::second_registry(dir).join("kek").exists(),
    ) {
        (true, _) if in_postgres => refuse("holds a registry whose store is SQLite, not PostgreSQL"),
        (_, true) if !in_postgres => refuse("holds registries whose store is PostgreSQL, not SQLite"),
        _ => Ok(()),
    }
}

/// The tenant of an earlier start, or a new one.
fn tenant(dir: &Path, authority: &str, store: &Store) -> Outcome<Value> {
    let file = dir.join("tenant.json");
    let Ok(kept) = std::fs::read(&file) else {
        let tenant = registry::create_tenant_in(&layout::registry(dir), "local", store)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_private_and_stays() {
        let file = std::env::temp_dir().join(format!("membrane-password-{}", std::process::id()));
        password(&file).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        password(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        assert_eq!(first.trim().len(), 64);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&file).unwrap();
    }
}
