//! A person at a terminal.

use std::io::Read;
use std::io::Write;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use super::Lab;
use super::RELEASE;
use super::program;
use super::project;
use super::with_toolchain;

/// Runs a shell command as a person at a terminal would: waits for each prompt,
/// and types what `answer` says. Gives the exit code and what was on the screen.
pub fn at_a_terminal(lab: &Lab, command: &str, mut answer: impl FnMut(&str) -> String) -> (i32, String) {
    let inner = lab.release();
    // No echo of what is typed before its prompt.
    let mut script = program("script");
    for (name, value) in inner.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let bin = std::path::Path::new(RELEASE).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    script.env("PATH", path).env("TERM", "dumb").env("SHELL", "/bin/sh").current_dir(lab.path(""));
    // Scripts of the project run in its own folder, and find its toolchain.
    if command.starts_with("scripts/") {
        with_toolchain(&mut script).current_dir(project(""));
    }
    script.args(["--quiet", "--return", "--command", command, "/dev/null"]);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = screen.read(&mut buffer) {
            if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut printed = String::new();
    let mut answered = 0;
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(bytes) => printed.push_str(&String::from_utf8_lossy(&bytes).replace('\r', "")),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let prompt = printed.rsplit('\n').next().unwrap_or_default().to_owned();
                if printed.len() > answered && prompt.ends_with(": ") {
                    keyboard.write_all(answer(&prompt).as_bytes()).unwrap();
                    answered = printed.len();
                }
            }
        }
    }
    let status = child.wait().unwrap();
    (status.code().unwrap_or(-1), printed)
}
