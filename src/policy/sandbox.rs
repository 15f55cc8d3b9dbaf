//! `[sandbox]` of `terminal.toml`: what builds see, and how much they may take.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;

use super::text::ConfigError;
use super::text::Span;
use super::text::Text;
use super::text::with_unit;
use crate::manifest::FileName;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// How builds are confined. No limit changes the bytes of a build that keeps to
/// it, so none is part of the description of its environment.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// Folders that builds see besides `/usr`.
    pub toolchains: Vec<Toolchain>,
    /// How long one build may take.
    pub time: Time,
    /// How much memory its processes and its files in memory (`/tmp`,
    /// `/dev/shm`) may take together.
    #[serde(deserialize_with = "memory")]
    pub memory: Size,
    /// How many processes and threads it may have at once.
    pub processes: Processes,
    /// How much it may write to the disk.
    pub disk: Size,
    /// How large each artifact may be.
    pub artifact: Size,
    /// How much it may print.
    pub log: Size,
}

impl Default for Sandbox {
    /// Room for large programs; what a terminal lacks is not given.
    fn default() -> Self {
        Self {
            toolchains: Vec::new(),
            time: Time(2 * 60 * 60),
            memory: Size(8 * GIB),
            processes: Processes(4096),
            disk: Size(32 * GIB),
            artifact: Size(4 * GIB),
            log: Size(64 * MIB),
        }
    }
}

/// A folder that builds see, read-only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// The folder on this machine.
    pub path: Span<PathBuf>,
    /// Where builds see it, below `/opt`. Its `bin` is on their PATH, or it
    /// itself where that is its name.
    pub at: Span<String>,
}

impl Sandbox {
    pub(super) fn check(&self, text: &Text) -> Result<(), ConfigError> {
        for toolchain in &self.toolchains {
            if !toolchain.path.get_ref().is_absolute() {
                return Err(text.error(&toolchain.path, "the folder of a toolchain is an absolute path"));
            }
            let at = toolchain.at.get_ref();
            let plain = |segment: &str| segment.parse::<FileName>().is_ok();
            if !at.strip_prefix("/opt/").is_some_and(|below| below.split('/').all(plain)) {
                return Err(text.error(&toolchain.at, "builds see toolchains below /opt"));
            }
        }
        Ok(())
    }
}

/// No build does with less.
const LEAST_MEMORY: Size = Size(64 * MIB);

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    let size = Size::deserialize(deserializer)?;
    if size < LEAST_MEMORY {
        return Err(D::Error::custom(format!("no build does with {size} of memory; give it at least {LEAST_MEMORY}")));
    }
    Ok(size)
}

/// A number of bytes: `512MiB`, `8GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        with_unit(&text, &[("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB)])
            .filter(|bytes| *bytes > 0)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a size such as \"512MiB\" or \"8GiB\""))
    }
}

impl fmt::Display for Size {
    /// In the largest unit that gives a whole number; from 1 GiB on, what is below
    /// 1 MiB does not count.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: u64| self.0.is_multiple_of(unit);
        match self.0 {
            bytes if bytes >= TIB && whole(TIB) => write!(f, "{}TiB", bytes / TIB),
            bytes if bytes >= GIB && whole(GIB) => write!(f, "{}GiB", bytes / GIB),
            bytes if bytes >= GIB || whole(MIB) => write!(f, "{}MiB", bytes / MIB),
            bytes => write!(f, "{}KiB", bytes / KIB),
        }
    }
}

/// A time: `90s`, `45m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Time(u64);

impl Time {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl TryFrom<String> for Time {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        with_unit(&text, &[("s", 1), ("m", 60), ("h", 60 * 60)])
            .filter(|seconds| *seconds > 0)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a time such as \"90s\", \"45m\" or \"2h\""))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds.is_multiple_of(60 * 60) => write!(f, "{}h", seconds / (60 * 60)),
            seconds if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

/// A number of processes and threads that the kernel can bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Processes(u32);

impl Processes {
    /// As a number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Processes {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        // At most the kernel's PID_MAX_LIMIT; a shell that compiles something needs some.
        if (16..=4_194_304).contains(&number) {
            return Ok(Self(number));
        }
        Err(format!("`{number}` is not a number of processes between 16 and 4194304"))
    }
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_shown_as_it_is() {
        for text in ["1KiB", "1536KiB", "1MiB", "1025MiB", "8GiB", "2TiB"] {
            assert_eq!(Size::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        assert_eq!(Size::new(GIB + 1).to_string(), "1024MiB");
    }
}
