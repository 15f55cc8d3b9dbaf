//! A laboratory whose release managers have tokens.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;

use super::Lab;
use super::Said;
use super::piv::Token;
use super::piv::hand::Event;
use super::piv::reader::Pcscd;
use super::piv::state::State;
use super::piv::state::TokenSpec;
use super::piv::vendor::Vendor;

/// The tokens: alice's, bob's, carol's, and that of the online key.
pub const SERIALS: [u32; 4] = [20_000_001, 20_000_002, 20_000_003, 20_000_004];
/// Their holders, as the command line names them.
pub const HOLDERS: [&str; 4] = ["alice", "bob", "carol", ""];
/// The PIN of all of them.
pub const PIN: &str = "294713";
/// The PUK of all of them.
pub const PUK: &str = "38162947";

/// A laboratory, a pcscd with four readers, and a token in each.
pub struct TokenLab {
    pub lab: Lab,
    pub pcscd: Pcscd,
    pub tokens: Vec<Token>,
}

/// A laboratory and what its tokens remember.
struct Template {
    lab: Lab,
    states: Vec<State>,
}

/// The policy of the example, without what is for demonstrations.
pub fn policy() -> String {
    super::without_apt(&super::example_policy())
        .replace("insecure-software-keys = true\n", "")
        .replace("insecure-same-terminal = true\n", "")
}

impl TokenLab {
    /// Tokens fresh from the factory, a policy in `policy/policy.toml`, and no home.
    pub fn fresh() -> Self {
        let lab = Lab::new();
        fs::remove_dir_all(lab.path("home")).unwrap();
        lab.write("policy/policy.toml", policy());
        lab.write("policy/keys/attestation-roots/test-only.pem", Vendor::usual().root_pem());
        let states = SERIALS.map(|serial| State::new(&TokenSpec { serial, ..TokenSpec::default() }));
        Self::with(lab, states.to_vec())
    }

    /// All keys are made in the tokens, and the home is.
    pub fn new() -> Self {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let made = Self::fresh();
            for index in 0..SERIALS.len() {
                made.generate(index).exits(0);
            }
            made.set_pins(&[]);
            made.runs(&["init", "--policy", "policy/policy.toml", "--mirror", "here=mirror"]).exits(0);
            fs::copy(made.lab.path("home/repository/metadata/1.root.json"), made.lab.path("trust/root.json")).unwrap();
            let Self { lab, tokens, pcscd } = made;
            drop(pcscd);
            Template { lab, states: tokens.iter().map(Token::state).collect() }
        });
        Self::with(template.lab.twin(), template.states.clone())
    }

    fn with(lab: Lab, states: Vec<State>) -> Self {
        let pcscd = Pcscd::with_readers(4);
        let tokens: Vec<Token> = states.into_iter().map(Token::with).collect();
        for (index, token) in tokens.iter().enumerate() {
            pcscd.reader(index).plug(token);
        }
        let made = Self { lab, pcscd, tokens };
        made.set_pins(&[]);
        made
    }

    /// Writes the lines that the next commands read, with other PINs for some.
    pub fn set_pins(&self, other: &[(u32, &str)]) {
        let mut pins: BTreeMap<u32, &str> = SERIALS.map(|serial| (serial, PIN)).into();
        pins.extend(other.iter().copied());
        let mut lines = String::new();
        for (serial, pin) in pins {
            writeln!(lines, "{serial} {pin}").unwrap();
        }
        self.lab.write("passphrases", lines);
    }

    /// Writes these lines for one token.
    pub fn set_lines(&self, serial: u32, secrets: &[&str]) {
        let mut lines = String::new();
        for secret in secrets {
            writeln!(lines, "{serial} {secret}").unwrap();
        }
        self.lab.write("passphrases", lines);
    }

    /// Runs the program, which finds the tokens and reads the PINs.
    #[track_caller]
    pub fn runs(&self, arguments: &[&str]) -> Said {
        self.runs_and(arguments, &[])
    }

    /// The same, with environment variables.
    #[track_caller]
    pub fn runs_and(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let (name, socket) = self.pcscd.variable();
        let mut all = vec![(name, socket.to_str().unwrap())];
        all.extend(variables);
        self.lab.with_keys_and(arguments, &all)
    }

    /// Makes the keys of the person with this token.
    #[track_caller]
    pub fn generate(&self, index: usize) -> Said {
        self.generate_and(index, &[])
    }

    /// The same, with environment variables.
    #[track_caller]
    pub fn generate_and(&self, index: usize, variables: &[(&str, &str)]) -> Said {
        let serial = SERIALS[index].to_string();
        let whose = if HOLDERS[index].is_empty() { vec!["--online"] } else { vec!["--holder", HOLDERS[index]] };
        let arguments =
            [&["key", "generate", "--policy", "policy/policy.toml", "--token", &serial], &whose[..]].concat();
        // What comes first is the PIN, new or known; a new PUK follows.
        self.set_lines(SERIALS[index], &[PIN, PUK]);
        self.runs_and(&arguments, variables)
    }

    /// Cuts a version.
    #[track_caller]
    pub fn cut(&self, version: &str) -> Said {
        self.runs(&["cut", "kestrel", version, &format!("--yes={version}")])
    }

    /// Begins to cut a version, up to what would be confirmed.
    #[track_caller]
    pub fn begin(&self, version: &str) {
        let yes = format!("--yes={version}");
        let said = self.runs_and(&["cut", "kestrel", version, &yes], &[("RELEASE_FAIL_AT", "stage.done")]);
        assert_eq!(said.code, None, "killed: {said:?}");
    }

    /// All that the tokens did since [`Self::forget`].
    pub fn events(&self) -> Vec<Event> {
        self.tokens.iter().flat_map(Token::events).collect()
    }

    /// Counts events of a kind.
    pub fn count(&self, wanted: impl Fn(Event) -> bool) -> usize {
        self.events().into_iter().filter(|event| wanted(*event)).count()
    }

    /// Begins to count anew.
    pub fn forget(&self) {
        for token in &self.tokens {
            token.forget_events();
        }
    }
}
