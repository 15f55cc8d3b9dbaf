//! Gives up a cut that is not sealed: its version and numbers are burned.

use jiff::Timestamp;

use crate::home::CutState;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::request_file;
use crate::manifest::Product;
use crate::manifest::Version;
use crate::repository::Pending;
use crate::repository::RepositoryError;

/// A cut that cannot be given up. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AbandonError {
    /// There is none.
    #[error("there is no cut of {product} {version}")]
    NoCut {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
    },
    /// It is sealed: users may have it.
    #[error("{product} {version} is sealed in publication {serial}; users may have it")]
    Sealed {
        /// The product.
        product: Product,
        /// The version.
        version: Version,
        /// The publication.
        serial: u64,
    },
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// Gives up a cut. The caller holds the lock. Doing it again does no harm.
///
/// # Errors
/// There is no such cut, or it is sealed.
pub fn abandon(home: &Home, product: &Product, version: &Version, now: Timestamp) -> Result<(), AbandonError> {
    Pending::finish_interrupted(home)?;
    let folder = home.cut(product, version);
    let mut journal = home.journal()?;
    let mut cut = match CutState::load_of(&folder, product, version)? {
        Some(cut) => cut,
        // Its folder was lost; keys may have signed for it.
        None if journal.has_pinned(product, version) => CutState::new(product.clone(), version.clone(), now),
        None => return Err(AbandonError::NoCut { product: product.clone(), version: version.clone() }),
    };
    let abandoned = |pending: Option<u64>| -> Result<(), AbandonError> {
        CutState::drop_source(&folder);
        pending.map_or(Ok(()), |serial| Ok(Pending::discard(home, serial)?))
    };
    let purpose = format!("{product} {version}");
    let pending = if let Some((serial, other)) = Pending::find(home)? {
        (other == purpose).then_some(serial)
    } else {
        // A seal that has lost its note is nobody's; its number is burned as well.
        let next = journal.next_serial(crate::publish::newest(home)?);
        journal.was_asked(&format!("snapshot {next}")).then_some(next)
    };
    if cut.abandoned {
        // A crash may have left what was to be sealed.
        return abandoned(pending);
    }
    let sealed = match cut.sealed {
        Some(serial) => Some(serial),
        None => crate::publish::find(home, &purpose)?,
    };
    if let Some(serial) = sealed {
        return Err(AbandonError::Sealed { product: product.clone(), version: version.clone(), serial });
    }
    let staged = cut.staged.as_ref().map(|staged| staged.number);
    let number = staged.or_else(|| journal.number_of(product, version));
    journal
        .append(now, Event::Abandon { product: product.clone(), release: version.clone(), number, serial: pending })?;
    cut.abandoned = true;
    cut.save(&folder)?;
    // Nobody should be asked for it any more.
    let _ = std::fs::remove_file(home.outbox().join(request_file(product, version)));
    abandoned(pending)
}
