//! Card readers, by PC/SC.

use std::ffi::CString;

use pcsc::Disposition;
use pcsc::Error;
use pcsc::Protocols;
use pcsc::ShareMode;

use super::apdu::Card;
use super::apdu::CardError;
use super::token::Token;

/// What was found in the readers.
#[derive(Default)]
pub struct Found {
    /// Opened tokens that were asked for, with the names of their readers.
    pub tokens: Vec<(CString, Token)>,
    /// Serial numbers of others.
    pub others: Vec<u32>,
    /// Names of readers whose card another program keeps for itself.
    pub in_use: Vec<String>,
    /// Readers whose card does not answer as a token does, with what it did.
    pub strange: Vec<(String, CardError)>,
    /// How many readers there are.
    pub readers: usize,
}

/// Looks into every reader once but those that are held already, and keeps the tokens
/// that are wanted open, for this program alone: while it has them, no other program
/// can use a PIN that was given to them, or make them forget it.
///
/// # Errors
/// The smart card service does not answer.
pub fn open(held: &[&CString], is_wanted: impl Fn(u32) -> bool) -> Result<Found, Error> {
    let context = pcsc::Context::establish(pcsc::Scope::User)?;
    let names: Vec<CString> = match context.list_readers_owned() {
        Err(Error::NoReadersAvailable) => Vec::new(),
        names => names?,
    };
    let mut found = Found { readers: names.len(), ..Found::default() };
    for name in names.into_iter().filter(|name| !held.contains(&name)) {
        let reader = name.to_string_lossy().into_owned();
        let card = match context.connect(&name, ShareMode::Exclusive, Protocols::T1) {
            Ok(card) => Connected { card: Some(card), end: Disposition::LeaveCard },
            Err(Error::NoSmartcard | Error::RemovedCard | Error::ReaderUnavailable | Error::UnknownReader) => continue,
            Err(Error::SharingViolation) => {
                found.in_use.push(reader);
                continue;
            }
            Err(error) => {
                found.strange.push((reader, sort(error)));
                continue;
            }
        };
        match Token::begin(Box::new(card)) {
            Ok(token) if is_wanted(token.serial()) => found.tokens.push((name, token)),
            Ok(token) => found.others.push(token.serial()),
            Err(error) => found.strange.push((reader, error)),
        }
    }
    Ok(found)
}

/// A card in a reader.
struct Connected {
    card: Option<pcsc::Card>,
    end: Disposition,
}

impl Card for Connected {
    fn reset_at_end(&mut self) {
        self.end = Disposition::ResetCard;
    }

    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, CardError> {
        let card = self.card.as_ref().ok_or(CardError::Removed)?;
        let mut buffer = vec![0; pcsc::MAX_BUFFER_SIZE];
        match card.transmit(command, &mut buffer) {
            // Empty answers are what drivers of readers give where the card has just gone. It has
            // forgotten the PIN; a reset that fails would keep the next one from being seen.
            Ok([]) | Err(Error::NoSmartcard | Error::RemovedCard | Error::ReaderUnavailable) => {
                self.end = Disposition::LeaveCard;
                Err(CardError::Removed)
            }
            Ok(answer) => Ok(answer.to_vec()),
            Err(error) => Err(sort(error)),
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(card) = self.card.take() {
            // One that is gone has forgotten the PIN as well.
            let _ = card.disconnect(self.end);
        }
    }
}

fn sort(error: Error) -> CardError {
    match error {
        Error::NoSmartcard
        | Error::RemovedCard
        | Error::UnpoweredCard
        | Error::UnknownReader
        | Error::ReaderUnavailable
        | Error::InvalidHandle
        | Error::NoService
        | Error::ServiceStopped
        | Error::CommDataLost
        | Error::NotTransacted
        | Error::UnresponsiveCard => CardError::Removed,
        Error::ResetCard => CardError::Reset,
        Error::InsufficientBuffer => CardError::Garbage("with too many bytes"),
        other => CardError::Reader(other),
    }
}
