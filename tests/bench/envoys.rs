//! The Envoys that are measured, alike in everything but the filter: one worker, HTTP/1.1 in the clear on both sides, no access log.

use harness::Outcome;
use harness::envoy::{self, Options};
use harness::ports::Port;
use harness::prepare::write_private;
use harness::process::Process;
use serde_json::{Value, json};
use std::path::Path;

/// The credential that the native filter signs with, and the grants too.
pub(crate) const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub(crate) const REGION: &str = "us-east-1";
pub(crate) const SERVICE: &str = "lambda";

/// Where requests with this host go that carry bodies of any size.
pub(crate) const SINK_HOST: &str = "bucket.s3.us-east-1.amazonaws.com";
pub(crate) const HOST: &str = "lambda.us-east-1.amazonaws.com";

/// An Envoy, and where it listens.
pub(crate) struct Envoy {
    pub(crate) process: Process,
    pub(crate) port: u16,
    _ports: [Port; 2],
}

fn extension(package: &str, content: Value) -> Value {
    let mut content = content;
    content["@type"] = format!("type.googleapis.com/envoy.extensions.{package}").into();
    content
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

pub(crate) fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
        ]},
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}
        ]},
    })
}

/// Over mutual TLS, as envoy/local.yaml has it.
pub(crate) fn registry_cluster(dir: &Path, port: u16) -> Value {
    let file = |name: &str| json!({"filename": harness::layout::gateway(dir).join(name)});
    let mut cluster = cluster("membrane_registry", port);
    cluster["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": extension("transport_sockets.tls.v3.UpstreamTlsContext", json!({
            "sni": "membrane-registry",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [{
                    "certificate_chain": file("tls/gateway-client.pem"),
                    "private_key": file("tls/gateway-client-key.pem"),
                }],
                "validation_context": {
                    "trusted_ca": file("ca.pem"),
                    "match_typed_subject_alt_names": [
                        {"san_type": "DNS", "matcher": {"exact": "membrane-registry"}}
                    ],
                },
            },
        })),
    });
    cluster
}

/// What an Envoy does with a request.
pub(crate) struct Setup {
    pub(crate) filters: Vec<Value>,
    pub(crate) routes: Vec<Value>,
    pub(crate) clusters: Vec<Value>,
}

/// To the upstream, or to the sink, by the request's host.
pub(crate) fn hosts(headers: &Value, sink_host: &str) -> Vec<Value> {
    let route = |domain: &str, cluster: &str| {
        json!({
            "name": cluster, "domains": [domain],
            "routes": [{
                "match": {"prefix": "/", "headers": headers},
                "request_headers_to_remove": ["x-membrane-route", "x-membrane-body"],
                "route": {"cluster": cluster, "timeout": "0s"},
            }],
        })
    };
    vec![route("*", "upstream"), route(sink_host, "sink")]
}

/// Envoy's own signer.
pub(crate) fn native(unsigned_payload: bool) -> Value {
    json!({
        "name": "envoy.filters.http.aws_request_signing",
        "typed_config": extension("filters.http.aws_request_signing.v3.AwsRequestSigning", json!({
            "service_name": SERVICE, "region": REGION, "host_rewrite": HOST, "use_unsigned_payload": unsigned_payload,
            "credential_provider": {
                "inline_credential": {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
            },
        })),
    })
}

/// Ours, as envoy/local.yaml has it, with room for every capability of the run.
pub(crate) fn membrane(module: &Path) -> Value {
    let configuration = json!({
        "registry": {"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "10s"},
        "cache": {"entries": 1_000_000, "bytes": 768 << 20},
    });
    json!({
        "name": "membrane",
        "typed_config": extension("filters.http.wasm.v3.Wasm", json!({"config": {
            "name": "membrane", "root_id": "membrane", "failure_policy": "FAIL_RELOAD", "allow_on_headers_stop_iteration": true,
            "vm_config": {"vm_id": "membrane", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}}},
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration.to_string()},
        }})),
    })
}

/// An upstream that takes whole bodies and answers something short.
pub(crate) fn upstream() -> Setup {
    Setup {
        filters: vec![json!({
            "name": "envoy.filters.http.buffer",
            "typed_config": extension("filters.http.buffer.v3.Buffer", json!({"max_request_bytes": 4 << 20})),
        })],
        routes: vec![json!({
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "done\n"}}}],
        })],
        clusters: Vec::new(),
    }
}

impl Envoy {
    /// Starts one under `dir`, and waits until it is live.
    pub(crate) fn start(name: &str, dir: &Path, setup: &Setup, workers: u32) -> Outcome<Self> {
        let (listen, admin) = (Port::free()?, Port::free()?);
        let mut filters = setup.filters.clone();
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": extension("filters.http.router.v3.Router", json!({"suppress_envoy_headers": true})),
        }));
        let manager = extension(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            json!({
                "stat_prefix": "bench", "codec_type": "HTTP1", "use_remote_address": true,
                "route_config": {"name": "bench", "virtual_hosts": setup.routes},
                "http_filters": filters,
            }),
        );
        let config = json!({
            "admin": {"address": address(admin.number())},
            "static_resources": {
                "listeners": [{
                    "name": "bench", "address": address(listen.number()),
                    "filter_chains": [{"filters": [
                        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                    ]}],
                }],
                "clusters": setup.clusters,
            },
        });
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("envoy.json");
        write_private(&file, &config.to_string())?;
        let options = Options { workers: Some(workers), trace: false };
        let process = envoy::start(&file, &folder, admin.number(), &options)?;
        Ok(Self { process, port: listen.number(), _ports: [listen, admin] })
    }
}
