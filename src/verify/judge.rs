//! The verdict on one file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use jiff::Timestamp;

use super::Origin;
use super::Rejection;
use super::Trust;
use super::claims;
use super::claims::Built;
use super::trust::Staleness;
use crate::manifest::Artifact;
use crate::manifest::Attested;
use crate::manifest::FileName;
use crate::manifest::Holder;
use crate::manifest::Kind;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::claim::Statement;
use crate::manifest::dsse::Envelope;
use crate::manifest::json;
use crate::manifest::release;

/// A file to judge: the name that it goes by, and its content.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name, without folders.
    pub name: String,
    /// Its digest.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub length: u64,
}

/// VERIFIED or STALE, with the facts; REJECTED is an error.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Listed by a role that meets its threshold, claims complete, nothing expired.
    Verified(Box<Facts>),
    /// The same, but the time of something is over.
    Stale(Box<Facts>, Vec<Staleness>),
}

impl Verdict {
    /// The facts, whatever the verdict.
    pub fn facts(&self) -> &Facts {
        match self {
            Self::Verified(facts) | Self::Stale(facts, _) => facts,
        }
    }
}

/// What is known about a file that was released.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The product.
    pub product: Product,
    /// The release.
    pub version: Version,
    /// The file as it is listed.
    pub artifact: Artifact,
    /// The people who signed the release manifest.
    pub signed_by: BTreeSet<Holder>,
    /// What is attested of the keys by which they signed, where something is.
    pub attested: BTreeMap<Holder, Attested>,
    /// All who may sign it.
    pub holders: BTreeSet<Holder>,
    /// How many must sign it.
    pub threshold: usize,
    /// Who built it.
    pub built: Built,
    /// Until when this verdict holds.
    pub good_until: Timestamp,
    /// When the newest known state was sealed.
    pub sealed: Option<Timestamp>,
    /// Who said that it is the newest.
    pub freshness: Origin,
    /// The project: where it says that it serves its newest state.
    pub project: String,
    /// The pinned root that led here.
    pub root: Sha256,
    /// The safety rules that the project has switched off.
    pub insecure: Vec<String>,
}

/// Judges the files of one product.
pub struct Judge {
    trust: Trust,
    claims: Vec<Envelope>,
    built: BTreeMap<Version, Built>,
    by_digest: HashMap<Sha256, Vec<(Version, FileName)>>,
}

impl Judge {
    /// A judge who trusts `trust` and knows these claims.
    pub fn new(trust: Trust, claims: Vec<Envelope>) -> Self {
        let mut by_digest: HashMap<Sha256, Vec<(Version, FileName)>> = HashMap::new();
        for (version, files) in &trust.listing().releases {
            for file in files.values() {
                by_digest.entry(file.sha256).or_default().push((version.clone(), file.name.clone()));
            }
        }
        Self { trust, claims, built: BTreeMap::new(), by_digest }
    }

    /// What this judge trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The verdict on a file at the time `now`.
    ///
    /// # Errors
    /// REJECTED, with the reason.
    pub fn judge(&mut self, subject: &Subject, now: Timestamp) -> Result<Verdict, Rejection> {
        // Few files are claims, and to look for one means to hash them all.
        let (version, artifact) = match self.find(subject) {
            Ok(found) => found,
            Err(rejection) => self.find_claim(subject).ok_or(rejection)?,
        };
        if !self.built.contains_key(&version) {
            let built = claims::check(&self.trust, &version, &self.claims)?;
            self.built.insert(version.clone(), built);
        }
        let built = self.built[&version].clone();
        Ok(verdict(&self.trust, &version, &artifact, built, now))
    }

    /// Adds claims that were found elsewhere.
    pub fn add_claims(&mut self, claims: impl IntoIterator<Item = Envelope>) {
        self.claims.extend(claims);
    }

    /// The release that a file belongs to, if the file is one of the claims that
    /// are known, under its own name.
    pub fn find_claim(&self, subject: &Subject) -> Option<(Version, Artifact)> {
        self.claims.iter().find_map(|envelope| {
            let bytes = json::to_vec(envelope).ok()?;
            if Sha256::of(&bytes) != subject.sha256 {
                return None;
            }
            let keyid = envelope.signatures().ok()?.first()?.0.to_owned();
            let holder = &self.trust.policy().claims.get(&keyid)?.holder;
            let statement = Statement::parse(&envelope.payload().ok()?).ok()?;
            let version: Version = statement.version()?.parse().ok()?;
            let name: FileName = release::claim_file(holder).parse().ok()?;
            let is_meant = name.as_str() == subject.name && statement.product() == Some(self.trust.product().as_str());
            let (length, sha256) = (subject.length, subject.sha256);
            let artifact = Artifact { name, kind: Kind::Claim, length, sha256, control: None };
            (is_meant && self.trust.listing().releases.contains_key(&version)).then_some((version, artifact))
        })
    }

    /// The rejection of a file that is in no release any more: an older role lists its
    /// content, or its name speaks of a version that was withdrawn and of none that is
    /// there.
    fn withdrawn(&self, subject: &Subject) -> Option<Rejection> {
        let listing = self.trust.listing();
        let former = self.trust.former().iter().find(|(_, file)| file.sha256 == subject.sha256);
        let by_name = || {
            let named = |version: &Version| speaks_of(&subject.name, version.as_str());
            let listed = listing.releases.values().any(|files| files.keys().any(|file| file.as_str() == subject.name));
            listing.withdrawn.iter().map(|entry| &entry.version).rfind(|version| !listed && named(version))
        };
        let (how, version) = match former {
            Some((version, _)) => ("is a file of", version),
            None => ("has the name of a file of", by_name()?),
        };
        let entry = listing.withdrawn.iter().find(|entry| entry.version == *version)?;
        let (name, product) = (subject.name.clone(), self.trust.product().clone());
        Some(Rejection::Withdrawn { name, how, product, entry: Box::new(entry.clone()) })
    }

    /// The release that a file belongs to, and the file as it is listed.
    ///
    /// # Errors
    /// Renamed, altered, or unlisted.
    pub fn find(&self, subject: &Subject) -> Result<(Version, Artifact), Rejection> {
        let releases = &self.trust.listing().releases;
        let name = || subject.name.clone();
        let product = || self.trust.product().clone();
        let same_content = self.by_digest.get(&subject.sha256).map(Vec::as_slice).unwrap_or_default();
        if let Some((version, file)) = same_content.iter().rev().find(|(_, file)| file.as_str() == subject.name)
            && let Some(artifact) = releases.get(version).and_then(|files| files.get(file))
            && artifact.length == subject.length
        {
            return Ok((version.clone(), artifact.clone()));
        }
        if same_content.is_empty()
            && let Some(rejection) = self.withdrawn(subject)
        {
            return Err(rejection);
        }
        if let Some((version, file)) = same_content.last() {
            let (listed, version) = (file.clone(), version.clone());
            return Err(Rejection::Renamed { name: name(), listed, product: product(), version });
        }
        // The newest release that lists the name is the one that was meant.
        let same_name = releases.iter().rev().find_map(|(version, files)| {
            files.values().find(|file| file.name.as_str() == subject.name).map(|file| (version.clone(), file.sha256))
        });
        Err(match same_name {
            Some((version, expected)) => {
                Rejection::Altered { name: name(), product: product(), version, found: subject.sha256, expected }
            }
            None => Rejection::Unlisted { name: name(), product: product(), found: subject.sha256 },
        })
    }
}

/// Whether a file name speaks of a version: `kestrel-1.0.tar.gz` of `1.0`, and not of
/// `1.0.1` or `11.0`.
fn speaks_of(name: &str, version: &str) -> bool {
    name.match_indices(version).any(|(at, _)| {
        let (before, after) = (&name[..at], &name[at + version.len()..]);
        let mut next = after.chars();
        let goes_on = match next.next() {
            Some('.') => next.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => c.is_ascii_digit(),
            None => false,
        };
        !goes_on && !before.ends_with(|c: char| c.is_ascii_digit() || c == '.')
    })
}

/// The verdict on a listed file whose claims were checked.
pub fn verdict(trust: &Trust, version: &Version, artifact: &Artifact, built: Built, now: Timestamp) -> Verdict {
    let signers = trust.signers();
    let facts = Box::new(Facts {
        product: trust.product().clone(),
        version: version.clone(),
        artifact: artifact.clone(),
        signed_by: signers.signed.keys().cloned().collect(),
        attested: trust.attested().clone(),
        holders: signers.holders.clone(),
        threshold: signers.threshold,
        built,
        good_until: trust.good_until(),
        sealed: trust.project().sealed(),
        project: trust.policy().repository.clone(),
        root: trust.project().pinned(),
        freshness: trust.freshness_origin().clone(),
        insecure: trust.policy().insecure.clone(),
    });
    let stale = trust.stale(now);
    if stale.is_empty() { Verdict::Verified(facts) } else { Verdict::Stale(facts, stale) }
}
