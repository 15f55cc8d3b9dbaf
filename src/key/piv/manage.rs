//! What changes a token: PIN, PUK, management key, new keys. All of it needs the
//! management key, which stays in the token, behind the PIN.

use std::fmt;

use aes::cipher::Block;
use aes::cipher::BlockCipherDecrypt;
use aes::cipher::BlockCipherEncrypt;
use aes::cipher::KeyInit;
use zeroize::Zeroizing;

use super::apdu;
use super::apdu::CardError;
use super::apdu::Command;
use super::token::Pin;
use super::token::Token;
use super::token::Verified;
use super::token::algorithm_number;
use super::token::read_public;
use crate::key::Algorithm;
use crate::key::PublicKey;
use crate::manifest::PinPolicy;
use crate::manifest::Slot;
use crate::manifest::TouchPolicy;

/// The number of the management key.
const MANAGEMENT: u8 = 0x9b;
/// What every token leaves its factory with.
const DEFAULT_MANAGEMENT: [u8; 24] =
    *b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08";
/// An object that is read with the PIN only. Yubico's tools keep the management
/// key there, in fields 88 and 89.
const BEHIND_PIN: [u8; 3] = [0x5f, 0xc1, 0x09];
/// An object that says so to Yubico's tools: bit 2 of field 81.
const ADMIN_DATA: [u8; 3] = [0x5f, 0xff, 0x00];
/// The object of the certificate of the attestation key.
const ATTESTATION: [u8; 3] = [0x5f, 0xff, 0x01];

/// Which secret of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// Asked for when signing.
    Pin,
    /// Sets a new PIN where that is blocked.
    Puk,
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pin => "PIN",
            Self::Puk => "PUK",
        })
    }
}

impl Secret {
    fn number(self) -> u8 {
        match self {
            Self::Pin => 0x80,
            Self::Puk => 0x81,
        }
    }

    /// What every token leaves its factory with.
    pub fn factory(self) -> &'static str {
        match self {
            Self::Pin => "123456",
            Self::Puk => "12345678",
        }
    }
}

/// What a token says of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretState {
    /// Whether it is as it left the factory.
    pub is_default: bool,
    /// How many tries are left.
    pub tries: u8,
}

impl Token {
    /// What the token says of its PIN or PUK.
    ///
    /// # Errors
    /// The token is gone, or says nothing that can be read.
    pub fn secret(&mut self, secret: Secret) -> Result<SecretState, CardError> {
        let answer = self.ask(0xf7, 0x00, secret.number(), &[])?;
        let state = || {
            let &[_, tries] = apdu::field(&answer, 0x06)? else {
                return None;
            };
            Some(SecretState { is_default: apdu::field(&answer, 0x05)? == [1], tries })
        };
        state().ok_or(CardError::Garbage("with metadata that cannot be read"))
    }

    /// Changes the PIN or the PUK.
    ///
    /// # Errors
    /// The token is gone.
    pub fn change(&mut self, secret: Secret, old: &Pin, new: &Pin) -> Result<Verified, CardError> {
        self.replace(0x24, secret.number(), old, new)
    }

    /// Sets a new PIN by the PUK.
    ///
    /// # Errors
    /// The token is gone.
    pub fn unblock(&mut self, puk: &Pin, new: &Pin) -> Result<Verified, CardError> {
        self.replace(0x2c, Secret::Pin.number(), puk, new)
    }

    fn replace(&mut self, ins: u8, p2: u8, old: &Pin, new: &Pin) -> Result<Verified, CardError> {
        // Who changes a PIN has given it (SP 800-73-4 part 2, 3.2.2).
        self.forget_at_end();
        let data = Zeroizing::new([*old.padded(), *new.padded()].concat());
        match self.exchange(Command { ins, p1: 0, p2, data: &data })? {
            (_, apdu::OK) => Ok(Verified::Right),
            (_, apdu::BLOCKED) => Ok(Verified::Wrong(0)),
            (_, status) => apdu::tries(status).map(Verified::Wrong).ok_or(CardError::Status(status)),
        }
    }

    /// Of which kind the management key is, and whether it is as it left the factory.
    ///
    /// # Errors
    /// The token is gone, or says nothing that can be read.
    pub fn management(&mut self) -> Result<(u8, bool), CardError> {
        let answer = self.ask(0xf7, 0x00, MANAGEMENT, &[])?;
        let unreadable = CardError::Garbage("with metadata that cannot be read");
        let &[algorithm] = apdu::field(&answer, 0x01).ok_or(unreadable)? else {
            return Err(unreadable);
        };
        Ok((algorithm, apdu::field(&answer, 0x05) == Some(&[1])))
    }

    /// Shows the token its management key. One that is as it left the factory is
    /// replaced by a random one, which is kept in the token behind the PIN, where
    /// Yubico's tools find it. The PIN must have been given.
    ///
    /// # Errors
    /// The key is neither the one from the factory nor behind the PIN
    /// ([`CardError::Status`]); the token is gone.
    pub fn manage(&mut self) -> Result<(), CardError> {
        let (algorithm, is_default) = self.management()?;
        let cipher = Cipher::of(algorithm).ok_or(CardError::Garbage("with a management key of an unknown kind"))?;
        if !is_default {
            let object = Zeroizing::new(self.object(BEHIND_PIN)?);
            let key = apdu::field(&object, 0x88).and_then(|fields| apdu::field(fields, 0x89));
            return self.authenticate(cipher, key.ok_or(CardError::Status(apdu::NOT_FOUND))?);
        }
        self.authenticate(cipher, &DEFAULT_MANAGEMENT)?;
        let mut key = Zeroizing::new([0; 24]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| CardError::NoRandom)?;
        // It is in its place before it counts: whoever pulls the token now loses nothing.
        let kept = Zeroizing::new(apdu::make_field(0x88, &apdu::make_field(0x89, key.as_slice())));
        self.put_object(BEHIND_PIN, &kept)?;
        self.put_object(ADMIN_DATA, &apdu::make_field(0x80, &apdu::make_field(0x81, &[0x02])))?;
        let order = Zeroizing::new([&[algorithm, MANAGEMENT, 24][..], key.as_slice()].concat());
        self.ask(0xff, 0xff, 0xff, &order).map(drop)
    }

    /// Shows each other that both know the key.
    fn authenticate(&mut self, cipher: Cipher, key: &[u8]) -> Result<(), CardError> {
        let unreadable = CardError::Garbage("with no challenge");
        let ask = |token: &mut Self, fields: &[u8]| {
            token.ask(0x87, cipher.algorithm, MANAGEMENT, &apdu::make_field(0x7c, fields))
        };
        let answer = ask(self, &apdu::make_field(0x80, &[]))?;
        let witness = apdu::field(&answer, 0x7c).and_then(|fields| apdu::field(fields, 0x80)).ok_or(unreadable)?;
        let witness = cipher.apply(key, witness, false).ok_or(unreadable)?;
        let mut challenge = vec![0; witness.len()];
        getrandom::fill(&mut challenge).map_err(|_| CardError::NoRandom)?;
        let fields = [apdu::make_field(0x80, &witness), apdu::make_field(0x81, &challenge)].concat();
        let answer = ask(self, &fields)?;
        let response = apdu::field(&answer, 0x7c).and_then(|fields| apdu::field(fields, 0x82)).ok_or(unreadable)?;
        if cipher.apply(key, &challenge, true).is_some_and(|expected| expected == response) {
            Ok(())
        } else {
            Err(CardError::Garbage("without knowing its own management key"))
        }
    }

    /// Makes a P-256 key in a slot. Whatever was there is gone.
    ///
    /// # Errors
    /// The management key was not shown; the token is gone.
    pub fn generate(&mut self, slot: Slot, pin: PinPolicy, touch: TouchPolicy) -> Result<PublicKey, CardError> {
        let algorithm = algorithm_number(Algorithm::P256);
        let fields = [[0x80, 1, algorithm], [0xaa, 1, pin.number()], [0xab, 1, touch.number()]].concat();
        let answer = self.ask(0x47, 0x00, slot.number(), &apdu::make_field(0xac, &fields))?;
        // Tag 7F49 has two bytes.
        let fields = answer.strip_prefix(&[0x7f]).and_then(|rest| apdu::field(rest, 0x49));
        fields
            .and_then(|fields| read_public(&[algorithm], fields))
            .ok_or(CardError::Garbage("with something else than a public key"))
    }

    /// The certificate, in DER, by which the token says how the key in a slot came
    /// to be.
    ///
    /// # Errors
    /// The key was imported; the token is gone.
    pub fn attest(&mut self, slot: Slot) -> Result<Vec<u8>, CardError> {
        self.ask(0xf9, slot.number(), 0x00, &[])
    }

    /// The certificate, in DER, of the key that signs attestations.
    ///
    /// # Errors
    /// There is none; the token is gone.
    pub fn attestation_certificate(&mut self) -> Result<Vec<u8>, CardError> {
        let object = self.object(ATTESTATION)?;
        let certificate = apdu::field(&object, 0x70);
        certificate.map(<[u8]>::to_vec).ok_or(CardError::Garbage("with something else than a certificate"))
    }

    /// Stores the certificate of a slot, for other programs to find the key.
    ///
    /// # Errors
    /// The management key was not shown; the token is gone.
    pub fn put_certificate(&mut self, slot: Slot, certificate: &[u8]) -> Result<(), CardError> {
        // Not compressed, and without a checksum (SP 800-73-4 part 1, appendix A).
        let fields = [apdu::make_field(0x70, certificate), vec![0x71, 1, 0, 0xfe, 0]].concat();
        self.put_object(certificate_object(slot), &fields)
    }

    /// Erases the key in a slot, and its certificate. Tokens have this command since
    /// firmware 5.7.
    ///
    /// # Errors
    /// The management key was not shown, or the slot is empty; the token is gone.
    pub fn erase(&mut self, slot: Slot) -> Result<(), CardError> {
        self.ask(0xf6, 0xff, slot.number(), &[])?;
        self.put_object(certificate_object(slot), &[])
    }

    fn object(&mut self, name: [u8; 3]) -> Result<Vec<u8>, CardError> {
        let answer = Zeroizing::new(self.ask(0xcb, 0x3f, 0xff, &apdu::make_field(0x5c, &name))?);
        let content = apdu::field(&answer, 0x53);
        content.map(<[u8]>::to_vec).ok_or(CardError::Garbage("with something else than an object"))
    }

    fn put_object(&mut self, name: [u8; 3], content: &[u8]) -> Result<(), CardError> {
        let data = [apdu::make_field(0x5c, &name), apdu::make_field(0x53, content)].concat();
        self.ask(0xdb, 0x3f, 0xff, &Zeroizing::new(data)).map(drop)
    }
}

/// The object with the certificate of a slot (SP 800-73-4 part 1, table 3).
fn certificate_object(slot: Slot) -> [u8; 3] {
    let low = match slot.number() {
        0x9a => 0x05,
        0x9c => 0x0a,
        0x9d => 0x0b,
        0x9e => 0x01,
        retired => 0x0d + (retired - 0x82),
    };
    [0x5f, 0xc1, low]
}

/// The kind of a management key.
#[derive(Debug, Clone, Copy)]
struct Cipher {
    algorithm: u8,
}

impl Cipher {
    fn of(algorithm: u8) -> Option<Self> {
        matches!(algorithm, 0x03 | 0x08 | 0x0a | 0x0c).then_some(Self { algorithm })
    }

    /// Encrypts or decrypts one block; `None` if key or block have another length.
    fn apply(self, key: &[u8], block: &[u8], encrypt: bool) -> Option<Vec<u8>> {
        match self.algorithm {
            0x03 => apply::<des::TdesEde3>(key, block, encrypt),
            0x08 => apply::<aes::Aes128>(key, block, encrypt),
            0x0a => apply::<aes::Aes192>(key, block, encrypt),
            _ => apply::<aes::Aes256>(key, block, encrypt),
        }
    }
}

fn apply<C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt>(
    key: &[u8],
    block: &[u8],
    encrypt: bool,
) -> Option<Vec<u8>> {
    let cipher = C::new_from_slice(key).ok()?;
    let mut block = Block::<C>::try_from(block).ok()?;
    if encrypt {
        cipher.encrypt_block(&mut block);
    } else {
        cipher.decrypt_block(&mut block);
    }
    Some(block.to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::key::piv::apdu::Card;

    /// A token that agrees to everything, and notes whether it is to be reset.
    struct Agrees(Arc<AtomicBool>);

    impl Card for Agrees {
        fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, CardError> {
            Ok(match command[1] {
                0xf8 => vec![0, 0, 0, 7, 0x90, 0],
                0xfd => vec![5, 7, 1, 0x90, 0],
                _ => vec![0x90, 0],
            })
        }

        fn reset_at_end(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_token_that_was_told_a_pin_is_reset_afterwards() {
        let (old, new) = (Pin::new("123456").unwrap(), Pin::new("654321").unwrap());
        let is_reset = |told: &dyn Fn(&mut Token) -> Result<Verified, CardError>| {
            let reset = Arc::new(AtomicBool::new(false));
            let mut token = Token::begin(Box::new(Agrees(Arc::clone(&reset)))).unwrap();
            assert!(!reset.load(Ordering::Relaxed), "one that was looked at only");
            assert_eq!(told(&mut token), Ok(Verified::Right));
            reset.load(Ordering::Relaxed)
        };
        assert!(is_reset(&|token| token.verify(&old)));
        assert!(is_reset(&|token| token.change(Secret::Pin, &old, &new)));
        assert!(is_reset(&|token| token.unblock(&old, &new)));
    }
}
