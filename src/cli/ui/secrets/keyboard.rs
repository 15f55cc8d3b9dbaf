//! The keyboard without echo.
//!
//! rpassword would end the process at Ctrl-C while the terminal does not echo.
//! Here Ctrl-C is an error like others, and whatever happens the terminal is
//! left as it was.

use std::fs::File;
use std::io;
use std::io::Read;

use rustix::termios;
use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::SpecialCodeIndex;
use rustix::termios::Termios;

/// What Ctrl-C types.
const CTRL_C: u8 = 3;

/// The terminal of this process; it echoes again when this is dropped.
pub(super) struct Keyboard {
    terminal: File,
    before: Termios,
}

impl Keyboard {
    /// Opens the terminal and stops its echo.
    pub(super) fn open() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = termios::tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios::tcsetattr(&terminal, OptionalActions::Now, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Read for Keyboard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.terminal.read(buffer)?;
        match buffer.get(..count) {
            Some(typed) if typed.contains(&CTRL_C) => Err(io::Error::other("you pressed Ctrl-C")),
            _ => Ok(count),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        // Nobody has seen the end of the line.
        let _ = io::Write::write_all(&mut self.terminal, b"\n");
    }
}
