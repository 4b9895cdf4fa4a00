//! The plugin's configuration: strict, so that a misspelt setting is an error at load (Envoy's NACK) and not a default.

use capability::configured::ConfiguredRecord;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Deserializer};

/// Most records of a configuration: each is looked at when it is loaded, in every worker.
const MAX_RECORDS: usize = 10_000;

/// What is done with a request that carries no `authorization` at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// 401.
    #[default]
    Deny,
    /// Left as it is, less our routing header: the listener also serves other traffic.
    Pass,
}

/// How the registry is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Envoy's cluster for lookups and feed, which no route may name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub cluster: String,
    /// `:authority` of lookups, of the feed and of forwarded control requests.
    pub authority: String,
    /// How long a lookup may take.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", regex(pattern = r"^[0-9]+(ms|s|m|h)$")),
        serde(serialize_with = "as_text")
    )]
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Most lookups that one worker has under way; past it a request whose capability it does not know is answered 503, so that a
    /// flood of random tokens does not become one of lookups. All workers' together, and their feeds, must stay below the requests
    /// that Envoy lets the cluster have (`circuit_breakers`).
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4096)))]
    pub max_lookups: usize,
    /// How many tokens a second that the registry does not know one client's address may try at one worker; past it, what this worker
    /// does not know is answered 429 to that address. 0: as many as it likes.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_000_000)))]
    pub max_unknown: u32,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            cluster: "membrane_registry".into(),
            authority: "membrane.registry".into(),
            timeout: Duration::from_secs(2),
            max_lookups: 256,
            max_unknown: 20,
        }
    }
}

/// What a worker may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct CacheLimits {
    /// Capabilities.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub entries: usize,
    /// Bytes, as the cache counts them.
    #[cfg_attr(feature = "schema", schemars(range(min = 65_536, max = 805_306_368)))]
    pub bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> CacheLimits {
        CacheLimits { entries: 100_000, bytes: 256 * 1024 * 1024 }
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How the registry is asked; none where only configured records are honoured.
    pub registry: Option<Registry>,
    /// Grants of the configuration's own.
    #[cfg_attr(feature = "schema", schemars(length(max = 10_000)))]
    pub records: Vec<ConfiguredRecord>,
    /// The environment variable that holds the keys of their outer layer.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub kek_env: String,
    /// How long an answer of the feed is good for: the bound of revocation. 1 s to 24 h.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", regex(pattern = r"^[0-9]+(ms|s|m|h)$")),
        serde(serialize_with = "as_text")
    )]
    #[serde(deserialize_with = "duration")]
    pub staleness: Duration,
    /// What is done without a bearer.
    pub on_missing: OnMissing,
    /// The largest body that is held to be hashed, in bytes. Must stay below Envoy's own buffer limit, whose 413 names nothing.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 268_435_456)))]
    pub max_body: usize,
    /// Whether the stage that turns `x-membrane-body` into a body stands behind the filter.
    pub pinned_bodies: bool,
    /// What a worker may keep.
    pub cache: CacheLimits,
    /// Whether workers leave each other sealed records in Envoy's shared data.
    pub shared_data: bool,
    /// Whether each request's outcome and hashed ids are put into Envoy's filter state, for access logs.
    pub access_log: bool,
    /// A grant's `timeoutMs` above this is ignored, as published.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", regex(pattern = r"^[0-9]+(ms|s|m|h)$")),
        serde(serialize_with = "as_text")
    )]
    #[serde(deserialize_with = "duration")]
    pub max_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            registry: Some(Registry::default()),
            records: Vec::new(),
            kek_env: "MEMBRANE_KEK".into(),
            staleness: Duration::from_secs(60),
            on_missing: OnMissing::Deny,
            max_body: 1_000_000,
            pinned_bodies: false,
            cache: CacheLimits::default(),
            shared_data: true,
            access_log: false,
            max_timeout: Duration::from_secs(300),
        }
    }
}

/// Why a configuration was refused; its text names the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the membrane filter's configuration: {}", self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the plugin's configuration; nothing at all means the defaults.
    pub fn parse(json: &[u8]) -> Result<Config, ConfigError> {
        let error = |text: &str| Err(ConfigError(text.into()));
        if json.trim_ascii().is_empty() {
            return Ok(Config::default());
        }
        // Nothing in here is secret, so that serde may quote what it found.
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).map_err(|error| ConfigError(error.to_string()))?;
        let says_registry = object.contains_key("registry");
        // serde takes a list for an object, its members in the order in which they stand here, without their names.
        for (name, value) in &object {
            let is_list_of_records = name == "records"
                && value.as_array().is_some_and(|records| records.iter().all(|record| !record.is_array()));
            if value.is_array() && !is_list_of_records {
                return Err(ConfigError(format!(
                    "{name} must not hold a list where an object or a value is expected"
                )));
            }
        }
        let mut config: Config =
            serde_json::from_value(object.into()).map_err(|error| ConfigError(error.to_string()))?;
        if !config.records.is_empty() && !says_registry {
            config.registry = None;
        }
        let within = |duration: Duration, from: u64, to: u64| {
            (Duration::from_secs(from)..=Duration::from_secs(to)).contains(&duration)
        };
        if let Some(registry) = &config.registry {
            if registry.cluster.is_empty() {
                return error("registry.cluster must name an Envoy cluster");
            }
            if registry.authority.parse::<capability::Authority>().is_err() {
                return error("registry.authority must be a host name with an optional port");
            }
            if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&registry.timeout) {
                return error("registry.timeout must be 10ms to 60s");
            }
            if !(1..=4_096).contains(&registry.max_lookups) {
                return error("registry.max_lookups must be 1 to 4096");
            }
            if registry.max_unknown > 1_000_000 {
                return error("registry.max_unknown must be 0 to 1000000 a second");
            }
        }
        if config.records.len() > MAX_RECORDS {
            return error("records must be at most 10000");
        }
        if config.kek_env.is_empty() {
            return error("kek_env must name an environment variable");
        }
        if !within(config.staleness, 1, 86_400) {
            return error("staleness must be 1s to 24h");
        }
        if !within(config.max_timeout, 1, 86_400) {
            return error("max_timeout must be 1s to 24h");
        }
        if !(1..=256 * 1024 * 1024).contains(&config.max_body) {
            return error("max_body must be 1 to 268435456 bytes");
        }
        if !(1..=1_000_000).contains(&config.cache.entries) {
            return error("cache.entries must be 1 to 1000000");
        }
        if !(65_536..=768 * 1024 * 1024).contains(&config.cache.bytes) {
            return error("cache.bytes must be 65536 to 805306368 (a VM's memory ends at 1 GiB)");
        }
        Ok(config)
    }
}

/// For the defaults in the schema.
#[cfg(feature = "schema")]
fn as_text<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match (duration.as_secs(), duration.subsec_millis()) {
        (seconds, 0) => serializer.collect_str(&format_args!("{seconds}s")),
        _ => serializer.collect_str(&format_args!("{}ms", duration.as_millis())),
    }
}

/// The JSON Schema of the plugin's configuration. What it refuses [`Config::parse`] refuses too; bounds of durations, and what
/// base64url holds, the parser alone knows.
#[cfg(feature = "schema")]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Config);
    schema.insert("title".into(), "The configuration of the Membrane filter for Envoy".into());
    schema.to_value()
}

/// `500ms`, `2s`, `5m`, `24h`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let parsed =
        number.parse::<u64>().ok().zip(milliseconds).and_then(|(number, unit)| number.checked_mul(unit));
    parsed.map(Duration::from_millis).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "a duration is a number and ms, s, m or h, such as \"2s\"; not {text:?}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_all_settings() {
        assert_eq!(Config::parse(b"").unwrap(), Config::default());
        assert_eq!(Config::parse(b"{}").unwrap(), Config::default());
        let config = Config::parse(
            br#"{"registry": {"cluster": "c", "authority": "r:9444", "timeout": "500ms"}, "staleness": "1s", "on_missing": "pass",
                 "max_body": 5, "pinned_bodies": true, "cache": {"entries": 7, "bytes": 65536}, "shared_data": false, "access_log": true,
                 "max_timeout": "5m"}"#,
        )
        .unwrap();
        assert_eq!(config.registry.unwrap().timeout, Duration::from_millis(500));
        assert_eq!((config.on_missing, config.max_body, config.shared_data), (OnMissing::Pass, 5, false));
        assert!(config.pinned_bodies && config.access_log);
        assert_eq!((config.cache.entries, config.max_timeout), (7, Duration::from_secs(300)));
    }

    #[test]
    fn records_stand_for_a_registry_unless_one_is_named() {
        let record =
            r#""records": [{"lookup": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "record": "AAAA"}]"#;
        let parse = |more: &str| Config::parse(format!("{{{record}{more}}}").as_bytes()).unwrap().registry;
        assert_eq!(parse(""), None);
        assert_eq!(parse(r#", "registry": null"#), None);
        assert_eq!(parse(r#", "registry": {}"#), Some(Registry::default()));
        // The last record may be taken out, too: then nothing is honoured.
        assert_eq!(Config::parse(br#"{"registry": null, "records": []}"#).unwrap().registry, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, name) in [
            (r#"{"on_mising": "pass"}"#, "on_mising"),
            (r#"{"registry": {"host": "x"}}"#, "host"),
            (r#"{"on_missing": "allow"}"#, "allow"),
            (r#"{"staleness": "0s"}"#, "staleness"),
            (r#"{"staleness": "25h"}"#, "staleness"),
            (r#"{"staleness": 60}"#, "string"),
            (r#"{"staleness": "1 minute"}"#, "duration"),
            (r#"{"max_body": 0}"#, "max_body"),
            (r#"{"max_body": -1}"#, "invalid value"),
            (r#"{"cache": {"entries": 0}}"#, "cache.entries"),
            (r#"{"cache": {"bytes": 1}}"#, "cache.bytes"),
            (r#"{"registry": {"timeout": "1ms"}}"#, "registry.timeout"),
            (r#"{"registry": {"max_lookups": 0}}"#, "registry.max_lookups"),
            (r#"{"registry": {"max_lookups": 4097}}"#, "registry.max_lookups"),
            (r#"{"registry": {"max_unknown": 1000001}}"#, "registry.max_unknown"),
            (r#"{"registry": {"cluster": ""}}"#, "registry.cluster"),
            (r#"{"registry": {"authority": "a b"}}"#, "registry.authority"),
            (r#"{"max_timeout": "0s"}"#, "max_timeout"),
            (r#"{"records": [{"lookup": "x", "record": "AA"}]}"#, "base64url"),
            (
                r#"{"records": [{"lookup": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "record": "A="}]}"#,
                "capi seal",
            ),
            (r#"{"kek_env": ""}"#, "kek_env"),
            (r#"{"cache": [7, 65536]}"#, "cache"),
            (r#"{"registry": []}"#, "registry"),
            (r#"{"records": [["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAA", null]]}"#, "records"),
            ("[]", "invalid"),
            ("{", "EOF"),
        ] {
            let error = Config::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(name), "{json}: {error}");
        }
    }
}
