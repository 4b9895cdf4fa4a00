//! The create request: what somebody with a create control asks to be made.

use crate::MembraneId;
use crate::fields::{FieldError, Fields};

/// The body of a create request: `{"id": "…"}`, and nothing else.
#[derive(Debug)]
pub struct Create {
    /// What the membrane is to be called.
    pub id: MembraneId,
}

impl Create {
    /// Parses the JSON body of a create request, whatever its content type.
    pub fn parse(body: &[u8]) -> Result<Create, FieldError> {
        let mut fields = Fields::parse(body)?;
        let id = fields.string("id")?.ok_or_else(|| fields.error("id", "is missing"))?;
        let id = MembraneId::parse(&id).map_err(|error| fields.error("id", error.to_string()))?;
        fields.finish()?;
        Ok(Create { id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_and_nothing_else() {
        assert_eq!(Create::parse(r#"{"id": "konten/é a"}"#.as_bytes()).unwrap().id.as_str(), "konten/é a");
        let long = format!(r#"{{"id": "{}"}}"#, "x".repeat(513));
        for (body, message) in [
            ("", "the body must be JSON"),
            ("[]", "the body must be a JSON object"),
            ("{}", "id: is missing"),
            (r#"{"id": null}"#, "id: is missing"),
            (r#"{"id": 5}"#, "id: must be a string"),
            (r#"{"id": ""}"#, "id: must have 1 to 512 characters"),
            (long.as_str(), "id: must have 1 to 512 characters"),
            (r#"{"id": "a\u0000"}"#, "id: must not hold a NUL"),
            (r#"{"id": "a", "name": "b"}"#, "name: is not a field"),
            (r#"{"id": "a", "id": "b"}"#, "each name once"),
        ] {
            let error = Create::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{body}: {error}");
        }
    }
}
