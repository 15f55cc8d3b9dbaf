//! Whether two builds gave the same bytes.

use super::BuildError;
use super::Output;
use crate::process;
use crate::process::Program;
use crate::progress::Progress;

/// How many lines of diffoscope's report are shown.
const SHOWN: usize = 20;

/// Compares what two builds left, file by file.
pub(super) fn same(first: &[Output], second: &[Output], progress: &dyn Progress) -> Result<(), BuildError> {
    let differing: Vec<(&Output, &Output)> =
        first.iter().zip(second).filter(|(a, b)| a.artifact.sha256 != b.artifact.sha256).collect();
    let Some((a, b)) = differing.first() else {
        return Ok(());
    };
    Err(BuildError::NotReproducible {
        files: differing.iter().map(|(a, _)| a.artifact.name.to_string()).collect(),
        difference: diffoscope(a, b, progress),
    })
}

/// The first lines of diffoscope's report, where it is installed.
fn diffoscope(a: &Output, b: &Output, progress: &dyn Progress) -> Option<String> {
    if !process::is_installed("diffoscope") {
        return None;
    }
    let program = Program::new("diffoscope")
        .args(["--no-progress", "--text", "-", "--max-report-size", "10000", "--timeout", "60"])
        .arg(&a.path)
        .arg(&b.path);
    let output = program.output(&[], progress).ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().take(SHOWN).map(crate::manifest::names::printable).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
