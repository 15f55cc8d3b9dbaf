//! Who makes tokens: the authority that attestations chain to. TEST ONLY.

use std::sync::Arc;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest;
use sha2::Sha256;

use super::apdu::find;
use super::apdu::first;
use super::apdu::tlv;
use super::key::Algorithm;
use super::key::Key;
use super::key::PinPolicy;
use super::key::TouchPolicy;
use super::key::random;
use super::state::State;

/// Below it stand Yubico's extensions of certificates, `1.3.6.1.4.1.41482.3`.
const YUBICO: [u8; 9] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0xc4, 0x0a, 0x03];

/// A maker of tokens.
pub struct Vendor {
    root: Issuer,
    intermediates: Vec<Issuer>,
}

struct Issuer {
    key: Key,
    certificate: Vec<u8>,
}

/// Which extensions a certificate has.
enum Kind<'a> {
    Authority,
    /// F9 of a token.
    Token {
        firmware: [u8; 3],
        /// Old genuine ones do not say that they may issue.
        says_ca: bool,
    },
    Attestation(&'a [(u8, Vec<u8>)]),
}

impl Vendor {
    /// A vendor whose root signs the tokens' certificates, as Yubico did up to
    /// firmware 5.7.3.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { root: Issuer::root(name), intermediates: Vec::new() })
    }

    /// A vendor with authorities between root and tokens, which no token holds,
    /// as Yubico does from firmware 5.7.4.
    pub fn with_intermediates(name: &str) -> Arc<Self> {
        let root = Issuer::root(name);
        let upper = root.authority(&format!("{name} intermediate"));
        let lower = upper.authority(&format!("{name} PIV intermediate"));
        Arc::new(Self { root, intermediates: vec![upper, lower] })
    }

    /// The vendor of all tokens that name no other.
    pub fn usual() -> Arc<Self> {
        static USUAL: OnceLock<Arc<Vendor>> = OnceLock::new();
        Arc::clone(USUAL.get_or_init(|| Self::new("TEST ONLY attestation root")))
    }

    /// The root certificate, as people configure it.
    pub fn root_pem(&self) -> String {
        pem(&self.root.certificate)
    }

    /// The certificates between root and tokens.
    pub fn intermediates_pem(&self) -> String {
        self.intermediates.iter().map(|issuer| pem(&issuer.certificate)).collect()
    }

    /// The key and certificate that a token leaves the factory with.
    pub fn equip(&self, firmware: [u8; 3], says_ca: bool) -> (Key, Vec<u8>) {
        let key = Key::generate(Algorithm::P256, PinPolicy::Never, TouchPolicy::Never);
        let issuer = self.intermediates.last().unwrap_or(&self.root);
        let kind = Kind::Token { firmware, says_ca };
        let certificate = issuer.issue("Yubico PIV Attestation", &key, &kind);
        (key, certificate)
    }
}

impl Issuer {
    fn new_key() -> Key {
        Key::generate(Algorithm::P256, PinPolicy::Never, TouchPolicy::Never)
    }

    fn root(name: &str) -> Self {
        let key = Self::new_key();
        let certificate = certificate(&key, &common_name(name), &common_name(name), &VALIDITY, &key, &Kind::Authority);
        Self { key, certificate }
    }

    fn authority(&self, name: &str) -> Self {
        let key = Self::new_key();
        let certificate = self.issue(name, &key, &Kind::Authority);
        Self { key, certificate }
    }

    fn issue(&self, name: &str, key: &Key, kind: &Kind) -> Vec<u8> {
        let (_, _, issuer) = parts(&self.certificate).unwrap();
        certificate(&self.key, &issuer, &common_name(name), &VALIDITY, key, kind)
    }
}

/// The statement of a token's F9 key and its certificate that a key was made in
/// `slot` of the token.
pub fn attest(f9: &Key, f9_certificate: &[u8], slot: u8, key: &Key, token: &State) -> Option<Vec<u8>> {
    let (_, validity, issuer) = parts(f9_certificate)?;
    let facts = [
        (3, token.firmware.to_vec()),
        (7, integer(&token.serial.to_be_bytes())),
        (8, vec![key.pin as u8, key.touch as u8]),
        (9, vec![token.form_factor]),
    ];
    let name = common_name(&format!("YubiKey PIV Attestation {slot:x}"));
    Some(certificate(f9, &issuer, &name, &validity, key, &Kind::Attestation(&facts)))
}

const VALIDITY: [&str; 2] = ["160314000000Z", "20520417000000Z"];

trait Validity {
    fn der(&self) -> Vec<u8>;
}

impl Validity for [&str; 2] {
    fn der(&self) -> Vec<u8> {
        let [from, to] = self.map(str::as_bytes);
        tlv(0x30, &[tlv(0x17, from), tlv(0x18, to)].concat())
    }
}

/// Copied from another certificate.
impl Validity for Vec<u8> {
    fn der(&self) -> Vec<u8> {
        self.clone()
    }
}

/// Issuer, validity and subject of a certificate, each in DER.
fn parts(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let (_, certificate, _) = first(certificate)?;
    let (_, mut rest, _) = first(certificate)?;
    let mut fields = Vec::new();
    while let Some((tag, value, after)) = first(rest) {
        fields.push(tlv(tag, value));
        rest = after;
    }
    // version, serial, algorithm, issuer, validity, subject
    Some((fields.get(3)?.clone(), fields.get(4)?.clone(), fields.get(5)?.clone()))
}

fn certificate(
    signer: &Key,
    issuer: &[u8],
    subject: &[u8],
    validity: &impl Validity,
    key: &Key,
    kind: &Kind,
) -> Vec<u8> {
    let ecdsa_sha256 = tlv(0x30, &tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]));
    let may_issue = extension(&[0x55, 0x1d, 0x13], true, &tlv(0x30, &tlv(0x01, &[0xff])));
    let yubico = |number: u8, value: &[u8]| extension(&[YUBICO.as_slice(), &[number]].concat(), false, value);
    let extensions = match kind {
        Kind::Authority => may_issue,
        Kind::Token { firmware, says_ca: true } => [yubico(3, firmware), may_issue].concat(),
        Kind::Token { firmware, says_ca: false } => yubico(3, firmware),
        Kind::Attestation(facts) => facts.iter().flat_map(|(number, value)| yubico(*number, value)).collect(),
    };
    let body = [
        tlv(0xa0, &integer(&[2])),
        integer(&random::<16>()),
        ecdsa_sha256.clone(),
        issuer.to_vec(),
        validity.der(),
        subject.to_vec(),
        key.spki(),
        tlv(0xa3, &tlv(0x30, &extensions)),
    ];
    let body = tlv(0x30, &body.concat());
    let signature = signer.sign(&Sha256::digest(&body)).unwrap();
    let signature = tlv(0x03, &[&[0], signature.as_slice()].concat());
    tlv(0x30, &[body, ecdsa_sha256, signature].concat())
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[tlv(0x06, oid), critical, tlv(0x04, value)].concat())
}

fn common_name(name: &str) -> Vec<u8> {
    let attribute = tlv(0x30, &[tlv(0x06, &[0x55, 0x04, 0x03]), tlv(0x0c, name.as_bytes())].concat());
    tlv(0x30, &tlv(0x31, &attribute))
}

/// A number that is not negative, from its big-endian bytes.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let leading = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    let bytes = &bytes[leading..];
    let sign: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
    tlv(0x02, &[sign, bytes].concat())
}

/// The certificate in a slot's object: PIV wraps it with a compression flag.
pub fn wrap(certificate: &[u8]) -> Vec<u8> {
    [tlv(0x70, certificate), tlv(0x71, &[0]), tlv(0xfe, &[])].concat()
}

/// The certificate of what [`wrap`] made.
pub fn unwrap(object: &[u8]) -> Option<&[u8]> {
    find(object, 0x70)
}

/// A certificate as text.
pub fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
