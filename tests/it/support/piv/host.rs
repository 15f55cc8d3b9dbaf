//! A computer that talks to a token past pcscd: what a test prepares tokens with.

use super::Token;
use super::apdu::SUCCESS;
use super::apdu::find;
use super::apdu::first;
use super::apdu::tlv;
use super::key::Algorithm;
use super::key::PinPolicy;
use super::key::TouchPolicy;
use super::state::object_of;
use super::vendor::wrap;

/// Data of a good answer, or the status of a bad one.
pub type Answer = Result<Vec<u8>, u16>;

/// A conversation with the PIV applet of a token.
pub struct Host<'a>(&'a Token);

impl<'a> Host<'a> {
    /// Powers the token up and selects the applet.
    #[track_caller]
    pub fn open(token: &'a Token) -> Self {
        token.power_off();
        let host = Self(token);
        host.send(0xa4, 0x04, 0x00, &[0xa0, 0x00, 0x00, 0x03, 0x08]).unwrap();
        host
    }

    /// Sends a command in pieces of 255 bytes, and fetches all of the answer.
    pub fn send(&self, instruction: u8, p1: u8, p2: u8, data: &[u8]) -> Answer {
        let mut pieces: Vec<&[u8]> = data.chunks(255).collect();
        let last = pieces.pop().unwrap_or_default();
        let command = |class, piece: &[u8]| {
            let length = u8::try_from(piece.len()).unwrap();
            let lengths: &[u8] = if piece.is_empty() { &[] } else { &[length] };
            self.0.transmit(&[&[class, instruction, p1, p2], lengths, piece].concat())
        };
        for piece in pieces {
            let answer = command(0x10, piece);
            if answer != SUCCESS.to_be_bytes() {
                return split(answer).1;
            }
        }
        let mut all = Vec::new();
        let mut answer = command(0x00, last);
        loop {
            let (status, result) = split(answer);
            if status >> 8 != 0x61 {
                all.extend(result?);
                return Ok(all);
            }
            all.extend(result?);
            answer = self.0.transmit(&[0x00, 0xc0, 0x00, 0x00, 0x00]);
        }
    }

    /// Verifies a PIN; with none, asks for the tries left.
    pub fn verify(&self, pin: &str) -> Answer {
        self.send(0x20, 0x00, 0x80, &if pin.is_empty() { Vec::new() } else { pad(pin) })
    }

    /// Changes the PIN (80) or the PUK (81).
    pub fn change(&self, which: u8, old: &str, new: &str) -> Answer {
        self.send(0x24, 0x00, which, &[pad(old), pad(new)].concat())
    }

    pub fn unblock(&self, puk: &str, new: &str) -> Answer {
        self.send(0x2c, 0x00, 0x80, &[pad(puk), pad(new)].concat())
    }

    /// Shows the token its management key, whichever it is.
    pub fn manage(&self) -> Answer {
        let management = self.0.state().management;
        let challenge = self.send(0x87, management.algorithm, 0x9b, &tlv(0x7c, &tlv(0x81, &[])))?;
        let challenge = find(first(&challenge).unwrap().1, 0x81).unwrap().to_vec();
        let response = tlv(0x7c, &tlv(0x82, &management.encrypt(&challenge)));
        self.send(0x87, management.algorithm, 0x9b, &response)
    }

    /// Makes a key on the token and stores its attestation as the slot's
    /// certificate; gives the attestation.
    pub fn generate(&self, slot: u8, algorithm: Algorithm, pin: PinPolicy, touch: TouchPolicy) -> Answer {
        self.manage()?;
        let wishes = [tlv(0x80, &[algorithm as u8]), tlv(0xaa, &[pin as u8]), tlv(0xab, &[touch as u8])].concat();
        self.send(0x47, 0x00, slot, &tlv(0xac, &wishes))?;
        let attestation = self.attest(slot)?;
        self.put(object_of(slot).unwrap(), &wrap(&attestation))?;
        Ok(attestation)
    }

    /// Signs a digest, or with Ed25519 a message.
    pub fn sign(&self, slot: u8, algorithm: Algorithm, data: &[u8]) -> Answer {
        let template = tlv(0x7c, &[tlv(0x82, &[]), tlv(0x81, data)].concat());
        let answer = self.send(0x87, algorithm as u8, slot, &template)?;
        Ok(find(first(&answer).unwrap().1, 0x82).unwrap().to_vec())
    }

    /// The attestation of a slot's key, in DER.
    pub fn attest(&self, slot: u8) -> Answer {
        self.send(0xf9, slot, 0x00, &[])
    }

    /// What an object holds.
    pub fn get(&self, object: u32) -> Answer {
        let answer = self.send(0xcb, 0x3f, 0xff, &tlv(0x5c, &object.to_be_bytes()[1..]))?;
        Ok(first(&answer).unwrap().1.to_vec())
    }

    pub fn put(&self, object: u32, data: &[u8]) -> Answer {
        self.send(0xdb, 0x3f, 0xff, &[tlv(0x5c, &object.to_be_bytes()[1..]), tlv(0x53, data)].concat())
    }
}

/// Status, and the data or again the status.
fn split(mut answer: Vec<u8>) -> (u16, Answer) {
    let status = answer.split_off(answer.len() - 2);
    let status = u16::from_be_bytes([status[0], status[1]]);
    (status, if status == SUCCESS || status >> 8 == 0x61 { Ok(answer) } else { Err(status) })
}

/// A PIN or PUK as it is sent.
fn pad(secret: &str) -> Vec<u8> {
    let mut padded = secret.as_bytes().to_vec();
    padded.resize(8, 0xff);
    padded
}
