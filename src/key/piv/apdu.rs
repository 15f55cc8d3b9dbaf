//! Commands and answers of a card (ISO 7816-4), in blocks of at most 255 bytes.
//!
//! A card is foreign: what it answers is bounded, and read without trust.

use zeroize::Zeroizing;

/// The longest answer that is put together from its parts. The longest that a
/// token gives is a certificate, of at most 3,072 bytes.
const MAX_ANSWER: usize = 4 << 10;
/// The most data of one command of a chain.
const BLOCK: usize = 255;

/// Done.
pub const OK: u16 = 0x9000;
/// The PIN is needed; or nobody touched the token in time.
pub const SECURITY_STATUS: u16 = 0x6982;
/// The PIN or PUK is blocked.
pub const BLOCKED: u16 = 0x6983;
/// There is no such object.
pub const NOT_FOUND: u16 = 0x6a82;
/// There is no such key.
pub const NO_KEY: u16 = 0x6a88;

/// The tries that a status says are left (63Cx).
pub fn tries(status: u16) -> Option<u8> {
    (status & 0xfff0 == 0x63c0).then_some((status & 0x000f) as u8)
}

/// Something that takes commands: a connected card, or a pretended one in tests.
pub trait Card: Send {
    /// Sends one command and gives the answer, with its two status bytes.
    ///
    /// # Errors
    /// The card or its reader is gone, or was reset.
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, CardError>;

    /// From now on it forgets the PIN when it is let go of. One that was only
    /// looked at is left as it is.
    fn reset_at_end(&mut self) {}
}

/// What can go wrong between us and a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// It was pulled out, or its reader was.
    #[error("it was pulled out, or its reader fails")]
    Removed,
    /// Somebody else reset it, so that it has forgotten the PIN.
    #[error("another program has reset it")]
    Reset,
    /// The service or the reader fails.
    #[error("the reader fails: {0}")]
    Reader(pcsc::Error),
    /// The answer has a form that no token gives.
    #[error("it answers as no token does: {0}")]
    Garbage(&'static str),
    /// The message is longer than a token takes.
    #[error("{length} bytes are to be signed, and it takes {most} at most")]
    TooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        most: usize,
    },
    /// The operating system gave no random numbers.
    #[error("there are no random numbers")]
    NoRandom,
    /// It answers with another status than success (ISO 7816-4 section 5.6).
    #[error("it answers with status {0:04x}")]
    Status(u16),
}

/// A command.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Instruction.
    pub ins: u8,
    /// First parameter.
    pub p1: u8,
    /// Second parameter.
    pub p2: u8,
    /// Data; longer than a block goes in a chain.
    pub data: &'a [u8],
}

/// Sends a command and gives the data of the answer, and its status.
///
/// # Errors
/// The card is gone, or the answer is malformed or longer than 4,096 bytes.
pub fn exchange(card: &mut dyn Card, command: Command<'_>) -> Result<(Vec<u8>, u16), CardError> {
    let Command { ins, p1, p2, data } = command;
    let mut blocks = data.chunks(BLOCK).peekable();
    let (mut answer, mut status) = loop {
        let block = blocks.next().unwrap_or_default();
        let last = blocks.peek().is_none();
        let mut bytes = Zeroizing::new(Vec::with_capacity(6 + block.len()));
        bytes.extend([if last { 0x00 } else { 0x10 }, ins, p1, p2]);
        if !block.is_empty() {
            // At most 255.
            bytes.push(u8::try_from(block.len()).unwrap_or(u8::MAX));
            bytes.extend(block);
        }
        if last {
            // As much as fits.
            bytes.push(0x00);
        }
        let (answer, status) = split(card.transmit(&bytes)?)?;
        if last || status != OK {
            break (answer, status);
        }
    };
    while status >> 8 == 0x61 {
        let (more, next) = split(card.transmit(&[0x00, 0xc0, 0x00, 0x00, 0x00])?)?;
        if more.is_empty() || answer.len() + more.len() > MAX_ANSWER {
            return Err(CardError::Garbage("without end"));
        }
        answer.extend(more);
        status = next;
    }
    Ok((answer, status))
}

/// [`exchange`], where all but success is an error.
///
/// # Errors
/// As [`exchange`]; another status.
pub fn ask(card: &mut dyn Card, command: Command<'_>) -> Result<Vec<u8>, CardError> {
    match exchange(card, command)? {
        (answer, OK) => Ok(answer),
        (_, status) => Err(CardError::Status(status)),
    }
}

fn split(mut answer: Vec<u8>) -> Result<(Vec<u8>, u16), CardError> {
    let Some(at) = answer.len().checked_sub(2) else {
        return Err(CardError::Garbage("without a status"));
    };
    let status = u16::from_be_bytes([answer[at], answer[at + 1]]);
    answer.truncate(at);
    Ok((answer, status))
}

/// The value of the first field with this tag, in BER-TLV with tags of one byte
/// and lengths of up to three.
pub fn field(mut data: &[u8], tag: u8) -> Option<&[u8]> {
    while let Some((&found, rest)) = data.split_first() {
        let (length, rest) = match rest {
            [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            [0x81, length, rest @ ..] | [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        if found == tag {
            return Some(value);
        }
        data = rest;
    }
    None
}

/// A field, for [`field`] to read.
pub fn make_field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut made = vec![tag];
    // Nothing that we send is longer than two bytes of length can say.
    let [.., high, low] = value.len().to_be_bytes();
    match value.len() {
        0..0x80 => made.push(low),
        0x80..0x100 => made.extend([0x81, low]),
        _ => made.extend([0x82, high, low]),
    }
    made.extend(value);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives prepared answers, and keeps the commands.
    struct Script {
        answers: Vec<Vec<u8>>,
        commands: Vec<Vec<u8>>,
    }

    impl Card for Script {
        fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, CardError> {
            self.commands.push(command.to_vec());
            Ok(if self.answers.len() > 1 { self.answers.remove(0) } else { self.answers[0].clone() })
        }
    }

    fn script(answers: &[&[u8]]) -> Script {
        Script { answers: answers.iter().map(|answer| answer.to_vec()).collect(), commands: Vec::new() }
    }

    #[test]
    fn long_commands_go_in_a_chain_and_long_answers_come_in_parts() {
        let mut card = script(&[&[0x90, 0], &[1, 0x61, 2], &[2, 3, 0x90, 0]]);
        let data = [7; 300];
        let answer = ask(&mut card, Command { ins: 0x87, p1: 0x11, p2: 0x9c, data: &data });
        assert_eq!(answer, Ok(vec![1, 2, 3]));
        let heads: Vec<&[u8]> = card.commands.iter().map(|command| &command[..5]).collect();
        assert_eq!(heads, [&[0x10, 0x87, 0x11, 0x9c, 255][..], &[0, 0x87, 0x11, 0x9c, 45], &[0, 0xc0, 0, 0, 0]]);
        assert_eq!(card.commands[0].len(), 5 + 255);
        assert_eq!(card.commands[1].len(), 5 + 45 + 1);
    }

    #[test]
    fn a_refused_chain_stops() {
        let mut card = script(&[&[0x6a, 0x80]]);
        let answer = ask(&mut card, Command { ins: 0xdb, p1: 0, p2: 0, data: &[0; 1000] });
        assert_eq!((answer, card.commands.len()), (Err(CardError::Status(0x6a80)), 1));
    }

    #[test]
    fn garbage_ends() {
        let command = Command { ins: 0xfd, p1: 0, p2: 0, data: &[] };
        for (answer, why) in [(&[][..], "status"), (&[0x90], "status"), (&[0x61, 0x00], "end")] {
            match exchange(&mut script(&[answer]), command) {
                Err(CardError::Garbage(text)) => assert!(text.contains(why), "{text}"),
                other => panic!("{answer:?}: {other:?}"),
            }
        }
        let endless = [&[5; 250][..], &[0x61, 0xff]].concat();
        assert!(matches!(exchange(&mut script(&[&endless]), command), Err(CardError::Garbage(_))));
    }

    #[test]
    fn fields_are_found_and_nothing_is_read_past_the_end() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 1014] {
            let value = vec![9; length];
            let data = [make_field(0x81, b"x"), make_field(0x82, &value)].concat();
            assert_eq!(field(&data, 0x82), Some(value.as_slice()), "{length}");
            assert_eq!(field(&data, 0x83), None);
            for cut in 3..data.len() {
                assert_eq!(field(&data[..cut], 0x82), None, "{cut} of {length}");
            }
        }
        for hostile in [&[0x82][..], &[0x82, 0x80], &[0x82, 0x83, 0, 0, 1, 9], &[0x82, 0x82, 0xff, 0xff]] {
            assert_eq!(field(hostile, 0x82), None);
        }
    }
}
