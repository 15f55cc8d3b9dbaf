//! The emulated tokens through a real pcscd, with `OpenSC`, ykcs11 and openssl as
//! judges.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::Said;
use crate::support::piv::Fault;
use crate::support::piv::Token;
use crate::support::piv::hand::Patience;
use crate::support::piv::hand::Touch;
use crate::support::piv::host::Host;
use crate::support::piv::key::Algorithm;
use crate::support::piv::key::PinPolicy;
use crate::support::piv::key::TouchPolicy;
use crate::support::piv::reader::PORT;
use crate::support::piv::reader::Pcscd;
use crate::support::piv::state::TokenSpec;
use crate::support::piv::vendor;
use crate::support::piv::vendor::Vendor;
use crate::support::program;
use crate::support::run;
use crate::support::wait_until;

const P256: Algorithm = Algorithm::P256;

/// A folder for what openssl reads and writes.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path().join(name)).unwrap()
    }

    fn openssl(&self, arguments: &str) -> Said {
        run(program("openssl").args(arguments.split(' ')).current_dir(self.0.path()))
    }

    /// Verifies the attestation of a key in 9A, with the certificates that stand
    /// between it and the vendor's root.
    fn verify_attestation(&self, token: &Token, vendor: &Vendor) -> Said {
        let host = Host::open(token);
        let f9 = host.get(0x5f_ff01).unwrap();
        let f9 = vendor::pem(vendor::unwrap(&f9).unwrap());
        self.write("root.pem", vendor.root_pem());
        self.write("between.pem", vendor.intermediates_pem() + &f9);
        self.write("leaf.pem", vendor::pem(&host.attest(0x9a).unwrap()));
        self.openssl("verify -CAfile root.pem -untrusted between.pem leaf.pem")
    }
}

fn token_of(vendor: &std::sync::Arc<Vendor>, says_ca: bool) -> Token {
    let token = Token::new(&TokenSpec { vendor: vendor.clone(), says_ca, ..TokenSpec::default() });
    Host::open(&token).generate(0x9a, P256, PinPolicy::Once, TouchPolicy::Cached).unwrap();
    token
}

#[test]
fn openssl_verifies_attestations() {
    let desk = Desk::new();
    let (old, new) = (Vendor::new("Old"), Vendor::with_intermediates("New"));
    for vendor in [&old, &new, &Vendor::usual()] {
        desk.verify_attestation(&token_of(vendor, true), vendor).exits(0).says("leaf.pem: OK");
    }
    let text = desk.openssl("x509 -in leaf.pem -noout -subject -issuer -dates -text").exits(0);
    let text = text.says("subject=CN = YubiKey PIV Attestation 9a").says("issuer=CN = Yubico PIV Attestation");
    let text = text.says("notAfter=Apr 17 00:00:00 2052 GMT");
    for number in [3, 7, 8, 9] {
        assert!(text.has(&format!("1.3.6.1.4.1.41482.3.{number}:")), "{text:?}");
    }
    desk.openssl("x509 -in leaf.pem -outform der -out leaf.der").exits(0);
    let leaf = desk.read("leaf.der");
    for value in [
        [&[3, 4, 3], [5, 7, 1].as_slice()].concat(),
        [&[7, 4, 6, 2, 4], 20_000_001_u32.to_be_bytes().as_slice()].concat(),
        vec![8, 4, 2, 2, 3],
        vec![9, 4, 1, 1],
    ] {
        assert!(leaf.windows(value.len()).any(|window| window == value), "{value:?}");
    }
    // A stranger's token, and one whose F9 was replaced.
    let foreign = token_of(&Vendor::new("Foreign"), true);
    desk.verify_attestation(&foreign, &old).exits(2).says("unable to get local issuer certificate");
    let replaced = token_of(&old, true);
    replaced.change(|state| state.replace_f9(&Vendor::new("Thief")));
    desk.verify_attestation(&replaced, &old).exits(2).says("unable to get local issuer certificate");
    // Old genuine ones do not say that F9 may issue.
    desk.verify_attestation(&token_of(&old, false), &old).exits(2).says("invalid CA certificate");
}

const OPENSC: &str = "opensc-pkcs11.so";
const YKCS11: &str = "libykcs11.so";

fn pkcs11(pcscd: &Pcscd, module: &str, desk: &Desk, arguments: &str) -> Said {
    let mut command = program("pkcs11-tool");
    let module = format!("/usr/lib/{}-linux-gnu/{module}", std::env::consts::ARCH);
    command.envs([pcscd.variable()]).args(["--module", &module]).args(arguments.split(' '));
    run(command.current_dir(desk.0.path()))
}

/// Sends commands to the first reader with a card, as hexadecimal text; gives
/// the last status.
fn opensc(pcscd: &Pcscd, commands: &[&str]) -> Said {
    let mut command = program("opensc-tool");
    let select = ["--send-apdu", "00:A4:04:00:05:A0:00:00:03:08"];
    command.envs([pcscd.variable()]).args(select);
    run(command.args(commands.iter().flat_map(|command| ["--send-apdu", command])))
}

#[test]
fn opensc_and_ykcs11_list_keys_and_sign() {
    let pcscd = Pcscd::start();
    let desk = Desk::new();
    let token = Token::new(&TokenSpec::default());
    let host = Host::open(&token);
    for (slot, pin) in [(0x9a, PinPolicy::Once), (0x9c, PinPolicy::Always)] {
        host.generate(slot, P256, pin, TouchPolicy::Never).unwrap();
        desk.write(&format!("{slot:x}.der"), token.state().keys[&slot].spki());
    }
    pcscd.reader(0).plug(&token);
    desk.write("data", "to be signed");
    desk.openssl("dgst -sha256 -binary -out digest data").exits(0);
    for module in [OPENSC, YKCS11] {
        let said = pkcs11(&pcscd, module, &desk, "--list-objects --type pubkey").exits(0);
        assert!(said.out.matches("EC_POINT 256 bits").count() >= 2, "{said:?}");
        for (id, slot) in [("01", "9a"), ("02", "9c")] {
            let sign = format!(
                "--login --pin 123456 --sign --mechanism ECDSA --id {id} --input-file digest \
                 --output-file signature --signature-format openssl"
            );
            pkcs11(&pcscd, module, &desk, &sign).exits(0);
            let verify = format!("dgst -sha256 -keyform DER -verify {slot}.der -signature signature data");
            desk.openssl(&verify).exits(0).says("Verified OK");
            fs::remove_file(desk.0.path().join("signature")).unwrap();
        }
        let tries = token.state().pin.left;
        pkcs11(&pcscd, module, &desk, "--login --pin 999999 --list-objects").exits(1).says("CKR_PIN_INCORRECT");
        assert_eq!((tries, token.state().pin.left), (3, 2));
        token.change(|state| state.pin.left = 3);
    }
    assert_eq!(token.signatures(), 4);
    run(program("pkcs15-tool").arg("--list-pins").envs([pcscd.variable()])).exits(0).says("PIN [PIN]");
    let certificate = run(program("pkcs15-tool").args(["--read-certificate", "01"]).envs([pcscd.variable()])).exits(0);
    assert_eq!(certificate.out, vendor::pem(vendor::unwrap(&token.state().objects[&0x5f_c105]).unwrap()));
}

/// A token whose slot 9E signs without a PIN.
fn signs_at_once(touch: TouchPolicy) -> Token {
    let token = Token::new(&TokenSpec::default());
    Host::open(&token).generate(0x9e, P256, PinPolicy::Never, touch).unwrap();
    token
}

const SIGN_9E: &str = "00:87:11:9E:26:7C:24:82:00:81:20:\
    07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:07:00";

#[test]
fn tokens_fail_as_planned() {
    let pcscd = Pcscd::start();
    let reader = pcscd.reader(0);
    let token = signs_at_once(TouchPolicy::Never);
    reader.plug(&token);
    let good = opensc(&pcscd, &[SIGN_9E]).exits(0).out;
    let length =
        |said: &str| said.split("Received").nth(2).unwrap().split_whitespace().filter(|word| word.len() == 2).count();
    assert!(length(&good) >= 70, "{good}");
    for (fault, signed) in [(Fault::PulledBefore, 1), (Fault::PulledDuring, 2), (Fault::PulledAfter, 2)] {
        token.forget_events();
        // The second signature fails; the token is back for the next program.
        token.fail(Token::SIGN, 2, fault.clone());
        reader.queue(&token);
        let said = opensc(&pcscd, &[SIGN_9E, SIGN_9E, SIGN_9E]);
        let received = said.out.matches("SW1=0x90").count();
        let answered = if fault == Fault::PulledAfter { 2 } else { 1 };
        assert_eq!((token.signatures(), received), (signed, 1 + answered), "{fault:?}: {said:?}");
        said.exits(1);
        reader.until_plugged();
        opensc(&pcscd, &[SIGN_9E]).exits(0);
    }
    for fault in [Fault::Garbage, Fault::Truncated, Fault::Flipped, Fault::Slow(Duration::from_millis(50))] {
        token.fail(Token::SIGN, 1, fault.clone());
        let said = opensc(&pcscd, &[SIGN_9E]).exits(0).says("SW1=0x90").out;
        match fault {
            Fault::Truncated => assert!(length(&said) < 50, "{said}"),
            // Signatures are deterministic.
            Fault::Slow(_) => assert_eq!(said, good),
            _ => assert!(said != good, "{fault:?} {said}"),
        }
    }
    // Other commands fail too.
    token.fail(Token::VERIFY, 1, Fault::PulledDuring);
    reader.queue(&token);
    opensc(&pcscd, &["00:20:00:80:08:39:39:39:39:39:39:FF:FF"]).exits(1);
    assert_eq!(token.state().pin.left, 2);
    reader.until_plugged();
    opensc(&pcscd, &[SIGN_9E]).exits(0);
    let attestation = opensc(&pcscd, &["00:F9:9E:00"]).exits(0).out;
    token.fail(Token::ATTEST, 1, Fault::Truncated);
    assert!(length(&opensc(&pcscd, &["00:F9:9E:00"]).exits(0).out) < length(&attestation));
    token.fail(0xf8, 1, Fault::Garbage);
    assert!(!opensc(&pcscd, &["00:F8:00:00"]).exits(0).has("01 31 2D 01"));
    opensc(&pcscd, &["00:F8:00:00"]).exits(0).says("01 31 2D 01");
    // Pulled while it waits for a touch.
    let waits = signs_at_once(TouchPolicy::Always);
    waits.set_touch(Touch::Withheld);
    waits.set_patience(Patience { touch: Duration::from_secs(600), ..Patience::default() });
    reader.unplug();
    reader.plug(&waits);
    std::thread::scope(|scope| {
        let program = scope.spawn(|| opensc(&pcscd, &[SIGN_9E]));
        wait_until("it blinks", || waits.is_waiting());
        reader.unplug();
        program.join().unwrap().exits(1);
    });
    assert_eq!(waits.signatures(), 0);
    // The reader dies.
    reader.plug(&token);
    token.fail(Token::SIGN, 1, Fault::ReaderGone);
    opensc(&pcscd, &[SIGN_9E]).exits(1);
    opensc(&pcscd, &[SIGN_9E]).exits(1).says("No smart card readers found");
}

#[test]
fn several_tokens_and_several_daemons_stand_side_by_side() {
    let (one, other) = (Pcscd::start(), Pcscd::with_readers(4));
    let token = |serial| Token::new(&TokenSpec { serial, ..TokenSpec::default() });
    one.reader(1).plug(&token(1));
    for number in 0..4 {
        other.reader(number).plug(&token(10 + u32::try_from(number).unwrap()));
    }
    let serial = |pcscd: &Pcscd, reader: &str| {
        let mut command = program("opensc-tool");
        command.envs([pcscd.variable()]).args(["--reader", reader, "--send-apdu", "00:A4:04:00:05:A0:00:00:03:08"]);
        run(command.args(["--send-apdu", "00:F8:00:00"]))
    };
    serial(&one, "1").exits(0).says("00 00 00 01");
    for (reader, text) in [("0", "0A"), ("1", "0B"), ("2", "0C"), ("3", "0D")] {
        serial(&other, reader).exits(0).says(&format!("00 00 00 {text}"));
    }
    // Another token in the same reader, by hand and by itself.
    let another = token(99);
    other.reader(2).unplug();
    other.reader(2).plug(&another);
    serial(&other, "2").exits(0).says("00 00 00 63");
    another.fail(0xf8, 1, Fault::PulledAfter);
    other.reader(2).queue(&token(98));
    serial(&other, "2").exits(0).says("00 00 00 63");
    other.reader(2).until_plugged();
    serial(&other, "2").exits(0).says("00 00 00 62");
    // A token that goes from one computer to the next keeps its state.
    Host::open(&another).verify("999999").unwrap_err();
    one.reader(0).plug(&another);
    drop(other);
    serial(&one, "1").exits(0).says("00 00 00 01");
    opensc(&one, &["00:20:00:80"]).exits(0).says("SW2=0xC2");
    // Nothing listens where others could reach it.
    let listening = run(program("ss").arg("-Hltn")).exits(0);
    drop(listening.does_not_say(&format!(":{PORT}")));
}
