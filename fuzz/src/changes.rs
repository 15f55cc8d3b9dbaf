//! Changes to files of JSON.
//!
//! Bytes changed at random hardly ever make JSON again. The input of a target can
//! therefore be a list of changes to known files, four bytes each: what to do,
//! to which of all their values (two bytes), and with what.

use release::manifest::Sha256;
use serde_json::Value;

/// More changes than this at once are not made.
const MAX_CHANGES: usize = 8;

/// Known files, with the number of values in each.
pub struct Files(Vec<(Value, usize)>);

impl Files {
    /// These files.
    pub fn new(files: impl IntoIterator<Item = Value>) -> Self {
        Self(files.into_iter().map(|value| (count(&value), value)).map(|(count, value)| (value, count)).collect())
    }

    /// Applies changes. `None` for each file that is as it was.
    pub fn change(&self, data: &[u8]) -> Vec<Option<Value>> {
        let mut changed = vec![None; self.0.len()];
        let all: usize = self.0.iter().map(|(_, count)| count).sum();
        for change in data.chunks_exact(4).take(MAX_CHANGES) {
            let &[what, high, low, with] = change else { continue };
            let donor = self.value(usize::from(with) * 7 % all).cloned().unwrap_or_default();
            let (file, mut number) = self.file(usize::from(u16::from_be_bytes([high, low])) % all);
            let value = changed[file].get_or_insert_with(|| self.0[file].0.clone());
            if let Some(node) = nth_mut(value, &mut number) {
                apply(node, what, with, donor);
            }
        }
        changed
    }

    /// The file that has the value with this number, and its number there.
    fn file(&self, mut number: usize) -> (usize, usize) {
        for (file, (_, count)) in self.0.iter().enumerate() {
            if number < *count {
                return (file, number);
            }
            number -= count;
        }
        (0, 0)
    }

    fn value(&self, number: usize) -> Option<&Value> {
        let (file, mut number) = self.file(number);
        nth(&self.0[file].0, &mut number)
    }
}

fn apply(node: &mut Value, what: u8, with: u8, donor: Value) {
    match (what % 6, &mut *node) {
        (0, Value::String(text)) => {
            let mut bytes = std::mem::take(text).into_bytes();
            if !bytes.is_empty() {
                let at = usize::from(with) % bytes.len();
                bytes[at] = (bytes[at] ^ (1 << (what / 6 % 8))) & 0x7f;
            }
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (0, Value::Number(number)) => {
            *node = (number.as_u64().unwrap_or(0).wrapping_add(u64::from(with)).wrapping_sub(128)).into();
        }
        (1, Value::Object(members)) => {
            let key = members.keys().nth(usize::from(with) % members.len().max(1)).cloned();
            key.and_then(|key| members.remove(&key));
        }
        (1, Value::Array(items)) if !items.is_empty() => {
            items.remove(usize::from(with) % items.len());
        }
        (2, Value::Array(items)) if !items.is_empty() => items.push(items[usize::from(with) % items.len()].clone()),
        (2, Value::Object(members)) => {
            members.insert(format!("x{with}"), donor);
        }
        (3, Value::Array(items)) => items.push(donor),
        (4, Value::Array(items)) => items.reverse(),
        (5, Value::String(text)) => *text = Sha256::of(b"evil").to_string(),
        (_, node) => *node = donor,
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The value with this number, counted as [`count`] counts.
fn nth<'a>(value: &'a Value, number: &mut usize) -> Option<&'a Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| nth(item, number)),
        Value::Object(members) => members.values().find_map(|member| nth(member, number)),
        _ => None,
    }
}

fn nth_mut<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth_mut(item, number)),
        Value::Object(members) => members.values_mut().find_map(|member| nth_mut(member, number)),
        _ => None,
    }
}
