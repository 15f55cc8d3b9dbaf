//! `release import`: what comes from outside into a home.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::error;
use super::error::CommandError;
use super::key::change::report_retired;
use super::ui::Paint;
use super::ui::Ui;
use super::ui::counted;
use crate::amend;
use crate::courier::receipt;
use crate::courier::receipt::Fate as Seen;
use crate::home;
use crate::home::Home;
use crate::import;
use crate::manifest::names::printable;
use crate::media;
use crate::media::Fate;
use crate::policy::MirrorEntry;
use crate::publish;
use crate::repository::State;
use crate::transport::Files;
use crate::transport::Medium;
use crate::transport::Url;

/// Take what a medium brings, or bring a home up to date from a mirror
///
/// With DIR: takes every plain file at the top of that folder. A git bundle named
/// PRODUCT-VERSION.git.bundle goes into the inbox, where `release cut` finds the
/// source of that version; so do requests, approvals and claims of other release
/// managers, which are known by what they hold. Every other file becomes an input of builds under its
/// SHA-256, under which recipes ask for it. Nothing on the medium is trusted:
/// links, other things and files that are too large are refused, and folders are
/// not entered. What the home has already is not copied again.
///
/// What `release export` has written, with the receipt that `release courier push`
/// has put there, is a courier's: the receipt is taken, and nothing else.
///
/// With --from: for a home that was restored from a backup, or that another
/// terminal has overtaken. It takes over what the mirror serves, after verifying
/// all of it from its own root of trust. The numbers that follow are left out
/// once, also where nothing is newer, since keys may have signed under them in the
/// home that was lost.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["dir", "from"]),
    after_long_help = "\
Examples:
  Take inputs and source from a stick:
      release import /media/stick

  After restoring a home from a backup:
      release import --from eu1"
)]
pub struct Args {
    /// The folder of a medium
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A mirror of terminal.toml, or where a copy of the repository is
    #[arg(long, value_name = "MIRROR|URL|DIR")]
    from: Option<String>,
}

/// Runs `release import`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let home = Home::open(home)?;
    match (&args.dir, &args.from) {
        (Some(dir), None) if receipt::is_courier(dir).unwrap_or(false) => from_courier(dir, &home, ui),
        (Some(dir), None) => from_medium(dir, &home, ui),
        (_, Some(from)) => from_mirror(from, &home, ui),
        (None, None) => Err(CommandError::usage("name the folder of a medium, or a mirror with --from")),
    }
}

fn from_mirror(from: &str, home: &Home, ui: &Ui) -> Result<u8, CommandError> {
    let mirror = home.terminal.mirrors.iter().find(|(name, _)| name.as_str() == from);
    let files: Arc<dyn Files> = match mirror {
        Some((name, MirrorEntry::Courier)) => {
            return Err(CommandError::usage(format!("mirror `{name}` is reached by a courier, not from here"))
                .hint("have him bring a copy of all that a mirror serves, and name its folder"));
        }
        Some((name, entry)) => publish::files(home, name, entry),
        None if Url::is_url(from) => Arc::new(Url::new(from)),
        // It may come on a stick.
        None => Arc::new(Medium::open(Path::new(from))?),
    };
    let _lock = home.lock("release import")?;
    let done = import::from_mirror(home, &files, Timestamp::now(), ui)?;
    let amended = amend::adopt(home, &State::load(&home.repository())?)?;
    if ui.json {
        ui.data(&json!({ "version": 1, "before": done.before, "serial": done.serial, "policy": amended }).to_string());
    }
    ui.say(&if done.before == done.serial {
        format!("This home is up to date: it has publication {}.", done.serial)
    } else {
        format!("Brought this home from publication {} to {}.", done.before, done.serial)
    });
    if amended {
        ui.say("policy.toml is now the one that was signed last.");
        report_retired(&amend::forget(home.folder())?, ui);
    }
    Ok(0)
}

fn from_medium(dir: &Path, home: &Home, ui: &Ui) -> Result<u8, CommandError> {
    let _lock = home.lock("release import")?;
    let mut files: Vec<Value> = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    let mut requests = Vec::new();
    let done = media::take(home, dir, ui, &mut |name, fate| {
        let (word, paint, detail) = match fate {
            Fate::Input(sha256, _) => ("input   ", Paint::Good, sha256.short()),
            Fate::Bundle(sha256, _) => ("bundle  ", Paint::Good, sha256.short()),
            Fate::Message(_, sha256, _) => ("message ", Paint::Good, sha256.short()),
            Fate::Known(sha256, _) => ("known   ", Paint::Good, sha256.short()),
            Fate::Folder => ("skipped ", Paint::Care, "a folder".to_owned()),
            Fate::Refused(reason) => ("refused ", Paint::Bad, reason.clone()),
        };
        taken += usize::from(matches!(fate, Fate::Input(..) | Fate::Bundle(..) | Fate::Message(..)));
        refused += usize::from(matches!(fate, Fate::Refused(_)));
        if !ui.json {
            ui.data(&format!("  {}  {}: {detail}", ui.paint(word, paint), printable(name)));
        }
        if let Fate::Message(kept, ..) = fate
            && kept.ends_with(home::REQUEST)
        {
            requests.push(kept.clone());
        }
        files.push(describe(name, word.trim_end(), fate));
    });
    let facts = json!({ "version": 1, "files": files });
    done.map_err(|error| CommandError::from(error).facts(facts.clone()))?;
    if refused > 0 {
        return Err(CommandError::new(error::REJECTED, format!("{} of the medium refused", counted(refused, "name")))
            .facts(facts)
            .hint(format!("{} taken and kept; the home has nothing of what was refused", counted(taken, "file"))));
    }
    if ui.json {
        ui.data(&facts.to_string());
    }
    ui.say(&match files.len() {
        0 => "The medium is empty; nothing was taken.".to_owned(),
        _ => format!("Took {} of {}.", taken, counted(files.len(), "name")),
    });
    for request in requests {
        let path = home.inbox().join(request);
        ui.say(&format!("To rebuild and approve:\n\n    release approve {}", path.display()));
    }
    Ok(0)
}

fn from_courier(dir: &Path, home: &Home, ui: &Ui) -> Result<u8, CommandError> {
    let _lock = home.lock("release import")?;
    let mut mirrors: Vec<Value> = Vec::new();
    let (mut refused, mut newer) = (0, Vec::new());
    let done = receipt::take(home, dir, Timestamp::now(), &mut |mirror, fate| {
        let (word, paint, detail) = match fate {
            Seen::Holds(serial) => ("holds    ", Paint::Good, format!("publication {serial}")),
            Seen::Behind(serial, error) => ("behind   ", Paint::Care, format!("publication {serial}: {error}")),
            Seen::Newer(serial) => ("newer    ", Paint::Bad, format!("another publication {serial} than this home's")),
            Seen::Unknown => ("skipped  ", Paint::Care, "terminal.toml has no such mirror of a courier".to_owned()),
            Seen::Refused(reason) => ("refused  ", Paint::Bad, reason.clone()),
        };
        refused += usize::from(matches!(fate, Seen::Refused(_)));
        if let Seen::Newer(serial) = fate {
            newer.push((mirror.clone(), *serial));
        }
        if !ui.json {
            ui.data(&format!("  {}  {mirror}: {detail}", ui.paint(word, paint)));
        }
        let serial = match fate {
            Seen::Holds(serial) | Seen::Behind(serial, _) | Seen::Newer(serial) => Some(serial),
            _ => None,
        };
        mirrors.push(json!({ "mirror": mirror, "result": word.trim_end(), "serial": serial, "detail": detail }));
    });
    let facts = json!({ "version": 1, "mirrors": mirrors });
    done.map_err(|error| CommandError::from(error).facts(facts.clone()))?;
    if let Some((mirror, serial)) = newer.first() {
        let message = format!(
            "this home is older than the world: mirror `{mirror}` shows a publication {serial} that was signed \
             elsewhere; nothing more is signed here"
        );
        return Err(CommandError::failed(message).facts(facts).hint_command(error::COPY, &["import", "--from", "DIR"]));
    }
    if refused > 0 {
        let message = format!("{} of the receipt refused", counted(refused, "line"));
        return Err(CommandError::new(error::REJECTED, message)
            .facts(facts)
            .hint("find out who had the medium; what is known of that mirror is as it was"));
    }
    if ui.json {
        ui.data(&facts.to_string());
    }
    ui.say("Took the receipt.");
    Ok(0)
}

/// A name and its fate for machines.
fn describe(name: &str, word: &str, fate: &Fate) -> Value {
    match fate {
        Fate::Input(sha256, length) | Fate::Bundle(sha256, length) | Fate::Known(sha256, length) => {
            json!({ "name": name, "result": word, "sha256": sha256, "length": length })
        }
        Fate::Message(kept, sha256, length) => {
            json!({ "name": name, "result": word, "kept": kept, "sha256": sha256, "length": length })
        }
        Fate::Folder => json!({ "name": name, "result": word }),
        Fate::Refused(reason) => json!({ "name": name, "result": word, "reason": reason }),
    }
}
