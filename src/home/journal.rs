//! The journal: what this terminal did, in a chain of hashes.
//!
//! One JSON object in compact form a line:
//!
//! ```json
//! {"event":{"kind":"ask",…},"prev":"<sha256 of the line before>","time":"…","version":1}
//! ```
//!
//! The first line's `prev` is all zeros. The head, the digest of the last line,
//! stands in every provenance. A key is asked to sign only after the journal
//! says so on disk; that is how a restart knows what a key may have signed.
//!
//! The head stands in `journal.head` as well, written after each line. A journal
//! that does not know that head is an old one that was put back: keys have signed
//! what it does not say. After a crash between the two the file is a line behind,
//! which does no harm.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::HomeError;
use super::atomic;
use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line as Words;
use crate::manifest::MirrorName;
use crate::manifest::Pin;
use crate::manifest::Product;
use crate::manifest::Sha256;
use crate::manifest::Version;
use crate::manifest::json;
use crate::policy::Destination;
use crate::transport::open_plain;

/// The version of the lines, and of the file with the head, that this program
/// writes and reads.
const VERSION: u32 = 1;
/// Longer lines are not ours: the longest says which tags a cut has pinned.
const MAX_LINE: u64 = 256 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The home was made.
    Init {
        /// Digest of the first root.
        root: Sha256,
    },
    /// A cut fixed what it builds.
    Pin {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// The pin.
        pin: Pin,
    },
    /// A build ended well.
    Build {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// Digest of the recipe.
        recipe: Sha256,
        /// Digest of the environment.
        environment: Sha256,
        /// Digest of `SHA256SUMS` of the artifacts.
        artifacts: Sha256,
    },
    /// A person confirmed what will be signed.
    Confirm {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// Digest of the release manifest.
        manifest: Sha256,
        /// Who started the cut.
        starter: Holder,
    },
    /// A key is about to be asked for a signature.
    Ask {
        /// The key.
        key: KeyName,
        /// What it signs: `kestrel 3`, `claim kestrel 2.4.0`.
        what: String,
        /// Digest of what it signs.
        digest: Sha256,
    },
    /// A publication was sealed.
    Seal {
        /// Its number.
        serial: u64,
        /// What for.
        purpose: String,
        /// Digest of its `timestamp.json`.
        timestamp: Sha256,
    },
    /// A mirror holds a publication.
    Publish {
        /// The mirror.
        mirror: MirrorName,
        /// The publication.
        serial: u64,
    },
    /// The home was brought up to date from a mirror.
    Import {
        /// Where from.
        from: String,
        /// The publication that was taken over.
        serial: u64,
        /// The number of each product's role in it.
        numbers: BTreeMap<Product, u64>,
    },
    /// A person confirmed the approval of what another terminal has started.
    Approve {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// Who started it.
        starter: Holder,
        /// Digest of the request.
        request: Sha256,
    },
    /// A person confirmed that a release is withdrawn.
    Withdraw {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// Digest of the release manifest.
        manifest: Sha256,
    },
    /// A person confirmed a change of the policy or its keys.
    Amend {
        /// The number of the top-level targets that it makes.
        number: u64,
        /// What was asked for.
        change: Words,
        /// Who asked.
        starter: Holder,
        /// Digest of what it says.
        amendment: Sha256,
    },
    /// A cut was given up; its version and role number are burned.
    Abandon {
        /// The product.
        product: Product,
        /// The version.
        release: Version,
        /// The number of the product's role that it would have had.
        number: Option<u64>,
        /// The publication that it was sealing.
        serial: Option<u64>,
    },
    /// A person recorded what a mirror should say about itself.
    Accept {
        /// The mirror.
        mirror: MirrorName,
        /// Digest of what it said, a fact a line, sorted.
        facts: Sha256,
    },
    /// The network window was opened.
    WindowOpened {
        /// Where it leads.
        to: Destination,
        /// For how long at most, in seconds, unless it is opened again.
        seconds: u64,
        /// Digest of the rules that the kernel has.
        rules: Sha256,
        /// What was tried from here meanwhile, by address and port, and refused.
        refused: Vec<String>,
    },
    /// It was closed.
    WindowClosed {
        /// Digest of the rules that the kernel has.
        rules: Sha256,
        /// What was tried from here afterwards, and refused.
        refused: Vec<String>,
    },
    /// The last line was torn by a crash, and was cut off.
    Torn {
        /// Its length in bytes.
        length: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    version: u32,
    time: Timestamp,
    prev: Sha256,
    event: Event,
}

/// `journal.head`: how far the journal has come.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    head: Sha256,
}

/// The journal, read whole and open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    events: Vec<(Timestamp, Event)>,
    heads: BTreeSet<Sha256>,
    head: Sha256,
    /// The head in `journal.head`.
    noted: Sha256,
    torn: u64,
}

impl Journal {
    /// The journal of a home that is being made: nothing has happened.
    pub fn begin(path: &Path) -> Self {
        let none = Sha256::from([0; 32]);
        Self { path: path.to_owned(), events: Vec::new(), heads: BTreeSet::new(), head: none, noted: none, torn: 0 }
    }

    /// Reads a journal and checks its chain.
    ///
    /// # Errors
    /// It cannot be read, was written by a newer release, or its chain is
    /// broken. So is a missing or empty one: without it nobody knows what keys
    /// have signed. It is older than its head file, or that one is missing. A
    /// torn last line is no error; the next append cuts it off.
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        // The head first: another command may append meanwhile.
        let file = Self::head_file(path);
        let noted: Option<Head> = atomic::read_json(&file, VERSION)?;
        let opened = open_plain(path).map_err(|error| HomeError::of_transport(path, error))?;
        let mut journal = match opened {
            Some((file, _)) => Self::read(path, BufReader::new(file))?,
            None => return Err(HomeError::Missing(path.to_owned())),
        };
        journal.noted = noted.ok_or(HomeError::Missing(file))?.head;
        if !journal.knows(journal.noted) {
            let lacks = format!("the line {} that journal.head names", journal.noted.short());
            return Err(HomeError::OldJournal { path: path.to_owned(), lacks });
        }
        Ok(journal)
    }

    fn head_file(path: &Path) -> PathBuf {
        path.with_extension("head")
    }

    /// Reads the content of the journal at `path`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(path: &Path, mut content: impl BufRead) -> Result<Self, HomeError> {
        let damaged = |number: usize, reason: String| HomeError::Damaged {
            path: path.to_owned(),
            reason: format!("line {number}: {reason}"),
        };
        let mut journal = Self::begin(path);
        // A journal grows for ever: line by line, memory is that of its events.
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let bounded = &mut (&mut content).take(MAX_LINE);
            bounded.read_until(b'\n', &mut bytes).map_err(|source| HomeError::io(path, source))?;
            let Some(line) = bytes.strip_suffix(b"\n") else {
                if bytes.len() as u64 == MAX_LINE {
                    return Err(damaged(number, format!("it is longer than {MAX_LINE} bytes")));
                }
                journal.torn = bytes.len() as u64;
                break;
            };
            let value = json::from_slice_strict(line).map_err(|error| damaged(number, error.to_string()))?;
            if value["version"].as_u64().is_some_and(|version| version > u64::from(VERSION)) {
                return Err(HomeError::Newer(path.to_owned()));
            }
            let parsed: Line = json::typed(value).map_err(|error| damaged(number, error.to_string()))?;
            if parsed.prev != journal.head {
                return Err(damaged(number, "it does not follow the line before".to_owned()));
            }
            journal.head = Sha256::of(line);
            journal.heads.insert(journal.head);
            journal.events.push((parsed.time, parsed.event));
        }
        if journal.events.is_empty() {
            return Err(damaged(1, "there is none".to_owned()));
        }
        Ok(journal)
    }

    /// The digest of the last line.
    pub fn head(&self) -> Sha256 {
        self.head
    }

    /// Whether this was the digest of the last line at some time.
    pub fn knows(&self, head: Sha256) -> bool {
        self.heads.contains(&head)
    }

    /// All events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(_, event)| event)
    }

    /// When the last event was.
    pub fn last_time(&self) -> Option<Timestamp> {
        self.events.last().map(|(time, _)| *time)
    }

    /// Appends an event; it and the new head are on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, now: Timestamp, event: Event) -> Result<(), HomeError> {
        if self.torn > 0 {
            let whole = self.path.metadata().map_err(|e| HomeError::io(&self.path, e))?.len() - self.torn;
            let length = std::mem::take(&mut self.torn);
            OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|file| file.set_len(whole))
                .map_err(|error| HomeError::io(&self.path, error))?;
            self.write(now, Event::Torn { length })?;
        }
        self.write(now, event)
    }

    fn write(&mut self, now: Timestamp, event: Event) -> Result<(), HomeError> {
        let line = Line { version: VERSION, time: now, prev: self.head, event };
        let mut bytes = json::to_vec(&line)
            .map_err(|error| HomeError::Damaged { path: self.path.clone(), reason: error.to_string() })?;
        let head = Sha256::of(&bytes);
        bytes.push(b'\n');
        let append = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            let whole = file.metadata()?.len();
            file.write_all(&bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
                // A full disk takes a part of the line; the next one must not follow it.
                let _ = file.set_len(whole);
            })
        };
        append().map_err(|source| HomeError::io(&self.path, source))?;
        self.head = head;
        self.heads.insert(head);
        self.events.push((now, line.event));
        self.note_head()
    }

    /// Brings `journal.head` up to date.
    fn note_head(&mut self) -> Result<(), HomeError> {
        if self.noted != self.head {
            atomic::write_json(&Self::head_file(&self.path), &Head { version: VERSION, head: self.head })?;
            self.noted = self.head;
        }
        Ok(())
    }

    /// Records that `key` is about to be asked to sign. No key ever signs two
    /// payloads under one name.
    ///
    /// # Errors
    /// The key was asked before to sign something else under that name.
    pub fn ask(&mut self, now: Timestamp, key: &KeyName, what: &str, digest: Sha256) -> Result<(), HomeError> {
        let mut asked = false;
        for event in self.events() {
            match event {
                Event::Ask { key: other, what: before, digest: signed } if other == key && before == what => {
                    if *signed != digest {
                        return Err(HomeError::SecondPayload {
                            key: key.to_string(),
                            what: what.to_owned(),
                            before: *signed,
                            now: digest,
                        });
                    }
                    asked = true;
                }
                _ => {}
            }
        }
        // Asking again for the same is a restart; the journal says it once. A crash
        // may have left the head a line behind.
        if asked {
            return self.note_head();
        }
        self.append(now, Event::Ask { key: key.clone(), what: what.to_owned(), digest })
    }

    /// The next free number of a product's role, after `current`. Numbers of
    /// abandoned cuts are burned, and the one after an import: what was lost with
    /// a newer home may have been signed under it.
    pub fn next_number(&self, product: &Product, current: u64) -> u64 {
        let burned = self.events().filter_map(|event| match event {
            Event::Abandon { product: other, number, .. } if other == product => *number,
            Event::Import { numbers, .. } => Some(numbers.get(product).map_or(0, |number| *number) + 1),
            _ => None,
        });
        burned.chain([current]).max().unwrap_or(0) + 1
    }

    /// The next free number of a publication, after `current`, by the same rules.
    pub fn next_serial(&self, current: u64) -> u64 {
        let burned = self.events().filter_map(|event| match event {
            Event::Abandon { serial, .. } => *serial,
            Event::Import { serial, .. } => Some(serial + 1),
            _ => None,
        });
        burned.chain([current]).max().unwrap_or(0) + 1
    }

    /// Whether a key was asked to sign under this name.
    pub fn was_asked(&self, what: &str) -> bool {
        self.asked(what).is_some()
    }

    /// When a key was first asked to sign under this name.
    pub fn asked(&self, what: &str) -> Option<Timestamp> {
        let asks = |event: &Event| matches!(event, Event::Ask { what: asked, .. } if asked == what);
        self.events.iter().find(|(_, event)| asks(event)).map(|(time, _)| *time)
    }

    /// What a key was asked to sign under this name.
    pub fn digest_asked(&self, key: &KeyName, what: &str) -> Option<Sha256> {
        self.events().find_map(|event| match event {
            Event::Ask { key: other, what: before, digest } if other == key && before == what => Some(*digest),
            _ => None,
        })
    }

    /// The publications that this home has sealed or taken over.
    pub fn publications(&self) -> impl Iterator<Item = u64> {
        self.events().filter_map(|event| match event {
            Event::Seal { serial, .. } | Event::Import { serial, .. } => Some(*serial),
            _ => None,
        })
    }

    /// Whether a person has confirmed this change of the policy.
    pub fn has_amended(&self, sha256: Sha256) -> bool {
        self.events().any(|event| matches!(event, Event::Amend { amendment, .. } if *amendment == sha256))
    }

    /// Whether a cut of this version has fixed what it builds.
    pub fn has_pinned(&self, product: &Product, version: &Version) -> bool {
        self.events().any(|event| {
            matches!(event, Event::Pin { product: other, release, .. } if other == product && release == version)
        })
    }

    /// Whether a person has confirmed the approval of this request.
    pub fn has_approved(&self, sha256: Sha256) -> bool {
        self.events().any(|event| matches!(event, Event::Approve { request, .. } if *request == sha256))
    }

    /// Whether this version was given up.
    pub fn has_abandoned(&self, product: &Product, version: &Version) -> bool {
        self.events().any(|event| {
            matches!(event, Event::Abandon { product: other, release, .. } if other == product && release == version)
        })
    }

    /// The number under which keys were asked to sign the manifest that a person
    /// has confirmed for this version.
    pub fn number_of(&self, product: &Product, version: &Version) -> Option<u64> {
        let confirmed = |digest: &Sha256| {
            self.events().any(|event| {
                matches!(event, Event::Confirm { product: other, release, manifest, .. }
                    if other == product && release == version && manifest == digest)
            })
        };
        self.events().find_map(|event| match event {
            Event::Ask { what, digest, .. } if confirmed(digest) => {
                what.strip_prefix(product.as_str())?.strip_prefix(' ')?.parse().ok()
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(journal: &mut Journal, what: &str, digest: u8) -> Result<(), HomeError> {
        let key = "alice-release".parse().unwrap();
        journal.ask(Timestamp::UNIX_EPOCH, &key, what, Sha256::from([digest; 32]))
    }

    #[test]
    fn a_key_never_signs_two_payloads_under_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        assert!(Journal::open(&path).is_err(), "there is none");
        ask(&mut Journal::begin(&path), "kestrel 1", 1).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        ask(&mut journal, "kestrel 1", 1).unwrap();
        assert_eq!(journal.events().count(), 1);
        assert!(matches!(ask(&mut journal, "kestrel 1", 2), Err(HomeError::SecondPayload { .. })));
        ask(&mut journal, "kestrel 2", 2).unwrap();
    }

    #[test]
    fn a_changed_line_breaks_the_chain_and_a_torn_one_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::begin(&path);
        for number in 0..3 {
            ask(&mut journal, &format!("kestrel {number}"), number).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("kestrel 1", "kestrel 7", 1)).unwrap();
        assert!(matches!(Journal::open(&path), Err(HomeError::Damaged { .. })));

        std::fs::write(&path, format!("{text}{{\"torn")).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.events().count(), 3);
        ask(&mut journal, "kestrel 4", 4).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.events().nth(3), Some(&Event::Torn { length: 6 }));
        assert_eq!(journal.events().count(), 5);
    }

    #[test]
    fn an_older_journal_is_refused_and_a_head_that_is_a_line_behind_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, head) = (folder.path().join("journal.jsonl"), folder.path().join("journal.head"));
        let mut journal = Journal::begin(&path);
        ask(&mut journal, "kestrel 1", 1).unwrap();
        let (old, behind) = (std::fs::read(&path).unwrap(), std::fs::read(&head).unwrap());
        ask(&mut journal, "kestrel 2", 2).unwrap();
        let (new, newest) = (std::fs::read(&path).unwrap(), std::fs::read(&head).unwrap());

        std::fs::write(&path, &old).unwrap();
        assert!(matches!(Journal::open(&path), Err(HomeError::OldJournal { .. })));
        std::fs::write(&path, &new).unwrap();
        std::fs::remove_file(&head).unwrap();
        assert!(matches!(Journal::open(&path), Err(HomeError::Missing(lost)) if lost == head));

        // A crash before the head was written: it is, before a key is asked again.
        std::fs::write(&head, behind).unwrap();
        ask(&mut Journal::open(&path).unwrap(), "kestrel 2", 2).unwrap();
        assert_eq!(std::fs::read(&head).unwrap(), newest);
        assert_eq!(std::fs::read(&path).unwrap(), new);
    }
}
