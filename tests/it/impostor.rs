//! Tokens that are not, or no longer, what they say they are, and whoever waits for one
//! that somebody leaves open.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use crate::support::mirror::Mirror;
use crate::support::mirror::entry;
use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::apdu::tlv;
use crate::support::piv::hand::Event;
use crate::support::piv::hand::Patience;
use crate::support::piv::hand::Touch;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::program;
use crate::support::run;
use crate::support::terminal::at_a_terminal;
use crate::support::tokens::PIN;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;
use crate::support::wait_until;

const ALICE: usize = 0;
const BOB: usize = 1;
const REJECTED: i32 = 3;
/// Metadata of a slot, a PIN or the management key.
const METADATA: u8 = 0xf7;

fn is_signature(event: Event) -> bool {
    matches!(event, Event::Signature(_))
}

/// A token of alice's serial number and PIN, with keys of its own.
fn impostor(lab: &TokenLab) -> Token {
    let mut state = lab.tokens[ALICE].state();
    for key in state.keys.values_mut() {
        *key = Key::generate(Algorithm::P256, key.pin, key.touch);
    }
    Token::with(state)
}

#[test]
fn a_token_that_is_swapped_in_the_middle_of_a_batch_gets_no_pin() {
    let lab = TokenLab::new();
    let alice = &lab.tokens[ALICE];
    let other = impostor(&lab);
    // The same one, pulled out and plugged in again, is asked for its PIN anew.
    for (version, next) in [("1.0", &other), ("1.1", alice)] {
        lab.lab.tag(version);
        lab.begin(version);
        lab.forget();
        // After alice's claim and manifest; while bob signs, somebody takes her token away.
        alice.fail(Token::SIGN, 2, Fault::PulledAfter);
        lab.tokens[BOB].fail(Token::SIGN, 1, Fault::Slow(Duration::from_secs(4)));
        lab.pcscd.reader(ALICE).queue(next);
        let said = lab.cut(version).exits(1).says("token 20000001 of alice did not sign SHA256SUMS of kestrel");
        said.says("it was pulled out").says("plug in token 20000001 again").says(&format!("cut kestrel {version}"));
        lab.pcscd.reader(ALICE).until_plugged();
        assert_eq!((other.events(), alice.pins(), alice.signatures()), (vec![], 1, 2));
        assert!(!lab.lab.path(&format!("mirror/releases/kestrel/{version}")).exists());
        if version == "1.0" {
            lab.cut(version).exits(1).says("has another key in slot");
            assert_eq!(other.events(), []);
            lab.pcscd.reader(ALICE).unplug();
            lab.pcscd.reader(ALICE).plug(alice);
        }
        lab.cut(version).exits(0);
        assert_eq!(lab.count(is_signature), 7, "none is asked for twice: {:?}", lab.events());
    }
    lab.lab.verify(&["mirror"]).exits(0);
}

#[test]
fn a_process_that_is_killed_leaves_no_token_open() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    let knows_its_pin = |token: &Token| token.transmit(&[0x00, 0x20, 0x00, 0x80]) == [0x90, 0x00];
    let said = lab.runs_and(&["cut", "kestrel", "1.0", "--yes=1.0"], &[("RELEASE_FAIL_AT", "role.signed")]);
    assert_eq!(said.code, None, "{said:?}");
    assert_eq!(lab.tokens[ALICE].pins(), 1);
    for token in &lab.tokens {
        wait_until("the token forgets its PIN", || !knows_its_pin(token));
    }
}

#[test]
fn answers_that_no_token_gives_are_refused() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let alice = &lab.tokens[ALICE];
    let ok = |data: &[u8]| [data, &[0x90, 0x00]].concat();
    let more = [&[0x30; 250][..], &[0x61, 0xff]].concat();
    let signs = |answer: Vec<u8>, message: &str| {
        lab.forget();
        alice.fail(Token::SIGN, 1, Fault::Says(answer));
        let said = lab.cut("1.0").exits(1).says("token 20000001 of alice did not sign claim kestrel 1.0");
        said.says(message).says("release cut kestrel 1.0");
        // What it did not tell is not used, and was not asked for again.
        assert_eq!(lab.count(is_signature), 1, "{:?}", lab.events());
        lab.lab.assert_nothing_published();
    };
    for answer in [
        ok(&[]),
        ok(&tlv(0x7c, &[])),
        ok(&tlv(0x7d, &tlv(0x82, &[1; 70]))),
        ok(&[0x7c, 0x82, 0xff, 0xff, 0x82, 0x46]),
        ok(&[0x7c, 0x84, 0, 0, 0, 1, 0x82]),
    ] {
        signs(answer, "it answers as no token does: with something else than a signature");
    }
    signs(vec![0x90], "it answers as no token does: without a status");
    signs(vec![0x61, 0x00], "it answers as no token does");
    signs(vec![0x6f, 0x00], "it answers with status 6f00");
    signs(ok(&[0x7c; 1000]), "did not sign");
    for number in 1..=32 {
        alice.fail(0xc0, number, Fault::Says(more.clone()));
    }
    signs(more.clone(), "it answers as no token does: without end");

    // Nor do they open anything.
    let again = Token::with(alice.state());
    lab.pcscd.reader(ALICE).unplug();
    lab.pcscd.reader(ALICE).plug(&again);
    for (instruction, answer, message) in [
        (0xf8, ok(&[1, 2, 3]), "something in Yubico"),
        (0xfd, ok(&[5, 7]), "something in Yubico"),
        (METADATA, ok(&[0x01, 0x01]), "with metadata that cannot be read"),
        (METADATA, ok(&[]), "with metadata that cannot be read"),
        (Token::VERIFY, ok(&[]), "as if the PIN had been given"),
    ] {
        again.fail(instruction, 1, Fault::Says(answer));
        lab.cut("1.0").exits(1).says(message).does_not_say("Signed");
        assert_eq!((again.pins(), again.signatures()), (0, 0));
    }
    lab.cut("1.0").exits(0);
    lab.lab.verify(&["mirror"]).exits(0);
}

/// A maker's word for one key, and another key in the certificate that people see.
#[test]
fn a_certificate_is_made_of_the_keys_that_were_attested() {
    let lab = TokenLab::fresh();
    let alice = &lab.tokens[ALICE];
    let other = Key::generate(Algorithm::P256, PinPolicy::Once, TouchPolicy::Cached);
    let says = [
        tlv(0x01, &[0x11]),
        tlv(0x02, &[2, 3]),
        tlv(0x03, &[1]),
        tlv(0x04, &tlv(0x86, &other.point())),
        vec![0x90, 0x00],
    ]
    .concat();
    // Six slots are looked at, PIN, PUK and management key, and the six slots again.
    alice.fail(METADATA, 6 + 3 + 6 + 1, Fault::Says(says));
    let said = lab.generate(ALICE).exits(1).says("token 20000001 of alice has another key in slot 8");
    said.says("than the one that is enrolled as alice-");
    assert!(!lab.lab.path("policy/keys/alice.asc").exists());
    lab.generate(ALICE).exits(0);
}

#[test]
fn two_people_do_not_count_for_one_token() {
    let lab = TokenLab::fresh();
    // In the policy of whoever makes the root, a key of alice's token is bob's.
    for index in 0..SERIALS.len() {
        lab.generate(index).exits(0);
    }
    let policy = String::from_utf8(lab.lab.read("policy/policy.toml")).unwrap();
    let line = |name: &str, holder: &str| format!("{name}-release = {{ holder = \"{holder}\"");
    let swapped = policy.replace(&line("alice", "alice"), &line("alice", "bob"));
    let swapped = swapped.replace(&line("bob", "bob"), &line("bob", "alice"));
    assert_ne!(policy, swapped);
    lab.lab.write("policy/policy.toml", swapped);
    lab.set_pins(&[]);
    lab.forget();
    let said = lab.runs(&["init", "--policy", "policy/policy.toml", "--mirror", "here=mirror"]).exits(REJECTED);
    said.says("were made in token 20000001: whoever knows its PIN could use both").says("no home was made");
    assert!(!lab.lab.path("home").exists() && lab.events().is_empty());
}

/// How often these bytes are in what a process can write to.
fn copies_in_memory(process: &Path, secret: &[u8]) -> usize {
    let memory = fs::File::open(process.join("mem")).unwrap();
    let maps = fs::read_to_string(process.join("maps")).unwrap();
    let regions = maps.lines().filter_map(|line| {
        let (addresses, rights) = line.split_once(' ')?;
        let (from, to) = addresses.split_once('-').filter(|_| rights.starts_with("rw"))?;
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut content = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut content, from).ok().map(|()| content)
    });
    regions.map(|content| content.windows(secret.len()).filter(|window| *window == secret).count()).sum()
}

/// The process that does this in the laboratory.
fn process(lab: &TokenLab, command: &str) -> Option<PathBuf> {
    let folder = lab.lab.path("").canonicalize().unwrap();
    let is_meant = |entry: fs::DirEntry| {
        let path = entry.path();
        let words = fs::read_to_string(path.join("cmdline")).ok()?;
        let mut words = words.split('\0');
        let is_release = words.next()?.ends_with("release") && words.next()? == command;
        (is_release && fs::read_link(path.join("cwd")).ok()? == folder).then_some(path)
    };
    fs::read_dir("/proc").unwrap().flatten().find_map(is_meant)
}

#[test]
fn a_pin_is_wiped_when_its_token_is_let_go_of() {
    const PIN_OF_BOB: &str = "80461597";
    let lab = TokenLab::new();
    let (ports, add) = entry(&lab.lab, "eu1");
    let add: Vec<&str> = add.iter().map(String::as_str).chain(["--token", "20000001"]).collect();
    lab.runs(&add).exits(0);
    let mirror = Mirror::start(&lab.lab, "eu1", ports);
    lab.tokens[BOB].change(|state| PIN_OF_BOB.clone_into(&mut state.pin.value));
    // Alice's token lets in twice to look, signs three times, and lets in to push: by then
    // nobody needs bob's.
    let (name, socket) = lab.pcscd.variable();
    for (version, typed) in [("1.0", true), ("1.1", false)] {
        lab.lab.tag(version);
        lab.forget();
        lab.tokens[BOB].fail(Token::SIGN, 1, Fault::Slow(Duration::from_secs(2)));
        lab.tokens[ALICE].fail(Token::SIGN, 6, Fault::Slow(Duration::from_secs(2)));
        lab.set_pins(&[(SERIALS[BOB], PIN_OF_BOB)]);
        let (mut during, mut after) = (None, None);
        std::thread::scope(|scope| {
            let cut = scope.spawn(|| {
                if !typed {
                    return lab.cut(version).code.unwrap();
                }
                let command = format!("{name}={} exec release cut kestrel {version} --yes={version}", socket.display());
                let pin = |prompt: &str| if prompt.contains("of bob") { PIN_OF_BOB } else { PIN }.to_owned() + "\n";
                let (code, screen) = at_a_terminal(&lab.lab, &command, pin);
                assert!(!screen.contains(PIN_OF_BOB), "{screen}");
                code
            });
            while !cut.is_finished() {
                let copies = || process(&lab, "cut").map(|process| copies_in_memory(&process, PIN_OF_BOB.as_bytes()));
                match (lab.tokens[BOB].signatures(), lab.tokens[ALICE].signatures()) {
                    (1, _) if during.is_none() => during = copies(),
                    (2, 6) if after.is_none() => after = copies(),
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            assert_eq!(cut.join().unwrap(), 0);
        });
        // One is what its token is given again, should it ask before each signature.
        assert_eq!((during, after), (Some(1), Some(0)), "{version}");
    }
    lab.lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.1");
}

#[test]
fn a_cut_that_dies_leaves_no_core_dump() {
    let lab = TokenLab::new();
    lab.lab.tag("1.0");
    lab.begin("1.0");
    let alice = &lab.tokens[ALICE];
    alice.set_touch(Touch::Withheld);
    alice.set_patience(Patience { touch: Duration::from_secs(60), ..Patience::default() });
    let release = lab.lab.release();
    // Whoever starts it allows core dumps of any size.
    let start = |command: &[&OsStr]| {
        let mut shell = program("sh");
        shell.args(["-c", "ulimit -c unlimited; exec \"$@\" 3<passphrases", "sh"]).args(command);
        shell.current_dir(lab.lab.path("")).envs([lab.pcscd.variable()]).stderr(Stdio::null());
        for (name, value) in release.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell.spawn().unwrap()
    };
    let is_dumped = |mut child: Child| {
        run(program("kill").args(["-ABRT", &child.id().to_string()])).exits(0);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(6), "{status}");
        status.core_dumped()
    };
    let arguments = ["cut", "kestrel", "1.0", "--yes=1.0", "--pin-fd", "3"];
    let command: Vec<&OsStr> =
        [release.get_program()].into_iter().chain(release.get_args()).chain(arguments.map(OsStr::new)).collect();
    let cut = start(&command);
    wait_until("the token blinks", || alice.is_waiting());
    assert!(!is_dumped(cut));
    assert!(!lab.lab.path("core").exists());
    // Another program leaves one, where this machine writes any.
    let sleep = start(&["sleep", "60"].map(OsStr::new));
    std::thread::sleep(Duration::from_millis(200));
    if fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap() == "core\n" {
        assert!(is_dumped(sleep));
    } else {
        is_dumped(sleep);
    }
    // The token still waits for a touch that nobody needs.
    alice.set_touch(Touch::Granted);
    wait_until("the token waits no longer", || !alice.is_waiting());
    lab.cut("1.0").exits(0);
}
