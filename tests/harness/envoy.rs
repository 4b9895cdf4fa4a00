//! Envoy, with envoy/local.yaml as people copy it: only ports and folders are replaced.

use crate::failure::{Failure, Outcome, While};
use crate::http::Client;
use crate::process::Process;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The configuration as people copy it, of the build that this is: an image needs no repository beside it.
const LOCAL: &str = include_str!("../../envoy/local.yaml");

/// Where the parts listen that stand in the configuration.
pub struct Upstreams {
    /// The address of the gateway itself; all others are on loopback.
    pub listen: Ipv4Addr,
    pub gateway: u16,
    pub admin: u16,
    pub control: u16,
    pub registry: u16,
    /// Both again, of a second registry on the same store.
    pub second: Option<(u16, u16)>,
    pub aws: u16,
}

pub struct Options {
    /// Worker threads; as many as the machine has cores when absent.
    pub workers: Option<u32>,
    /// The `wasm` logger at trace level.
    pub trace: bool,
}

/// The program; `MEMBRANE_ENVOY` names another one, to try other versions.
pub fn program() -> Outcome<PathBuf> {
    std::env::var_os("MEMBRANE_ENVOY").map_or_else(|| crate::tool("envoy"), |path| Ok(path.into()))
}

/// That program's version, as `1.40.0`.
pub fn version() -> Outcome<String> {
    let output =
        Command::new(program()?).arg("--version").output().while_(|| "asking Envoy's version".into())?;
    // `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_once("version: ").and_then(|(_, rest)| rest.split('/').nth(1));
    version.map(str::to_owned).ok_or_else(|| Failure::new(format!("Envoy does not say its version: {said}")))
}

/// envoy/local.yaml for these ports and this run folder. Fails if something to be replaced is not there.
pub fn render(dir: &Path, module: &Path, upstreams: &Upstreams) -> Outcome<String> {
    let mut text = LOCAL.to_owned();
    let dir = dir.to_str().ok_or_else(|| Failure::new("the run folder's name must be UTF-8"))?;
    let module = module.to_str().ok_or_else(|| Failure::new("the repository's folder must be UTF-8"))?;
    let port = |number: u16| format!("port_value: {number} ");
    let gateway = |address, number| format!("address: {address}, port_value: {number} ");
    // Two steps, so that a replaced port is not taken for another's default.
    let replacements = [
        (gateway(Ipv4Addr::LOCALHOST, 8443), "\u{1}GATEWAY ", gateway(upstreams.listen, upstreams.gateway)),
        (port(9901), "\u{1}ADMIN ", port(upstreams.admin)),
        (port(9443), "\u{1}CONTROL ", port(upstreams.control)),
        (port(9444), "\u{1}REGISTRY ", port(upstreams.registry)),
        (port(9446), "\u{1}AWS ", port(upstreams.aws)),
        ("filename: run/".into(), "\u{1}RUN", format!("filename: {dir}/")),
        ("path: run/".into(), "\u{1}LOGS", format!("path: {dir}/")),
        ("filename: dist/membrane.wasm".into(), "\u{1}MODULE", format!("filename: {module}")),
    ];
    for (default, mark, _) in &replacements {
        if !text.contains(default.as_str()) {
            return Err(Failure::new(format!("envoy/local.yaml no longer holds `{default}`")));
        }
        text = text.replace(default.as_str(), mark);
    }
    for (_, mark, actual) in &replacements {
        text = text.replace(mark, actual);
    }
    let Some((control, registry)) = upstreams.second else { return Ok(text) };
    let text = with_endpoint(text, upstreams.control, control)?;
    with_endpoint(text, upstreams.registry, registry)
}

/// The second port beside the first, in whichever cluster has that.
fn with_endpoint(config: String, first: u16, second: u16) -> Outcome<String> {
    let port = |number: u16| format!("port_value: {number} ");
    let line = config.lines().find(|line| line.contains("endpoint:") && line.contains(&port(first)));
    let Some(line) = line.map(str::to_owned) else {
        return Err(Failure::new("envoy/local.yaml no longer has an endpoint on a line of its own"));
    };
    let other = line.replace(&port(first), &port(second));
    Ok(config.replacen(&line, &format!("{line}\n{other}"), 1))
}

/// A rendered configuration, with HTTP/2 to AWS's place instead of HTTP/1.1.
pub fn aws_over_http2(config: String) -> Outcome<String> {
    const CLUSTER: &str = "  - name: local_aws\n";
    const OPTIONS: &str = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }\n";
    match config.split_once(CLUSTER) {
        Some((before, after)) => Ok([before, CLUSTER, OPTIONS, after].concat()),
        None => Err(Failure::new("envoy/local.yaml no longer has a cluster local_aws")),
    }
}

/// Starts Envoy with the configuration in `config`, and waits until it is live.
pub fn start(config: &Path, logs: &Path, admin: u16, options: &Options) -> Outcome<Process> {
    let mut command = command(config)?;
    if let Some(workers) = options.workers {
        command.args(["--concurrency", &workers.to_string()]);
    }
    if options.trace {
        command.args(["--component-log-level", "wasm:trace"]);
    }
    let mut process = Process::spawn("Envoy", command, &logs.join("envoy.log"))?;
    let admin = Client::plain(admin);
    process.wait_until(Duration::from_secs(30), "live", || {
        admin.request("GET", "/ready").send().is_ok_and(|answer| answer.status == 200)
    })?;
    Ok(process)
}

/// [`start`], and waits until the filter's VMs run: until it answers, as `client` sees it, a request without a bearer.
pub fn start_with_filter(
    config: &Path,
    logs: &Path,
    admin: u16,
    options: &Options,
    client: &Client,
) -> Outcome<Process> {
    let mut envoy = start(config, logs, admin, options)?;
    envoy.wait_until(Duration::from_secs(20), "answering with the filter in place", || {
        client.request("GET", "/").send().is_ok_and(|answer| answer.status == 401)
    })?;
    Ok(envoy)
}

/// What docker-compose.yaml starts too.
pub fn command(config: &Path) -> Outcome<Command> {
    let mut command = Command::new(program()?);
    command.arg("-c").arg(config);
    // No shared memory between Envoys of one machine: several gateways run beside each other.
    command.arg("--disable-hot-restart");
    command.args(["-l", "info"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_registry_is_an_endpoint_more() {
        let listen = Ipv4Addr::LOCALHOST;
        let second = Some((9453, 9454));
        let one =
            Upstreams { listen, gateway: 1, admin: 2, control: 9443, registry: 9444, second: None, aws: 3 };
        let two = Upstreams { second, ..one };
        let [one, two] =
            [one, two].map(|upstreams| render(Path::new("/run"), Path::new("/m"), &upstreams).unwrap());
        let more: Vec<&str> = two.lines().filter(|line| !one.contains(line)).map(str::trim).collect();
        let endpoint = |port| {
            format!(
                "- endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}"
            )
        };
        assert_eq!(more, [endpoint(9453), endpoint(9454)]);
        assert_eq!(two.lines().count(), one.lines().count() + 2);
    }

    /// One port stands in for another's default here: a careless replacement would mix them up.
    #[test]
    fn ports_and_folders_are_replaced_and_nothing_else() {
        let listen = Ipv4Addr::UNSPECIFIED;
        let upstreams = Upstreams {
            listen,
            gateway: 9443,
            admin: 1,
            control: 9444,
            registry: 8443,
            second: None,
            aws: 2,
        };
        let text = render(Path::new("/a b/run"), Path::new("/m.wasm"), &upstreams).unwrap();
        let original = LOCAL;
        let changed: Vec<(&str, &str)> =
            original.lines().zip(text.lines()).filter(|(before, after)| before != after).collect();
        assert_eq!(original.lines().count(), text.lines().count());
        let numbers: Vec<&str> =
            changed.iter().filter_map(|(_, after)| after.split("port_value: ").nth(1)).collect();
        let numbers: Vec<&str> = numbers.iter().filter_map(|rest| rest.split_whitespace().next()).collect();
        assert_eq!(numbers, ["1", "9443", "9444", "8443", "2"]);
        assert_eq!(text.matches("0.0.0.0").count(), 1, "only the gateway itself is open to others");
        assert!(text.contains("address: 0.0.0.0, port_value: 9443 "));
        assert!(
            changed
                .iter()
                .all(|(before, _)| ["port_value", "run/", "dist/"].iter().any(|part| before.contains(part)))
        );
        assert!(!text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(" run/")));
    }
}
