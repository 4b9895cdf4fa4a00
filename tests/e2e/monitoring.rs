//! envoy/monitoring/: the dashboard asks for what a real scrape shows, and Prometheus for where it is.

use crate::shipped::{all, documents};
use crate::{membrane, recorded, shared};
use harness::http::Client;
use harness::ports::Ports;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Names of metrics, each with the names and values of its labels.
type Scrape = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Reads Prometheus' text format.
fn scrape(port: u16, path: &str) -> Scrape {
    let text = Client::plain(port).request("GET", path).send().unwrap().expect(200, path).unwrap().text();
    let mut found = Scrape::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let known = found.entry(name.to_owned()).or_default();
        let labels = labels.strip_suffix('}').unwrap().trim_end_matches(',');
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            known.entry(name.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    assert!(!found.is_empty());
    found
}

fn words(text: &str) -> Vec<&str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_part(character)).filter(|word| !word.is_empty()).collect()
}

/// Metrics of a query with the labels that it selects by, and the labels that it groups by.
fn asked(query: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let mut metrics = Vec::new();
    let mut rest = query;
    while let Some(at) = ["membrane_", "envoy_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let from = &rest[at..];
        let name = words(from)[0];
        rest = &from[name.len()..];
        let mut labels = Vec::new();
        if let Some(selector) = rest.strip_prefix('{') {
            let (selector, after) = selector.split_once('}').unwrap();
            for matcher in selector.split("\",") {
                labels.push(words(matcher)[0].to_owned());
            }
            rest = after;
        }
        // What groups is a label and not a metric.
        if !query[..query.len() - from.len()].ends_with("by (") {
            metrics.push((name.to_owned(), labels));
        }
    }
    let groups = query.split("by (").skip(1).flat_map(|group| words(group.split(')').next().unwrap()));
    (metrics, groups.map(str::to_owned).collect())
}

#[test]
fn queries_are_taken_apart() {
    let query = r#"1 - sum by (le, x) (rate(membrane_a{b=~"c|d",e!="f"}[1m])) / sum by (envoy_g) (envoy_h)"#;
    let (metrics, groups) = asked(query);
    assert_eq!(metrics, [("membrane_a".into(), vec!["b".into(), "e".into()]), ("envoy_h".into(), vec![])]);
    assert_eq!(groups, ["le", "x", "envoy_g"]);
}

#[test]
fn every_query_of_the_dashboard_names_what_a_scrape_shows() {
    // One of each: created, exported, asked cold and warm, unknown, revoked.
    let gateway = shared();
    let membrane = membrane("monitoring");
    let capability = gateway.export(&membrane, &recorded(gateway, None, "/monitoring")).unwrap();
    for _ in 0..3 {
        assert_eq!(gateway.request(&capability, "GET", "/").send().unwrap().status, 200);
    }
    gateway.revoke(&membrane).unwrap();
    assert_eq!(gateway.client.request("GET", "/").send().unwrap().status, 401);
    std::thread::sleep(crate::TICKS);

    let mut scraped = scrape(gateway.ports.admin.number(), "/stats/prometheus");
    scraped.extend(scrape(gateway.ports.metrics.number(), "/metrics"));
    let file = harness::repository().join("envoy/monitoring/dashboards/membrane.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let queries: Vec<&str> =
        all(&dashboard, "expr").into_iter().map(|query| query.as_str().unwrap()).collect();
    assert!(queries.len() >= 12, "{}", queries.len());
    for query in queries {
        let (metrics, groups) = asked(query);
        assert!(!metrics.is_empty(), "{query}");
        for (metric, labels) in metrics {
            let known = scraped.get(&metric).unwrap_or_else(|| panic!("{query}: no scrape shows {metric}"));
            for label in labels.iter().chain(&groups) {
                assert!(known.contains_key(label), "{query}: {metric} has no label {label}, but {known:?}");
            }
        }
    }
    let outcomes = &scraped["membrane_requests_total"]["outcome"];
    assert!(outcomes.contains("granted") && outcomes.contains("unauthorized"), "{outcomes:?}");
    assert!(
        scraped["envoy_http_downstream_rq_time_bucket"]["envoy_http_conn_manager_prefix"].contains("gateway")
    );
}

/// docs/observability.md has every statistic of the filter, and none that is not there.
#[test]
fn the_documented_statistics_are_those_that_are_there() {
    use membrane_filter::stats::{CACHE_ENTRIES, Counter, FEED_AGE, LOOKUP_TIME};
    let page = std::fs::read_to_string(harness::repository().join("docs/observability.md")).unwrap();
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `membrane_")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let there: BTreeSet<&str> = Counter::ALL
        .iter()
        .map(|(_, name)| *name)
        .chain([CACHE_ENTRIES, FEED_AGE, LOOKUP_TIME])
        .map(|name| name.strip_prefix("membrane_").unwrap())
        .collect();
    assert_eq!(documented, there);
}

#[test]
fn prometheus_asks_where_things_listen() {
    let [_, admin, _, _, metrics, _] = Ports::DEFAULT;
    let file = harness::repository().join("envoy/monitoring/prometheus.yaml");
    let jobs = documents(&file).remove(0)["scrape_configs"].clone();
    let targets: Vec<(Value, Value)> = jobs
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["metrics_path"].clone(), job["static_configs"][0]["targets"][0].clone()))
        .collect();
    let expected = [
        ("/stats/prometheus".into(), format!("127.0.0.1:{admin}").into()),
        ("/metrics".into(), format!("127.0.0.1:{metrics}").into()),
    ];
    assert_eq!(targets, expected);
    // With PostgreSQL there is a second registry, and nothing else is otherwise.
    let file = harness::repository().join("envoy/monitoring/prometheus-postgres.yaml");
    let mut of_both = documents(&file).remove(0)["scrape_configs"].clone();
    let targets = of_both[1]["static_configs"][0]["targets"].as_array_mut().unwrap();
    assert_eq!(targets.pop(), Some(format!("127.0.0.1:{}", Ports::SECOND_REGISTRY[2]).into()));
    assert_eq!(of_both, jobs);
    // The dashboard asks the data source that is set up.
    let sources =
        documents(&harness::repository().join("envoy/monitoring/grafana/datasources/prometheus.yaml"));
    let file = harness::repository().join("envoy/monitoring/dashboards/membrane.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for source in all(&dashboard, "datasource") {
        assert_eq!(source["uid"], sources[0]["datasources"][0]["uid"]);
    }
}

/// What Compose's Grafana and Prometheus are told fits together, and Grafana lets nobody change anything.
#[test]
fn compose_starts_what_stands_here() {
    let compose = documents(&harness::repository().join("docker-compose.yaml")).remove(0);
    let services = &compose["services"];
    let grafana = &services["grafana"]["environment"];
    let setting = |name: &str| grafana[name].as_str().unwrap_or_else(|| panic!("{name}"));
    let here = |path: &str| harness::repository().join(path.strip_prefix("/membrane/").unwrap());
    let provisioned = here(setting("GF_PATHS_PROVISIONING"));
    assert!(provisioned.join("datasources").is_dir() && provisioned.join("dashboards").is_dir());
    assert!(here(setting("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH")).is_file());
    let provider = documents(&provisioned.join("dashboards/membrane.yaml")).remove(0);
    assert!(here(provider["providers"][0]["options"]["path"].as_str().unwrap()).is_dir());
    for (name, value) in [
        ("GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "true"),
        ("GF_AUTH_DISABLE_LOGIN_FORM", "true"),
        ("GF_AUTH_BASIC_ENABLED", "false"),
        ("GF_AUTH_ANONYMOUS_ORG_ROLE", "Viewer"),
    ] {
        assert_eq!(setting(name), value, "{name}");
    }
    let command = services["prometheus"]["command"].as_array().unwrap();
    let said = |flag: &str| {
        command.iter().find_map(|word| word.as_str()?.strip_prefix(flag)).unwrap_or_else(|| panic!("{flag}"))
    };
    assert!(harness::repository().join(said("--config.file=")).is_file());
    let sources = documents(&provisioned.join("datasources/prometheus.yaml")).remove(0);
    let address = sources["datasources"][0]["url"].as_str().unwrap();
    assert_eq!(address.strip_prefix("http://").unwrap(), said("--web.listen-address="));
    for service in ["prometheus", "grafana"] {
        assert_eq!(services[service]["profiles"][0], "monitoring");
        let health = &services[service]["healthcheck"]["test"];
        let port = if service == "grafana" { setting("GF_SERVER_HTTP_PORT") } else { "9090" };
        assert!(health.to_string().contains(&format!("127.0.0.1:{port}/")), "{health}");
    }
}
