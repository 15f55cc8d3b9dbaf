//! Commands, answers and their encodings: ISO 7816-4, and BER-TLV, of which DER
//! is a part.

/// Everything went well.
pub const SUCCESS: u16 = 0x9000;
/// PIN, PUK, management key or touch is missing.
pub const SECURITY_STATUS: u16 = 0x6982;
/// No tries are left.
pub const BLOCKED: u16 = 0x6983;
/// Not now: a reset with tries left.
pub const CONDITIONS: u16 = 0x6985;
/// The data of the command make no sense.
pub const WRONG_DATA: u16 = 0x6a80;
/// No such object or applet.
pub const NOT_FOUND: u16 = 0x6a82;
/// An object is too large.
pub const NO_SPACE: u16 = 0x6a84;
/// No such slot, or parameters that make no sense.
pub const WRONG_PARAMETERS: u16 = 0x6a86;
/// The slot holds no key.
pub const NO_KEY: u16 = 0x6a88;
pub const WRONG_LENGTH: u16 = 0x6700;
/// This firmware does not know the instruction.
pub const NOT_SUPPORTED: u16 = 0x6d00;

/// The answer that says how many tries are left.
pub fn tries(left: u8) -> u16 {
    0x63c0 | u16::from(left.min(15))
}

/// A command to the card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apdu {
    pub class: u8,
    pub instruction: u8,
    pub p1: u8,
    pub p2: u8,
    pub data: Vec<u8>,
    /// Whether lengths have two bytes: the answer then comes whole.
    pub extended: bool,
}

impl Apdu {
    /// Reads a command, short or extended.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [class, instruction, p1, p2, body @ ..] = bytes else { return None };
        let (extended, data) = match body {
            [] | [_] => (false, &[][..]),
            [0, _, _] => (true, &[][..]),
            [0, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                (true, rest.get(..length)?)
            }
            [length, rest @ ..] => (false, rest.get(..usize::from(*length))?),
        };
        let (class, instruction, p1, p2) = (*class, *instruction, *p1, *p2);
        Some(Self { class, instruction, p1, p2, data: data.to_vec(), extended })
    }

    /// Whether more data follow in the next command.
    pub fn is_chained(&self) -> bool {
        self.class & 0x10 != 0
    }
}

/// One value with its tag, of one to three bytes, and its length.
pub fn tlv(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = tag.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    if bytes.is_empty() {
        bytes.push(0);
    }
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    match length {
        [0, low @ 0..=0x7f] => bytes.push(low),
        [0, low] => bytes.extend([0x81, low]),
        both => bytes.extend([0x82, both[0], both[1]]),
    }
    bytes.extend_from_slice(value);
    bytes
}

/// The first value of some bytes: its tag, itself, and what follows.
pub fn first(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, mut rest) = bytes.split_first()?;
    let mut tag = u32::from(*head);
    if head & 0x1f == 0x1f {
        loop {
            let (next, after) = rest.split_first()?;
            tag = tag << 8 | u32::from(*next);
            rest = after;
            if next & 0x80 == 0 {
                break;
            }
        }
    }
    let (length, rest) = match rest {
        [length @ 0..=0x7f, rest @ ..] | [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    Some((tag, rest.get(..length)?, &rest[length..]))
}

/// The value with a tag among those that follow each other.
pub fn find(mut bytes: &[u8], wanted: u32) -> Option<&[u8]> {
    while let Some((tag, value, rest)) = first(bytes) {
        if tag == wanted {
            return Some(value);
        }
        bytes = rest;
    }
    None
}
