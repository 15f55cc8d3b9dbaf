//! Which refs of a source are fetched, and where they are kept.

use crate::manifest::names::quoted;

/// Where the fetched release tag is kept.
pub(super) const TAG: &str = "refs/inbox/tag";
/// Where fetched branches are kept.
pub(super) const HEADS: &str = "refs/inbox/heads/";
/// Where fetched sign-offs are kept.
pub(super) const SIGNOFFS: &str = "refs/inbox/signoff/";

/// What is said of repositories whose objects this version cannot read.
pub(super) const OF_SHA256: &str = "its objects are named by SHA-256, which this version does not read";
/// More branches and sign-offs than this are refused.
const MAX_REFS: usize = 10_000;

/// Reads what `git ls-remote` and `git bundle list-heads` print of a source: an
/// object id and a name on each line. Gives a refspec, without any pattern, for
/// the release tag, each of its sign-offs and each branch that matches: what is
/// named in full cannot bring more refs than a source has told of.
///
/// # Errors
/// Too many refs, ids of SHA-256 repositories, or names that no ref has.
pub fn specs(listing: &str, tag: &str, branch: &str) -> Result<Vec<String>, String> {
    let mut specs = Vec::new();
    for (id, name) in listing.split('\n').filter_map(|line| line.split_once([' ', '\t'])) {
        let Some(target) = target(name, tag, branch) else {
            continue;
        };
        if id.len() == 64 {
            return Err(OF_SHA256.to_owned());
        }
        // In a refspec these would mean something (git-check-ref-format(1)).
        if name.contains(|c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c)) {
            return Err(format!("it lists {}, which is no name of a branch or tag", quoted(name)));
        }
        specs.push(format!("{name}:{target}"));
        if specs.len() > MAX_REFS {
            return Err(format!("it lists more than {MAX_REFS} branches and sign-offs for this release"));
        }
    }
    Ok(specs)
}

/// Where a ref of a source is kept, if it is one that a release needs.
fn target(name: &str, tag: &str, branch: &str) -> Option<String> {
    if let Some(name) = name.strip_prefix("refs/heads/") {
        let matches = match branch.split_once('*') {
            Some((begin, end)) => name.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end)),
            None => name == branch,
        };
        return matches.then(|| format!("{HEADS}{name}"));
    }
    let name = name.strip_prefix("refs/tags/")?;
    if name == tag {
        return Some(TAG.to_owned());
    }
    let signoff = name.strip_prefix("signoff/")?.strip_prefix(tag)?.strip_prefix('/')?;
    Some(format!("{SIGNOFFS}{signoff}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_release_needs_is_fetched_and_by_full_name() {
        let listing = "1\trefs/heads/main\n2\trefs/heads/release/1\n3\trefs/heads/release/a/b\n4\trefs/tags/v1.0\n\
                       5\trefs/tags/v1.1\n6\trefs/tags/signoff/v1.0/noa\n7\trefs/tags/signoff/v1.1/noa\n8\tHEAD\n";
        let found = specs(listing, "v1.0", "release/*").unwrap();
        assert_eq!(
            found,
            [
                "refs/heads/release/1:refs/inbox/heads/release/1",
                "refs/heads/release/a/b:refs/inbox/heads/release/a/b",
                "refs/tags/v1.0:refs/inbox/tag",
                "refs/tags/signoff/v1.0/noa:refs/inbox/signoff/noa",
            ]
        );
        assert_eq!(specs("1 refs/heads/main", "v1.0", "main").unwrap().len(), 1);
        for bad in ["*", "a:b", "a b", "a\u{1b}b", "^a", "a\r"] {
            let error = specs(&format!("1\trefs/heads/release/{bad}\n"), "v1.0", "release/*").unwrap_err();
            assert!(error.contains("no name of a branch") && !error.contains('\u{1b}'), "{error}");
        }
        assert!(specs(&format!("{}\trefs/tags/v1.0", "a".repeat(64)), "v1.0", "x").unwrap_err().contains("SHA-256"));
        let many = "1\trefs/heads/release/x\n".repeat(MAX_REFS + 1);
        assert!(specs(&many, "v1.0", "release/*").unwrap_err().contains("more than 10000"));
    }
}
