//! A small generator of test inputs, the same in every run.

use serde_json::Map;
use serde_json::Value;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Up to `longest` characters of an alphabet.
    pub fn text(&mut self, alphabet: &[char], longest: usize) -> String {
        (0..self.below(longest + 1)).map(|_| *self.one_of(alphabet)).collect()
    }

    /// A version as a project would write it, or stranger.
    pub fn version(&mut self) -> String {
        let first = *self.one_of(&['0', '1', '2', '9']);
        format!("{first}{}", self.text(&['0', '0', '1', '9', 'a', 'z', 'Z', '.', '+', '~', '-'], 6))
    }

    /// A JSON value without fractions, nested up to `depth`.
    pub fn json(&mut self, depth: usize) -> Value {
        let strange = ['a', 'z', '"', '\\', '/', '\n', '\0', '\u{1b}', '\u{7f}', '\u{e9}', '\u{2028}', '\u{1f600}'];
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => self.below(1000).into(),
            3 => (*self.one_of(&[i64::MIN, -1, 0, i64::MAX])).into(),
            4 => u64::MAX.into(),
            5 => self.text(&strange, 6).into(),
            6 => (0..self.below(5)).map(|_| self.json(depth - 1)).collect(),
            _ => {
                let members = (0..self.below(5)).map(|_| (self.text(&strange, 4), self.json(depth - 1)));
                Value::Object(members.collect::<Map<String, Value>>())
            }
        }
    }
}
