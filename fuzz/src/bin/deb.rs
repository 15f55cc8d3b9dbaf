//! A Debian package: what is taken can go into an index as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::repository::apt::Control;
use release::repository::apt::Deb;

fuzz_target!(|data: &[u8]| {
    // The control file alone as well: what is compressed changes as a whole.
    let of_package = Deb::check(data).map(|deb| deb.control);
    for control in of_package.into_iter().chain(Control::parse(data)) {
        let name = control.file_name();
        assert!(name.parse::<release::manifest::FileName>().is_ok(), "{name}");
        let stanza = control.stanza();
        assert!(!stanza.contains("\n\n") && !stanza.contains("\n#") && stanza.ends_with('\n'));
        assert!(!stanza.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        let again = Control::parse(stanza.as_bytes()).expect("a stanza is a control file");
        assert_eq!((again.file_name(), again.stanza()), (name, stanza));
    }
});
