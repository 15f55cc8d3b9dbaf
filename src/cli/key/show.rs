//! `release key show`: what is public about keys.

use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;

use super::policy_file;
use crate::cli::error::CommandError;
use crate::cli::error::REJECTED;
use crate::cli::ui::Ui;
use crate::enrol;
use crate::enrol::EnrolError;
use crate::enrol::PublicFiles;
use crate::home::Base;
use crate::key::piv::TokenName;
use crate::manifest::Attested;
use crate::manifest::KeyName;
use crate::manifest::Sha256;
use crate::policy::Place;
use crate::policy::Policy;
use crate::policy::Purpose;
use crate::sign;

/// Show what is public about a key, or about all
///
/// Whose it is, what it is for, where it is, and what the maker of its token vouches
/// for. That is checked anew; if it does not count, the exit status is 3. Needs no
/// token.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, as `release key list` names it
    #[arg(value_name = "KEY")]
    key: Option<KeyName>,
    /// The policy, where there is no home yet
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// A key with what is known about it.
struct Known {
    files: PublicFiles,
    place: Option<Place>,
    attested: Option<Result<Attested, EnrolError>>,
}

/// Runs `release key show`.
pub fn run(args: &Args, home: &Path, ui: &Ui) -> Result<u8, CommandError> {
    let path = policy_file(args.policy.as_deref(), home)?;
    // Where keys are is known to a home only; their makers' word is public.
    let terminal = if args.policy.is_none() { Some(Base::open(home)?.terminal) } else { None };
    let (policy, folder) = enrol::read_policy(&path)?;
    let makers = enrol::read_makers(folder);
    let mut known = Vec::new();
    for (name, file) in policy.public_files().filter(|(name, _)| args.key.as_ref().is_none_or(|key| key == name)) {
        let Some(files) = PublicFiles::load(&policy, &name, file, folder)? else {
            ui.warn(&format!("{name} has no public half yet"));
            continue;
        };
        let attested = match &makers {
            _ if files.made.is_none() => None,
            Ok(makers) => files.check(&policy, makers, Timestamp::now()).transpose(),
            Err(_) => enrol::read_makers(folder).err().map(Err),
        };
        let place = terminal.as_ref().and_then(|terminal| terminal.tokens.get(&name));
        known.push(Known { place: place.map(|place| place.get_ref().clone()), files, attested });
    }
    if known.is_empty() {
        let which = args.key.as_ref().map_or_else(String::new, |key| format!(" `{key}`"));
        return Err(CommandError::failed(format!("the policy has no key{which} with a public half"))
            .hint_command("see all keys using:", &["key", "list"]));
    }
    let mut keys: Vec<Value> = Vec::new();
    let mut refused = Vec::new();
    for key in &known {
        if !ui.json {
            ui.data(&key.describe(&policy)?);
        }
        keys.push(key.to_json(&policy)?);
        if let Some(Err(error)) = &key.attested {
            refused.push(error.to_string());
        }
    }
    let facts = json!({ "version": 1, "keys": keys });
    if !refused.is_empty() {
        return Err(CommandError::new(REJECTED, refused.join("; "))
            .facts(facts)
            .hint("do not use such a key: nobody can tell where it was made"));
    }
    if ui.json {
        ui.data(&facts.to_string());
    }
    Ok(0)
}

impl Known {
    /// The id by which metadata, or OpenPGP, names the key.
    fn id(&self) -> Result<(&'static str, String), CommandError> {
        Ok(match &self.files.certificate {
            Some(certificate) => ("fingerprint", certificate.fingerprint()),
            None => ("key id", sign::keyid(&self.files.key)?),
        })
    }

    fn created(&self) -> Option<Timestamp> {
        let of_certificate = || self.files.certificate.as_ref().map(crate::openpgp::Certificate::created);
        self.files.made.as_ref().map(|(place, _)| place.created).or_else(of_certificate)
    }

    fn describe(&self, policy: &Policy) -> Result<String, CommandError> {
        let name = &self.files.name;
        let holder = policy.owner_of(name);
        let made_in = self.files.made.as_ref().map(|(made, _)| (&made.serial, &made.slot));
        let place = match (&self.place, made_in) {
            (Some(Place::File(path)), _) => format!("file {}", path.display()),
            (Some(Place::Slot { serial, slot }), _) | (None, Some((serial, slot))) => {
                format!("{}, slot {slot}", TokenName { serial: *serial, holder: holder.clone() })
            }
            (None, None) => "not known here".to_owned(),
        };
        let (word, id) = self.id()?;
        let mut lines = vec![
            name.to_string(),
            format!("  holder       {}", holder.as_ref().map_or("nobody", |holder| holder.as_str())),
            format!("  purpose      {}", policy.purpose_of(name).map_or("none", describe_purpose)),
            format!("  place        {place}"),
            format!("  {word:<11}  {id}"),
        ];
        lines.extend(self.created().map(|at| format!("  made         {}", at.strftime("%Y-%m-%d %H:%M:%S UTC"))));
        match &self.attested {
            None => lines.push("  attested     nothing: it may have been copied".to_owned()),
            Some(Err(_)) => lines.push("  attested     nothing that counts".to_owned()),
            Some(Ok(attested)) => {
                let Attested { firmware, form_factor, pin_policy, root, .. } = attested;
                lines.push(format!("  attested     {attested}"));
                lines.push(format!("               firmware {firmware}, {form_factor}, PIN {pin_policy}"));
                lines.push(format!("  vouched for  by {root}"));
            }
        }
        Ok(lines.join("\n"))
    }

    fn to_json(&self, policy: &Policy) -> Result<Value, CommandError> {
        let name = &self.files.name;
        let (word, id) = self.id()?;
        let place = match &self.place {
            Some(Place::Slot { serial, slot }) => json!({ "serial": serial, "slot": slot }),
            Some(Place::File(path)) => json!({ "file": path }),
            None => self
                .files
                .made
                .as_ref()
                .map_or(Value::Null, |(made, _)| json!({ "serial": made.serial, "slot": made.slot })),
        };
        let mut value = json!({
            "key": name,
            "holder": policy.owner_of(name),
            "purpose": policy.purpose_of(name).map(describe_purpose),
            "algorithm": self.files.key.algorithm().to_string(),
            "sha256": Sha256::of(&self.files.key.to_der()),
            "place": place,
            "made": self.created(),
            "attested": self.attested.as_ref().and_then(|attested| attested.as_ref().ok()),
        });
        value[word.replace(' ', "_")] = json!(id);
        Ok(value)
    }
}

fn describe_purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Release => "signs release manifests",
        Purpose::Claim => "signs claims",
        Purpose::OpenPgp => "signs SHA256SUMS, for OpenPGP",
        Purpose::Certify => "certifies the key that signs SHA256SUMS",
        Purpose::Archive => "signs InRelease, for apt",
        Purpose::Targets => "signs the role targets",
        Purpose::Root => "signs the role root",
        Purpose::Online => "signs snapshot and timestamp",
    }
}
