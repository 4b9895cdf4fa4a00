//! Query strings: known names, each at most once. Everything else is refused by name.

use crate::error::ApiError;
use std::borrow::Cow;

/// The parameters of a request.
#[derive(Debug)]
pub(crate) struct QueryString<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// Longer names are rather misplaced values, which may be secret.
const LONGEST_NAME_REPEATED: usize = 32;

impl<'a> QueryString<'a> {
    /// Reads a query of which every name is one of `known` and stands once.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<QueryString<'a>, ApiError> {
        let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_ref()) {
                return Err(unknown(name));
            }
            if pairs.iter().take(index).any(|(other, _)| other == name) {
                return Err(ApiError::BadRequest(format!("{name}: is given twice")));
            }
        }
        Ok(QueryString(pairs))
    }

    /// The text of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_ref())
    }

    /// A parameter as something else; `rule` says what it must be.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str, rule: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| ApiError::BadRequest(format!("{name}: {rule}"))))
            .transpose()
    }
}

fn unknown(name: &str) -> ApiError {
    let plain = name.len() <= LONGEST_NAME_REPEATED
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    let name = if plain { name } else { "…" };
    ApiError::BadRequest(format!("{name}: is not a query parameter of this request"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_and_stand_once() {
        let known = ["id", "limit"];
        let query = QueryString::parse(Some("id=a%20b+c%2F&limit=5"), &known).unwrap();
        assert_eq!(query.text("id"), Some("a b c/"));
        assert_eq!(query.parsed::<u8>("limit", "must be a number").unwrap(), Some(5));
        assert_eq!(QueryString::parse(None, &known).unwrap().text("id"), None);
        for (bad, message) in [
            ("id=1&id=2", "id: is given twice"),
            ("x=1", "x: is not a query parameter"),
            ("CPBLTY1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "…: is not a query parameter"),
        ] {
            let error = QueryString::parse(Some(bad), &known).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
