//! Emulated PIV tokens to try things with by hand, in a pcscd of their own.
//!
//! ```text
//! cargo run --example tokens -- DIR [COUNT]
//! ```
//!
//! Prints the variable with which programs find the tokens, and takes commands
//! until the end of its input, Ctrl-D. Then it keeps the tokens in DIR, beside the
//! certificate of their vendor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::print_stdout)]

#[allow(dead_code)]
#[path = "../tests/it/support/piv/mod.rs"]
mod piv;

use std::fs;
use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use piv::Token;
use piv::hand::Patience;
use piv::hand::Touch;
use piv::reader::Pcscd;
use piv::state::TokenSpec;
use piv::vendor::Vendor;

const COMMANDS: &str = "pull N | plug N | touch N | withhold N | events N";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("usage: tokens DIR [COUNT]"));
    let count: u16 = arguments.next().map_or(1, |count| count.parse().expect("a number of tokens"));
    fs::create_dir_all(&folder).unwrap();
    let file = |number: u16| folder.join(format!("{number}.token"));
    let root = folder.join("attestation-root.pem");
    let vendor = Vendor::new("TEST ONLY attestation root");
    if !root.exists() {
        fs::write(&root, vendor.root_pem()).unwrap();
    }
    let token = |number| {
        if file(number).exists() {
            return Token::load(&file(number));
        }
        let serial = 20_000_001 + u32::from(number);
        Token::new(&TokenSpec { serial, vendor: vendor.clone(), ..TokenSpec::default() })
    };
    let tokens: Vec<Token> = (0..count).map(token).collect();
    let pcscd = Pcscd::with_readers(count.next_multiple_of(2));
    for (number, token) in tokens.iter().enumerate() {
        token.set_patience(Patience { touch: Duration::from_secs(15), ..Patience::default() });
        pcscd.reader(number).plug(token);
    }
    let (variable, socket) = pcscd.variable();
    println!("export {variable}={}", socket.display());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (command, number) = line.trim().split_once(' ').unwrap_or((line.trim(), "0"));
        let number = number.parse().unwrap_or(usize::MAX);
        match (command, tokens.get(number)) {
            ("pull", Some(_)) => pcscd.reader(number).unplug(),
            ("plug", Some(token)) => pcscd.reader(number).plug(token),
            ("touch", Some(token)) => token.set_touch(Touch::Granted),
            ("withhold", Some(token)) => token.set_touch(Touch::Withheld),
            ("events", Some(token)) => println!("{:x?}", token.events()),
            _ => println!("{COMMANDS}"),
        }
    }
    for (number, token) in (0..count).zip(&tokens) {
        token.save(&file(number));
    }
}
