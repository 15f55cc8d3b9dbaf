//! The journal of a terminal.
//!
//! A changed byte breaks the chain of hashes. An input that begins with `+` is
//! therefore lines without their `prev`, which is filled in.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::home::Journal;
use release::manifest::Sha256;

fuzz_target!(|data: &[u8]| {
    let chained = data.strip_prefix(b"+").map(chained);
    let content = chained.as_deref().unwrap_or(data);
    if let Ok(journal) = Journal::read(Path::new("journal.jsonl"), content) {
        let whole = content.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(journal.events().count(), whole, "every whole line is an event");
        assert_eq!(journal.last_time().is_some(), whole > 0);
        assert_eq!(journal.knows(journal.head()), whole > 0);
        let product = "kestrel".parse().unwrap();
        assert!(journal.next_number(&product, 7) > 7 && journal.next_serial(7) > 7);
    }
});

/// The lines with the hash of the line before in place of `"prev":""`.
fn chained(lines: &[u8]) -> Vec<u8> {
    const EMPTY: &[u8] = b"\"prev\":\"";
    let mut content = Vec::new();
    let mut head = Sha256::from([0; 32]);
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let at = line.windows(EMPTY.len()).position(|window| window == EMPTY).map_or(0, |at| at + EMPTY.len());
        let begin = content.len();
        content.extend_from_slice(&line[..at]);
        content.extend(head.to_string().into_bytes());
        content.extend_from_slice(&line[at..]);
        head = Sha256::of(content[begin..].strip_suffix(b"\n").unwrap_or_default());
    }
    content
}
