//! An Envoy of the tests' own that defends nothing: whatever it can parse goes to an origin.

use harness::Outcome;
use harness::envoy;
use harness::http::Client;
use harness::origin::{Origin, Recorded};
use harness::ports::Port;
use harness::process::Process;
use std::path::PathBuf;

pub(super) struct PlainRoute {
    pub(super) client: Client,
    origin: Origin,
    _envoy: Process,
    _ports: [Port; 3],
}

const CONFIG: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: ADMIN } } }
static_resources:
  listeners:
  - name: plain
    address: { socket_address: { address: 127.0.0.1, port_value: GATEWAY } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          codec_type: AUTO
          http_protocol_options: { accept_http_10: true, allow_chunked_length: true, enable_trailers: true }
          http2_protocol_options: { allow_connect: true, override_stream_error_on_invalid_http_message: true }
          upgrade_configs: [{ upgrade_type: websocket }, { upgrade_type: h2c }, { upgrade_type: CONNECT }]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "" }
                route: { cluster: origin }
              - match: { connect_matcher: {} }
                route: { cluster: origin }
  clusters:
  - name: origin
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http_protocol_options: { enable_trailers: true } }
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: ORIGIN } } }
"#;

impl PlainRoute {
    pub(super) fn start(dir: PathBuf) -> Outcome<Self> {
        std::fs::create_dir_all(&dir)?;
        let ports = [Port::free()?, Port::free()?, Port::free()?];
        let [gateway, admin, origin_port] = &ports;
        // What is not for the recorder would go to moto: here to a port where nobody listens.
        let nobody = Port::free()?;
        let origin = Origin::start(origin_port.number(), nobody.number())?;
        let text = CONFIG
            .replace("ADMIN", &admin.number().to_string())
            .replace("GATEWAY", &gateway.number().to_string())
            .replace("ORIGIN", &origin_port.number().to_string());
        let config = dir.join("envoy.yaml");
        std::fs::write(&config, text)?;
        let options = envoy::Options { workers: Some(1), trace: false };
        let process = envoy::start(&config, &dir, admin.number(), &options)?;
        let client = Client::plain(gateway.number());
        Ok(Self { client, origin, _envoy: process, _ports: ports })
    }

    /// What has come so far.
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.origin.requests("").len(), self.origin.broken().len())
    }

    /// All that came since, whole or not.
    pub(super) fn came_since(&self, (whole, broken): (usize, usize)) -> Vec<Recorded> {
        let mut came = self.origin.requests("").split_off(whole);
        came.extend(self.origin.broken().split_off(broken));
        came
    }
}
