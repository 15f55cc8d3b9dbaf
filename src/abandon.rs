//! Gives up a cut that is not sealed: its version and numbers are burned.

use jiff::Timestamp;

use crate::home::CutState;
use crate::home::Event;
use crate::home::Home;
use crate::home::HomeError;
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
    let (no_product, no_version) = (product.clone(), version.clone());
    let mut cut = CutState::load_of(&folder, product, version)?
        .ok_or(AbandonError::NoCut { product: no_product, version: no_version })?;
    let purpose = format!("{product} {version}");
    let pending = Pending::find(home)?.filter(|(_, other)| *other == purpose).map(|(serial, _)| serial);
    if cut.abandoned {
        // A crash may have left what was to be sealed.
        return pending.map_or(Ok(()), |serial| Ok(Pending::discard(home, serial)?));
    }
    let sealed = match cut.sealed {
        Some(serial) => Some(serial),
        None => crate::publish::find(home, &purpose)?,
    };
    if let Some(serial) = sealed {
        return Err(AbandonError::Sealed { product: product.clone(), version: version.clone(), serial });
    }
    let mut journal = home.journal()?;
    let number = cut.staged.as_ref().map(|staged| staged.number);
    journal
        .append(now, Event::Abandon { product: product.clone(), release: version.clone(), number, serial: pending })?;
    cut.abandoned = true;
    cut.save(&folder)?;
    if let Some(serial) = pending {
        Pending::discard(home, serial)?;
    }
    Ok(())
}
