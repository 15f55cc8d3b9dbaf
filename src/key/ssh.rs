//! Keys and signatures as SSH writes them (RFC 4251 section 5, RFC 4253 section
//! 6.6, RFC 5656 section 3.1, RFC 8709).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;

use super::PublicKey;
use super::ToSign;
use crate::manifest::Sha256;

/// The kind of a P-256 key and its signatures.
const P256: &str = "ecdsa-sha2-nistp256";
/// The kind of an Ed25519 key and its signatures.
const ED25519: &str = "ssh-ed25519";

impl PublicKey {
    /// The name of its kind, which is that of its signatures too.
    pub fn ssh_kind(&self) -> &'static str {
        match self {
            Self::P256(_) => P256,
            Self::Ed25519(_) => ED25519,
        }
    }

    /// The key as SSH sends it.
    pub fn ssh_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, self.ssh_kind().as_bytes());
        match self {
            Self::P256(key) => {
                put_string(&mut blob, b"nistp256");
                put_string(&mut blob, key.to_sec1_point(false).as_bytes());
            }
            Self::Ed25519(key) => put_string(&mut blob, key.as_bytes()),
        }
        blob
    }

    /// A line of `authorized_keys`, without options, comment or line break.
    pub fn to_authorized_key(&self) -> String {
        format!("{} {}", self.ssh_kind(), STANDARD.encode(self.ssh_blob()))
    }

    /// A signature of ours as SSH sends it.
    pub(super) fn ssh_signature(&self, signature: &[u8]) -> Option<Vec<u8>> {
        let mut blob = Vec::new();
        put_string(&mut blob, self.ssh_kind().as_bytes());
        match self {
            Self::P256(_) => {
                let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
                let (r, s) = signature.split_bytes();
                let mut numbers = Vec::new();
                put_number(&mut numbers, &r);
                put_number(&mut numbers, &s);
                put_string(&mut blob, &numbers);
            }
            Self::Ed25519(_) => put_string(&mut blob, signature),
        }
        Some(blob)
    }
}

/// A type of host key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    /// What ssh may accept a server's signature in.
    algorithms: &'static str,
}

/// All types that are known.
const KINDS: [Kind; 5] = [
    Kind { name: ED25519, algorithms: ED25519 },
    Kind { name: P256, algorithms: P256 },
    Kind { name: "ecdsa-sha2-nistp384", algorithms: "ecdsa-sha2-nistp384" },
    Kind { name: "ecdsa-sha2-nistp521", algorithms: "ecdsa-sha2-nistp521" },
    Kind { name: "ssh-rsa", algorithms: "rsa-sha2-512,rsa-sha2-256" },
];

/// The key of a server, by which alone it is known.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostKey {
    kind: Kind,
    blob: Vec<u8>,
}

impl HostKey {
    /// The key as SSH sends it.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The key as `known_hosts` has it behind the host: type and base64.
    pub fn to_line(&self) -> String {
        format!("{} {}", self.kind.name, STANDARD.encode(&self.blob))
    }

    /// What ssh may accept the server's signature in.
    pub fn algorithms(&self) -> &'static str {
        self.kind.algorithms
    }

    /// Whether this is an Ed25519 key. Every OpenSSH server has one, and signatures
    /// of no other kind are checked here.
    pub fn is_ed25519(&self) -> bool {
        self.kind.name == ED25519
    }

    /// Whether `signature`, as SSH sends it, is one by this Ed25519 key over `data`.
    pub(super) fn verifies(&self, data: &[u8], signature: &[u8]) -> bool {
        let Some(key) = ed25519(&self.blob) else {
            return false;
        };
        let mut reader = Reader(signature);
        reader.string() == Some(ED25519.as_bytes())
            && reader
                .string()
                .is_some_and(|bytes| PublicKey::Ed25519(Box::new(key)).verifies(ToSign::Message(data), bytes))
            && reader.is_finished()
    }
}

/// The Ed25519 key in its form as SSH sends it.
fn ed25519(blob: &[u8]) -> Option<ed25519_dalek::VerifyingKey> {
    let mut reader = Reader(blob);
    let kind = reader.string()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(reader.string()?.try_into().ok()?).ok()?;
    (kind == ED25519.as_bytes() && reader.is_finished() && !key.is_weak()).then_some(key)
}

impl FromStr for HostKey {
    type Err = String;

    /// Reads type and base64, the first two words of a file such as the server's
    /// `ssh_host_ed25519_key.pub`. What follows is a comment.
    fn from_str(text: &str) -> Result<Self, String> {
        let mistake = || {
            "a host key is a type and base64, the first two words of the host's ssh_host_ed25519_key.pub: \
             \"ssh-ed25519 AAAA...\""
                .to_owned()
        };
        let mut words = text.split(' ');
        let (Some(name), Some(base64)) = (words.next(), words.next()) else {
            return Err(mistake());
        };
        let Some(kind) = KINDS.into_iter().find(|kind| kind.name == name) else {
            return Err(format!("{}; this is no type that is known", mistake()));
        };
        let blob = STANDARD.decode(base64).map_err(|_| mistake())?;
        // The key begins with its type (RFC 4253 section 6.6).
        let is_of_kind = Reader(&blob).string() == Some(name.as_bytes());
        if is_of_kind && (name != ED25519 || ed25519(&blob).is_some()) {
            Ok(Self { kind, blob })
        } else {
            Err(mistake())
        }
    }
}

impl TryFrom<String> for HostKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Shown by its fingerprint, as `ssh-keygen -l` prints it.
impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fingerprint(&self.blob))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({self})")
    }
}

/// The fingerprint of a key as SSH sends it, as `ssh-keygen -l` prints it.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::of(blob).as_bytes()))
}

/// Reads a message from its beginning (RFC 4251 section 5). Gives nothing where it
/// ends too early.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A number of four bytes.
    pub fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    /// A string: its length in four bytes, then its bytes.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Whether nothing is left.
    pub fn is_finished(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a string.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // What we write is far below 4 GB.
    out.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes a positive number: the shortest form that does not look negative.
fn put_number(out: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut number = bytes[zeros..].to_vec();
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        number.insert(0, 0);
    }
    put_string(out, &number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_shortest_positive_form() {
        // RFC 4251 section 5 gives some of these.
        for (bytes, written) in [
            (&[0, 0][..], &[0, 0, 0, 0][..]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0, 0x7f], &[0, 0, 0, 1, 0x7f]),
            (
                &[9, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 9, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
        ] {
            let mut out = Vec::new();
            put_number(&mut out, bytes);
            assert_eq!(out, written);
        }
    }

    #[test]
    fn a_host_key_is_what_it_says() {
        let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let key: HostKey = good.parse().unwrap();
        assert_eq!(key.to_string(), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
        assert_eq!((key.to_line().as_str(), key.algorithms(), key.is_ed25519()), (good, "ssh-ed25519", true));
        assert_eq!(format!("{good} root@git\nother").parse(), Ok(key));
        let rsa: HostKey = "ssh-rsa AAAAB3NzaC1yc2E=".parse().unwrap();
        assert_eq!((rsa.algorithms(), rsa.is_ed25519()), ("rsa-sha2-512,rsa-sha2-256", false));
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAA",
            "ssh-dss AAAAB3NzaC1kc3MAAA==",
            &good.replace("ssh-ed25519", "ssh-rsa"),
            &good[..good.len() - 1],
            &good[..good.len() - 4],
            &good.replace("IOMq", "IAMq")[..70],
            &format!("{good}\nother"),
            &format!("* {good}"),
            // A key under which anything verifies.
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(bad.parse::<HostKey>().is_err(), "{bad}");
        }
    }
}
