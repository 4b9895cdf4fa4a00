//! Two registries on one PostgreSQL behind one Envoy, which balances between them. Upstream stands something that answers and keeps nothing.

use crate::envoy::{self, Upstreams};
use crate::failure::{Failure, Outcome};
use crate::fleet::{Sink, with_settings, with_upstream};
use crate::gateway::{Membrane, text};
use crate::http::{Client, Response};
use crate::layout;
use crate::ports::Ports;
use crate::prepare::{self, Prepared};
use crate::process::Process;
use crate::registry;
use serde_json::{Value, json};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Replicas {
    envoy: Process,
    pub client: Client,
    pub both: [Replica; 2],
    pub tenant: Value,
    ports: Ports,
    _sink: Sink,
    _lock: File,
}

/// One registry, with a folder of its own.
pub struct Replica {
    process: Option<Process>,
    dir: PathBuf,
    store: String,
    ports: Ports,
    /// Its control listener itself, past Envoy.
    pub control: Client,
}

impl Replicas {
    /// `store` is the URL of an empty schema, with its password; `settings` are those of the filter (JSON members).
    pub fn start(dir: &Path, store: &str, settings: &str) -> Outcome<Self> {
        let ports = Ports::free()?;
        let Prepared { dir, tenant, lock } = prepare::folder_with(dir, ports.gateway.number(), Some(store))?;
        let both = [layout::registry(&dir), layout::second_registry(&dir)];
        let [first, second] = both.map(|folder| Replica::start(folder, store));
        let both = [first?, second?];

        let sink = Sink::start()?;
        let upstreams = Upstreams {
            listen: Ipv4Addr::LOCALHOST,
            gateway: ports.gateway.number(),
            admin: ports.admin.number(),
            control: both[0].ports.control.number(),
            registry: both[0].ports.registry.number(),
            second: Some((both[1].ports.control.number(), both[1].ports.registry.number())),
            aws: ports.aws.number(),
        };
        let config = prepare::envoy(&dir, &crate::module()?, &upstreams, |config| {
            with_settings(with_upstream(config, sink.port.number())?, settings)
        })?;
        let client = Client::tls(ports.gateway.number(), &dir.join("ca.pem"))?;
        let options = envoy::Options { workers: Some(2), trace: false };
        let envoy =
            envoy::start_with_filter(&config, &layout::logs(&dir), ports.admin.number(), &options, &client)?;
        Ok(Self { envoy, client, both, tenant, ports, _sink: sink, _lock: lock })
    }

    pub fn create_membrane(&self, id: &str) -> Outcome<Membrane> {
        let asked = self.client.request("POST", "/").bearer(text(&self.tenant, "create")?);
        let answer = asked.json(&json!({ "id": id })).send()?.expect(201, "creating a membrane")?.json();
        let uri = |role: &str| text(&answer["capabilities"], role).map(str::to_owned);
        Ok(Membrane { export: uri("export")?, revoke: uri("revoke")? })
    }

    /// Exports through whichever replica Envoy chooses.
    pub fn export(&self, membrane: &Membrane, what: &Value) -> Outcome<String> {
        let asked = self.client.request("POST", "/").bearer(&membrane.export).json(what);
        text(&asked.send()?.expect(201, "exporting")?.json(), "capability").map(str::to_owned)
    }

    /// A counter or gauge of Envoy's, by its whole name.
    pub fn stat(&self, name: &str) -> Outcome<u64> {
        let stats = Client::plain(self.ports.admin.number()).request("GET", "/stats").send()?.text();
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok())
            .ok_or_else(|| Failure::new(format!("Envoy has no statistic {name}")))
    }

    pub fn check_alive(&mut self) -> Outcome<()> {
        let replicas = self.both.iter_mut().filter_map(|replica| replica.process.as_mut());
        for part in std::iter::once(&mut self.envoy).chain(replicas) {
            if let Some(status) = part.exited() {
                return Err(Failure::new(format!("a part ended ({status})")).with_log(part.log()));
            }
        }
        Ok(())
    }
}

impl Replica {
    fn start(dir: PathBuf, store: &str) -> Outcome<Self> {
        let ports = Ports::free()?;
        let control = Client::tls(ports.control.number(), &dir.join("ca.pem"))?;
        let mut replica = Self { process: None, dir, store: store.into(), ports, control };
        replica.restart()?;
        Ok(replica)
    }

    /// As a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it, and waits until it is ready.
    pub fn restart(&mut self) -> Outcome<()> {
        let mut command = registry::command(&self.dir, &self.ports)?;
        command.env("MEMBRANE_STORE", &self.store).env("MEMBRANE_LOG", "info");
        let mut process = Process::spawn("membrane-registry", command, &self.dir.join("registry.log"))?;
        let health = Client::plain(self.ports.metrics.number());
        process.wait_until(Duration::from_secs(30), "ready", || {
            health.request("GET", "/readyz").send().is_ok_and(|answer| answer.status == 200)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Revokes through this replica; with `query` as `/?wait=fleet`.
    pub fn revoke(&self, membrane: &Membrane, target: &str) -> Outcome<Response> {
        self.control.request("DELETE", target).bearer(&membrane.revoke).send()?.expect(202, "revoking")
    }

    /// A sample of its metrics, by its whole name and labels.
    pub fn metric(&self, sample: &str) -> Outcome<u64> {
        let metrics = Client::plain(self.ports.metrics.number()).request("GET", "/metrics").send()?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .ok_or_else(|| Failure::new(format!("the registry has no metric {sample}")))
    }
}
