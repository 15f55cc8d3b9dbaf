//! What long work tells while it goes on. Only `cli::ui` turns it into words.

use crate::manifest::Sha256;

/// The stages that a person sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Fetching the tag and checking it.
    Fetch,
    /// Making the source archive.
    Archive,
    /// Building, in the sandbox.
    Build,
    /// Making checksums, provenance and the release manifest.
    Stage,
    /// Making keys in a token.
    Enrol,
    /// Opening and closing the network.
    Window,
    /// Signing.
    Sign,
    /// Making snapshot, timestamp and bundles.
    Seal,
    /// Verifying what was sealed, before anybody sees it.
    Check,
    /// Pushing to a mirror.
    Publish,
    /// Hashing files to verify them.
    Verify,
    /// Downloading.
    Download,
    /// Taking what a medium brings.
    Import,
    /// Writing what a medium carries away.
    Export,
}

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage began; `what` says on what it works.
    Begin {
        /// Which stage.
        stage: Stage,
        /// On what.
        what: &'a str,
    },
    /// The stage will handle this many bytes.
    Length(u64),
    /// So many more bytes are done.
    Advance(u64),
    /// A push to a mirror began, beside others.
    Push {
        /// Which mirror.
        mirror: &'a str,
        /// How many bytes may be new to it.
        total: u64,
    },
    /// So many more bytes have arrived on a mirror.
    Pushed {
        /// Which mirror.
        mirror: &'a str,
        /// How many.
        bytes: u64,
    },
    /// A program printed a line.
    Output(&'a str),
    /// The stage ended well; `evidence` is what a person should see.
    Done {
        /// Which stage.
        stage: Stage,
        /// What came out.
        evidence: Evidence<'a>,
    },
    /// How something is done, for those who want to know.
    Detail(&'a str),
    /// A program was started.
    Program(&'a str),
    /// A file was requested.
    Request(&'a str),
    /// A token waits for a touch.
    Touch {
        /// Which one, and whose.
        token: &'a str,
        /// What it signs.
        what: &'a str,
        /// How many keys wait for their first touch after this.
        left: usize,
    },
    /// Something that a person should know, which changes no result.
    Warning(&'a str),
}

/// What a finished stage shows for itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum Evidence<'a> {
    /// A commit on a branch, and who signed its tag.
    Fetched {
        /// The branch.
        branch: &'a str,
        /// The commit.
        commit: &'a str,
        /// Who signed the tags.
        signers: &'a [String],
        /// The name of the git bundle that it came from, if it did.
        bundle: Option<&'a str>,
    },
    /// A source archive.
    Archived {
        /// Digest of the tar.
        tar: Sha256,
        /// Number of files.
        files: usize,
    },
    /// Artifacts.
    Built {
        /// How many.
        artifacts: usize,
        /// How long all builds took, in milliseconds.
        milliseconds: u64,
        /// Whether a second build gave the same bytes.
        twice: bool,
    },
    /// What another terminal has built is what this one has.
    Agreed {
        /// How many files.
        files: usize,
        /// Who built them there.
        starter: &'a str,
    },
    /// A release manifest that is ready to be signed.
    Staged {
        /// Digest of what is signed.
        digest: Sha256,
    },
    /// Signatures.
    Signed {
        /// Who signed the manifest.
        holders: &'a [String],
        /// How many may.
        of: usize,
    },
    /// A sealed publication.
    Sealed {
        /// Its number.
        serial: u64,
    },
    /// The self-check passed.
    Checked {
        /// For how many files.
        files: usize,
    },
    /// A key that counts for nothing any more: it was tried.
    Tried {
        /// The key.
        key: &'a str,
        /// The role that it left.
        role: &'a str,
        /// What of it was tried.
        how: &'a str,
    },
    /// A token's secrets are no longer those from the factory.
    Secured {
        /// Which token, and whose.
        token: &'a str,
        /// Its firmware.
        firmware: &'a str,
    },
    /// A key that a token holds.
    Generated {
        /// The key.
        key: &'a str,
        /// The slot.
        slot: &'a str,
        /// When it waits for a touch.
        touch: &'a str,
    },
    /// A key that signed, and how long that took.
    Tested {
        /// The key.
        key: &'a str,
        /// How long, in milliseconds, touch and all.
        milliseconds: u64,
    },
    /// The window is open.
    Opened {
        /// Where it leads.
        to: &'a str,
        /// How many other hosts were tried and refused.
        refused: usize,
    },
    /// It is closed.
    Closed {
        /// How many hosts were tried and refused.
        refused: usize,
    },
    /// A mirror holds it.
    Published {
        /// Which mirror.
        mirror: &'a str,
        /// Which publication.
        serial: u64,
        /// How many files were new.
        files: usize,
    },
}

/// Where events go.
pub trait Progress: Sync {
    /// Takes an event. Must not fail and must not block.
    fn event(&self, event: Event<'_>);
}

/// Drops all events.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
