//! Whether suites for apt say what was released, and nothing else.
//!
//! One key signs a suite, and it is not asked here: whoever has it could sign anything.
//! What product roles list decides. Each stanza of an index must be that of a package
//! that a role lists, in the words whose digest the role has, and each package that a
//! role lists must have one. Readers take what they like best of the forms of an index,
//! and not all compare it with the others as apt does, so all are unpacked and compared.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read as _;

use jiff::SignedDuration;
use jiff::Timestamp;
use xz4rust::XzDecoder;

use super::Project;
use super::Rejection;
use super::VerifyError;
use super::repository::Checked;
use super::repository::Extent;
use super::repository::check_file;
use crate::manifest::Artifact;
use crate::manifest::Component;
use crate::manifest::Kind;
use crate::manifest::RepoPath;
use crate::manifest::Sha256;
use crate::manifest::Suite;
use crate::manifest::names::quoted;
use crate::manifest::suite;
use crate::manifest::suite::ALL;
use crate::manifest::suite::APT;
use crate::manifest::suite::IN_RELEASE;
use crate::manifest::suite::Index;
use crate::manifest::suite::Lists;
use crate::manifest::suite::RELEASE;
use crate::manifest::suite::RELEASE_SIGNATURE;
use crate::manifest::suite::Release;
use crate::manifest::suite::SourceStanza;
use crate::manifest::suite::Stanza;
use crate::parallel::in_parallel;
use crate::progress::Event;
use crate::progress::Progress;
use crate::progress::Silent;
use crate::progress::Stage;
use crate::tuf::Files;
use crate::tuf::TransportError;

/// Longer than the online key may vouch for something, nobody needs a suite to be valid.
const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(90 * 24);
/// What `xz -6` needs to look back, in bytes. Ours need no more, and memory is limited.
const MAX_WINDOW: usize = 8 << 20;

/// A suite that says what was released.
#[derive(Debug)]
pub struct CheckedSuite {
    /// Its name.
    pub suite: Suite,
    /// Until when clients take it.
    pub valid_until: Timestamp,
    /// How many packages it has.
    pub packages: usize,
    /// Its files and their packages, all of which were looked at but the signature.
    pub files: BTreeSet<String>,
}

/// Packages that a suite must have, by component and digest.
type Expected<'a> = BTreeMap<&'a Component, BTreeMap<Sha256, &'a Artifact>>;

/// Verifies the suites that the policy has.
///
/// # Errors
/// One is not what product roles say, or cannot be read.
pub(super) fn check(
    files: &dyn Files,
    project: &Project,
    products: &[Checked],
    extent: Extent,
    progress: &dyn Progress,
) -> Result<Vec<CheckedSuite>, VerifyError> {
    let mut suites: BTreeMap<&Suite, Expected<'_>> = BTreeMap::new();
    for (product, entry) in &project.policy().products {
        let Some(apt) = &entry.apt else {
            continue;
        };
        let listed = suites.entry(&apt.suite).or_default().entry(&apt.component).or_default();
        for checked in products.iter().filter(|checked| checked.trust.product() == product) {
            let artifacts = checked.trust.listing().releases.values().flat_map(BTreeMap::values);
            // Releases from before there were suites are in none.
            let packages = artifacts.filter(|artifact| artifact.control.is_some());
            listed.extend(packages.map(|artifact| (artifact.sha256, artifact)));
        }
    }
    let mut checked = Vec::new();
    for (suite, expected) in suites {
        let reader = Reader { files, suite };
        let Some(in_release) = reader.small(IN_RELEASE)? else {
            // It is made for its first package.
            if expected.values().all(BTreeMap::is_empty) {
                continue;
            }
            return Err(reader.refuse(IN_RELEASE, "is missing"));
        };
        let what = format!("suite {suite} at {}", files.place());
        progress.event(Event::Begin { stage: Stage::Verify, what: &what });
        let release = reader.release(&in_release, project, &expected)?;
        let packages = reader.indices(&release, &expected)?;
        if extent == Extent::Everything {
            progress.event(Event::Length(packages.values().map(|(_, length)| length).sum()));
            let packages: Vec<_> = packages.iter().collect();
            in_parallel(&packages, |(path, (sha256, length))| reader.same(path, *sha256, *length, progress))?;
        }
        let names = release.indices.iter().flat_map(|index| [index.name(), index.by_hash()]);
        let names = names.chain([IN_RELEASE, RELEASE, RELEASE_SIGNATURE].map(str::to_owned));
        let count = packages.len();
        let all = names.map(|name| reader.path(&name)).chain(packages.into_keys()).collect();
        checked.push(CheckedSuite {
            suite: suite.clone(),
            valid_until: release.valid_until,
            packages: count,
            files: all,
        });
    }
    Ok(checked)
}

/// Reads the files of a suite.
struct Reader<'a> {
    files: &'a dyn Files,
    suite: &'a Suite,
}

impl Reader<'_> {
    fn path(&self, name: &str) -> String {
        format!("{APT}dists/{}/{name}", self.suite)
    }

    fn refuse(&self, name: &str, reason: impl Into<String>) -> VerifyError {
        let place = format!("{}/{}", self.files.place(), self.path(name));
        Rejection::Suite { place, reason: reason.into() }.into()
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, VerifyError> {
        Ok(self.files.read(&self.path(name), suite::MAX_RELEASE)?)
    }

    /// What the suite says of itself.
    fn release(&self, in_release: &[u8], project: &Project, expected: &Expected<'_>) -> Result<Release, VerifyError> {
        let refuse = |reason: String| self.refuse(IN_RELEASE, reason);
        let text = Release::signed_text(in_release).map_err(|reason| refuse(reason.to_owned()))?;
        let release = Release::parse(&text).map_err(refuse)?;
        if self.small(RELEASE)?.as_deref() != Some(text.as_bytes()) {
            return Err(self.refuse(RELEASE, format!("is missing, or says something else than {IN_RELEASE}")));
        }
        if release.suite != *self.suite {
            return Err(refuse(format!("is that of suite {}", release.suite)));
        }
        if suite::origin(&project.policy().repository).as_ref() != Ok(&release.origin) {
            return Err(refuse(format!("is that of {}", release.origin)));
        }
        if release.valid_until.duration_since(release.date) > MAX_VALIDITY {
            return Err(refuse(format!("is valid from {} until {}, too long", release.date, release.valid_until)));
        }
        if project.sealed().is_some_and(|sealed| sealed < release.date) {
            return Err(refuse(format!("is of {}, after the newest seal", release.date)));
        }
        if !release.components.iter().eq(expected.keys().copied()) {
            return Err(refuse("does not have the components that the policy has".to_owned()));
        }
        if release.architectures.is_empty() || !release.architectures.is_sorted_by(|a, b| a.as_str() < b.as_str()) {
            return Err(refuse("does not list its architectures in order".to_owned()));
        }
        let mut names = Vec::new();
        for component in &release.components {
            let packages = release.architectures.iter().map(|architecture| Lists::Packages(architecture.clone()));
            for lists in packages.chain([Lists::Sources]) {
                names.extend(suite::FORMS.map(|form| lists.name(component, form)));
            }
        }
        if !release.indices.iter().map(Index::name).eq(names) {
            return Err(refuse("does not list the indices of its components and architectures, and no others".into()));
        }
        Ok(release)
    }

    /// Reads every index in all its forms. Gives the packages, by path, with digest and
    /// size.
    fn indices(
        &self,
        release: &Release,
        expected: &Expected<'_>,
    ) -> Result<BTreeMap<String, (Sha256, u64)>, VerifyError> {
        let mut packages = BTreeMap::new();
        // In how many indices of a component a package is, and whether it is for all.
        let mut found: BTreeMap<(Sha256, &Component), (usize, bool)> = BTreeMap::new();
        let none = BTreeMap::new();
        for forms in release.indices.chunk_by(|a, b| (&a.component, &a.lists) == (&b.component, &b.lists)) {
            let mut plain: Option<Vec<u8>> = None;
            for index in forms {
                let refuse = |reason: String| self.refuse(&index.name(), reason);
                let content = self.content(index)?;
                let Some(plain) = &plain else {
                    let text = std::str::from_utf8(&content).map_err(|_| refuse("is no text".to_owned()))?;
                    let listed = expected.get(&index.component).unwrap_or(&none);
                    let mut once = BTreeSet::new();
                    for entry in entries(text, index, listed) {
                        let entry = entry.map_err(refuse)?;
                        if !once.insert(entry.sha256) {
                            return Err(refuse(format!("has the content {} twice", entry.sha256)));
                        }
                        found.entry((entry.sha256, &index.component)).or_insert((0, entry.is_for_all)).0 += 1;
                        packages.extend(entry.files);
                    }
                    plain = Some(content);
                    continue;
                };
                if unpack(index.form, &content, plain.len()).as_ref() != Some(plain) {
                    return Err(refuse("does not unpack to the index of which it is a form".to_owned()));
                }
            }
        }
        let is_whole = |sha256: Sha256| {
            release.components.iter().any(|component| match found.get(&(sha256, component)) {
                Some((count, true)) => *count == release.architectures.len(),
                Some((_, false)) => true,
                None => false,
            })
        };
        match expected.values().flatten().find(|(sha256, _)| !is_whole(**sha256)) {
            None => Ok(packages),
            Some((sha256, artifact)) => {
                let reason = format!("lacks {}, which was released (SHA-256 {sha256})", artifact.name);
                Err(self.refuse(IN_RELEASE, reason))
            }
        }
    }

    /// An index, under the name of its content; that under its other name is the same.
    fn content(&self, index: &Index) -> Result<Vec<u8>, VerifyError> {
        if index.length > suite::MAX_INDEX {
            let reason = format!("would have {} bytes; {} is the most", index.length, suite::MAX_INDEX);
            return Err(self.refuse(&index.name(), reason));
        }
        let by_hash = index.by_hash();
        let content = match self.files.read(&self.path(&by_hash), index.length) {
            Err(TransportError::TooLong { .. }) => return Err(self.refuse(&by_hash, "is longer than listed")),
            other => other?.ok_or_else(|| self.refuse(&by_hash, "is missing"))?,
        };
        if Sha256::of(&content) != index.sha256 || content.len() as u64 != index.length {
            return Err(self.refuse(&by_hash, format!("has SHA-256 {}", Sha256::of(&content))));
        }
        self.same(&self.path(&index.name()), index.sha256, index.length, &Silent)?;
        Ok(content)
    }

    fn same(&self, path: &str, sha256: Sha256, length: u64, progress: &dyn Progress) -> Result<(), VerifyError> {
        check_file(self.files, path, sha256, length, progress).map_err(|error| match error {
            VerifyError::Rejected(Rejection::File { place, reason }) => Rejection::Suite { place, reason }.into(),
            other => other,
        })
    }
}

/// What an index has of a package.
struct Listed {
    sha256: Sha256,
    is_for_all: bool,
    /// Its files, by path, with digest and size.
    files: Vec<(String, (Sha256, u64))>,
}

/// The entries of an index, each of which must be one of those that are listed.
fn entries<'a>(
    text: &'a str,
    index: &'a Index,
    listed: &'a BTreeMap<Sha256, &Artifact>,
) -> Box<dyn Iterator<Item = Result<Listed, String>> + 'a> {
    match &index.lists {
        Lists::Packages(architecture) => Box::new(
            Stanza::all(text).map(move |stanza| package(&stanza?, architecture.as_str(), &index.component, listed)),
        ),
        Lists::Sources => {
            Box::new(SourceStanza::all(text).map(move |stanza| source(&stanza?, &index.component, listed)))
        }
    }
}

/// Whether a stanza is that of a listed package, in a place where packages are.
fn package(
    stanza: &Stanza<'_>,
    architecture: &str,
    component: &Component,
    listed: &BTreeMap<Sha256, &Artifact>,
) -> Result<Listed, String> {
    let name = quoted(stanza.filename);
    let content = (stanza.sha256, stanza.length);
    check_listed(&name, content, (Kind::Deb, stanza.control), listed)?;
    let found = stanza.field("Architecture").unwrap_or_default();
    if found != ALL && found != architecture {
        return Err(format!("has {name}, which is for {}", quoted(found)));
    }
    let files = vec![(in_pool(stanza.filename, component)?, content)];
    Ok(Listed { sha256: stanza.sha256, is_for_all: found == ALL, files })
}

/// The same for a source package. That its files were released with it is what people
/// have signed.
fn source(
    stanza: &SourceStanza<'_>,
    component: &Component,
    listed: &BTreeMap<Sha256, &Artifact>,
) -> Result<Listed, String> {
    let name = quoted(stanza.name);
    check_listed(&name, (stanza.sha256, stanza.length), (Kind::Dsc, stanza.control), listed)?;
    let own = Some((stanza.sha256, stanza.length, stanza.name));
    let mut files = Vec::new();
    for file in stanza.files().chain([own]) {
        let (sha256, length, file) = file.ok_or_else(|| format!("has {name}, whose files cannot be read"))?;
        files.push((in_pool(&format!("{}/{file}", stanza.directory), component)?, (sha256, length)));
    }
    Ok(Listed { sha256: stanza.sha256, is_for_all: false, files })
}

/// Whether a product role lists this content, and what is said of it.
fn check_listed(
    name: &str,
    (sha256, length): (Sha256, u64),
    (kind, control): (Kind, &str),
    listed: &BTreeMap<Sha256, &Artifact>,
) -> Result<(), String> {
    let Some(artifact) = listed.get(&sha256).filter(|artifact| artifact.kind == kind) else {
        return Err(format!("has {name}, which no release lists (SHA-256 {sha256})"));
    };
    if artifact.length != length {
        return Err(format!("has {name} with {length} bytes, {} were released", artifact.length));
    }
    if artifact.control != Some(Sha256::of(control.as_bytes())) {
        return Err(format!("says of {name} what nobody has signed"));
    }
    Ok(())
}

/// The path of a file in the pool of a component.
fn in_pool(filename: &str, component: &Component) -> Result<String, String> {
    let path = format!("{APT}{filename}");
    let segments: Vec<&str> = filename.split('/').collect();
    let is_in_pool = matches!(segments.as_slice(), ["pool", pool, _, _, _] if *pool == component.as_str());
    if path.parse::<RepoPath>().is_err() || !is_in_pool {
        return Err(format!("has {}, which is not in the pool of its component", quoted(filename)));
    }
    Ok(path)
}

/// What a packed form of an index is when it is unpacked, if that has no more than
/// `max` bytes and nothing else is in it: another reader could go on to what follows.
pub fn unpack(form: &str, packed: &[u8], max: usize) -> Option<Vec<u8>> {
    match form {
        ".gz" => gunzip(packed, max),
        ".xz" => unxz(packed, max),
        _ => None,
    }
}

fn gunzip(packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(max + 1);
    let mut decoder = flate2::bufread::GzDecoder::new(packed);
    // The checksum is read at the end.
    (&mut decoder).take(max as u64 + 1).read_to_end(&mut unpacked).ok()?;
    (unpacked.len() <= max && decoder.into_inner().is_empty()).then_some(unpacked)
}

fn unxz(mut packed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut decoder = XzDecoder::with_alloc_dict_size(0, MAX_WINDOW);
    // The decoder wants some space also when nothing comes any more.
    let mut unpacked = vec![0; max + 256];
    let mut length = 0;
    loop {
        let step = decoder.decode(packed, unpacked.get_mut(length..)?).ok()?;
        length += step.output_produced();
        packed = packed.get(step.input_consumed()..)?;
        if step.is_end_of_stream() {
            break;
        }
        if !step.made_progress() {
            return None;
        }
    }
    unpacked.truncate(length);
    (length <= max && packed.is_empty()).then_some(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::bufread::GzEncoder::new(bytes, flate2::Compression::best()).read_to_end(&mut packed).unwrap();
        packed
    }

    #[cfg(feature = "terminal")]
    fn xz(bytes: &[u8], preset: u32) -> Vec<u8> {
        let mut packed = Vec::new();
        liblzma::bufread::XzEncoder::new(bytes, preset).read_to_end(&mut packed).unwrap();
        packed
    }

    /// One that needs more than one block and window.
    fn long() -> Vec<u8> {
        let line = |n: u32| format!("Package: {}\n", n.wrapping_mul(2_654_435_761) % 99_991).into_bytes();
        (0..800_000).flat_map(line).collect()
    }

    #[track_caller]
    fn is_strict(form: &str, packed: &[u8], plain: &[u8]) {
        let unpacked = |packed: &[u8]| unpack(form, packed, plain.len());
        assert_eq!(unpacked(packed).as_deref(), Some(plain));
        if let Some(less) = plain.len().checked_sub(1) {
            assert_eq!(unpack(form, packed, less), None, "no more is taken");
        }
        for more in [&b"\0"[..], b"\0\0\0\0", packed] {
            assert_eq!(unpacked(&[packed, more].concat()), None, "something follows");
        }
        for end in [0, 1, packed.len() / 2, packed.len() - 1] {
            assert_eq!(unpacked(&packed[..end]), None, "it is whole");
        }
    }

    #[test]
    fn a_form_by_gzip_is_one_member_and_nothing_more() {
        for plain in [b"".to_vec(), b"Package: x\n".to_vec(), long()] {
            is_strict(".gz", &gz(&plain), &plain);
        }
        assert_eq!(unpack(".gz", b"Package: x\n", 100), None);
        assert_eq!(unpack("", b"Package: x\n", 100), None);
    }

    #[cfg(feature = "terminal")]
    #[test]
    fn a_form_by_xz_is_one_stream_and_nothing_more() {
        for plain in [b"".to_vec(), b"Package: x\n".to_vec(), long()] {
            for preset in [0, 6] {
                is_strict(".xz", &xz(&plain, preset), &plain);
            }
        }
        assert_eq!(unpack(".xz", &xz(&long(), 9), long().len()), None, "a window that ours do not need");
        let packed = xz(b"Package: x\n", 6);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 1;
            assert_eq!(unpack(".xz", &changed, 11), None, "byte {at}");
        }
    }
}
