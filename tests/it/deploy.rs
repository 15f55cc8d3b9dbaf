//! Deploy keys in tokens: real mirrors, real ssh and sshd, the real pcscd, emulated
//! tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::Lab;
use crate::support::Said;
use crate::support::mirror::Mirror;
use crate::support::mirror::entry;
use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::hand::Event;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::Key;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::reader::Pcscd;
use crate::support::piv::state::TokenSpec;
use crate::support::piv::vendor::Vendor;
use crate::support::program;
use crate::support::run;
use crate::support::terminal::at_a_terminal;
use crate::support::tokens::PIN;
use crate::support::tokens::PUK;
use crate::support::tokens::SERIALS;
use crate::support::tokens::TokenLab;

const ALICE: usize = 0;
const BOB: usize = 1;
const REJECTED: i32 = 3;
/// A token that holds deploy keys only.
const SERIAL: u32 = 20_000_009;

fn is_pin(event: Event) -> bool {
    matches!(event, Event::Pin(_))
}

fn is_touch(event: Event) -> bool {
    matches!(event, Event::Touch(..))
}

fn is_login(event: Event) -> bool {
    matches!(event, Event::Signature(0x9a | 0x8e..=0x95))
}

fn count(events: &[Event], wanted: impl Fn(Event) -> bool) -> usize {
    events.iter().filter(|event| wanted(**event)).count()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// A laboratory in which 1.0 is released with software keys, 1.1 is tagged, and a
/// token fresh from the factory is plugged in.
struct DeployLab {
    lab: Lab,
    pcscd: Pcscd,
    token: Token,
}

impl DeployLab {
    fn new() -> Self {
        let lab = Lab::released();
        lab.write("home/keys/attestation-roots/test-only.pem", Vendor::usual().root_pem());
        lab.write("work/notes", "notes of 1.1\n");
        lab.commit("1.1");
        lab.tag("1.1");
        let pcscd = Pcscd::start();
        let token = Token::new(&TokenSpec { serial: SERIAL, ..TokenSpec::default() });
        pcscd.reader(0).plug(&token);
        Self { lab, pcscd, token }
    }

    /// Runs the program with all passphrases, and with these secrets of the token.
    #[track_caller]
    fn runs(&self, secrets: &[&str], arguments: &[&str]) -> Said {
        self.runs_and(secrets, arguments, &[])
    }

    #[track_caller]
    fn runs_and(&self, secrets: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let known = String::from_utf8(self.lab.read("passphrases")).unwrap();
        let lines = known.lines().filter(|line| !line.starts_with("2000")).map(str::to_owned);
        let lines: Vec<String> = lines.chain(secrets.iter().map(|secret| format!("{SERIAL} {secret}"))).collect();
        self.lab.write("passphrases", lines.join("\n") + "\n");
        let (name, socket) = self.pcscd.variable();
        let all: Vec<_> = [(name, socket.to_str().unwrap())].into_iter().chain(variables.iter().copied()).collect();
        self.lab.with_keys_and(arguments, &all)
    }

    /// Enters a mirror whose keys are made in the token, which may be new.
    #[track_caller]
    fn enter(&self, name: &str, more: &[&str], secrets: &[&str]) -> ((u16, u16), Said) {
        let (ports, add) = entry(&self.lab, name);
        let token = SERIAL.to_string();
        let said = self.runs(secrets, &[&words(&add)[..], &["--token", &token], more].concat());
        (ports, said)
    }

    /// A mirror that runs, and whose keys are in the token.
    fn mirror(&self) -> Mirror {
        let (ports, said) = self.enter("eu1", &[], &[PIN, PUK]);
        said.exits(0);
        let mirror = Mirror::start(&self.lab, "eu1", ports);
        self.runs(&[PIN], &["publish"]).exits(0);
        self.token.forget_events();
        mirror
    }

    #[track_caller]
    fn cut(&self, secrets: &[&str]) -> Said {
        self.runs(secrets, &["cut", "kestrel", "1.1", "--yes=1.1"])
    }

    /// What readers of the mirror get.
    #[track_caller]
    fn shows(&self, mirror: &Mirror, version: &str) -> bool {
        self.lab.verify(&[&mirror.url()]).exits(0).has(&format!("kestrel {version}"))
    }
}

#[test]
fn a_cut_and_its_push_ask_each_token_for_its_pin_once() {
    let tokens = TokenLab::new();
    let lab = &tokens.lab;
    let (ports, add) = entry(lab, "eu1");
    let made = tokens.runs(&[&words(&add)[..], &["--token", &SERIALS[ALICE].to_string()]].concat()).exits(0);
    made.says("Generated mirror-eu1-pool in slot 9a, touch never")
        .says("Generated mirror-eu1-pointer in slot 95, touch never")
        .says("Its deploy keys are in token 20000001");
    let terminal = String::from_utf8(lab.read("home/terminal.toml")).unwrap();
    for line in ["pool-key = \"token:20000001/9a\"", "pointer-key = \"token:20000001/95\""] {
        assert!(terminal.contains(line), "{terminal}");
    }
    let alice = tokens.tokens[ALICE].state();
    for slot in [0x9a, 0x95] {
        assert_eq!((alice.keys[&slot].pin, alice.keys[&slot].touch), (PinPolicy::Once, TouchPolicy::Never));
    }
    // The mirror learns the public halves without the token.
    let layout = lab.runs(&["mirror", "layout", "eu1"]).exits(0);
    let layout = layout.says("key pool ecdsa-sha2-nistp256 AAAA").says("key meta ecdsa-sha2-nistp256 AAAA");
    assert!(!layout.has("ssh-ed25519"), "{layout:?}");
    tokens.runs(&["key", "list"]).exits(0).says("mirror-eu1-pool token 20000001 of alice, slot 9a");
    let listed: serde_json::Value =
        serde_json::from_str(&tokens.runs(&["key", "list", "--json"]).exits(0).out).unwrap();
    assert_eq!(listed["deploy_keys"][1]["key"], "mirror-eu1-pointer");

    let mirror = Mirror::start(lab, "eu1", ports);
    tokens.forget();
    tokens.runs(&["mirror", "check", "eu1"]).exits(0).says("rel-pool  logs in").says("rel-meta  logs in");
    let events = tokens.events();
    assert_eq!((count(&events, is_pin), count(&events, is_login), count(&events, is_touch)), (1, 2, 0), "{events:?}");

    // Signing and pushing: three tokens, three PINs. Each account is logged in to twice,
    // before anything is signed to look, and to push; without a touch.
    lab.tag("1.0");
    tokens.forget();
    let said = tokens.cut("1.0").exits(0).says("to mirror eu1").says("to mirror here");
    let events = tokens.events();
    assert_eq!((count(&events, is_pin), count(&events, is_login), count(&events, is_touch)), (3, 4, 6), "{events:?}");
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.0");
    let log = fs::read_to_string(mirror.disk.join("sshd.log")).unwrap();
    for account in ["rel-pool", "rel-meta"] {
        assert!(log.contains(&format!("Accepted publickey for {account} from 127.0.0.1")), "{log}");
    }
    assert!(log.contains("ssh2: ECDSA SHA256:") && !log.contains("ED25519"), "{log}");

    // What has nothing new asks for nothing.
    tokens.forget();
    lab.runs(&["publish"]).exits(0);
    assert_eq!(tokens.events(), []);
    // A push by itself, and all that looks at a mirror, asks for one PIN.
    for command in [&["mirror", "catch-up", "eu1"][..], &["mirror", "audit", "eu1"], &["refresh"]] {
        tokens.forget();
        tokens.runs(command).exits(0);
        let of_alice = tokens.tokens[ALICE].events();
        assert_eq!(count(&of_alice, is_pin), 1, "{command:?}: {of_alice:?}");
        assert_eq!(count(&of_alice, |event| matches!(event, Event::Signature(_))), count(&of_alice, is_login));
    }
    lab.verify(&[&mirror.url()]).exits(0).says("kestrel 1.0");

    // While it is pushed, no token is open but the one that lets in.
    lab.write("work/notes", "notes\n");
    lab.commit("2.0");
    lab.tag("2.0");
    tokens.set_pins(&[]);
    tokens.tokens[ALICE].fail(Token::SIGN, 4, Fault::Slow(Duration::from_secs(3)));
    let knows_its_pin = |index: usize| tokens.tokens[index].transmit(&[0x00, 0x20, 0x00, 0x80]) == [0x90, 0x00];
    let (mut before, mut during) = (false, None);
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| tokens.cut("2.0"));
        while !cut.is_finished() {
            if agents(&lab.path("")).is_empty() {
                before |= knows_its_pin(BOB);
            } else {
                during = during.or_else(|| Some(knows_its_pin(BOB)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        cut.join().unwrap().exits(0);
    });
    assert_eq!((before, during), (true, Some(false)));

    // Nothing secret went anywhere, and nothing of it outlives the push.
    let mut grep = program("grep");
    grep.args(["-r", "-l", "-a", "-e", PIN, "-e", PUK, "home", "mirror", "eu1", "data"]).current_dir(lab.path(""));
    assert_eq!(run(&mut grep).out, "");
    assert!(!said.has(PIN));
    assert_eq!(agents(&lab.path("")), Vec::<PathBuf>::new());
    assert_ne!(tokens.tokens[ALICE].transmit(&[0x00, 0x20, 0x00, 0x80]), [0x90, 0x00]);
}

/// The folders of private agents.
fn agents(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("release-agent-")).collect()
}

#[test]
fn deploy_keys_are_made_in_slots_of_their_own() {
    let lab = DeployLab::new();
    let token = SERIAL.to_string();
    let nothing_added = |terminal: &[u8]| assert_eq!(lab.lab.read("home/terminal.toml"), terminal);
    let before = lab.lab.read("home/terminal.toml");

    // What is wrong with the rest is found before the token is asked for.
    let (_, said) = lab.enter("eu1", &["--address", "192.0.2.1", "--port", "0"], &[PIN, PUK]);
    assert_ne!(said.code, Some(0));
    let (_, add) = entry(&lab.lab, "eu2");
    let mut bad = words(&add);
    bad[4] = "ftp://eu2.example";
    lab.runs(&[], &[&bad[..], &["--token", &token]].concat()).exits(2).says("begins with http://");
    assert_eq!(lab.token.events(), []);
    // A token has the wrong maker, or weak firmware.
    let root = "home/keys/attestation-roots/test-only.pem";
    let known = lab.lab.read(root);
    lab.lab.write(root, Vendor::new("Another maker").root_pem());
    let (_, said) = lab.enter("eu1", &[], &[PIN, PUK]);
    said.exits(REJECTED).says("the attestation of mirror-eu1-pool does not count");
    lab.lab.write(root, known);
    lab.token.change(|state| state.firmware = [5, 4, 3]);
    let (_, said) = lab.enter("eu1", &[], &[PIN]);
    said.exits(REJECTED).says("has firmware 5.4.3, from which keys can be read");
    lab.token.change(|state| state.firmware = [5, 7, 1]);
    nothing_added(&before);
    assert!(!lab.lab.path("home/keys/mirror-eu1-pool.pem").exists());

    // Killed at each step, it goes on with the keys that it has made.
    for step in ["enrol.noted:2", "enrol.generated:2", "enrol.attested:2"] {
        let (_, add) = entry(&lab.lab, "eu1");
        let add = [&words(&add)[..], &["--token", &token]].concat();
        let said = lab.runs_and(&[PIN], &add, &[("RELEASE_FAIL_AT", step)]);
        assert_eq!(said.code, None, "{step}: {said:?}");
        nothing_added(&before);
    }
    let made = lab.token.state();
    let (_, said) = lab.enter("eu1", &[], &[PIN]);
    said.exits(0).says("mirror-eu1-pointer in slot 95");
    let after = lab.token.state();
    assert_eq!(after.keys.len(), 3, "two keys, and that of attestations");
    assert!([0x9a, 0x95].iter().all(|slot| after.keys[slot].secret == made.keys[slot].secret));

    // A slot that is taken, twice the same one, and one for the next mirror.
    let terminal = lab.lab.read("home/terminal.toml");
    let (_, said) = lab.enter("us1", &["--pool-slot", "9a"], &[PIN]);
    said.exits(1).says("has a key in slot 9a already, and mirror-us1-pool needs a slot of its own");
    let (_, said) = lab.enter("us1", &["--pool-slot", "93", "--pointer-slot", "93"], &[PIN]);
    said.exits(1).says("has a key in slot 93 already, and mirror-us1-pointer needs a slot of its own");
    nothing_added(&terminal);
    let imported = Key::import(Algorithm::P256, &[5; 32], PinPolicy::Once, TouchPolicy::Never).unwrap();
    lab.token.change(|state| drop(state.keys.insert(0x94, imported)));
    let (_, said) = lab.enter("us1", &[], &[PIN]);
    said.exits(0).says("mirror-us1-pool in slot 93").says("mirror-us1-pointer in slot 92");

    // One key for two mirrors, by another name; and one that nobody has made.
    lab.lab.copy("home/keys/mirror-eu1-pool.pem", "home/keys/mirror-us1-pool.pem");
    let said = lab.runs(&[PIN], &["mirror", "check", "us1"]).exits(1);
    said.says("token:20000009/9a and token:20000009/93 hold the same key");
    fs::remove_file(lab.lab.path("home/keys/mirror-us1-pool.pem")).unwrap();
    let said = lab.runs(&[PIN], &["mirror", "layout", "us1"]).exits(1);
    said.says("deploy key mirror-us1-pool has no public half").says("release mirror add --help");
    // A slot of the policy is no slot for a deploy key.
    let text = String::from_utf8(terminal).unwrap();
    let claim = "alice-claim = { serial = 20000009, slot = \"9a\" }";
    let old = text.lines().find(|line| line.starts_with("alice-claim")).unwrap();
    lab.lab.write("home/terminal.toml", text.replace(old, claim));
    lab.lab.runs(&["status"]).exits(1).says("`alice-claim` is there already; purposes never share a key");
}

#[test]
fn a_token_that_fails_keeps_its_mirrors_as_they_were_and_no_others() {
    let lab = DeployLab::new();
    let mirror = lab.mirror();
    // A second name of it, with other keys in the same token.
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    let (_, entered) = terminal.split_once("[mirror.eu1]").unwrap();
    let second = entered.replace("/9a", "/94").replace("/95", "/93");
    lab.enter("us1", &[], &[PIN]).1.exits(0);
    let quorum = "[publish]\nquorum = 1\n";
    lab.lab.write("home/terminal.toml", format!("{terminal}\n[mirror.us1]{second}\n{quorum}"));
    let left = || lab.token.state().pin.left;

    // Not there: the release is made, and waits for the token.
    lab.pcscd.reader(0).unplug();
    let said = lab.cut(&[PIN]).exits(4).says("published   here").says("not pushed  eu1").says("not pushed  us1");
    let said = said.says("mirror `eu1`: token 20000009 is not plugged in").says("plug in token 20000009");
    said.says("release cut kestrel 1.1");
    assert!(!lab.shows(&mirror, "1.1") && lab.lab.path("mirror/releases/kestrel/1.1").exists());
    lab.pcscd.reader(0).plug(&lab.token);

    // Each stop: once said, no try spent twice, nothing shown.
    let publish = |secrets: &[&str]| lab.runs(secrets, &["publish"]);
    let stops = |said: Said, message: &str| {
        said.exits(4).says(message).says("release publish").does_not_say(PIN);
        assert!(!lab.shows(&mirror, "1.1"));
    };
    stops(publish(&["11111111", "11111111"]), "token 20000009 refuses the PIN: it is wrong, and 2 tries are left");
    assert_eq!(left(), 2, "two mirrors, one try");
    stops(publish(&[]), "no PIN for token 20000009");
    lab.token.change(|state| state.pin.left = 1);
    stops(publish(&[PIN]), "has one try of its PIN left, which was not spent");
    lab.token.change(|state| state.pin.left = 0);
    stops(publish(&[PIN]), "token 20000009 has a blocked PIN");
    lab.token.change(|state| state.pin.left = 3);
    let state = lab.token.state();
    let other = Key::generate(Algorithm::P256, PinPolicy::Once, TouchPolicy::Never);
    lab.token.change(|state| drop(state.keys.insert(0x9a, other)));
    stops(publish(&[PIN]), "has another key in slot 9a than the one that is enrolled as mirror-eu1-pool");
    lab.token.change(|now| *now = state);

    // Pulled while it signs the first login, and the second: content may be there,
    // and no reader sees it.
    let first = terminal.as_str();
    lab.lab.write("home/terminal.toml", first);
    for (nth, fault) in [(1, Fault::PulledBefore), (1, Fault::PulledDuring), (2, Fault::PulledBefore)] {
        lab.token.fail(Token::SIGN, nth, fault);
        let said = publish(&[PIN]);
        let account = if nth == 1 { "rel-pool" } else { "rel-meta" };
        let said = said.says("did not sign the login of").says("it was pulled out");
        let said = said.says(&format!("no login as {account} at 127.0.0.1")).says("is plugged in");
        stops(said, "not pushed  eu1");
        lab.pcscd.reader(0).plug(&lab.token);
    }
    for fault in [Fault::Garbage, Fault::Truncated] {
        lab.token.fail(Token::SIGN, 1, fault);
        stops(publish(&[PIN]), "it answers as no token does");
    }
    lab.token.fail(Token::SIGN, 1, Fault::Flipped);
    stops(publish(&[PIN]), "key mirror-eu1-pool made a signature that does not verify");
    assert_eq!(agents(&lab.lab.path("")), Vec::<PathBuf>::new());

    // Killed with the agent in its hands: whoever finds the socket gets no answer.
    let said = lab.runs_and(&[PIN], &["publish"], &[("RELEASE_FAIL_AT", "publish.pointer")]);
    assert_eq!(said.code, None, "{said:?}");
    let left_behind = agents(&lab.lab.path(""));
    assert_eq!(left_behind.len(), 1);
    let socket = left_behind[0].join("socket");
    run(program("ssh-add").arg("-L").env("SSH_AUTH_SOCK", &socket)).exits(2).says("Connection refused");
    assert!(!lab.shows(&mirror, "1.1"));

    // Another host key: nothing is signed, by nobody.
    let (_, other) = entry(&lab.lab, "us9");
    lab.lab.write("home/terminal.toml", first.replace(host_key(first), &other[other.len() - 1]));
    lab.token.forget_events();
    stops(publish(&[PIN]), "does not have the host key that terminal.toml pins");
    assert_eq!(count(&lab.token.events(), is_login), 0);
    lab.lab.write("home/terminal.toml", first);

    publish(&[PIN]).exits(0).says("to mirror eu1");
    assert!(lab.shows(&mirror, "1.1"));
    // Afterwards nothing is missed.
    lab.pcscd.reader(0).unplug();
    publish(&[]).exits(0);
}

/// The host key of the only mirror over SSH.
fn host_key(terminal: &str) -> &str {
    let line = terminal.lines().find(|line| line.starts_with("host-key = ")).unwrap();
    line.trim_start_matches("host-key = ").trim_matches('"')
}

/// A process below a folder, as others see it.
#[derive(Debug)]
struct Seen {
    command: String,
    environment: String,
    limits: String,
}

/// The processes that work in a folder or below it.
fn processes(folder: &Path) -> Vec<Seen> {
    let look = |entry: fs::DirEntry| {
        let base = entry.path();
        fs::read_link(base.join("cwd")).ok().filter(|at| at.starts_with(folder))?;
        let text = |file: &str| Some(String::from_utf8_lossy(&fs::read(base.join(file)).ok()?).replace('\0', " "));
        Some(Seen { command: text("cmdline")?, environment: text("environ")?, limits: text("limits")? })
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(look).collect()
}

#[test]
fn nobody_sees_a_pin_while_a_push_runs() {
    let lab = DeployLab::new();
    let mirror = lab.mirror();
    let folder = lab.lab.path("").canonicalize().unwrap();
    // ssh waits for its signature while we look.
    lab.token.fail(Token::SIGN, 1, Fault::Slow(Duration::from_secs(3)));
    let is_ssh = |process: &Seen| process.command.contains("ssh -F config -s mirror sftp");
    let (mut seen, mut modes) = (Vec::new(), Vec::new());
    let said = std::thread::scope(|scope| {
        let cut = scope.spawn(|| lab.cut(&[PIN]));
        while !cut.is_finished() {
            let now = processes(&folder);
            // By now they have done what they do first.
            if now.iter().any(is_ssh) {
                seen.extend(now);
            }
            for agent in agents(&folder) {
                let mode = |path: &Path| Some(path.metadata().ok()?.permissions().mode() & 0o777);
                modes.extend(mode(&agent).zip(mode(&agent.join("socket"))));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        cut.join().unwrap()
    });
    said.exits(0).says("to mirror eu1").does_not_say(PIN);
    let of = |name: &str| {
        let all: Vec<&Seen> = seen.iter().filter(|process| process.command.contains(name)).collect();
        assert!(!all.is_empty(), "no {name} was seen");
        all
    };
    for process in of("ssh -F config -s mirror sftp") {
        assert!(!process.environment.contains("SSH_AUTH_SOCK") && !process.environment.contains("PCSC"), "{process:?}");
    }
    of("cut kestrel 1.1");
    for process in &seen {
        let core = process.limits.lines().find(|line| line.starts_with("Max core")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{process:?}");
        assert!(!process.command.contains(PIN) && !process.environment.contains(PIN), "{process:?}");
    }
    assert!(!modes.is_empty() && modes.iter().all(|modes| *modes == (0o700, 0o600)), "{modes:?}");
    assert!(lab.shows(&mirror, "1.1"));
    assert_eq!(agents(&folder), Vec::<PathBuf>::new());
    let mut grep = program("grep");
    grep.args(["-r", "-l", "-a", "-e", PIN, "-e", PUK, "home", "mirror", "eu1", "data"]).current_dir(&folder);
    assert_eq!(run(&mut grep).out, "");
}

#[test]
fn a_person_is_asked_for_the_pin_once_for_all_mirrors_and_before_anything_is_sent() {
    let lab = DeployLab::new();
    let mirror = lab.mirror();
    let (ports, said) = lab.enter("us1", &[], &[PIN]);
    said.exits(0);
    let second = Mirror::start(&lab.lab, "us1", ports);
    let said = lab.cut(&[]).exits(4).says("mirror `eu1`: no PIN for token 20000009").says("mirror `us1`: no PIN for");
    assert!(!said.has(PIN) && !lab.shows(&mirror, "1.1"));
    lab.token.forget_events();
    let (name, socket) = lab.pcscd.variable();
    let command = format!("{name}={} release publish", socket.display());
    let mut prompts = Vec::new();
    let (code, screen) = at_a_terminal(&lab.lab, &command, |prompt| {
        prompts.push(prompt.to_owned());
        format!("{PIN}\n")
    });
    assert_eq!((code, prompts), (0, vec!["PIN of token 20000009 (3 tries left): ".to_owned()]), "{screen}");
    assert!(!screen.contains(PIN), "{screen}");
    // Two accounts of two mirrors, side by side.
    let events = lab.token.events();
    assert_eq!((count(&events, is_pin), count(&events, is_login)), (1, 4), "{events:?}");
    assert!(lab.shows(&mirror, "1.1") && lab.shows(&second, "1.1"));
}

#[test]
fn a_mirror_behind_another_machine_is_logged_in_to_with_the_token() {
    let lab = DeployLab::new();
    let mirror = lab.mirror();
    let port = mirror.start_jump(&lab.lab);
    let text = |file: &str| String::from_utf8(lab.lab.read(file)).unwrap();
    let (terminal, host_key) = (text("home/terminal.toml"), text("jump.host.pub"));
    let jump = format!(
        "jump = {{ address = \"127.0.0.1\", port = {port}, user = \"jump\", host-key = \"{}\", key = \"file:keys/jump\" }}",
        host_key.trim()
    );
    lab.lab.write("home/terminal.toml", format!("{terminal}{jump}\n"));
    lab.cut(&[PIN]).exits(0).says("to mirror eu1");
    assert_eq!(count(&lab.token.events(), is_login), 4, "the token's keys are for the mirror only");
    let log = fs::read_to_string(mirror.disk.join("jump.log")).unwrap();
    assert!(log.contains("Accepted publickey for jump") && !log.contains("ECDSA"), "{log}");
    assert!(lab.shows(&mirror, "1.1"));
    // No key of such a machine is in a token.
    let in_token = jump.replace("file:keys/jump", "token:20000009/94");
    lab.lab.write("home/terminal.toml", format!("{terminal}{in_token}\n"));
    lab.runs(&[PIN], &["publish"]).exits(1).says("only deploy keys are in tokens");
}

#[test]
fn a_courier_logs_in_with_the_token_that_he_carries() {
    let lab = DeployLab::new();
    // The terminal reaches no mirror, and knows nothing of his token.
    fs::rename(lab.lab.path("mirror"), lab.lab.path("copy")).unwrap();
    fs::remove_dir_all(lab.lab.path("home/mirrors")).unwrap();
    let terminal = String::from_utf8(lab.lab.read("home/terminal.toml")).unwrap();
    let entry_of_terminal = "[mirror.eu1]\ncourier = true\n";
    lab.lab.write("home/terminal.toml", terminal.replace("[mirror.here]\npath = \"../mirror\"", entry_of_terminal));
    lab.lab.write("courier/root.json", lab.lab.read("trust/root.json"));
    lab.lab.write("courier/terminal.toml", "version = 1\n");

    // A maker of tokens is as little trusted by him as by a terminal.
    let in_folder = ["--home", "courier"];
    let (_, said) = lab.enter("eu1", &in_folder, &[PIN, PUK]);
    said.exits(1).says("keys/attestation-roots cannot be used: no root").says("no key was made");
    assert_eq!(lab.token.state().keys.len(), 1);
    lab.lab.write("courier/keys/attestation-roots/test-only.pem", Vendor::usual().root_pem());
    lab.token.change(|state| state.firmware = [5, 4, 3]);
    let (_, said) = lab.enter("eu1", &in_folder, &[PIN, PUK]);
    said.exits(REJECTED).says("has firmware 5.4.3, from which keys can be read");
    lab.token.change(|state| state.firmware = [5, 7, 1]);
    let (ports, said) = lab.enter("eu1", &in_folder, &[PIN, PUK]);
    said.exits(0).says("Generated mirror-eu1-pool in slot 9a, touch never").says("are in token 20000009");
    let mirror = Mirror::start_in(&lab.lab, "courier", "eu1", ports);
    let check = ["mirror", "check", "eu1", "--home", "courier"];
    lab.runs(&[PIN], &check).exits(0).says("rel-pool  logs in").says("rel-meta  logs in");

    lab.cut(&[]).exits(0).says("A courier brings it to");
    lab.lab.runs(&["export", "stick"]).exits(0);
    let push = |secrets: &[&str]| lab.runs(secrets, &["courier", "push", "stick", "--home", "courier"]);
    let stops = |said: Said, message: &str| {
        said.exits(4).says(message).says("release courier push stick").does_not_say(PIN);
        lab.lab.verify(&[&mirror.url()]).exits(REJECTED).says("timestamp.json not found");
    };
    // Nothing is tried without him, twice, or by another token.
    lab.token.forget_events();
    stops(push(&[]), "no PIN for token 20000009");
    stops(push(&["11111111", "11111111"]), "token 20000009 refuses the PIN: it is wrong, and 2 tries are left");
    assert_eq!((lab.token.state().pin.left, count(&lab.token.events(), is_login)), (2, 0));
    lab.token.change(|state| "12345678".clone_into(&mut state.puk.value));
    stops(push(&[PIN]), "token 20000009 still has the PUK from the factory");
    lab.token.change(|state| PUK.clone_into(&mut state.puk.value));
    let state = lab.token.state();
    let other = Key::generate(Algorithm::P256, PinPolicy::Once, TouchPolicy::Never);
    lab.token.change(|state| drop(state.keys.insert(0x9a, other)));
    stops(push(&[PIN]), "has another key in slot 9a than the one that is enrolled as mirror-eu1-pool");
    lab.token.change(|now| *now = state);
    lab.pcscd.reader(0).unplug();
    stops(push(&[PIN]), "token 20000009 is not plugged in");
    lab.pcscd.reader(0).plug(&lab.token);

    lab.token.forget_events();
    push(&[PIN]).exits(0).says("to mirror eu1").says("Wrote the receipt").does_not_say(PIN);
    let events = lab.token.events();
    assert_eq!((count(&events, is_pin), count(&events, is_login), count(&events, is_touch)), (1, 2, 0), "{events:?}");
    assert!(lab.shows(&mirror, "1.1"));
    lab.lab.runs(&["import", "stick"]).exits(0).says("holds eu1: publication");
    // Nothing secret is in his folder, on the stick, or on the mirror.
    let mut grep = program("grep");
    grep.args(["-r", "-l", "-a", "-e", PIN, "-e", PUK, "courier", "stick", "eu1", "home"]);
    assert_eq!(run(grep.current_dir(lab.lab.path(""))).out, "");
    assert_eq!(agents(&lab.lab.path("")), Vec::<PathBuf>::new());
}
