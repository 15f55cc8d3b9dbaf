//! What mirrors hold: those that this machine reaches, and those of couriers, by
//! their receipts.

use super::MirrorState;
use super::OldHome;
use super::Ours;
use super::PublishError;
use super::all_served;
use super::at_once;
use crate::home;
use crate::home::Base;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::atomic;
use crate::manifest::MirrorName;
use crate::manifest::publication::TIMESTAMP;
use crate::progress::Event;
use crate::progress::Progress;
use crate::transport::TransportError;
use crate::tuf;
use crate::tuf::served::Served;

/// What a mirror holds now, as it serves it.
#[derive(Debug)]
pub struct Survey {
    /// The mirror.
    pub mirror: MirrorName,
    /// The newest publication that it holds whole, or why that is not known or
    /// must not be.
    pub held: Result<u64, PublishError>,
    /// What this home has noted about it.
    pub noted: MirrorState,
    /// Only a courier reaches it: all of this is from his last receipt.
    pub by_courier: bool,
}

/// Looks at all mirrors, and at receipts of those that only a courier reaches.
/// `root` is the newest root of the home.
///
/// # Errors
/// Only what concerns the home.
pub fn survey(home: &Home, root: &[u8]) -> Result<Vec<Survey>, HomeError> {
    let ours = Ours::load(home, root)?;
    Ok(look(&ours, all_served(home)?))
}

fn look(ours: &Ours<'_>, all: Vec<super::Served<'_>>) -> Vec<Survey> {
    let held = at_once(&all, |served| ours.held_by(served));
    let survey = |(served, held): (super::Served<'_>, _)| {
        let by_courier = served.by_courier();
        Survey { mirror: served.name.clone(), held, noted: served.state, by_courier }
    };
    all.into_iter().zip(held).map(survey).collect()
}

/// The publication that every mirror holds which only a courier reaches, as his
/// receipts say; 0 where there is no such mirror.
///
/// # Errors
/// A receipt shows that this home is not the newest; files of the home.
pub fn held_by_couriers(home: &Home, root: &[u8]) -> Result<u64, OldHome> {
    let mut least = None;
    let ours = Ours::load(home, root)?;
    let carried = all_served(home)?.into_iter().filter(super::Served::by_courier).collect();
    for Survey { mirror, held, .. } in look(&ours, carried) {
        let held = held.map_err(|reason| OldHome::Behind { mirror, reason: Box::new(reason), by_courier: true })?;
        least = Some(least.unwrap_or(held).min(held));
    }
    Ok(least.unwrap_or(0))
}

/// Notes what a receipt says of a mirror: `timestamp`, if its readers get one that
/// was signed, and the newest publication that it holds whole.
///
/// # Errors
/// Files of the home.
pub fn note_receipt(
    home: &Home,
    mirror: &MirrorName,
    timestamp: Option<&[u8]>,
    state: &MirrorState,
) -> Result<(), HomeError> {
    // Of both, only the lower number counts, so that it may be killed between them.
    let path = home.receipt(mirror).join(TIMESTAMP);
    match timestamp {
        Some(bytes) => atomic::write(&path, bytes)?,
        None if path.exists() => std::fs::remove_file(&path).map_err(|error| HomeError::io(&path, error))?,
        None => {}
    }
    home::step("receipt.seen");
    state.save(home, mirror)?;
    home::step("receipt.noted");
    Ok(())
}

/// What a mirror shows its readers.
#[derive(Debug)]
pub struct Shown {
    /// The mirror.
    pub mirror: MirrorName,
    /// What is noted about it.
    pub noted: MirrorState,
    /// The newest state that it serves, if the online key has signed one.
    pub served: Result<Option<Served>, TransportError>,
}

/// What each mirror shows that this machine pushes to.
///
/// # Errors
/// Only what concerns the folder of this machine.
pub fn shown(base: &Base, root: &[u8]) -> Result<Vec<Shown>, HomeError> {
    let all: Vec<_> = all_served(base)?.into_iter().filter(|served| !served.by_courier()).collect();
    let served = at_once(&all, |mirror| tuf::served::newest(mirror.files.as_ref(), root));
    let shown = all.into_iter().zip(served);
    Ok(shown.map(|(mirror, served)| Shown { mirror: mirror.name.clone(), noted: mirror.state, served }).collect())
}

/// Refuses to go on where a mirror knows more than this home: it was restored
/// from a backup, or another terminal has published. To be called before
/// anything is signed. Where one mirror answers, whether others that cannot be
/// read know more stays open, with a warning. A receipt can say that one knows more;
/// it is no answer, since anybody can bring an old one. One that held a publication and
/// now holds none says nothing: its disk may not be mounted.
///
/// # Errors
/// A mirror knows more, or none of those that hold something says what; files of
/// the home cannot be read.
pub fn refuse_old_home(home: &Home, root: &[u8], progress: &dyn Progress) -> Result<(), OldHome> {
    let (mut answered, mut silent) = (false, Vec::new());
    for Survey { mirror, held, noted, by_courier } in survey(home, root)? {
        match held {
            Ok(_) if by_courier => {}
            Ok(0) if noted.serial > 0 => silent.push((mirror, "what it held is not there".to_owned())),
            // A new mirror knows nothing.
            Ok(0) => {}
            Ok(_) => answered = true,
            Err(PublishError::Unreadable(error)) => {
                let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                silent.push((mirror, format!("{error}{cause}")));
            }
            Err(reason) => return Err(OldHome::Behind { mirror, reason: Box::new(reason), by_courier }),
        }
    }
    for (mirror, reason) in silent {
        if !answered {
            return Err(OldHome::Unknown { mirror, reason });
        }
        progress.event(Event::Warning(&format!("mirror `{mirror}`: {reason}; it may know more than this home")));
    }
    Ok(())
}
