//! Hovers over a file and shows what is written to it.

use std::env;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const VERSION: &str = match option_env!("RELEASE_VERSION") {
    Some(version) => version,
    None => "development",
};
const USAGE: &str = "usage: kestrel [--once] FILE\n       kestrel --version\n";
const PAUSE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["--version"] => {
            println!("kestrel {VERSION}");
            return ExitCode::SUCCESS;
        }
        ["--once", path] => hover(path, true),
        [path] if !path.starts_with('-') => hover(path, false),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kestrel: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows all that is in the file, then what is added. A file that shrinks was
/// rotated: it is shown from its start again.
fn hover(path: &str, once: bool) -> io::Result<()> {
    let mut seen = 0;
    loop {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < seen {
            seen = 0;
        }
        file.seek(SeekFrom::Start(seen))?;
        seen += io::copy(&mut file.take(length - seen), &mut io::stdout())?;
        io::stdout().flush()?;
        if once {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}
