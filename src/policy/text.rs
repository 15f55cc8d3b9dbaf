//! TOML with errors that lead to the place and the right word.

use std::cmp::Ordering;
use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;

/// A mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}{}", hint(.nearest.as_deref()))]
pub struct ConfigError {
    /// The file, as the person knows it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The word that was probably meant.
    pub nearest: Option<String>,
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |word| format!("; did you mean `{word}`?"))
}

/// A value with its place in the file.
pub type Span<T> = Spanned<T>;

/// A configuration file: its name and text.
#[derive(Debug, Clone)]
pub struct Text {
    name: String,
    text: String,
}

impl Text {
    /// The text of the file at `path`.
    pub fn new(path: &Path, text: String) -> Self {
        Self { name: path.display().to_string(), text }
    }

    /// Parses the whole file.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| {
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            let nearest = unknown_word(&message);
            let offset = error.span().map_or(0, |span| span.start);
            self.error_at(offset, message, nearest)
        })
    }

    /// A mistake at a value of this file.
    pub fn error<T>(&self, at: &Span<T>, message: impl fmt::Display) -> ConfigError {
        self.error_at(at.span().start, message.to_string(), None)
    }

    /// Refuses a file of another version than ours.
    ///
    /// # Errors
    /// It is newer, or of a version that never was.
    pub fn check_version(&self, found: &Span<u32>, ours: u32) -> Result<(), ConfigError> {
        match found.get_ref().cmp(&ours) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(self.error(found, "written for a newer release")),
            Ordering::Less => Err(self.error(found, "unknown version")),
        }
    }

    /// A name that stands for nothing, and the names that would.
    pub fn dangling<'a>(
        &self,
        at: &Span<impl AsRef<str>>,
        what: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> ConfigError {
        let name = at.get_ref().as_ref();
        self.error_at(at.span().start, format!("there is no {what} `{name}`"), nearest(name, known))
    }

    /// A mistake that belongs to no place in particular.
    pub fn error_in_general(&self, message: impl fmt::Display) -> ConfigError {
        self.error_at(0, message.to_string(), None)
    }

    fn error_at(&self, offset: usize, message: String, nearest: Option<String>) -> ConfigError {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        ConfigError { file: self.name.clone(), line, column, message, nearest }
    }
}

/// A number with one of these units right behind it, multiplied, if it is one.
pub(super) fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// serde says "unknown field `a`, expected one of `b`, `c`": finds the nearest
/// of the expected ones.
fn unknown_word(message: &str) -> Option<String> {
    let (unknown, expected) = message.strip_prefix("unknown ")?.split_once(", expected")?;
    let mut unknown = unknown.split('`');
    let word = unknown.nth(1)?;
    nearest(word, expected.split('`').skip(1).step_by(2))
}

fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
