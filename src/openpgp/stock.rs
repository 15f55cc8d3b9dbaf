//! What users have: asks stock OpenPGP verifiers, where they are installed.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use super::OpenPgpError;
use crate::process;
use crate::process::Program;
use crate::progress::Progress;

/// Checks detached signatures with sqv, one per certificate.
///
/// # Errors
/// sqv refuses what we have just signed, or cannot be run.
pub fn check(
    certificates: &[PathBuf],
    data: &[u8],
    signatures: &[u8],
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<(), OpenPgpError> {
    if !process::is_installed("sqv") {
        return Ok(());
    }
    let file = |bytes: &[u8]| -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix(".check-").tempfile_in(scratch)?;
        file.write_all(bytes)?;
        Ok(file)
    };
    let (data, signatures) = (file(data)?, file(signatures)?);
    let mut program = Program::new("sqv").args(["-n".to_owned(), certificates.len().to_string()]);
    for certificate in certificates {
        program = program.arg("--keyring").arg(certificate);
    }
    program.arg(signatures.path()).arg(data.path()).run(progress)?;
    Ok(())
}
