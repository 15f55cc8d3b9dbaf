//! A maker of tokens, by openssl: roots, intermediates, certificates of F9, and
//! attestations of slots.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use jiff::Timestamp;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::DecodePrivateKey as _;
use release::key::PublicKey;
use tempfile::TempDir;
use x509_cert::der::Decode as _;
use x509_cert::der::Encode as _;
use x509_cert::der::Tag;
use x509_cert::der::asn1::Any;

use super::program;
use super::run;

/// What an authority's certificate says.
pub const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign";
/// What a sound attestation says, without the slot.
pub const SOUND: &str = "1.3.6.1.4.1.41482.3.3=DER:050701\n1.3.6.1.4.1.41482.3.7=ASN1:INTEGER:20000001\n\
                         1.3.6.1.4.1.41482.3.8=DER:0203\n1.3.6.1.4.1.41482.3.9=DER:03";

/// A folder with keys `NAME.key` and certificates `NAME.der`.
pub struct Maker {
    folder: TempDir,
    travel: Option<&'static str>,
}

impl Maker {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), travel: None }
    }

    /// A root, a certificate for F9, and an attestation, all P-256.
    pub fn usual() -> Self {
        let maker = Self::new();
        for name in ["root", "f9", "slot"] {
            maker.key(name, "P-256");
        }
        let firmware = SOUND.lines().next().unwrap();
        maker.certify("root", "root", "Maker Root", AUTHORITY);
        maker.certify("f9", "root", "Maker PIV Attestation", &format!("{AUTHORITY}\n{firmware}"));
        maker.certify("slot", "f9", "YubiKey PIV Attestation 9c", SOUND);
        maker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self) -> Command {
        let mut command = match self.travel {
            None => program("openssl"),
            Some(moment) => {
                let mut command = program("faketime");
                command.args(["-f", moment, "openssl"]);
                command
            }
        };
        command.current_dir(self.folder.path());
        command
    }

    /// From now on certificates begin at this moment.
    pub fn travel(&mut self, moment: &'static str) {
        self.travel = Some(moment);
    }

    pub fn key(&self, name: &str, kind: &str) {
        let curve = format!("ec_paramgen_curve:{kind}");
        let bits = format!("rsa_keygen_bits:{kind}");
        let mut command = self.openssl();
        command.args(["genpkey", "-out", &format!("{name}.key")]);
        run(match kind {
            "ed25519" => command.args(["-algorithm", kind]),
            "2048" | "1024" => command.args(["-algorithm", "RSA", "-pkeyopt", &bits]),
            _ => command.args(["-algorithm", "EC", "-pkeyopt", &curve]),
        })
        .exits(0);
        run(self.openssl().args(["pkey", "-pubout", "-in", &format!("{name}.key"), "-out", &format!("{name}.pub")]))
            .exits(0);
    }

    pub fn certify(&self, name: &str, issuer: &str, subject: &str, extensions: &str) {
        self.certify_with(name, issuer, subject, extensions, &["-days", "1000", "-sha256"]);
    }

    /// Makes a certificate of the key `name` by `issuer`.
    pub fn certify_with(&self, name: &str, issuer: &str, subject: &str, extensions: &str, more: &[&str]) {
        fs::write(self.path("extensions"), format!("[e]\n{extensions}\n")).unwrap();
        let mut command = self.openssl();
        command.args(["x509", "-new", "-subj", &format!("/CN={subject}"), "-extfile", "extensions"]);
        command.args(["-extensions", "e", "-set_serial", "0x1234", "-out", &format!("{name}.pem")]).args(more);
        if name == issuer {
            command.args(["-signkey", &format!("{name}.key")]);
        } else {
            command.args(["-force_pubkey", &format!("{name}.pub")]);
            command.args(["-CA", &format!("{issuer}.pem"), "-CAkey", &format!("{issuer}.key")]);
        }
        run(&mut command).exits(0);
        let (pem, der) = (format!("{name}.pem"), format!("{name}.der"));
        run(self.openssl().args(["x509", "-in", &pem, "-outform", "DER", "-out", &der])).exits(0);
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    pub fn write(&self, file: &str, content: &[u8]) {
        fs::write(self.path(file), content).unwrap();
    }

    pub fn public(&self, name: &str) -> PublicKey {
        PublicKey::from_pem(&String::from_utf8(self.read(&format!("{name}.pub"))).unwrap()).unwrap()
    }

    /// Whether openssl finds a path from `slot` to `root` through the others.
    pub fn openssl_verifies(&self, root: &str, between: &[&str], slot: &str) -> bool {
        let mut command = self.openssl();
        command.args(["verify", "-CAfile", &format!("{root}.pem")]);
        for name in between {
            command.args(["-untrusted", &format!("{name}.pem")]);
        }
        run(command.arg(format!("{slot}.pem"))).code == Some(0)
    }

    /// What the fuzz target reads: the time, and each file after its length.
    pub fn seed(&self, now: Timestamp) -> Vec<u8> {
        let mut seed = u32::try_from(now.as_second()).unwrap().to_be_bytes().to_vec();
        for file in ["slot.der", "f9.der", "root.der", "slot.pub"] {
            let content = self.read(file);
            seed.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            seed.extend(content);
        }
        seed
    }

    /// The certificate `name` with the parts of its `TBSCertificate` changed, signed
    /// again by the P-256 key `issuer`.
    pub fn altered(&self, name: &str, issuer: &str, change: impl FnOnce(&mut Vec<Any>)) -> Vec<u8> {
        let mut parts = Vec::<Any>::from_der(&self.read(&format!("{name}.der"))).unwrap();
        let mut tbs: Vec<Any> = parts[0].decode_as().unwrap();
        change(&mut tbs);
        let signed = tbs.to_der().unwrap();
        let key = String::from_utf8(self.read(&format!("{issuer}.key"))).unwrap();
        let signature: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from_pkcs8_pem(&key).unwrap().sign(&signed);
        parts[0] = Any::from_der(&signed).unwrap();
        parts[2] = Any::new(Tag::BitString, [&[0], signature.to_der().as_bytes()].concat()).unwrap();
        parts.to_der().unwrap()
    }
}
