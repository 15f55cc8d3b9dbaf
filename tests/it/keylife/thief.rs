//! What thieves sign, tried on everybody: users who are new and users who remember, with our
//! program and with python-tuf. A thief has the key that seals as well.

use std::fs;

use release::policy::Policy;
use release::policy::Span;
use serde_json::Value;

use super::REJECTED;
use crate::interop::artifacts_of;
use crate::interop::ngclient;
use crate::support::Lab;
use crate::support::Said;
use crate::support::forge::Forger;

/// Where a user of python-tuf keeps what was seen.
const PYTHON: &str = "python-old";

/// The users of a laboratory, who have seen its first release.
pub struct Users<'a> {
    pub lab: &'a Lab,
    /// What is released, and what was and is withdrawn.
    pub versions: Vec<String>,
    pub withdrawn: Vec<String>,
}

impl<'a> Users<'a> {
    /// Everybody looks at the first release, and remembers.
    #[track_caller]
    pub fn of(lab: &'a Lab) -> Self {
        let users = Self { lab, versions: vec!["1.0".to_owned()], withdrawn: Vec::new() };
        users.agree();
        users
    }

    /// Looks at what a laboratory's mirror serves. The first two users are new.
    fn look(&self, lab: &Lab) -> [(&'static str, Said); 4] {
        let seen = lab.download("1.0", "kestrel-1.0");
        let newest = self.versions.last().unwrap();
        let artifacts = artifacts_of(lab, &[newest]);
        let new = |folder: &str| {
            let _ = fs::remove_dir_all(lab.path(folder));
            folder.to_owned()
        };
        let data = lab.path(&new("data-new"));
        let verify = ["verify", "--root", "trust/root.json", "mirror"];
        [
            ("new, ours", lab.with_keys_and(&verify, &[("XDG_DATA_HOME", data.to_str().unwrap())])),
            ("new, python-tuf", ngclient(lab, &new("python-new"), &artifacts)),
            ("old, ours", lab.verify(&[&seen, "--repository", "mirror"])),
            ("old, python-tuf", ngclient(lab, PYTHON, &artifacts)),
        ]
    }

    /// Everybody accepts what is released, and nobody what is withdrawn.
    #[track_caller]
    pub fn agree(&self) {
        self.agree_with_thief();
        for version in &self.versions {
            let file = self.lab.download(version, &format!("kestrel-{version}"));
            self.lab.verify(&[&file, "--repository", "mirror"]).exits(0).says("VERIFIED");
            ngclient(self.lab, PYTHON, &artifacts_of(self.lab, &[version])).exits(0);
        }
        for version in &self.withdrawn {
            let file = self.lab.download(version, &format!("kestrel-{version}"));
            self.lab.verify(&[&file, "--repository", "mirror"]).exits(REJECTED).says("was withdrawn");
            let gone = format!("kestrel/{version}/kestrel-{version}");
            ngclient(self.lab, PYTHON, &[gone]).exits(1).says("no role lists");
        }
        self.lab.runs(&["mirror", "audit", "here"]).exits(0);
    }

    /// Everybody believes a thief whose key still counts, and remembers what was seen.
    #[track_caller]
    pub fn agree_with_thief(&self) {
        for (who, said) in self.look(self.lab) {
            assert_eq!(said.code, Some(0), "{who}: {said:?}");
        }
    }

    /// Nobody accepts what a thief signs for a role by stolen keys and all but one of the
    /// others that must; all of those that must are accepted by everybody.
    #[track_caller]
    pub fn refuse(&self, role: &str, stolen: &[&str]) {
        let policy = policy(self.lab);
        let online = policy.role.online.key.get_ref().as_str();
        let (keys, threshold) = keys_of(&policy, role);
        assert!(stolen.iter().all(|key| !keys.contains(key)), "{stolen:?} count for {role}: {keys:?}");
        let good = &keys[..threshold];
        let honest = self.lab.twin();
        forge(&honest, role, online, good);
        for (who, said) in self.look(&honest) {
            assert_eq!(said.code, Some(0), "{who}, {role} by {good:?}: {said:?}");
        }
        let few = [&good[1..], stolen].concat();
        let thief = self.lab.twin();
        forge(&thief, role, online, &few);
        for (who, said) in self.look(&thief) {
            assert_eq!(said.code, Some(if who.ends_with("ours") { REJECTED } else { 1 }), "{who}, {role}: {said:?}");
            let why = if who.ends_with("ours") { role } else { "was signed by" };
            assert!(said.has(why), "{who}, {role} by {few:?}: {said:?}");
        }
    }

    /// Nobody accepts a seal by a stolen key.
    #[track_caller]
    pub fn refuse_seal(&self, stolen: &str) {
        let thief = self.lab.twin();
        let mut forger = Forger::new(&thief);
        stolen.clone_into(&mut forger.online);
        forger.seal();
        forger.serve();
        for (who, said) in self.look(&thief) {
            assert_ne!(said.code, Some(0), "{who}: {said:?}");
            assert!(said.has("timestamp"), "{who}: {said:?}");
        }
    }
}

/// The policy of a laboratory.
pub fn policy(lab: &Lab) -> Policy {
    let path = lab.path("home/policy.toml");
    Policy::parse(&path, fs::read_to_string(&path).unwrap()).unwrap()
}

/// The keys of a role, and how many must sign.
fn keys_of<'p>(policy: &'p Policy, role: &str) -> (Vec<&'p str>, usize) {
    let (keys, threshold): (&[Span<String>], _) = match role {
        "root" => (&policy.role.root.keys, &policy.role.root.threshold),
        "targets" => (&policy.role.targets.keys, &policy.role.targets.threshold),
        product => {
            let product = &policy.products[&product.parse().unwrap()];
            (&product.keys, &product.threshold)
        }
    };
    (keys.iter().map(|key| key.get_ref().as_str()).collect(), *threshold.get_ref() as usize)
}

/// Signs what a role says anew by these keys, with the next number, and seals it.
fn forge(lab: &Lab, role: &str, online: &str, keys: &[&str]) {
    let mut forger = Forger::new(lab);
    online.clone_into(&mut forger.online);
    let next = |signed: &mut Value| signed["version"] = (signed["version"].as_u64().unwrap() + 1).into();
    match role {
        "root" => {
            let newest = forger.roots.last().unwrap().clone();
            forger.roots.push(forger.sign(&newest, keys, next));
        }
        "targets" => forger.targets = forger.sign(&forger.targets, keys, next),
        _ => forger.role = forger.sign(&forger.role, keys, next),
    }
    forger.seal();
    forger.serve();
}

#[test]
fn what_old_keys_sign_is_refused_by_everybody() {
    let lab = Lab::released();
    let users = Users::of(&lab);
    // As many as must sign, of each role, and the key that seals.
    let words = "alice-root bob-root alice-targets bob-targets alice-release bob-release online";
    lab.expects(&["alice-root-2", "bob-root-2", "alice-targets-2", "bob-targets-2"]);
    lab.expects(&["alice-release-2", "bob-release-2", "online-2"]);
    lab.change(&format!("rotate {words}")).exits(0).says("by bob-release counts for nothing in kestrel");
    users.agree();
    users.refuse("root", &["alice-root", "bob-root"]);
    users.refuse("targets", &["alice-targets", "bob-targets"]);
    users.refuse("kestrel", &["alice-release", "bob-release"]);
    users.refuse_seal("online");
    // Revoked, with nothing in their place.
    lab.change("revoke carol-root carol-targets carol-release carol-claim").exits(0);
    users.agree();
    users.refuse("root", &["alice-root", "bob-root", "carol-root"]);
    users.refuse("targets", &["alice-targets", "bob-targets", "carol-targets"]);
    users.refuse("kestrel", &["alice-release", "bob-release", "carol-release"]);
}
