//! Reading a JSON object field by field, with errors that name the field and the rule and never hold a value: any value may
//! be a secret that somebody put into the wrong field.

use crate::secret::WipedJson;
use core::fmt;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A field of a request body that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `uri`, `hmac.aws4-hmac-sha256.region`, or empty for the body as a whole.
    pub field: String,
    /// What the rule is, so that a reader knows what to change.
    pub rule: String,
}

impl FieldError {
    /// `field` breaks `rule`.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> FieldError {
        FieldError { field: field.into(), rule: rule.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.rule)
        } else {
            write!(f, "{}: {}", self.field, self.rule)
        }
    }
}

impl std::error::Error for FieldError {}

/// An object whose fields are taken one by one; what is left at the end is unknown. Wiped when dropped.
pub(crate) struct Fields {
    path: String,
    object: WipedJson,
}

impl Fields {
    /// Parses a whole body.
    pub(crate) fn parse(body: &[u8]) -> Result<Fields, FieldError> {
        // serde_json bounds the nesting (128), and a body's length is bounded by whoever read it.
        let Strict(value) = serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let rule =
                format!("the body must be JSON, each name once in an object (line {line}, column {column})");
            FieldError::new("", rule)
        })?;
        Fields::of(String::new(), value)
    }

    fn of(path: String, value: Value) -> Result<Fields, FieldError> {
        let object = WipedJson(value);
        if object.0.is_object() {
            Ok(Fields { path, object })
        } else {
            let rule = if path.is_empty() { "the body must be a JSON object" } else { "must be an object" };
            Err(FieldError::new(path, rule))
        }
    }

    fn map(&mut self) -> Option<&mut Map<String, Value>> {
        self.object.0.as_object_mut()
    }

    fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub(crate) fn error(&self, field: &str, rule: impl Into<String>) -> FieldError {
        FieldError::new(self.name(field), rule)
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.object.0.get(field).is_some_and(|value| !value.is_null())
    }

    /// The field's value; `null` is as good as absent, as in the published service.
    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.map()?.remove(field).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, field: &str) -> Result<Option<String>, FieldError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                drop(WipedJson(other));
                Err(self.error(field, "must be a string"))
            }
        }
    }

    pub(crate) fn boolean(&mut self, field: &str) -> Result<Option<bool>, FieldError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => {
                drop(WipedJson(other));
                Err(self.error(field, "must be true or false"))
            }
        }
    }

    pub(crate) fn object(&mut self, field: &str) -> Result<Option<Fields>, FieldError> {
        let path = self.name(field);
        self.take(field).map(|value| Fields::of(path, value)).transpose()
    }

    pub(crate) fn strings(&mut self, field: &str) -> Result<Option<Vec<String>>, FieldError> {
        let rule = "must be an array of strings";
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => {
                        drop(WipedJson(other));
                        Err(self.error(field, rule))
                    }
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => {
                drop(WipedJson(other));
                Err(self.error(field, rule))
            }
        }
    }

    /// All fields, for objects whose names are the sender's choice.
    pub(crate) fn into_entries(mut self) -> Vec<(String, WipedJson)> {
        let entries = self.map().map(core::mem::take).unwrap_or_default();
        entries.into_iter().map(|(name, value)| (name, WipedJson(value))).collect()
    }

    /// Refuses whatever was not taken.
    pub(crate) fn finish(mut self) -> Result<(), FieldError> {
        let unknown = self
            .map()
            .and_then(|map| map.iter().find(|(_, value)| !value.is_null()).map(|(name, _)| name.clone()));
        match unknown {
            None => Ok(()),
            Some(name) if looks_like_a_field(&name) => {
                Err(self.error(&name, "is not a field of this request"))
            }
            Some(_) => Err(self.error("…", "is not a field of this request")),
        }
    }
}

/// What is no plausible field name is rather a misplaced value, and may be a secret: it is not repeated.
fn looks_like_a_field(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 32
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// JSON in which no object has a name twice. RFC 8259 §4 leaves open which of two counts: whoever reads the request before us
/// could take the other one, and see another grant.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = WipedJson(Value::Array(Vec::new()));
        while let Some(Strict(item)) = items.next_element()? {
            if let Some(array) = array.0.as_array_mut() {
                array.push(item);
            }
        }
        Ok(array.0.take())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = WipedJson(Value::Object(Map::new()));
        while let Some((name, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if let Some(object) = object.0.as_object_mut()
                && let Some(previous) = object.insert(name, value)
            {
                drop(WipedJson(previous));
                return Err(serde::de::Error::custom("a name stands twice"));
            }
        }
        Ok(object.0.take())
    }
}
