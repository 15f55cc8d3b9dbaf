//! A suite for apt: what is taken is written in one way, and a packed form of an index
//! is the same to the library that apt has.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use release::manifest::suite::Release;
use release::manifest::suite::SourceStanza;
use release::manifest::suite::Stanza;
use release::verify::suites;

const MAX: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = Release::signed_text(data) {
        assert!(text.ends_with('\n') && !text.contains("\n-"));
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(release) = Release::parse(&text) {
        assert_eq!(release.render(), text);
    }
    if let Ok(stanzas) = Stanza::all(&text).collect::<Result<Vec<_>, _>>() {
        let written: Vec<String> = stanzas.iter().map(Stanza::render).collect();
        assert_eq!(written.join("\n"), text);
    }
    if let Ok(stanzas) = SourceStanza::all(&text).collect::<Result<Vec<_>, _>>() {
        let written: Vec<String> = stanzas.iter().map(SourceStanza::render).collect();
        assert_eq!(written.join("\n"), text);
    }
    let _ = suites::unpack(".gz", data, MAX);
    if let Some(unpacked) = suites::unpack(".xz", data, MAX) {
        let mut theirs = Vec::new();
        liblzma::read::XzDecoder::new_multi_decoder(data).read_to_end(&mut theirs).expect("they read it");
        assert_eq!(unpacked, theirs);
    }
});
