//! The PIV applet, as a state machine over commands: NIST SP 800-73-4 part 2,
//! with Yubico's extensions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::apdu;
use super::apdu::Apdu;
use super::apdu::find;
use super::apdu::first;
use super::apdu::tlv;
use super::hand::Event;
use super::hand::Hand;
use super::key::Algorithm;
use super::key::Key;
use super::key::Management;
use super::key::PinPolicy;
use super::key::TouchPolicy;
use super::key::random;
use super::state::DEFAULT_PIN;
use super::state::DEFAULT_PUK;
use super::state::F9;
use super::state::Secret;
use super::state::State;
use super::state::object_of;
use super::vendor;

/// The management key's number.
const MANAGEMENT: u8 = 0x9b;
/// What fits into an object.
const OBJECT_MAX: usize = 3052;
/// Objects that are read with the PIN only: printed information, fingerprints,
/// face, iris.
const BEHIND_PIN: [u32; 4] = [0x5f_c109, 0x5f_c103, 0x5f_c108, 0x5f_c121];

type Answer = Result<Vec<u8>, u16>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applet {
    Piv,
    Management,
    /// Where firmware 4 keeps the serial number.
    Otp,
}

/// What a token forgets when it loses power.
#[derive(Default)]
struct Session {
    applet: Option<Applet>,
    /// The PIN was verified.
    pin: bool,
    /// And no private key was used since.
    fresh: bool,
    /// The management key was shown.
    management: bool,
    challenge: Option<Vec<u8>>,
    /// The data of a command that goes on, and its instruction.
    chained: Vec<u8>,
    chaining: u8,
    /// What GET RESPONSE fetches.
    waiting: Vec<u8>,
    touched: BTreeMap<u8, Instant>,
}

/// A token's chip.
pub struct Card {
    pub state: State,
    session: Session,
    hand: Arc<Hand>,
}

impl Card {
    pub fn new(state: State, hand: Arc<Hand>) -> Self {
        Self { state, session: Session::default(), hand }
    }

    /// Power was cut, or the reader sent a reset.
    pub fn reset(&mut self) {
        self.session = Session::default();
    }

    /// Answers a command: data, then two bytes of status.
    pub fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let Some(mut command) = Apdu::parse(command) else { return apdu::WRONG_LENGTH.to_be_bytes().to_vec() };
        if command.instruction == 0xc0 {
            let rest = std::mem::take(&mut self.session.waiting);
            return self.send(rest, false);
        }
        self.session.waiting.clear();
        if self.session.chaining != command.instruction {
            self.session.chained.clear();
        }
        self.session.chaining = command.instruction;
        self.session.chained.append(&mut command.data);
        if command.is_chained() {
            return apdu::SUCCESS.to_be_bytes().to_vec();
        }
        command.data = std::mem::take(&mut self.session.chained);
        match self.answer(&command) {
            Ok(data) => self.send(data, command.extended),
            Err(status) => status.to_be_bytes().to_vec(),
        }
    }

    /// Sends what fits, and says how much does not.
    fn send(&mut self, mut data: Vec<u8>, whole: bool) -> Vec<u8> {
        let rest = if whole { Vec::new() } else { data.split_off(data.len().min(256)) };
        let status = match u8::try_from(rest.len()) {
            Ok(0) => apdu::SUCCESS,
            Ok(left) => 0x6100 | u16::from(left),
            Err(_) => 0x6100,
        };
        self.session.waiting = rest;
        data.extend(status.to_be_bytes());
        data
    }

    fn answer(&mut self, command: &Apdu) -> Answer {
        let firmware = self.state.firmware;
        let known_since = match command.instruction {
            0xf6 => [5, 7, 0],
            0xf7 => [5, 3, 0],
            0xf8 => [5, 0, 0],
            0xf9 => [4, 3, 0],
            _ => [0, 0, 0],
        };
        if firmware < known_since {
            return Err(apdu::NOT_SUPPORTED);
        }
        match (self.session.applet, command.instruction) {
            (_, 0xa4) => self.select(command),
            (Some(Applet::Management), 0x1d) => Ok(self.configuration()),
            (Some(Applet::Otp), 0x01) if command.p1 == 0x10 => Ok(self.state.serial.to_be_bytes().to_vec()),
            (Some(Applet::Piv), 0x20) => self.verify(command),
            (Some(Applet::Piv), 0x24) => self.change(command),
            (Some(Applet::Piv), 0x2c) => self.unblock(command),
            (Some(Applet::Piv), 0x47) => self.generate(command),
            (Some(Applet::Piv), 0x87) if command.p2 == MANAGEMENT => self.authenticate(command),
            (Some(Applet::Piv), 0x87) => self.sign(command),
            (Some(Applet::Piv), 0xcb) => self.get_data(command),
            (Some(Applet::Piv), 0xdb) => self.put_data(command),
            (Some(Applet::Piv), 0xf6) => self.move_key(command),
            (Some(Applet::Piv), 0xf7) => self.metadata(command),
            (Some(Applet::Piv), 0xf8) => Ok(self.state.serial.to_be_bytes().to_vec()),
            (Some(Applet::Piv), 0xf9) => self.attest(command),
            (Some(Applet::Piv), 0xfa) => self.set_tries(command),
            (Some(Applet::Piv), 0xfb) => self.forget_everything(),
            (Some(Applet::Piv), 0xfd) => Ok(firmware.to_vec()),
            (Some(Applet::Piv), 0xfe) => self.import(command),
            (Some(Applet::Piv), 0xff) => self.set_management(command),
            _ => Err(apdu::NOT_SUPPORTED),
        }
    }

    fn select(&mut self, command: &Apdu) -> Answer {
        let aid = command.data.as_slice();
        let is = |whole: &[u8], at_least: usize| aid.len() >= at_least && whole.starts_with(aid);
        let piv = [0xa0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00];
        let (applet, answer) = if is(&piv, 5) {
            let authority = tlv(0x79, &tlv(0x4f, &piv[..5]));
            (Applet::Piv, tlv(0x61, &[tlv(0x4f, &piv[5..]), authority].concat()))
        } else if is(&[0xa0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17], 8) {
            let [major, minor, patch] = self.state.firmware;
            (Applet::Management, format!("Virtual mgr - FW version {major}.{minor}.{patch}").into_bytes())
        } else if is(&[0xa0, 0x00, 0x00, 0x05, 0x27, 0x20, 0x01, 0x01], 7) {
            (Applet::Otp, self.state.firmware.to_vec())
        } else {
            return Err(apdu::NOT_FOUND);
        };
        let touched = std::mem::take(&mut self.session.touched);
        self.session = Session { applet: Some(applet), touched, ..Session::default() };
        Ok(answer)
    }

    /// The token's capabilities, of which PIV is one.
    fn configuration(&self) -> Vec<u8> {
        let items = [
            tlv(0x01, &[0x02, 0x3f]),
            tlv(0x02, &self.state.serial.to_be_bytes()),
            tlv(0x03, &[0x02, 0x3f]),
            tlv(0x04, &[self.state.form_factor]),
            tlv(0x05, &self.state.firmware),
            tlv(0x06, &[0, 0]),
            tlv(0x07, &[15]),
            tlv(0x08, &[0]),
            tlv(0x0a, &[0]),
        ]
        .concat();
        [vec![u8::try_from(items.len()).unwrap()], items].concat()
    }

    fn verify(&mut self, command: &Apdu) -> Answer {
        if command.p2 != 0x80 {
            return Err(apdu::NO_KEY);
        }
        if command.p1 == 0xff && command.data.is_empty() {
            self.session.pin = false;
            return Ok(Vec::new());
        }
        if command.data.is_empty() {
            return match self.state.pin.left {
                _ if self.session.pin => Ok(Vec::new()),
                0 => Err(apdu::BLOCKED),
                left => Err(apdu::tries(left)),
            };
        }
        self.session.pin = false;
        let result = check(&mut self.state.pin, &command.data);
        self.hand.note(Event::Pin(result.is_ok()));
        result?;
        self.session.pin = true;
        self.session.fresh = true;
        Ok(Vec::new())
    }

    fn change(&mut self, command: &Apdu) -> Answer {
        let (old, new) = command.data.split_at_checked(8).ok_or(apdu::WRONG_LENGTH)?;
        let secret = match command.p2 {
            0x80 => &mut self.state.pin,
            0x81 => &mut self.state.puk,
            _ => return Err(apdu::NO_KEY),
        };
        let new = Secret::unpad(new).ok_or(apdu::WRONG_DATA)?;
        check(secret, old)?;
        secret.value = new;
        Ok(Vec::new())
    }

    fn unblock(&mut self, command: &Apdu) -> Answer {
        let (puk, new) = command.data.split_at_checked(8).ok_or(apdu::WRONG_LENGTH)?;
        let new = Secret::unpad(new).ok_or(apdu::WRONG_DATA)?;
        check(&mut self.state.puk, puk)?;
        self.state.pin = Secret::new(&new, self.state.pin.tries);
        Ok(Vec::new())
    }

    fn managed(&self) -> Result<(), u16> {
        self.session.management.then_some(()).ok_or(apdu::SECURITY_STATUS)
    }

    /// One of both ways to show the management key.
    fn authenticate(&mut self, command: &Apdu) -> Answer {
        if command.p1 != self.state.management.algorithm && !(command.p1 == 0 && self.state.management.algorithm == 3) {
            return Err(apdu::WRONG_DATA);
        }
        let (tag, template, _) = first(&command.data).ok_or(apdu::WRONG_DATA)?;
        if tag != 0x7c {
            return Err(apdu::WRONG_DATA);
        }
        let size = self.state.management.block();
        let challenge = self.session.challenge.take();
        let (witness, asked, response) = (find(template, 0x80), find(template, 0x81), find(template, 0x82));
        let answer = match (witness, asked, response) {
            (Some([]), ..) => {
                let witness = random::<16>()[..size].to_vec();
                let encrypted = self.state.management.encrypt(&witness);
                self.session.challenge = Some(witness);
                tlv(0x80, &encrypted)
            }
            (None, Some([]), _) => {
                let challenge = random::<16>()[..size].to_vec();
                self.session.challenge = Some(challenge.clone());
                tlv(0x81, &challenge)
            }
            (Some(witness), Some(asked), _) if asked.len() == size => {
                if challenge.as_deref() != Some(witness) {
                    return Err(apdu::SECURITY_STATUS);
                }
                self.touch(MANAGEMENT, self.state.management.touch)?;
                self.session.management = true;
                tlv(0x82, &self.state.management.encrypt(asked))
            }
            (None, None, Some(response)) => {
                let expected = challenge.map(|challenge| self.state.management.encrypt(&challenge));
                if expected.as_deref() != Some(response) {
                    return Err(apdu::SECURITY_STATUS);
                }
                self.touch(MANAGEMENT, self.state.management.touch)?;
                self.session.management = true;
                return Ok(Vec::new());
            }
            _ => return Err(apdu::WRONG_DATA),
        };
        Ok(tlv(0x7c, &answer))
    }

    fn touch(&mut self, slot: u8, policy: TouchPolicy) -> Result<(), u16> {
        let cached = self.hand.patience().cached;
        let remembers = self.session.touched.get(&slot).is_some_and(|touched| touched.elapsed() < cached);
        if policy == TouchPolicy::Never || policy == TouchPolicy::Cached && remembers {
            return Ok(());
        }
        if !self.hand.touches(slot) {
            return Err(apdu::SECURITY_STATUS);
        }
        self.session.touched.insert(slot, Instant::now());
        Ok(())
    }

    fn sign(&mut self, command: &Apdu) -> Answer {
        let slot = command.p2;
        object_of(slot).ok_or(apdu::WRONG_PARAMETERS)?;
        let key = self.state.keys.get(&slot).ok_or(apdu::NO_KEY)?.clone();
        if slot == F9 || Algorithm::from_byte(command.p1) != Some(key.algorithm) {
            return Err(apdu::WRONG_DATA);
        }
        let (_, template, _) = first(&command.data).ok_or(apdu::WRONG_DATA)?;
        let message = find(template, 0x81).ok_or(apdu::WRONG_DATA)?;
        let fresh = std::mem::take(&mut self.session.fresh);
        let allowed = match key.pin {
            PinPolicy::Never => true,
            PinPolicy::Once => self.session.pin,
            PinPolicy::Always => self.session.pin && fresh,
        };
        if !allowed {
            return Err(apdu::SECURITY_STATUS);
        }
        self.touch(slot, key.touch)?;
        let signature = key.sign(message).ok_or(apdu::WRONG_DATA)?;
        self.hand.note(Event::Signature(slot));
        Ok(tlv(0x7c, &tlv(0x82, &signature)))
    }

    /// The policies that a command asks for, or a slot's usual ones.
    fn policies(slot: u8, template: &[u8]) -> Result<(PinPolicy, TouchPolicy), u16> {
        let asked = |tag| find(template, tag).and_then(|value| value.first().copied()).unwrap_or(0);
        let pin = match (asked(0xaa), slot) {
            (0, 0x9e) | (1, _) => PinPolicy::Never,
            (0, 0x9c) | (3, _) => PinPolicy::Always,
            (0 | 2, _) => PinPolicy::Once,
            _ => return Err(apdu::WRONG_DATA),
        };
        let touch = match asked(0xab) {
            0 | 1 => TouchPolicy::Never,
            2 => TouchPolicy::Always,
            3 => TouchPolicy::Cached,
            _ => return Err(apdu::WRONG_DATA),
        };
        Ok((pin, touch))
    }

    fn algorithm(&self, byte: u8) -> Result<Algorithm, u16> {
        let known = |algorithm: &Algorithm| *algorithm != Algorithm::Ed25519 || self.state.firmware >= [5, 7, 0];
        Algorithm::from_byte(byte).filter(known).ok_or(apdu::WRONG_DATA)
    }

    fn generate(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        object_of(command.p2).ok_or(apdu::WRONG_PARAMETERS)?;
        let (_, template, _) = first(&command.data).ok_or(apdu::WRONG_DATA)?;
        let byte = find(template, 0x80).and_then(|value| value.first()).ok_or(apdu::WRONG_DATA)?;
        let algorithm = self.algorithm(*byte)?;
        let (pin, touch) = Self::policies(command.p2, template)?;
        let key = Key::generate(algorithm, pin, touch);
        let answer = tlv(0x7f49, &tlv(0x86, &key.point()));
        self.state.keys.insert(command.p2, key);
        Ok(answer)
    }

    fn import(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        object_of(command.p2).ok_or(apdu::WRONG_PARAMETERS)?;
        let algorithm = self.algorithm(command.p1)?;
        let tag = if algorithm == Algorithm::Ed25519 { 0x07 } else { 0x06 };
        let secret = find(&command.data, tag).ok_or(apdu::WRONG_DATA)?;
        let (pin, touch) = Self::policies(command.p2, &command.data)?;
        let key = Key::import(algorithm, secret, pin, touch).ok_or(apdu::WRONG_DATA)?;
        self.state.keys.insert(command.p2, key);
        Ok(Vec::new())
    }

    fn get_data(&self, command: &Apdu) -> Answer {
        let object = find(&command.data, 0x5c).ok_or(apdu::WRONG_DATA)?;
        match object {
            // The discovery object: PIV, opened by the PIN.
            [0x7e] => {
                let aid = [0xa0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00];
                Ok(tlv(0x7e, &[tlv(0x4f, &aid), tlv(0x5f2f, &[0x40, 0x00])].concat()))
            }
            [first, second, third] => {
                let object = u32::from_be_bytes([0, *first, *second, *third]);
                if BEHIND_PIN.contains(&object) && !self.session.pin {
                    return Err(apdu::SECURITY_STATUS);
                }
                self.state.objects.get(&object).map(|data| tlv(0x53, data)).ok_or(apdu::NOT_FOUND)
            }
            _ => Err(apdu::NOT_FOUND),
        }
    }

    fn put_data(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        let Some((0x5c, [first_byte, second, third], rest)) = first(&command.data) else {
            return Err(apdu::WRONG_DATA);
        };
        let object = u32::from_be_bytes([0, *first_byte, *second, *third]);
        let Some((0x53, data, _)) = first(rest) else { return Err(apdu::WRONG_DATA) };
        if data.len() > OBJECT_MAX {
            return Err(apdu::NO_SPACE);
        }
        if data.is_empty() {
            self.state.objects.remove(&object);
        } else {
            self.state.objects.insert(object, data.to_vec());
        }
        Ok(Vec::new())
    }

    /// Moves a key; to FF: deletes it.
    fn move_key(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        let (to, from) = (command.p1, command.p2);
        let may_move = to == 0xff || from != F9 && object_of(to).is_some();
        if !may_move || from == to {
            return Err(apdu::WRONG_PARAMETERS);
        }
        if self.state.keys.contains_key(&to) {
            return Err(apdu::WRONG_DATA);
        }
        let key = self.state.keys.remove(&from).ok_or(apdu::NO_KEY)?;
        if to != 0xff {
            self.state.keys.insert(to, key);
        }
        Ok(Vec::new())
    }

    fn metadata(&self, command: &Apdu) -> Answer {
        let of_secret = |secret: &Secret, default: &str| {
            let is_default = u8::from(secret.value == default);
            [tlv(0x01, &[0xff]), tlv(0x05, &[is_default]), tlv(0x06, &[secret.tries, secret.left])].concat()
        };
        Ok(match command.p2 {
            0x80 => of_secret(&self.state.pin, DEFAULT_PIN),
            0x81 => of_secret(&self.state.puk, DEFAULT_PUK),
            MANAGEMENT => {
                let management = &self.state.management;
                let is_default = *management == Management::default_of(self.state.firmware);
                let policies = [0, management.touch as u8];
                [tlv(0x01, &[management.algorithm]), tlv(0x02, &policies), tlv(0x05, &[u8::from(is_default)])].concat()
            }
            slot => {
                object_of(slot).ok_or(apdu::WRONG_PARAMETERS)?;
                let key = self.state.keys.get(&slot).ok_or(apdu::NO_KEY)?;
                let origin = if key.generated { 1 } else { 2 };
                [
                    tlv(0x01, &[key.algorithm as u8]),
                    tlv(0x02, &[key.pin as u8, key.touch as u8]),
                    tlv(0x03, &[origin]),
                    tlv(0x04, &tlv(0x86, &key.point())),
                ]
                .concat()
            }
        })
    }

    fn attest(&self, command: &Apdu) -> Answer {
        let slot = command.p1;
        object_of(slot).ok_or(apdu::WRONG_PARAMETERS)?;
        let key = self.state.keys.get(&slot).ok_or(apdu::NO_KEY)?;
        let f9 = self.state.keys.get(&F9).ok_or(apdu::NO_KEY)?;
        if !key.generated || f9.algorithm == Algorithm::Ed25519 {
            return Err(apdu::WRONG_DATA);
        }
        let object = object_of(F9).and_then(|object| self.state.objects.get(&object)).ok_or(apdu::NOT_FOUND)?;
        let certificate = vendor::unwrap(object).ok_or(apdu::WRONG_DATA)?;
        vendor::attest(f9, certificate, slot, key, &self.state).ok_or(apdu::WRONG_DATA)
    }

    fn set_tries(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        if !self.session.pin {
            return Err(apdu::SECURITY_STATUS);
        }
        if !(1..=15).contains(&command.p1) || !(1..=15).contains(&command.p2) {
            return Err(apdu::WRONG_PARAMETERS);
        }
        self.state.pin = Secret::new(DEFAULT_PIN, command.p1);
        self.state.puk = Secret::new(DEFAULT_PUK, command.p2);
        self.session.pin = false;
        Ok(Vec::new())
    }

    fn forget_everything(&mut self) -> Answer {
        if self.state.pin.left != 0 || self.state.puk.left != 0 {
            return Err(apdu::CONDITIONS);
        }
        self.state.reset();
        self.session = Session { applet: Some(Applet::Piv), ..Session::default() };
        Ok(Vec::new())
    }

    fn set_management(&mut self, command: &Apdu) -> Answer {
        self.managed()?;
        let [algorithm, MANAGEMENT, length, key @ ..] = command.data.as_slice() else { return Err(apdu::WRONG_DATA) };
        let touch = match (command.p1, command.p2) {
            (0xff, 0xff) => TouchPolicy::Never,
            (0xff, 0xfe) => TouchPolicy::Always,
            _ => return Err(apdu::WRONG_PARAMETERS),
        };
        let new = Management::new(*algorithm, key).filter(|_| usize::from(*length) == key.len());
        // AES came with 5.4.2.
        if *algorithm != 0x03 && self.state.firmware < [5, 4, 2] {
            return Err(apdu::WRONG_DATA);
        }
        self.state.management = Management { touch, ..new.ok_or(apdu::WRONG_DATA)? };
        Ok(Vec::new())
    }
}

/// Compares what was given, and counts.
fn check(secret: &mut Secret, given: &[u8]) -> Result<(), u16> {
    if given.len() != 8 {
        return Err(apdu::WRONG_LENGTH);
    }
    if secret.left == 0 {
        return Err(apdu::BLOCKED);
    }
    if given != secret.padded() {
        secret.left -= 1;
        return Err(apdu::tries(secret.left));
    }
    secret.left = secret.tries;
    Ok(())
}
