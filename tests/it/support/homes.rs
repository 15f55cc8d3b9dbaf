//! Three homes on one machine, each with the keys of one person, and a stick that is
//! carried between them. The home of the laboratory is that of alice; she has the online
//! key and the mirror. The others have no network.

use std::fs;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::Lab;
use super::Said;

/// The homes of bob and carol.
pub const BOB: &str = "home-bob";
pub const CAROL: &str = "home-carol";
/// That of alice.
pub const ALICE: &str = "home";

/// A laboratory with three homes, where 2 of 3 sign, and so many others rebuild.
pub fn three(rebuilds: u32) -> Lab {
    static READY: OnceLock<[TempDir; 3]> = OnceLock::new();
    let ready = READY.get_or_init(|| [0, 1, 2].map(|rebuilds| make(rebuilds).folder));
    let lab = Lab { folder: tempfile::tempdir().unwrap(), through: Vec::new() };
    lab.copy_from(ready[rebuilds as usize].path());
    lab
}

fn make(rebuilds: u32) -> Lab {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path("home")).unwrap();
    let policy = String::from_utf8(lab.read("policy/policy.toml")).unwrap();
    let policy = policy.replace("insecure-same-terminal = true\n", "");
    lab.write("policy/policy.toml", policy.replace("rebuilds = 0", &format!("rebuilds = {rebuilds}")));
    lab.with_keys(&["init", "--policy", "policy/policy.toml", "--software-keys", "--mirror", "here=mirror"]).exits(0);
    fs::copy(lab.path("home/repository/metadata/1.root.json"), lab.path("trust/root.json")).unwrap();
    for (home, holder) in [(BOB, "bob"), (CAROL, "carol"), (ALICE, "alice")] {
        if home != ALICE {
            lab.copy(ALICE, home);
        }
        let own = |name: &str| name.starts_with(&format!("{holder}-")) || home == ALICE && name.starts_with("online");
        let terminal = String::from_utf8(lab.read(&format!("{home}/terminal.toml"))).unwrap();
        let keep = |line: &&str| !line.contains("keys/") || own(line.trim_start_matches(['"', ' ']));
        let mut terminal = terminal.lines().filter(keep).collect::<Vec<_>>().join("\n");
        if home != ALICE {
            terminal.truncate(terminal.find("[mirror").unwrap());
        }
        lab.write(&format!("{home}/terminal.toml"), terminal);
        for entry in fs::read_dir(lab.path(&format!("{home}/keys"))).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|extension| extension == "key") && !own(&name) {
                fs::remove_file(path).unwrap();
            }
        }
    }
    lab
}

/// The request in somebody's inbox.
pub fn request(home: &str, version: &str) -> String {
    format!("{home}/inbox/kestrel_{version}.request.json")
}

impl Lab {
    /// Carries what is in one outbox to another home.
    #[track_caller]
    pub fn carry(&self, from: &str, to: &str) -> Said {
        let _ = fs::remove_dir_all(self.path("stick"));
        self.copy(&format!("{from}/outbox"), "stick");
        self.runs(&["import", "stick", "--home", to])
    }

    /// Approves a version in somebody's home.
    #[track_caller]
    pub fn approve(&self, home: &str, version: &str) -> Said {
        self.approve_and(home, version, &[])
    }

    /// The same, with environment variables.
    #[track_caller]
    pub fn approve_and(&self, home: &str, version: &str, variables: &[(&str, &str)]) -> Said {
        let yes = format!("--yes={version}");
        self.with_keys_and(&["approve", &request(home, version), &yes, "--home", home], variables)
    }

    /// Starts a version at alice's terminal, and carries the request to another.
    #[track_caller]
    pub fn ask(&self, version: &str, home: &str) {
        self.cut(version).exits(6).says("WAITING");
        self.carry(ALICE, home).exits(0);
    }

    /// Releases 1.0, which alice starts and bob approves.
    #[track_caller]
    pub fn release_first(&self) {
        self.tag("1.0");
        self.ask("1.0", BOB);
        self.approve(BOB, "1.0").exits(0);
        self.carry(BOB, ALICE).exits(0);
        self.cut("1.0").exits(0);
    }

    /// Gives a home a copy of the online key, so that it can start releases.
    pub fn give_online_key(&self, home: &str) {
        self.copy("home/keys/online.key", &format!("{home}/keys/online.key"));
        let terminal = String::from_utf8(self.read(&format!("{home}/terminal.toml"))).unwrap();
        let online = "[token]\nonline = { file = \"keys/online.key\" }\n";
        self.write(&format!("{home}/terminal.toml"), terminal.replacen("[token]\n", online, 1));
    }

    /// A commit and a tag.
    pub fn tag_next(&self, version: &str) {
        self.write("work/notes", format!("notes of {version}\n"));
        self.commit(version);
        self.tag(version);
    }

    /// The keys of a home were asked for nothing about a release.
    #[track_caller]
    pub fn assert_signed_nothing(&self, home: &str) {
        let journal = String::from_utf8(self.read(&format!("{home}/journal.jsonl"))).unwrap();
        for what in ["claim", "kestrel", "approval", "checksums"] {
            assert!(!journal.contains(&format!("\"what\":\"{what} ")), "{home} was asked to sign: {journal}");
        }
        let outbox = fs::read_dir(self.path(&format!("{home}/outbox"))).unwrap();
        assert_eq!(outbox.count(), 0, "{home} has sent something");
    }
}
