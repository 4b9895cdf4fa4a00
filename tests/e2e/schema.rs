//! docs/config.schema.json: it is what the types of the filter's configuration say, every configuration that we show is valid by it, and
//! what it refuses the filter refuses.

use crate::shipped::{all, documents, yaml_files};
use membrane_filter::config::{self, Config};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn file() -> PathBuf {
    harness::repository().join("docs/config.schema.json")
}

/// For each document why the schema refuses it, if it does.
pub(crate) fn refusals(documents: &[Value]) -> Vec<Option<String>> {
    refusals_by(&file(), documents)
}

/// The same by another schema.
pub(crate) fn refusals_by(schema: &std::path::Path, documents: &[Value]) -> Vec<Option<String>> {
    let mut child = Command::new(harness::tool("python").unwrap())
        .arg(harness::repository().join("tests/tools/validate.py"))
        .arg(schema)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads everything before it writes anything, so the pipes cannot block each other.
    child.stdin.take().unwrap().write_all(json!(documents).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `make schema` writes the file through this.
#[test]
fn the_file_is_what_the_types_say() {
    let schema = format!("{:#}\n", config::schema());
    if std::env::var_os("MEMBRANE_WRITE_SCHEMA").is_some() {
        std::fs::write(file(), &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file()).unwrap(), schema, "run `make schema`");
}

#[test]
fn every_setting_is_described_and_has_its_default() {
    let schema = config::schema();
    let defaults = json!({
        "registry": {"cluster": "membrane_registry", "authority": "membrane.registry", "timeout": "2s", "max_lookups": 256, "max_unknown": 20},
        "records": [], "kek_env": "MEMBRANE_KEK", "staleness": "60s", "on_missing": "deny", "max_body": 1_000_000,
        "pinned_bodies": false, "cache": {"entries": 100_000, "bytes": 268_435_456}, "shared_data": true, "access_log": false,
        "max_timeout": "300s",
    });
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(properties.len(), defaults.as_object().unwrap().len());
    for (name, setting) in properties {
        assert!(setting["description"].as_str().is_some_and(|text| text.len() > 10), "{name}");
        assert_eq!(setting["default"], defaults[name], "{name}");
        let documented =
            std::fs::read_to_string(harness::repository().join("docs/configuration.md")).unwrap();
        assert!(
            documented.contains(&format!("| `{name}` |")),
            "docs/configuration.md does not tell of {name}"
        );
    }
    assert_eq!(Config::parse(defaults.to_string().as_bytes()).unwrap(), Config::default());
}

/// The filter's configurations of a document of Envoy's, or of a mesh.
pub(crate) fn configurations_in(document: &Value) -> Vec<Value> {
    let texts = all(document, "value").into_iter().filter_map(Value::as_str);
    texts.filter_map(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object).collect()
}

#[test]
fn what_we_show_is_valid() {
    let mut shown = Vec::new();
    for file in yaml_files("envoy") {
        let found: Vec<Value> = documents(&file).iter().flat_map(configurations_in).collect();
        assert!(!found.is_empty(), "{}", file.display());
        shown.extend(found);
    }
    // In prose: whole configurations in a block of their own, and those in quotes within Envoy's YAML.
    for page in ["README.md", "docs/configuration.md"] {
        let text = std::fs::read_to_string(harness::repository().join(page)).unwrap();
        let quoted = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("value: '")?;
            Some(rest.strip_suffix('\'')?.replace('…', "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
        });
        let blocks =
            text.split("```json\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
        let found: Vec<String> = quoted.chain(blocks).collect();
        assert!(!found.is_empty(), "{page}");
        shown.extend(
            found
                .iter()
                .map(|json| serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))),
        );
    }
    for (shown, refusal) in shown.iter().zip(refusals(&shown)) {
        assert_eq!(refusal, None, "{shown}");
        Config::parse(shown.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn mistakes_are_refused_by_both() {
    let mistakes = [
        json!({"on_mising": "pass"}),
        json!({"registry": {"host": "x"}}),
        json!({"registry": "membrane_registry"}),
        json!({"registry": {"cluster": ""}}),
        json!({"registry": {"max_lookups": 0}}),
        json!({"registry": {"max_lookups": 4097}}),
        json!({"on_missing": "allow"}),
        json!({"staleness": 60}),
        json!({"staleness": "1 minute"}),
        json!({"staleness": "-1s"}),
        json!({"max_body": 0}),
        json!({"max_body": "1MB"}),
        json!({"cache": {"entries": 0}}),
        json!({"cache": {"bytes": 1}}),
        json!({"access_log": "yes"}),
        json!({"records": [{"lookup": "x", "record": "AA"}]}),
        json!({"records": [{"record": "AA"}]}),
        json!({"records": {}}),
        json!({"kek_env": ""}),
        json!([]),
    ];
    for (mistake, refusal) in mistakes.iter().zip(refusals(&mistakes)) {
        assert!(refusal.is_some(), "the schema takes {mistake}");
        assert!(Config::parse(mistake.to_string().as_bytes()).is_err(), "the filter takes {mistake}");
    }
}

/// Any value, of those that are near to what a setting takes.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("deny"),
        Just("pass"),
        Just("membrane"),
        Just(""),
        Just("1s"),
        Just("0s"),
        Just("1500ms"),
        Just("2d"),
        Just(" 5m"),
        Just("5m "),
        Just("99999999999999999999s"),
        Just("+5s"),
        Just("1.5s"),
        Just("٣s"),
        Just("host:443"),
        Just("a b"),
        Just("AAAA"),
        Just("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        Just("5m\n"),
    ];
    let leaf = prop_oneof![
        text.prop_map(Value::from),
        prop_oneof![
            Just(0_i64),
            Just(1),
            Just(-1),
            Just(256),
            Just(4096),
            Just(4097),
            Just(65_535),
            Just(65_536),
            Just(1 << 28),
            Just(1 << 40)
        ]
        .prop_map(Value::from),
        prop_oneof![Just(0.5), Just(5.0), Just(1e30)].prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let names = prop_oneof![
            Just("cluster"),
            Just("authority"),
            Just("timeout"),
            Just("max_lookups"),
            Just("entries"),
            Just("bytes"),
            Just("lookup"),
            Just("record"),
            Just("expiresAt"),
            Just("other"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..3).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Value>()),
        ]
    })
}

fn any_configuration() -> impl Strategy<Value = Value> {
    let mut names: Vec<String> =
        config::schema()["properties"].as_object().unwrap().keys().cloned().collect();
    names.push("other".into());
    prop::collection::hash_map(prop::sample::select(names), any_value(), 0..3)
        .prop_map(|members| members.into_iter().collect::<Value>())
}

/// The other way round cannot be: a schema does not know which durations are too long, nor what stands in base64url.
#[test]
fn what_the_schema_refuses_the_filter_refuses() {
    let mut runner = TestRunner::default();
    let draw = |_| any_configuration().new_tree(&mut runner).unwrap().current();
    let drawn: Vec<Value> = (0..20_000).map(draw).collect();
    let refusals = refusals(&drawn);
    let mut taken = 0;
    for (drawn, refusal) in drawn.iter().zip(&refusals) {
        let parsed = Config::parse(drawn.to_string().as_bytes());
        taken += usize::from(parsed.is_ok());
        assert!(
            refusal.is_none() || parsed.is_err(),
            "the filter takes {drawn}, which the schema refuses: {refusal:?}"
        );
    }
    let refused = refusals.iter().filter(|refusal| refusal.is_some()).count();
    assert!(taken > 500 && refused > 500, "{taken} taken, {refused} refused: this shows nothing");
}
