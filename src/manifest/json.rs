//! The one form in which we write JSON that is signed or hashed: keys sorted,
//! no spaces, the shortest escapes, integers only, UTF-8.
//!
//! TUF signs the OLPC canonical form of `signed`, which `sigstore_tuf` makes
//! from a parsed value. Files hold this compact form: it parses to the same
//! value, and writing a parsed file again gives the same bytes. A bundle can
//! therefore carry metadata as plain JSON and still check hashes of the files.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Sha256;

/// JSON that is not in the form that is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON, or not the expected members and types.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// Valid JSON in another spelling than ours: spaces, order, escapes,
    /// doubled keys.
    #[error("not in compact form: keys must be sorted and unique, without spaces")]
    NotCompact,
    /// A number with a fraction or exponent.
    #[error("only whole numbers are allowed")]
    Fraction,
}

/// Writes `value` in compact form.
///
/// # Errors
/// A value with a float, or with a map whose keys are not text.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, JsonError> {
    // Through `Value`, whose maps are sorted.
    let value = serde_json::to_value(value)?;
    if has_fraction(&value) {
        return Err(JsonError::Fraction);
    }
    Ok(serde_json::to_vec(&value)?)
}

/// Parses JSON that must be in compact form to the last byte.
///
/// # Errors
/// Anything that is not what [`to_vec`] would write.
pub fn from_slice_strict(bytes: &[u8]) -> Result<Value, JsonError> {
    let value: Value = serde_json::from_slice(bytes)?;
    if to_vec(&value)? == bytes { Ok(value) } else { Err(JsonError::NotCompact) }
}

/// A typed value from JSON that is already parsed.
///
/// # Errors
/// Missing or unknown members, wrong types.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    Ok(serde_json::from_value(value)?)
}

/// SHA-256 of the compact form.
///
/// # Errors
/// As [`to_vec`].
pub fn digest<T: Serialize + ?Sized>(value: &T) -> Result<Sha256, JsonError> {
    Ok(Sha256::of(&to_vec(value)?))
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_i64() && !number.is_u64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writes_sorted_and_reads_back_only_that() {
        let bytes = to_vec(&json!({"b": [1, "\n\u{e9}\""], "a": null})).unwrap();
        assert_eq!(bytes, "{\"a\":null,\"b\":[1,\"\\n\u{e9}\\\"\"]}".as_bytes());
        assert!(from_slice_strict(&bytes).is_ok());
        for other in [
            r#"{"b":1,"a":2}"#,
            r#"{"a": 1}"#,
            r#"{"a":1,"a":1}"#,
            "{\"a\":1}\n",
            r#"{"a":"\u0041"}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
        ] {
            assert!(from_slice_strict(other.as_bytes()).is_err(), "{other}");
        }
    }
}
