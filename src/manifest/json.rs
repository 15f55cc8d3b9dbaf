//! The one form in which we write JSON that is signed or hashed: keys sorted,
//! no spaces, the shortest escapes, integers only, UTF-8.
//!
//! TUF signs the OLPC canonical form of `signed`, which `sigstore_tuf` makes
//! from a parsed value. Files hold this compact form: it parses to the same
//! value, and writing a parsed file again gives the same bytes. A bundle can
//! therefore carry metadata as plain JSON and still check hashes of the files.
//!
//! All JSON from outside is parsed here, which a lint holds: a key that comes
//! twice means one thing to one reader and another to the next, and a tree of
//! many small values takes a hundred times the memory of its text.

use std::cell::Cell;
use std::fmt;
use std::io;

use serde::Serialize;
use serde::de;
use serde::de::DeserializeOwned;
use serde::de::DeserializeSeed;
use serde_json::Map;
use serde_json::Value;

use super::Sha256;
use super::names::quoted;

/// More values than this in one file are refused. The largest product role that
/// a cut makes, of 4 MB, has about 160,000; how deep they nest is bounded by
/// `serde_json`, at 128.
pub const MAX_VALUES: usize = 250_000;

/// JSON that is not in the form that is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON, or not the expected members and types.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// Valid JSON in another spelling than ours: spaces, order, escapes.
    #[error("not in compact form: keys must be sorted, without spaces or line breaks")]
    NotCompact,
    /// An array of the members in their order, which serde takes for an object.
    #[error("an array stands where an object should")]
    Array,
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

/// Parses JSON in any spelling.
///
/// # Errors
/// Not JSON, a key that comes twice, or more than [`MAX_VALUES`].
pub fn from_slice(bytes: &[u8]) -> Result<Value, JsonError> {
    let left = Cell::new(MAX_VALUES);
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = Checked { left: &left }.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// Parses JSON that must be in compact form to the last byte.
///
/// # Errors
/// Anything that is not what [`to_vec`] would write.
pub fn from_slice_strict(bytes: &[u8]) -> Result<Value, JsonError> {
    let value = from_slice(bytes)?;
    if has_fraction(&value) {
        return Err(JsonError::Fraction);
    }
    // What is written is compared on its way, not kept.
    let mut rest = Rest(bytes);
    match serde_json::to_writer(&mut rest, &value) {
        Ok(()) if rest.0.is_empty() => Ok(value),
        _ => Err(JsonError::NotCompact),
    }
}

/// What must still be written; anything else is an error.
struct Rest<'a>(&'a [u8]);

impl io::Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A typed value from an object that is already parsed.
///
/// # Errors
/// Missing or unknown members, wrong types.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    if value.is_array() {
        return Err(JsonError::Array);
    }
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

/// Builds a value as `serde_json` does, but counts values and refuses doubled
/// keys.
#[derive(Clone, Copy)]
struct Checked<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            return Err(de::Error::custom(format_args!("more than {MAX_VALUES} values")));
        };
        self.left.set(left);
        parser.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Checked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
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

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key {} comes twice", quoted(&key))));
            }
            map.insert(key, members.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
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

    #[test]
    fn keys_come_once_at_every_level() {
        for doubled in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"a":2}}]"#, r#"{"a":1,"\u0061":2}"#] {
            let error = from_slice(doubled.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("the key \"a\" comes twice"), "{doubled}: {error}");
        }
        assert!(from_slice(br#" {"a":{"b":1},"b":{"b":2}} "#).is_ok());
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let error = from_slice("[".repeat(100_000).as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("recursion limit exceeded"), "{error}");
        let many = |count| format!("[{}0]", "0,".repeat(count - 2)).into_bytes();
        assert!(from_slice(&many(MAX_VALUES)).is_ok());
        assert!(from_slice(&many(MAX_VALUES + 1)).unwrap_err().to_string().starts_with("more than 250000 values"));
    }
}
