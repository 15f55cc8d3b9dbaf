//! `terminal.toml`, of one machine.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::policy::Terminal;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Terminal::parse(Path::new("terminal.toml"), text.to_owned()) {
        Ok(terminal) => {
            let mut at = terminal.sandbox.toolchains.iter().map(|toolchain| toolchain.at.get_ref());
            assert!(at.all(|at| at.starts_with("/opt/") && at.split('/').all(|segment| segment != "..")));
        }
        Err(error) => assert!(error.line > 0 && error.column > 0),
    }
});
