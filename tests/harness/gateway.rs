//! The local gateway: all parts together, with their files in one folder (docs/wire.md names them).

use crate::aws::{Moto, REGION};
use crate::envoy::{self, Upstreams};
use crate::failure::{Failure, Outcome};
use crate::http::{Client, Request, Response};
use crate::layout;
use crate::memory::Memory;
use crate::origin::Origin;
use crate::ports::{Port, Ports};
use crate::prepare::{self, Prepared};
use crate::process::Process;
use crate::registry;
use crate::slow_proxy::SlowProxy;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output};

pub struct Options {
    /// The run folder; made if it is not there, found again if it is.
    pub dir: PathBuf,
    pub ports: Ports,
    /// Envoy's worker threads; as many as there are cores when absent.
    pub workers: Option<u32>,
    /// Registry and filter log at trace level.
    pub trace: bool,
    /// Puts an [`Origin`] before moto and a [`SlowProxy`] before the registry's gateway listener.
    pub observed: bool,
}

/// A running gateway. Everything ends when it is dropped.
pub struct Gateway {
    // First, so that they end first, and in this order.
    envoy: Process,
    registry: Option<Process>,
    pub aws: Moto,
    pub dir: PathBuf,
    pub ports: Ports,
    /// What the registry's `tenant create` gave: {`id`, `create`, `query`, `deleteSelf`}.
    pub tenant: Value,
    pub client: Client,
    observed: Option<Observed>,
    config: PathBuf,
    workers: Option<u32>,
    trace: bool,
    _lock: File,
}

struct Observed {
    origin: Origin,
    origin_port: Port,
    proxy: SlowProxy,
    proxy_port: Port,
}

impl Gateway {
    pub fn start(options: Options) -> Outcome<Self> {
        Self::start_with(options, Ok)
    }

    /// [`Gateway::start`], with `change` applied to Envoy's configuration: for what a test needs to be otherwise than in
    /// envoy/local.yaml.
    pub fn start_with(options: Options, change: impl FnOnce(String) -> Outcome<String>) -> Outcome<Self> {
        let Options { dir, ports, workers, trace, observed } = options;
        let Prepared { dir, tenant, lock } = prepare::folder(&dir, ports.gateway.number())?;
        let logs = layout::logs(&dir);
        let registry = registry::serve(&layout::registry(&dir), &logs, &ports, trace)?;
        let aws = Moto::start(&layout::aws(&dir), &logs, ports.aws.number())?;
        let observed = observed.then(|| Observed::start(&ports)).transpose()?;

        ports.write(&dir.join("ports.json"))?;

        let upstreams = Upstreams {
            listen: Ipv4Addr::LOCALHOST,
            gateway: ports.gateway.number(),
            admin: ports.admin.number(),
            control: ports.control.number(),
            registry: observed
                .as_ref()
                .map_or(ports.registry.number(), |observed| observed.proxy_port.number()),
            second: None,
            aws: observed.as_ref().map_or(ports.aws.number(), |observed| observed.origin_port.number()),
        };
        let config = prepare::envoy(&dir, &crate::module()?, &upstreams, change)?;
        let client = Client::tls(ports.gateway.number(), &dir.join("ca.pem"))?;
        let options = envoy::Options { workers, trace };
        let envoy = envoy::start_with_filter(&config, &logs, ports.admin.number(), &options, &client)?;
        Ok(Self {
            dir,
            ports,
            aws,
            tenant,
            client,
            observed,
            config,
            workers,
            trace,
            envoy,
            registry: Some(registry),
            _lock: lock,
        })
    }

    /// `https://localhost:port/`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/", self.ports.gateway.number())
    }

    pub fn logs(&self) -> PathBuf {
        layout::logs(&self.dir)
    }

    /// The registry's folder, which the operator's commands take.
    pub fn registry_dir(&self) -> PathBuf {
        layout::registry(&self.dir)
    }

    /// What came upstream; only of an observed gateway.
    pub fn origin(&self) -> &Origin {
        &self.observed.as_ref().expect("an observed gateway").origin
    }

    /// The way to the registry's gateway listener; only of an observed gateway.
    pub fn registry_link(&self) -> &SlowProxy {
        &self.observed.as_ref().expect("an observed gateway").proxy
    }

    /// Kills the registry, as a crash would.
    pub fn kill_registry(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry.kill();
        }
    }

    pub fn start_registry(&mut self) -> Outcome<()> {
        self.registry = Some(registry::serve(&self.registry_dir(), &self.logs(), &self.ports, self.trace)?);
        Ok(())
    }

    /// Stops the registry where it stands (`SIGSTOP`), or lets it go on (`SIGCONT`).
    pub fn signal_registry(&self, signal: Signal) {
        if let Some(registry) = &self.registry {
            registry.signal(signal);
        }
    }

    /// Ends Envoy at once, as a crash would, and starts it again.
    pub fn restart_envoy(&mut self) -> Outcome<()> {
        self.envoy.kill();
        let options = envoy::Options { workers: self.workers, trace: self.trace };
        let admin = self.ports.admin.number();
        self.envoy = envoy::start_with_filter(&self.config, &self.logs(), admin, &options, &self.client)?;
        Ok(())
    }

    /// The memory of Envoy.
    pub fn memory(&self) -> Memory {
        Memory::of(self.envoy.id())
    }

    /// Fails, with its log's end, if a part has ended by itself.
    pub fn check_alive(&mut self) -> Outcome<()> {
        let parts = [Some(&mut self.envoy), self.registry.as_mut(), Some(&mut self.aws.process)];
        for part in parts.into_iter().flatten() {
            if let Some(status) = part.exited() {
                return Err(
                    Failure::new(format!("a part of the gateway ended ({status})")).with_log(part.log())
                );
            }
        }
        Ok(())
    }

    /// A request to the gateway with a capability's bearer.
    pub fn request(&self, capability: &str, method: &str, target: &str) -> Request<'_> {
        self.client.request(method, target).bearer(capability)
    }

    /// Another tenant, with its `create`, `query` and `deleteSelf` URIs.
    pub fn another_tenant(&self, id: &str) -> Outcome<Value> {
        registry::create_tenant(&self.registry_dir(), id)
    }

    /// Creates a membrane through the gateway.
    pub fn create_membrane(&self, id: &str) -> Outcome<Membrane> {
        let asked = self.request(text(&self.tenant, "create")?, "POST", "/").json(&json!({ "id": id }));
        let answer = asked.send()?.expect(201, "creating a membrane")?.json();
        let uri = |role: &str| text(&answer["capabilities"], role).map(str::to_owned);
        Ok(Membrane { export: uri("export")?, revoke: uri("revoke")? })
    }

    /// Exports through the gateway; gives the new capability's URI.
    pub fn export(&self, membrane: &Membrane, what: &Value) -> Outcome<String> {
        let answer = self.try_export(membrane, what)?.expect(201, "exporting")?.json();
        text(&answer, "capability").map(str::to_owned)
    }

    pub fn try_export(&self, membrane: &Membrane, what: &Value) -> Outcome<Response> {
        self.request(&membrane.export, "POST", "/").json(what).send()
    }

    /// The registry's control listener itself, for when its way through Envoy is disturbed.
    pub fn control(&self) -> Outcome<Client> {
        Client::tls(self.ports.control.number(), &self.dir.join("ca.pem"))
    }

    pub fn revoke(&self, membrane: &Membrane) -> Outcome<Response> {
        self.request(&membrane.revoke, "DELETE", "/").send()?.expect(202, "revoking")
    }

    /// `hmac` for the local AWS's key.
    pub fn aws4(&self, service: &str) -> Value {
        json!({"aws4-hmac-sha256": {
            "awsAccessKeyId": self.aws.key.id, "secretAccessKey": self.aws.key.secret, "region": REGION, "service": service,
        }})
    }

    /// Runs `capi` against this gateway. Its log, at trace level in a traced gateway, is kept under `logs`.
    pub fn capi(&self, arguments: &[&str]) -> Outcome<Output> {
        let mut command = Command::new(crate::program("capi")?);
        command.args(arguments).arg("--trustedCA-file-path").arg(self.dir.join("trusted-ca.json"));
        // No profile of whoever runs this.
        command.env("HOME", &self.dir);
        if self.trace {
            command.env("CAPI_LOG", "trace");
        }
        let output = command.output()?;
        File::options()
            .create(true)
            .append(true)
            .open(self.logs().join("capi.log"))?
            .write_all(&output.stderr)?;
        Ok(output)
    }

    /// A counter or gauge of Envoy's, by its whole name.
    pub fn stat(&self, name: &str) -> Outcome<Option<u64>> {
        let stats = Client::plain(self.ports.admin.number()).request("GET", "/stats").send()?.text();
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.and_then(|value| value.parse().ok()))
    }

    /// The counters and gauges of Envoy's whose names contain `part`.
    pub fn stats_with(&self, part: &str) -> Outcome<Vec<(String, u64)>> {
        let stats = Client::plain(self.ports.admin.number()).request("GET", "/stats").send()?.text();
        let named =
            stats.lines().filter_map(|line| line.split_once(": ")).filter(|(name, _)| name.contains(part));
        Ok(named.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// A sample of the registry's metrics, by its whole name and labels.
    pub fn registry_metric(&self, sample: &str) -> Outcome<u64> {
        let metrics = Client::plain(self.ports.metrics.number()).request("GET", "/metrics").send()?.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .ok_or_else(|| Failure::new(format!("the registry has no metric {sample}")))
    }

    /// Ends all parts, and tells whether each ended as it should when asked.
    pub fn stop(mut self) -> Outcome<()> {
        let envoy = self.envoy.stop();
        let registry = self.registry.as_mut().and_then(Process::stop);
        for (name, status, log) in
            [("Envoy", envoy, "envoy.log"), ("membrane-registry", registry, "registry.log")]
        {
            if let Some(status) = status.filter(|status| !status.success()) {
                return Err(
                    Failure::new(format!("{name} ended with {status}")).with_log(&self.logs().join(log))
                );
            }
        }
        Ok(())
    }
}

impl Observed {
    fn start(ports: &Ports) -> Outcome<Self> {
        let (origin_port, proxy_port) = (Port::free()?, Port::free()?);
        let origin = Origin::start(origin_port.number(), ports.aws.number())?;
        let proxy = SlowProxy::start(proxy_port.number(), ports.registry.number())?;
        Ok(Self { origin, origin_port, proxy, proxy_port })
    }
}

/// A membrane's own capabilities.
pub struct Membrane {
    pub export: String,
    pub revoke: String,
}

/// A text member of a JSON object; the failure names it and does not show the object, which may hold secrets.
pub fn text<'a>(object: &'a Value, member: &str) -> Outcome<&'a str> {
    object[member].as_str().ok_or_else(|| Failure::new(format!("the answer has no text `{member}`")))
}
