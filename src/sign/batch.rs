//! One batch of signatures: every key is opened once, every signature is on
//! disk before the next is asked for, and none is asked for twice.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Plan;
use super::SignError;
use super::Warrant;
use super::load_public;
use crate::home;
use crate::home::Home;
use crate::home::HomeError;
use crate::home::Journal;
use crate::home::atomic;
use crate::key::KeyError;
use crate::key::PublicKey;
use crate::key::Secrets;
use crate::key::Signer;
use crate::key::SoftwareKey;
use crate::key::ToSign;
use crate::key::piv::TokenName;
use crate::key::piv::Tokens;
use crate::key::piv::Wanted;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::dsse::Envelope;
use crate::manifest::release;
use crate::openpgp;
use crate::openpgp::Certificate;
use crate::policy::Place;
use crate::tuf;
use crate::tuf::Draft;
use crate::tuf::draft::DraftError;

/// Opened keys.
#[derive(Default)]
pub struct Batch<'a> {
    signers: BTreeMap<KeyName, Box<dyn Signer + 'a>>,
}

/// A release manifest with the signatures of release managers that were checked. Only
/// [`Session::sign_role`] makes one.
#[derive(Debug)]
pub struct SignedRole {
    role: Draft,
    people: BTreeSet<Holder>,
}

impl SignedRole {
    /// The role.
    pub fn role(&self) -> &Draft {
        &self.role
    }
}

/// A release manifest that enough release managers have signed. Nothing is published
/// without one, and no `SHA256SUMS.asc` made.
#[derive(Debug)]
pub struct ThresholdMet {
    signed: SignedRole,
}

impl ThresholdMet {
    /// Counts the people who signed.
    ///
    /// # Errors
    /// Too few.
    pub fn of(signed: SignedRole, threshold: u32) -> Result<Self, SignError> {
        let (have, need) = (signed.people.len(), threshold as usize);
        if have < need || need == 0 {
            return Err(SignError::ThresholdNotMet { have, need });
        }
        Ok(Self { signed })
    }

    /// The signed role.
    pub fn role(&self) -> &Draft {
        &self.signed.role
    }

    /// Who signed it.
    pub fn people(&self) -> &BTreeSet<Holder> {
        &self.signed.people
    }
}

impl<'a> Batch<'a> {
    /// Opens the keys whose signatures are still missing in the folders `stage`
    /// and `signing`.
    ///
    /// # Errors
    /// A token or key file cannot be used, its PIN or passphrase is wrong, or it
    /// holds another key than the policy lists.
    pub fn open(
        home: &Home,
        plan: &Plan,
        role: &Draft,
        (stage, signing): (&Path, &Path),
        tokens: &Tokens<'a>,
    ) -> Result<Self, SignError> {
        let mut missing = Vec::new();
        if !stage.join(release::claim_file(&plan.builder)).exists() {
            missing.push(&plan.claim);
        }
        for (name, _) in &plan.release {
            if !role.has_signature(plan.keyid(name)?) {
                missing.push(name);
            }
        }
        let unsigned = plan.openpgp.iter().filter(|(_, holder, _)| !checksums_signature(signing, holder).exists());
        missing.extend(unsigned.map(|(name, ..)| name));
        missing.push(&plan.online);
        missing.extend(&plan.archive);
        Self::open_keys(home, missing, tokens)
    }

    /// Opens keys by name; `tokens` may be open, and stay so.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_keys<'n>(
        home: &Home,
        names: impl IntoIterator<Item = &'n KeyName>,
        tokens: &Tokens<'a>,
    ) -> Result<Self, SignError> {
        home.terminal.check_tokens(&home.policy)?;
        let mut batch = Self::default();
        let (mut wanted, mut files) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for name in names.into_iter().filter(|name| seen.insert(*name)) {
            let place = home.terminal.tokens.get(name).ok_or_else(|| SignError::NoToken(name.clone()))?;
            match place.get_ref() {
                Place::Slot { serial, slot } => {
                    let enrolled = enrolled(home, name)?;
                    wanted.push(Wanted {
                        name,
                        token: TokenName { serial: *serial, holder: home.policy.owner_of(name) },
                        slot: *slot,
                        is_enrolled: Box::new(move |public| enrolled == *public),
                    });
                }
                Place::File(path) => files.push((name, home.resolve(path))),
            }
        }
        // All tokens before anything else: whoever has to look for one has typed nothing yet.
        for key in tokens.open(&wanted)? {
            batch.add(key);
        }
        for (name, path) in files {
            batch.add(open_software(home, name, path, tokens.person())?);
        }
        Ok(batch)
    }

    /// Adds an opened key.
    pub fn add(&mut self, key: impl Signer + 'a) {
        self.signers.insert(key.name().clone(), Box::new(key));
    }

    /// An opened key.
    ///
    /// # Errors
    /// It was not opened.
    pub fn signer(&self, name: &KeyName) -> Result<&(dyn Signer + 'a), SignError> {
        self.signers.get(name).map(Box::as_ref).ok_or_else(|| SignError::NotOpened(name.clone()))
    }
}

/// Signing one cut: opened keys, and where their signatures are kept.
pub struct Session<'a> {
    /// The opened keys.
    pub batch: Batch<'a>,
    /// Who signs.
    pub plan: &'a Plan,
    /// The folder of what is published.
    pub stage: &'a Path,
    /// The folder of what is signed.
    pub signing: &'a Path,
    /// The journal, which is written before a key is asked.
    pub journal: &'a mut Journal,
    /// The time of this run.
    pub now: Timestamp,
}

impl Session<'_> {
    /// The claim of whoever builds here: made now, or read back if it was made before.
    ///
    /// # Errors
    /// The key failed, or was asked before to claim something else.
    pub fn claim(&mut self, product: &Product, version: &Version, statement: &[u8]) -> Result<Envelope, SignError> {
        let builder = &self.plan.builder;
        let path = self.stage.join(release::claim_file(builder));
        if let Some(envelope) = read_claim(&path)? {
            return Ok(envelope);
        }
        let signer = self.batch.signer(&self.plan.claim)?;
        let mut envelope = Envelope::new(statement);
        let signed = envelope
            .signed_bytes()
            .map_err(|error| SignError::Claim { holder: builder.to_string(), reason: error.to_string() })?;
        let what = format!("claim {product} {version}");
        self.journal.ask(self.now, signer.name(), &what, Sha256::of(&signed))?;
        home::step("claim.asked");
        let signature = signer.sign(&what, ToSign::Message(&signed))?;
        envelope.add_signature(&keyid(signer.public())?, &signature);
        let bytes = envelope.to_vec().map_err(DraftError::from)?;
        atomic::write(&path, &bytes)?;
        home::step("claim.signed");
        Ok(envelope)
    }

    /// Signs a message to another terminal by the claim key of whoever builds here.
    /// Gives the key's id and the signature.
    ///
    /// # Errors
    /// The key failed, or was asked before to sign another message of this name.
    pub fn vouch(&mut self, what: &str, message: &[u8]) -> Result<(String, Vec<u8>), SignError> {
        let signer = self.batch.signer(&self.plan.claim)?;
        self.journal.ask(self.now, signer.name(), what, Sha256::of(message))?;
        let signature = signer.sign(what, ToSign::Message(message))?;
        Ok((keyid(signer.public())?, signature))
    }

    /// Signs a release manifest by the plan's release managers, and keeps it after
    /// each signature.
    ///
    /// # Errors
    /// The warrant is for another manifest; a key failed, or was asked before to sign
    /// another manifest of this number.
    pub fn sign_role(&mut self, warrant: &Warrant, mut role: Draft) -> Result<SignedRole, SignError> {
        if !warrant.is_for(&role)? {
            return Err(SignError::NoWarrant);
        }
        let file = self.signing.join(format!("{}.json", role.role()));
        let digest = role.digest()?;
        let message = role.canonical()?;
        for (name, _) in &self.plan.release {
            let keyid = self.plan.keyid(name)?;
            if !role.has_signature(keyid) {
                let signer = self.batch.signer(name)?;
                self.journal.ask(self.now, name, &format!("{} {}", role.role(), role.number()), digest)?;
                home::step("role.asked");
                let shown = format!("manifest {} of {}", role.number(), role.role());
                let signature = signer.sign(&shown, ToSign::Message(&message))?;
                role.add_signature(keyid, &signature);
                atomic::write(&file, &role.to_file()?)?;
                home::step("role.signed");
            }
        }
        // Who signed is what the signatures say, whoever made them.
        let mut people = BTreeSet::new();
        for keyid in role.signed_by() {
            let Some((holder, key)) = self.plan.managers.get(keyid) else {
                return Err(SignError::Stranger(keyid.to_owned()));
            };
            let signature = role.signature(keyid).unwrap_or_default();
            if !key.verifies(ToSign::Message(&message), &signature) {
                return Err(SignError::NotSigned(holder.clone()));
            }
            people.insert(holder.clone());
        }
        Ok(SignedRole { role, people })
    }

    /// Signs `SHA256SUMS`, one signature per release manager who has a
    /// certificate and signed the manifest; those made elsewhere are kept already.
    /// Gives the armored file; `None` if nobody has a certificate.
    ///
    /// # Errors
    /// A certificate cannot be used, a key failed, or a signature is missing.
    pub fn sign_checksums(
        &mut self,
        met: &ThresholdMet,
        checksums: &[u8],
        dated: Timestamp,
    ) -> Result<Option<Vec<u8>>, SignError> {
        let (mut signatures, mut certificates) = (Vec::new(), Vec::new());
        for holder in &met.signed.people {
            let Some((_, certificate)) = self.plan.certificates.get(holder) else {
                continue;
            };
            certificates.push(Certificate::one(&atomic::read(certificate)?)?);
            signatures.extend(self.checksums_by(&met.signed, holder, checksums, dated)?);
        }
        if certificates.is_empty() {
            return Ok(None);
        }
        let armored = openpgp::join_signatures(&signatures)?;
        let good = openpgp::signers_of(checksums, &armored, &certificates, self.now, &BTreeSet::new())?;
        if good.len() < certificates.len() {
            return Err(SignError::Checksums { have: good.len(), need: certificates.len() });
        }
        atomic::write(&self.stage.join(release::CHECKSUMS_SIGNATURE), &armored)?;
        Ok(Some(armored))
    }

    /// One holder's signature over `SHA256SUMS`: as it was kept, or made now by that
    /// holder's key here. For an approval it is made before the threshold is met, by
    /// somebody who has signed the manifest.
    ///
    /// # Errors
    /// A certificate cannot be used, or a key failed.
    pub fn checksums_by(
        &mut self,
        signed: &SignedRole,
        holder: &Holder,
        checksums: &[u8],
        dated: Timestamp,
    ) -> Result<Option<Vec<u8>>, SignError> {
        let path = checksums_signature(self.signing, holder);
        if let Some(signature) = atomic::read_if_there(&path)? {
            return Ok(Some(signature));
        }
        let own = self.plan.openpgp.iter().find(|(_, owner, _)| owner == holder);
        let Some((name, _, certificate)) = own.filter(|_| signed.people.contains(holder)) else {
            return Ok(None);
        };
        let certificate = Certificate::one(&atomic::read(certificate)?)?;
        let what = format!("checksums {} {}", signed.role.role(), signed.role.number());
        self.journal.ask(self.now, name, &what, Sha256::of(checksums))?;
        home::step("openpgp.asked");
        let shown = format!("SHA256SUMS of {}", signed.role.role());
        let signer = self.batch.signer(name)?;
        let signature = openpgp::sign_detached(&certificate, signer, &shown, checksums, dated)?;
        atomic::write(&path, &signature)?;
        home::step("openpgp.signed");
        Ok(Some(signature))
    }
}

/// Where one holder's signature over `SHA256SUMS` is kept until all are there.
pub fn checksums_signature(signing: &Path, holder: &Holder) -> PathBuf {
    signing.join(format!("{}.{holder}", release::CHECKSUMS_SIGNATURE))
}

/// The TUF id of a key.
///
/// # Errors
/// None that input can cause.
pub fn keyid(public: &PublicKey) -> Result<String, SignError> {
    let (keyid, _) = tuf::key::identified(public).map_err(DraftError::from)?;
    Ok(keyid)
}

fn read_claim(path: &Path) -> Result<Option<Envelope>, SignError> {
    let damaged = |reason: String| HomeError::Damaged { path: path.to_owned(), reason };
    let bytes = atomic::read_if_there(path)?;
    Ok(bytes.map(|bytes| Envelope::parse(&bytes)).transpose().map_err(|error| damaged(error.to_string()))?)
}

/// The public half of a key, as it is enrolled. OpenPGP keys are listed by their
/// certificates.
///
/// # Errors
/// It is missing or damaged.
pub fn enrolled(home: &Home, name: &KeyName) -> Result<PublicKey, SignError> {
    match home.policy.certificate_of(name) {
        Some(entry) => {
            let path = home.resolve(entry.file.get_ref());
            let damaged =
                |error: openpgp::OpenPgpError| HomeError::Damaged { path: path.clone(), reason: error.to_string() };
            let certificate = Certificate::one(&atomic::read(&path)?).map_err(damaged)?;
            let is_primary = entry.primary == *name;
            let key = if is_primary { certificate.primary_key() } else { certificate.signing_key() };
            let none = || openpgp::OpenPgpError::Other("it has no key of a kind that we use".to_owned());
            key.ok_or_else(none).map_err(|error| damaged(error).into())
        }
        None => load_public(home, name),
    }
}

fn open_software(home: &Home, name: &KeyName, path: PathBuf, person: &dyn Secrets) -> Result<SoftwareKey, SignError> {
    if !home.policy.insecure_software_keys {
        return Err(SignError::SoftwareKey(name.clone()));
    }
    let holder = home.policy.owner_of(name);
    let mut again = false;
    let key = loop {
        let passphrase = person.passphrase(name, holder.as_ref(), again)?;
        match SoftwareKey::open(name, &path, &passphrase) {
            // Whoever gives passphrases says when there is no further one to try.
            Err(KeyError::WrongPassphrase(_)) => again = true,
            result => break result?,
        }
    };
    if enrolled(home, name)? != *key.public() {
        return Err(KeyError::OtherKey { name: name.clone(), path }.into());
    }
    Ok(key)
}
