//! Ports for the parts of a local gateway.

use crate::failure::{Failure, Outcome, While};
use serde_json::json;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port on 127.0.0.1, ours until this is dropped: no other gateway of this machine picks it meanwhile.
pub struct Port {
    number: u16,
    _lock: Option<File>,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }

    /// A free port. Taken below the range from which Linux gives out ports for outgoing connections, so that none of
    /// those can take it between now and its use; a file lock keeps other test runs away.
    pub fn free() -> Outcome<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        const FIRST: u16 = 20_000;
        const COUNT: u16 = 12_000;
        let folder = std::env::temp_dir().join("membrane-ports");
        std::fs::create_dir_all(&folder).while_(|| format!("creating {}", folder.display()))?;
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            let Ok(lock) = File::create(folder.join(number.to_string())) else { continue };
            if lock.try_lock().is_ok() && is_free(number) {
                return Ok(Self { number, _lock: Some(lock) });
            }
        }
        Err(Failure::new("no free port between 20000 and 32000 on 127.0.0.1"))
    }

    /// This very port, which must be free now.
    pub fn fixed(number: u16) -> Outcome<Self> {
        if is_free(number) {
            Ok(Self { number, _lock: None })
        } else {
            Err(Failure::new(format!(
                "port {number} on 127.0.0.1 is in use. Is another gateway running? A second one runs beside it with, for \
                 example, `make run MEMBRANE_PORT=8543 MEMBRANE_RUN=run-8543`"
            )))
        }
    }
}

fn is_free(number: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
}

/// One port for each listener of docs/wire.md.
pub struct Ports {
    pub gateway: Port,
    pub admin: Port,
    pub control: Port,
    pub registry: Port,
    pub metrics: Port,
    pub aws: Port,
}

impl Ports {
    /// The ports of docs/wire.md, which are the ones that stand in envoy/local.yaml.
    pub const DEFAULT: [u16; 6] = [8443, 9901, 9443, 9444, 9445, 9446];

    /// Of the second registry of docker-compose.postgres.yaml: control, lookups and feed, metrics.
    pub const SECOND_REGISTRY: [u16; 3] = [9453, 9454, 9455];

    pub fn defaults() -> Outcome<Self> {
        let [gateway, admin, control, registry, metrics, aws] = Self::DEFAULT.map(Port::fixed);
        Ok(Self {
            gateway: gateway?,
            admin: admin?,
            control: control?,
            registry: registry?,
            metrics: metrics?,
            aws: aws?,
        })
    }

    /// Free ports for everything.
    pub fn free() -> Outcome<Self> {
        Self::with_gateway(Port::free()?)
    }

    /// Free ports for everything but the gateway.
    pub fn with_gateway(gateway: Port) -> Outcome<Self> {
        Ok(Self {
            gateway,
            admin: Port::free()?,
            control: Port::free()?,
            registry: Port::free()?,
            metrics: Port::free()?,
            aws: Port::free()?,
        })
    }

    pub fn write(&self, file: &Path) -> Outcome<()> {
        let ports = json!({
            "gateway": self.gateway.number, "admin": self.admin.number, "control": self.control.number,
            "registry": self.registry.number, "metrics": self.metrics.number, "aws": self.aws.number,
        });
        std::fs::write(file, format!("{ports:#}\n")).while_(|| format!("writing {}", file.display()))
    }
}
